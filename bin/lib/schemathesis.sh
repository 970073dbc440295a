#!/usr/bin/env bash
# Checks a running service against its OpenAPI document with schemathesis from PyPI (versions in schemathesis.txt):
# no 5xx, statuses and shapes as documented, bad data refused, good data taken, no route without its credentials.
#   bin/lib/schemathesis.sh NAME URL [arguments of `schemathesis run`]
#   TOKEN=…     sent as a bearer token     CA=FILE     the stack's CA, for https
#   ADDRESSES=many                         each connection from an address of its own: for what limits each address
#   SECONDS_MAX=50, SEED=1                 how long, and which random data
# Not to be skipped: where PyPI cannot be reached this fails. Exit 0 when nothing was found, 1 otherwise.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ $# -ge 2 ] || { sed -n '4,8s/^# *//p' "$0" >&2; exit 2; }
name=$1 url=$2
shift 2

. bin/lib/pinned.sh
pinned schemathesis bin/lib/schemathesis.txt

# What a document cannot say is in apps/NAME/schemathesis.toml, with the reason.
options=()
[ ! -e "apps/$name/schemathesis.toml" ] || options=(--config-file "$PWD/apps/$name/schemathesis.toml")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log="$work/log" code=0
[ -z "${CA:-}" ] || set -- "$@" --tls-verify "$CA"
[ -z "${TOKEN:-}" ] || set -- "$@" --header "Authorization: Bearer $TOKEN"
# Its folder of examples is thrown away: a run depends on the seed alone.
hooks=$PWD/bin/lib
(cd "$work" && PYTHONPATH="$hooks" SCHEMATHESIS_HOOKS=schemathesis_hooks NO_PROXY='*' no_proxy='*' \
  timeout 240 "$PINNED/bin/schemathesis" "${options[@]}" --no-color run "$url" --seed "${SEED:-1}" --max-time "${SECONDS_MAX:-50}" \
  --request-timeout 30 --continue-on-failure "$@") >"$log" 2>&1 || code=$?
if [ "$code" != 0 ]; then
  cat "$log"
  echo "schemathesis found faults in $name (exit $code)"
  exit 1
fi
grep -E "^ *(Tested|Selected|.*(test cases|generated))" "$log" | sed 's/^ */        /' || true
echo "        schemathesis: nothing wrong with $name"

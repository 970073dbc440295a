#!/usr/bin/env bash
# A third-party application nobody here wrote: PyPI's kinto on the whole architecture, used and attacked.
# Skipped, visibly, only where PyPI cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh

RUNS="${DRILL_RUNS:-2}"
began=$SECONDS

# At most 40 lines of ours make it run; the lock file is generated, the README for people.
ours=$(cat examples/kinto/* examples/kinto/.gitignore | wc -l)
ours=$((ours - $(cat examples/kinto/requirements.txt examples/kinto/README.md | wc -l)))

work=$(mktemp -d)
chmod 711 "$work"
cp -r examples/kinto "$work/kinto"
clean_up() { rm -rf "$work"; }
trap clean_up EXIT

say "installing kinto"
pip_log="$work/pip.log"
# The distribution's own Python: one in somebody's closed home could not be run by a service that dropped root.
/usr/bin/python3 -m venv "$work/kinto/.venv"
if ! "$work/kinto/.venv/bin/pip" install --quiet --disable-pip-version-check -r "$work/kinto/requirements.txt" >"$pip_log" 2>&1; then
  if grep -qE "NewConnectionError|ConnectTimeoutError|Name or service not known|Temporary failure in name resolution|ProxyError|Connection refused" "$pip_log"; then
    echo "skipped: PyPI cannot be reached from this machine, so kinto was not tried"
    exit 0
  fi
  tail -n 20 "$pip_log"
  echo "failed: kinto could not be installed"
  exit 1
fi
"$work/kinto/.venv/bin/kinto" version

begin_stack "$work/kinto"
if [ "$ours" -le 40 ]; then ok "$ours lines of ours, at most 40"; else fail "$ours lines of ours, at most 40 are allowed"; fi

# Status of METHOD PATH [BODY]; the answer's body is in SCRATCH/body.
call() {
  local method=$1 path=$2 body=${3:-}
  set --
  [ -z "$body" ] || set -- --json "$body"
  curl --silent --noproxy '*' --max-time 40 --cacert "$STATE/kinto/development/ca/ca.pem" \
    --resolve "kinto.localhost:$HTTPS:127.0.0.1" -u person:password -X "$method" "$@" \
    -o "$SCRATCH/body" -w '%{http_code}' "https://kinto.localhost:$HTTPS/v1$path" || true
}

say "up"
ms up -d
HTTPS=$(port edge-https)

say "used through the edge"
same "its heartbeat (storage, permission and cache answer)" "$(call GET /__heartbeat__)" 200
if grep -q false "$SCRATCH/body"; then fail "the heartbeat says $(cat "$SCRATCH/body")"; fi
same "creating a bucket" "$(call PUT /buckets/shelf)" 201
same "creating a collection" "$(call PUT /buckets/shelf/collections/books)" 201
same "creating a record" "$(call PUT /buckets/shelf/collections/books/records/one '{"data":{"title":"The Analytical Engine"}}')" 201

say "attacked (rounds each: $RUNS)"
drill instance-crash "$RUNS"
drill database-crash "$RUNS"
same "the record after two kinds of crash" "$(call GET /buckets/shelf/collections/books/records/one)" 200
grep -q "The Analytical Engine" "$SCRATCH/body" || fail "the record lost its content"
same "editing it" "$(call PUT /buckets/shelf/collections/books/records/one '{"data":{"title":"Notes"}}')" 200

say "down"
ms down
nothing_runs
all_passed

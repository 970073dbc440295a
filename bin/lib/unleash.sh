#!/usr/bin/env bash
# A third-party application in another language: npm's unleash-server (Node.js) on the whole architecture, used and
# attacked. Skipped, visibly, where npm or a Node.js that it wants is not there, or npm's registry cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh

RUNS="${DRILL_RUNS:-2}"
began=$SECONDS
NODE_WANTED=20

skip() { echo "skipped: $1, so unleash was not tried"; exit 0; }
have_node() { command -v node >/dev/null && command -v npm >/dev/null; }
have_node || skip "no Node.js with npm on this machine"
[ "$(node -p 'process.versions.node.split(".")[0]')" -ge $NODE_WANTED ] || skip "Node.js $(node --version) is older than $NODE_WANTED"

work=$(mktemp -d)
chmod 711 "$work"
cp -r examples/unleash "$work/unleash"
clean_up() { rm -rf "$work"; }
trap clean_up EXIT

say "installing unleash"
# No scripts of packages: none of them is needed, and one of them would call home.
if ! (cd "$work/unleash" && npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error) >"$work/npm.log" 2>&1; then
  if grep -qE "ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH" "$work/npm.log"; then skip "npm's registry cannot be reached from this machine"; fi
  tail -n 20 "$work/npm.log"
  echo "failed: unleash could not be installed"
  exit 1
fi

begin_stack "$work/unleash"

# Status of METHOD PATH [BODY]; the answer's body is in SCRATCH/body.
call() {
  local method=$1 path=$2 body=${3:-}
  set --
  [ -z "$body" ] || set -- --json "$body"
  curl --silent --noproxy '*' --max-time 40 --cacert "$STATE/unleash/development/ca/ca.pem" \
    --resolve "unleash.localhost:$HTTPS:127.0.0.1" -H "authorization: $TOKEN" -X "$method" "$@" \
    -o "$SCRATCH/body" -w '%{http_code}' "https://unleash.localhost:$HTTPS$path" || true
}

say "up"
ms up -d --wait 240
HTTPS=$(port edge-https)
TOKEN="*:*.$(ms env unleash --show-secrets | sed -n 's/^API_SECRET=//p')"

say "used through the edge"
same "its page" "$(call GET /)" 200
grep -q "<title>Unleash</title>" "$SCRATCH/body" || fail "the page is not Unleash's"
same "its health" "$(call GET /health)" 200
same "creating a flag" "$(call POST /api/admin/projects/default/features '{"name":"dark-mode","type":"release"}')" 201
same "turning it on" "$(call POST /api/admin/projects/default/features/dark-mode/environments/development/on)" 200
same "the same name again is refused" "$(call POST /api/admin/projects/default/features '{"name":"dark-mode","type":"release"}')" 409

say "attacked (rounds each: $RUNS)"
drill instance-crash "$RUNS"
drill database-crash "$RUNS"
same "the flag after two kinds of crash" "$(call GET /api/admin/projects/default/features/dark-mode)" 200
grep -q '"name":"development"[^}]*"enabled":true' "$SCRATCH/body" || fail "the flag is not on any more: $(cat "$SCRATCH/body")"
same "changing it" "$(call POST /api/admin/projects/default/features/dark-mode/environments/development/off)" 200

say "down"
ms down
nothing_runs
all_passed

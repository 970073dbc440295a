#!/usr/bin/env bash
# The console in a real browser: every state it draws, then that of a real stack whose primary is killed and whose
# control plane is stopped. Needs built programs, Node and Chromium; leaves nothing running.
#   SHOTS=FOLDER bin/lib/console-e2e.sh     keeps screenshots there
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh

# `bin/test` installs both; who runs this by hand may lack them.
if ! command -v npm >/dev/null 2>&1 || ! command -v "${CHROMIUM:-chromium}" >/dev/null 2>&1; then
  echo "skipped: the console in a browser needs npm and chromium"
  exit 0
fi
if ! node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 20 ? 0 : 1)'; then
  echo "skipped: the console in a browser needs Node 20, this is $(node --version)"
  exit 0
fi
[ -z "${SHOTS:-}" ] || mkdir -p "$SHOTS"
(cd web/e2e && npm ci --silent --no-audit --no-fund)

say "every state of the console, from fixtures"
timeout 240 node web/e2e/scenes.mjs ${SHOTS:+"$SHOTS"}

program_at_target users
begin_stack apps/users/mainstay.toml
say "up"
ms up -d >/dev/null
say "the console of a stack"
# Not exported: the search for processes of the stack would find this script's own.
MAINSTAY="$MAINSTAY" STATE="$STATE" STACK="$STACK" timeout 240 node web/e2e/console.mjs ${SHOTS:+"$SHOTS"}
say "down"
ms down
nothing_runs
SUCCEEDED=yes

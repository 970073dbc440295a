#!/usr/bin/env bash
# The console in a real browser: every state it draws, then that of a real stack whose primary is killed and whose
# control plane is stopped. Needs built programs, Node and Chromium; leaves nothing running.
#   SHOTS=FOLDER bin/lib/console-e2e.sh     keeps screenshots there
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh
. bin/lib/browser.sh

has_browser "the console"

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

#!/usr/bin/env bash
# The pages of the two applications in a real browser, on their stacks: used as a person does, on a wide screen and on a
# phone, light and dark. Needs built programs, Node and Chromium; leaves nothing running.
#   SHOTS=FOLDER     keeps screenshots there        SITES=integers     one of them
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh
. bin/lib/browser.sh

has_browser "the applications' pages"
began=$SECONDS

# The stack of an application, its test, and the stack down again: NAME [VARIABLES of the test, once it is up]
site() {
  local name=$1 password
  program_at_target "$name"
  STACK=apps/$name
  say "$name"
  ms up -d >"$SCRATCH/up" 2>&1 || { cat "$SCRATCH/up"; fail "up of $STACK"; }
  password=$(ms env backend --show-secrets | sed -n 's/^ADMIN_PASSWORD=//p')
  # Not exported: the search for processes of the stack would find this script's own.
  PASSWORD="$password" URL="https://$name.localhost:$(sed -n 's/.*"edge-https": *\([0-9]*\).*/\1/p' "$STATE/$name/development/ports.json")" \
    timeout 240 node "web/e2e/$name.mjs" ${SHOTS:+"$SHOTS"}
  ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down of $STACK"; }
}

begin_stack apps/users
for name in ${SITES:-users integers}; do site "$name"; done
nothing_runs
all_passed

#!/usr/bin/env bash
# The body of `bin/demo --check`: the users application on the whole architecture, used through the edge,
# then attacked while a client works. Needs built programs; leaves nothing running. DRILL_RUNS=N rounds of each drill.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh
. bin/lib/users.sh

DRILL_RUNS="${DRILL_RUNS:-5}"
began=$SECONDS
CLIENT=""

program_at_target users
begin_stack apps/users

# --- talking to the application through the edge --------------------------------------------------

# curl with the stack's own CA and nobody else's; body in SCRATCH/body, head in SCRATCH/head. Each comes from an address
# of its own, as many clients do: one address has 1,000 requests a minute.
edge_curl() {
  curl --silent --interface "host!127.1.$((RANDOM % 256)).$((RANDOM % 254 + 1))" --noproxy '*' --max-time 40 --cacert "$STATE/users/development/ca/ca.pem" \
    --resolve "users.localhost:$HTTPS:127.0.0.1" "$@"
}

# Status of METHOD PATH [BODY] [curl options]
call() {
  local method=$1 path=$2 body=${3:-}
  shift $(($# < 3 ? $# : 3))
  [ -z "$body" ] || set -- "$@" --json "$body"
  edge_curl -X "$method" -H "authorization: Bearer ${TOKEN:-}" -o "$SCRATCH/body" -D "$SCRATCH/head" \
    -w '%{http_code}' "$@" "https://users.localhost:$HTTPS$path" || true
}

# The text or number of a field in the last answer's body.
field() { grep -oE "\"$1\":(\"[^\"]*\"|[0-9]+)" "$SCRATCH/body" | head -n 1 | sed -e "s/^\"$1\"://" -e 's/"//g'; }

sign_in() {
  local password
  password=$(ms env backend --show-secrets | sed -n 's/^ADMIN_PASSWORD=//p')
  TOKEN=""
  same "signing in as admin" "$(call POST /api/auth/login "{\"username\":\"admin\",\"password\":\"$password\"}")" 200
  TOKEN=$(field accessToken)
}

use_it() {
  TOKEN=""
  same "the page is served over HTTPS, HTTP/2, by a certificate of the stack's CA" \
    "$(edge_curl --http2 -o "$SCRATCH/body" -w '%{http_code} %{http_version}' "https://users.localhost:$HTTPS/")" "200 2"
  grep -q "<title>Users</title>" "$SCRATCH/body" || fail "the page is not the users page"
  same "plain HTTP is redirected" \
    "$(curl --silent --noproxy '*' -o /dev/null -w '%{http_code}' --resolve "users.localhost:$HTTP:127.0.0.1" "http://users.localhost:$HTTP/api/users")" 308
  same "health through the edge" "$(call GET /actuator/health)" 200
  same "without a token: no" "$(call GET /api/users)" 401
  same "with a wrong password: no" "$(call POST /api/auth/login '{"username":"admin","password":"not the password"}')" 401
  sign_in
  same "listing users" "$(call GET /api/users)" 200
  same "creating a user" "$(call POST /api/users '{"username":"ada","email":"ada@example.com","firstName":"Ada"}')" 201
  local id tag
  id=$(field id)
  same "the same name again is refused" "$(call POST /api/users '{"username":"ada","email":"other@example.com"}')" 409
  same "reading it" "$(call GET "/api/users/$id")" 200
  tag=$(tr -d '\r' <"$SCRATCH/head" | sed -n 's/^[Ee][Tt]ag: //p')
  same "editing that version" "$(call PUT "/api/users/$id" '{"lastName":"Lovelace"}' -H "if-match: $tag")" 200
  same "editing the version that is gone is refused" "$(call PUT "/api/users/$id" '{"lastName":"Byron"}' -H "if-match: $tag")" 412
  same "reading it again" "$(call GET "/api/users/$id")" 200
  same "the edit is there" "$(field lastName)" Lovelace
  same "searching" "$(call GET '/api/users/search?q=lovelace')" 200
  same "the page's paths fall back to its index" "$(call GET /some/page/of/the/app)" 200
}

# --- a client that works all the time --------------------------------------------------------------

# Creates a user and reads it back, again and again. A line for each request: kind, status, seconds, user.
client() {
  local number=0 name status token
  while [ ! -e "$SCRATCH/stop" ]; do
    number=$((number + 1))
    name="c$1-$number"
    token=$(token_of "$number")
    status=$(edge_curl -X POST -H "authorization: Bearer $token" -o /dev/null -w '%{http_code} %{time_total}' \
      --json "{\"username\":\"$name\",\"email\":\"$name@example.com\"}" "https://users.localhost:$HTTPS/api/users") || true
    echo "create $status $name"
    [ "${status%% *}" = 201 ] || { sleep 0.02; continue; }
    status=$(edge_curl -H "authorization: Bearer $token" -o /dev/null -w '%{http_code} %{time_total}' \
      "https://users.localhost:$HTTPS/api/users/username/$name") || true
    echo "read $status $name"
  done >"$SCRATCH/client-$1"
}

start_client() { rm -f "$SCRATCH/stop"; client "$1" & CLIENT=$!; }

stop_clients() {
  [ -n "$CLIENT" ] || return 0
  : >"$SCRATCH/stop"
  wait "$CLIENT" 2>/dev/null || true
  CLIENT=""
}

# What the client of a drill saw, in one line; fails when an acknowledged user could not be read at once.
saw() {
  awk -v name="$1" '
    { count++; if ($3 > worst) worst = $3 }
    $1 == "create" { if ($2 == 201) made++; else other[$2]++ }
    $1 == "read" { if ($2 == 200) read++; else if ($2 == 404) missing++; else bad[$2]++ }
    END {
      text = ""
      for (code in other) text = text sprintf(", %d × create %s", other[code], code)
      for (code in bad) text = text sprintf(", %d × read %s", bad[code], code)
      printf "        the client saw: %d users created, %d read back%s; longest wait %d ms\n", made, read, text, worst * 1000
      if (missing > 0) { printf "        %d users that were acknowledged were not there\n", missing; exit 1 }
      if (made < 10) { printf "        fewer than 10 users created: not proven that it worked\n"; exit 1 }
    }' "$SCRATCH/client-$1" || fail "the client during $1"
}

# Clients that are connected and do nothing: they still work afterwards, and take no server of the database.
idle_clients() {
  local code=0
  python3 bench/idle.py --mainstay "$MAINSTAY" --state "$STATE" --file "$STACK" --https "$1" --db "$2" --hold 2 \
    >"$SCRATCH/idle.json" || code=$?
  [ "$code" = 0 ] || sed 's/^/        /' "$SCRATCH/idle.json"
  same "$1 idle HTTPS connections and $2 idle database sessions still work" "$code" 0
  grep -E 'kib_per_client' "$SCRATCH/idle.json" | sed 's/^ */        /'
}

attack() {
  local name
  for name in instance-crash control-plane-crash keep-crash database-crash; do
    start_client "$name"
    drill "$name" "$DRILL_RUNS"
    stop_clients
    saw "$name"
  done
}

# Every user that was acknowledged is there, once.
read_back() {
  local page=0
  : >"$SCRATCH/there"
  while :; do
    TOKEN=$(token_of "$page")
    [ "$(call GET "/api/users?size=100&sort=id,asc&page=$page")" = 200 ] || fail "listing page $page"
    { cat "$SCRATCH/body"; echo; } | sed 's/"username":"/\n&/g' | sed -n 's/^"username":"\([^"]*\)".*/\1/p' >"$SCRATCH/page"
    [ -s "$SCRATCH/page" ] || break
    cat "$SCRATCH/page" >>"$SCRATCH/there"
    page=$((page + 1))
  done
  sort "$SCRATCH/there" >"$SCRATCH/there.sorted"
  awk '$1 == "create" && $2 == 201 { print $4 }' "$SCRATCH"/client-* | sort >"$SCRATCH/acknowledged"
  local acknowledged lost twice
  acknowledged=$(wc -l <"$SCRATCH/acknowledged")
  lost=$(comm -23 "$SCRATCH/acknowledged" "$SCRATCH/there.sorted" | wc -l)
  twice=$(uniq -d "$SCRATCH/there.sorted" | wc -l)
  same "of $acknowledged users acknowledged to the client, all are there, once" "$lost lost, $twice doubled" "0 lost, 0 doubled"
}

# What the drills are owed, as `status` says it. The control plane looks at their history every 2 s.
owed() {
  local line=""
  for _ in $(seq 25); do
    # A pass that the machine's pressure gave a wider bar is one, and says so.
    line=$(ms status | sed -n 's/^drills: //p' | sed 's/; against an extended bar.*//' || true)
    [ "$line" != "$1" ] || break
    sleep 0.2
  done
  same "what the drills are owed, as status says it" "$line" "$1"
}

# Every drill that applies, a round each, while a client works; afterwards nothing is owed.
everything() {
  local code=0
  start_client everything
  ms drill --all >"$SCRATCH/all" 2>"$SCRATCH/all.talk" || code=$?
  stop_clients
  sed 's/^/        /' "$SCRATCH/all"
  [ "$code" = 0 ] || sed 's/^/        /' "$SCRATCH/all.talk"
  same "every drill that applies, a round each, in one go" "$code" 0
  saw everything
  owed "16 fine"
}

# A drill that is stopped ends at once, leaves nothing frozen, and is remembered as one that was stopped.
stopped_drill_heals() {
  local primary drill state="" code=0
  primary=$(ms ps | awk '$2 == "primary" { print $3 }')
  "$MAINSTAY" --state "$STATE" --file "$STACK" drill database-freeze --junit "$SCRATCH/stopped.xml" >/dev/null 2>&1 &
  drill=$!
  becomes_frozen "$primary"
  kill -INT "$drill"
  wait "$drill" || code=$?
  same "a drill that was stopped with SIGINT ends with the status for that" "$code" 12
  state=$(awk '{ print $3 }' "/proc/$primary/stat" 2>/dev/null || true)
  [ "$state" != T ] || fail "the primary's postmaster is still frozen after it"
  ok "nothing is left frozen"
  ms drill history database-freeze | sed -n 2p | grep -c ABORTED >/dev/null || fail "the history does not show that it was stopped"
  grep -q 'errors="1".*' "$SCRATCH/stopped.xml" || fail "its JUnit file does not show an error"
  ok "the history and its JUnit file show it"
}

# PID
becomes_frozen() {
  local state=""
  for _ in $(seq 600); do
    state=$(awk '{ print $3 }' "/proc/$1/stat")
    [ "$state" != T ] || break
    sleep 0.05
  done
  same "the primary's postmaster is frozen" "$state" T
}

# A report is what was written, and one that was changed is not; and so is the history.
reports_are_verified() {
  local code=0
  ms drill verify "$SCRATCH/drill-database-crash.html" >"$SCRATCH/verify" || fail "the report is not known by its sum"
  same "files of a report that are as they were written" "$(grep -c 'as it was written' "$SCRATCH/verify")" 3
  sed -i 's/"lost": 0/"lost": 1/' "$SCRATCH/drill-database-crash.json"
  ms drill verify "$SCRATCH/drill-database-crash.html" >/dev/null 2>&1 || code=$?
  same "a report that was changed is found" "$code" 1
  ms drill verify >"$SCRATCH/verify" || { sed 's/^/        /' "$SCRATCH/verify"; fail "the history is not as it was written"; }
  ok "the history of drills is unbroken"
}

# A drill that is killed leaves nothing frozen, and is remembered as one without an end.
killed_drill_heals() {
  local primary drill state=""
  primary=$(ms ps | awk '$2 == "primary" { print $3 }')
  "$MAINSTAY" --state "$STATE" --file "$STACK" drill database-freeze >/dev/null 2>&1 &
  drill=$!
  becomes_frozen "$primary"
  kill -KILL "$drill"
  wait "$drill" 2>/dev/null || true
  for _ in $(seq 40); do
    state=$(awk '{ print $3 }' "/proc/$primary/stat")
    [ "$state" = T ] || break
    sleep 0.05
  done
  [ "$state" != T ] || fail "it is still frozen 2 s after the drill was killed"
  ok "the drill was killed with SIGKILL, and the postmaster runs on"
  ms drill history database-freeze | grep -c "no end" >/dev/null || fail "the history does not show the drill that was killed"
  ok "the history shows a drill without an end"
}

# A drill that cannot fail proves nothing: with a mistake put in on purpose it must, and for that reason.
# DRILL MISTAKE RUNS REASON
control() {
  local code=0
  ms drill "$1" --runs "$3" --sabotage "$2" >"$SCRATCH/control" 2>&1 || code=$?
  if [ "$code" != 10 ]; then sed 's/^/        /' "$SCRATCH/control"; fi
  same "with the mistake '$2' put in, $1 fails" "$code" 10
  if ! grep -q "$4" "$SCRATCH/control"; then
    sed 's/^/        /' "$SCRATCH/control"
    fail "it does not say \"$4\""
  fi
}

# --- the check -------------------------------------------------------------------------------------

say "up"
ms up -d
HTTPS=$(port edge-https) HTTP=$(port edge-http)
say "used through the edge"
use_it
use_the_rest
make_clients 40
say "many idle clients"
idle_clients 500 200
say "attacked while a client works (rounds each: $DRILL_RUNS)"
attack
read_back
say "every drill, one after the other"
everything
read_back
reports_are_verified
stopped_drill_heals
killed_drill_heals
say "down and up again"
[ "$(processes_of_stack | wc -l)" -ge 10 ] || fail "the search for its processes finds too few of them while it runs"
ms down
nothing_runs
ms up -d
HTTPS=$(port edge-https) HTTP=$(port edge-http)
sign_in
read_back
say "positive controls: what must fail fails"
control database-crash acknowledge-before-commit 3 "append found [0-9]* lost"
control database-crash promote-without-fencing 1 "promoted without proof"
control database-freeze thaw-without-fencing 1 "the former primary served after the promotion"
control standby-loss unblock-late 1 "stall.* p95 [0-9]* ms"
control switchover failover-instead 1 "a transaction that was begun before it was lost"
control replication-lag unblock-late 1 "stall.* p95 [0-9]* ms"
control corrupt-page serve-damaged 1 "damaged rows of postgres-[a-z], as if they were good"
control pool-exhaustion leak-connections 1 "waited [0-9]* ms, promised"
control edge-crash close-listeners 3 "connections were refused"
control router-crash close-listeners 4 "connections were refused"
control instance-crash past-the-edge 1 "requests failed, none may"
control control-plane-crash heal-late 1 "whole again after [0-9]* ms, promised 10000 ms"
control keep-crash heal-late 1 "whole again after [0-9]* ms, promised 10000 ms"
control keep-crash die-together 1 "requests failed, none may"
control cache-crash start-late 1 "RTO [0-9]* ms, promised 5000 ms"
control cache-loss empty-the-store 1 "acknowledged keys are lost"
control store-crash store-without-file 1 "acknowledged keys are lost"
drill null 1
owed "16 fine"
# Last: it changes and deletes whomever it finds.
say "held to its description"
sign_in
hold_to_document
say "down"
ms down
nothing_runs
all_passed

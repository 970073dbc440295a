#!/usr/bin/env bash
# The past by what happened: the state before a deploy whose migration deletes rows, found again by the release's number,
# kept by a rule of its own, put back in place of the present; a table that was dropped; moments that there are not; a
# control plane and a restore that are killed on the way. Leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh
# What is looked for is read from the WAL first.
PATIENCE=300

began=$SECONDS
work_folder
app=$work/shop
mkdir -p "$app/migrations" "$work/backups"
chmod 711 "$work/backups"
echo 'CREATE TABLE customers (id int PRIMARY KEY);' >"$app/migrations/V1__customers.sql"
begin_stack "$app"
small_stack shop <<TOML
migrations = "migrations"
[database.backup]
target = "$work/backups"
rpo = "2s"
[service.idle]
run = "/usr/bin/sleep 86400"
port = false
[deploy]
bake = "1s"
TOML
sql() { ms db psql -- -qAt -v ON_ERROR_STOP=1 -c "$1"; }
# What must fail: WORDS ARGUMENTS...
refused() {
  local words=$1
  shift
  if ms "$@" >"$SCRATCH/refused" 2>&1; then fail "mainstay $* was not refused"; fi
  grep -c -- "$words" "$SCRATCH/refused" >/dev/null || { cat "$SCRATCH/refused"; fail "mainstay $* does not say: $words"; }
  ok "mainstay $*: $words"
}

say "a release whose migration deletes half of the rows"
come_up
sql "INSERT INTO customers SELECT generate_series(1, 100)"
ms backup now >/dev/null 2>&1
sql "INSERT INTO customers SELECT generate_series(101, 200)"
first=$(ms releases --json | value "it['live']")
refused "releases that have one: none" restore --to "release $first" --dry-run
echo 'DELETE FROM customers WHERE id > 100;' >"$app/migrations/V2__tidy.sql"
timeout 120 "$MAINSTAY" --state "$STATE" --file "$STACK" deploy >"$SCRATCH/deploy" 2>&1 || { cat "$SCRATCH/deploy"; fail "the deploy"; }
two=$(ms releases --json | value "it['live']")
same "the rows are gone" "$(sql 'SELECT count(*) FROM customers')" 100
sql "INSERT INTO customers VALUES (1000)"

say "the state before it"
rules=$(ms retention --explain)
printf '%s\n' "$rules"
[ "$(grep -c "before the deploy of release $two until" <<<"$rules")" = 1 ] || fail "no base backup is kept for the deploy"
ok "one base backup is kept for the deploy"
plan=$(ms restore --to "release $two" --dry-run --json)
same "a dry run knows the point" "$(value "it['asked']" <<<"$plan") $(value "it['leaves_out']['commits'] >= 2" <<<"$plan")" "release $two True"
refused "release 99 has no restore point.*releases that have one: $two" restore --to "release 99" --dry-run
past=$(ms restore --to "release $two" --swap --confirm shop --json 2>"$SCRATCH/swap") || { cat "$SCRATCH/swap"; fail "the swap"; }
differs='[(t["table"], t["now"]["rows"], t["then"]["rows"]) for t in it["beside"]["differs"]["tables"] if t["table"] == "public.customers"]'
same "what differs was said before" "$(value "$differs" <<<"$past")" "[('public.customers', 101, 200)]"
same "every row is back" "$(sql 'SELECT count(*), max(id) FROM customers')" "200|200"

say "a table that was dropped"
sql "CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders SELECT generate_series(1, 50)"
sql "DROP TABLE orders"
sql "INSERT INTO customers VALUES (2000)"
BACKGROUND=""
stop_clients() { [ -z "$BACKGROUND" ] || kill -INT "$BACKGROUND" 2>/dev/null || true; }
# A restore that stays open, or is killed on the way; what it says goes to SCRATCH/opened: ARGUMENTS...
begin_restore() {
  : >"$SCRATCH/opened"
  "$MAINSTAY" --state "$STATE" --file "$STACK" restore "$@" >"$SCRATCH/opened" 2>"$SCRATCH/opening" &
  BACKGROUND=$!
}
# Waits for words of it; that it ended first is a failure: WORDS FILE
says() {
  local until=$((SECONDS + PATIENCE))
  until grep -c -- "$1" "$SCRATCH/$2" >/dev/null; do
    if [ "$SECONDS" -ge "$until" ] || ! kill -0 "$BACKGROUND" 2>/dev/null; then
      cat "$SCRATCH/opening" "$SCRATCH/opened"
      fail "the restore does not say: $1"
    fi
    sleep 0.1
  done
}
close_restore() {
  local code=0
  kill -INT "$BACKGROUND"
  wait "$BACKGROUND" || code=$?
  BACKGROUND=""
  same "it is closed" "$code" 0
}
# Folders of the past and of its sockets that are there. The stack's own proofs of backups come and go beside them.
left_of_the_past() { find "$STATE/shop/development/past" -mindepth 1 -maxdepth 1 -type d | wc -l; }
nothing_is_left() { [ "$(left_of_the_past)" = 0 ]; }
begin_restore --to "before orders was dropped" --json
says conninfo opened
url="$(value "it['conninfo']" <"$SCRATCH/opened") dbname=shop"
same "its rows are there in the past" "$(psql "$url" -qAtc 'SELECT count(*), max(id) FROM orders')" "50|50"
same "and not in the present" "$(sql "SELECT to_regclass('orders') IS NULL")" t
gone='[(t["table"], t["now"], t["then"]["rows"]) for t in it["differs"]["tables"] if t["table"] == "public.orders"]'
same "it is said to come back" "$(value "$gone" <"$SCRATCH/opened")" "[('public.orders', None, 50)]"
same "and what would be lost is counted" "$(value "it['leaves_out']['commits'] >= 2" <"$SCRATCH/opened")" True
close_restore
until_so "nothing of it is left" nothing_is_left

say "what there is not"
range="reachable is 20.* to 20"
refused "MS2110.*is before the oldest base backup; $range" restore --to "2020-01-01 00:00" --dry-run
refused "MS2110.*is after the end of the archive; $range" restore --to "2099-01-01 00:00"
refused "no table ordrs is known of the time from 20.*then: none; what no base backup has a name for.* the last 20" restore --to "before ordrs was dropped"
before=$(sql "SELECT count(*) FROM customers")
refused "a restore in place of the present of shop must be agreed to" restore --to "before orders was dropped" --swap
grep -c "only then: it comes back" "$SCRATCH/refused" >/dev/null || { cat "$SCRATCH/refused"; fail "what differs was not said before it was asked for"; }
grep -c "commits left out" "$SCRATCH/refused" >/dev/null || { cat "$SCRATCH/refused"; fail "what is left out was not said before it was asked for"; }
ok "what differs and what is left out was said before"
same "nothing was changed" "$(sql "SELECT count(*) FROM customers")" "$before"
until_so "and nothing is left of the attempt" nothing_is_left

say "killed on the way"
is_restoring() { [ -n "$(find "$STATE/shop/development/past" -name PG_VERSION | head -1)" ]; }
old=$(pid_of control)
begin_restore --to "before orders was dropped" --json
until_so "a restore is under way" is_restoring
kill -KILL "$old"
is_another() { local pid; pid=$(pid_of control); [ "$pid" != "$old" ] && [ "$pid" != None ] && is_ready; }
until_so "another control plane is there" is_another
says conninfo opened
url="$(value "it['conninfo']" <"$SCRATCH/opened") dbname=shop"
same "the past is opened all the same" "$(psql "$url" -qAtc 'SELECT count(*) FROM orders')" 50
close_restore
begin_restore --to "before orders was dropped" --json
until_so "a restore writes its files" is_restoring
kill -KILL "$BACKGROUND"
wait "$BACKGROUND" 2>/dev/null || true
BACKGROUND=""
same "the present goes on" "$(sql "SELECT count(*) FROM customers")" "$before"
ms restore --to "release $two" --once >/dev/null 2>"$SCRATCH/once" || { cat "$SCRATCH/once"; fail "the next restore"; }
until_so "the next restore removes what the killed one left" nothing_is_left
ms down >/dev/null 2>&1
nothing_runs
all_passed

#!/usr/bin/env bash
# The database cluster with 0, 2, 3 and 5 standbys and every durability: used, attacked, looked at; on real processes.
# Needs a built program (MAINSTAY names another than the release build's) and psql; leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh

began=$SECONDS
PATIENCE=90
work_folder

# By the application's role through the router; a stack that holds for ever is a failure and no test without an end: SQL
sql() { timeout 60 "$MAINSTAY" --state "$STATE" --file "$STACK" db psql -- -XAtqc "$1"; }
# As the superuser on a member's own socket: MEMBER SQL
direct() {
  local api="$1"
  api=$(curl --silent --unix-socket "$SOCKET" http://localhost/api/v1/database | value "it['direct']['$1']")
  psql -XAtqc "$2" "$api"
}
primary() { ms status --json | value "it['database']['primary']"; }
is_synchronous() { [ "$(ms status --json | value "it['database']['is_synchronous']")" = True ]; }
# No line wider than 80 columns, but for a command to be copied, which a break would spoil: COMMAND...
fits() {
  ms "$@" >"$SCRATCH/out" 2>&1 || { cat "$SCRATCH/out"; fail "$*"; }
  [ "$(sed '/`.*--state.*`/d' "$SCRATCH/out" | LC_ALL=C.UTF-8 wc -L)" -le 80 ] || { cat "$SCRATCH/out"; fail "$*: wider than 80 columns"; }
}

# A stack of a database and nothing else: NAME STANDBYS DURABILITY
bring_up() {
  printf 'standbys = %s\ndurability = "%s"\n' "$2" "$3" | small_stack "$1"
  if [ -z "$STATE" ]; then begin_stack "$work/$1"; else STACK="$work/$1"; fi
  come_up
  SOCKET="$(runtime)/api.sock"
  is_usable() { sql "CREATE TABLE ledger (id bigint PRIMARY KEY)"; }
  until_so "up" is_usable
}

# The folder of the stack's sockets.
runtime() { tr '\0' '\n' <"/proc/$(pid_of control)/cmdline" | grep -A1 -x -e --runtime | tail -n 1; }

# A table can be made with the first standby; the others are named as they come: WHAT NAMES
waits_for() {
  local wanted="$2"
  names_them() { [ "$(direct a "SHOW synchronous_standby_names")" = "$wanted" ]; }
  until_so "$1" names_them
}

# Writes until told to stop; what was acknowledged is noted: FROM
writer() {
  local id=$1
  while [ ! -e "$SCRATCH/stop" ]; do
    id=$((id + 1))
    if sql "INSERT INTO ledger VALUES ($id)" 2>>"$SCRATCH/refused"; then echo "$id"; else sleep 0.05; fi
  done >>"$SCRATCH/acknowledged"
}
start_writer() { rm -f "$SCRATCH/stop"; : >"$SCRATCH/refused"; writer "$1" & WRITER=$!; }
stop_writer() {
  : >"$SCRATCH/stop"
  wait "$WRITER" || fail "the writer broke off"
  WRITER=""
}
WRITER=""
stop_clients() { [ -z "$WRITER" ] || kill "$WRITER" 2>/dev/null || true; }

wrote() { [ "$(wc -l <"$SCRATCH/acknowledged")" -ge "$1" ]; }

# Every acknowledged id is there.
nothing_lost() {
  local count missing
  sort -n "$SCRATCH/acknowledged" | uniq >"$SCRATCH/wanted"
  sql "SELECT id FROM ledger ORDER BY id" >"$SCRATCH/there"
  count=$(wc -l <"$SCRATCH/wanted")
  missing=$(comm -23 <(sort "$SCRATCH/wanted") <(sort "$SCRATCH/there") | wc -l)
  [ "$count" -ge "$1" ] || fail "only $count writes were acknowledged: not proven that anybody wrote"
  same "none of $count acknowledged writes is lost" "$missing" 0
}

two_standbys() {
  local receiver before
  waits_for "two standbys: a commit waits for any one of them" "ANY 1 (mainstay_b, mainstay_c)"
  for look in info replicas slow locks; do
    fits db "$look"
    ms db "$look" --json >"$SCRATCH/out" || { cat "$SCRATCH/out"; fail "db $look --json"; }
    value "'is JSON'" <"$SCRATCH/out" >/dev/null || fail "db $look --json is no JSON"
  done
  ms db info >"$SCRATCH/out"
  tr -s ' \n' ' ' <"$SCRATCH/out" | grep -c "protects against a crash, not against the loss of the disk" >/dev/null || fail "db info does not say that all is on one disk"
  grep -c "on, no page failed" "$SCRATCH/out" >/dev/null || fail "db info: checksums"
  both_stream() { [ "$(ms db replicas | grep -c 'streaming  wait')" = 2 ]; }
  until_so "db replicas: commits wait for both" both_stream
  ok "db info, replicas, slow, locks: in 80 columns and as JSON"

  : >"$SCRATCH/acknowledged"
  start_writer 0
  sleep 2
  # The receiver of the first standby stands still: what is acknowledged now only the other has.
  receiver=$(direct b "SELECT pid FROM pg_stat_wal_receiver")
  kill -STOP "$receiver"
  before=$(wc -l <"$SCRATCH/acknowledged")
  for _ in $(seq 200); do
    [ "$(wc -l <"$SCRATCH/acknowledged")" -ge $((before + 3)) ] && break
    sleep 0.02
  done
  before=$(wc -l <"$SCRATCH/acknowledged")
  kill -KILL "$(pid_of postgres-a)"
  is_c() { [ "$(primary)" = c ]; }
  until_so "the standby that has the most takes over, not the first" is_c
  kill -CONT "$receiver" 2>/dev/null || true
  wrote_on() { [ "$(wc -l <"$SCRATCH/acknowledged")" -gt $((before + 5)) ]; }
  until_so "writes go on" wrote_on
  until_so "the other standby follows the new timeline, the former primary comes back" is_ready
  stop_writer
  nothing_lost 10
  same "the other standby was not cloned for it" "$(told CloneBegan 'postgres-b is cloned from postgres-c')" 0
  [ "$(told StandbyRepointed 'postgres-b follows postgres-c')" -ge 1 ] || fail "no event StandbyRepointed"
  on_new_timeline() { [ "$(direct b 'SELECT received_tli FROM pg_stat_wal_receiver') $(direct a 'SELECT received_tli FROM pg_stat_wal_receiver')" = "2 2" ]; }
  until_so "all are on the new timeline" on_new_timeline
}

# The most that there may be: one takes over, four follow it, and the former primary comes back.
five_standbys() {
  local one lsn
  waits_for "five standbys: any one of five" "ANY 1 (mainstay_b, mainstay_c, mainstay_d, mainstay_e, mainstay_f)"
  : >"$SCRATCH/acknowledged"
  start_writer 0
  until_so "writes are acknowledged" wrote 5
  kill -KILL "$(pid_of postgres-a)"
  another() { [ "$(primary)" != a ]; }
  until_so "another takes over" another
  all_stream() { [ "$(ms db replicas | grep -c 'streaming  wait')" = 5 ]; }
  until_so "five follow it, and commits wait for any of them" all_stream
  stop_writer
  nothing_lost 10
  one=$(primary)
  [ "$(told StandbyRepointed "follows postgres-$one")" -ge 1 ] || fail "no event StandbyRepointed"
  lsn=$(direct "$one" "SELECT pg_current_wal_flush_lsn()")
  for one in $(printf '%s\n' a b c d e f | grep -vx "$one"); do
    has_all() { [ "$(direct "$one" "SELECT pg_last_wal_replay_lsn() >= '$lsn'")" = t ]; }
    until_so "$one has all that the primary has" has_all
  done
}

# Every member is started anew, and nobody notices.
restarted() {
  local before after one
  before=$(for one in a b c; do pid_of postgres-$one; done)
  : >"$SCRATCH/acknowledged"
  start_writer 10000
  sleep 1
  ms db restart >"$SCRATCH/out" 2>&1 || { cat "$SCRATCH/out"; fail "db restart"; }
  stop_writer
  [ ! -s "$SCRATCH/refused" ] || { head -n 3 "$SCRATCH/refused"; fail "a write failed during db restart"; }
  ok "db restart: no write failed"
  nothing_lost 10
  after=$(for one in a b c; do pid_of postgres-$one; done)
  # Three and three others: one that does not run is missing here.
  same "every member runs as another process" "$(printf '%s\n' $before $after | grep -v None | sort -u | wc -l)" 6
}

lost_standbys() {
  local before took pids standbys one
  until_so "commits wait again" is_synchronous
  standbys=$(ms status --json | value "*it['database']['lag_bytes']")
  pids=$(for one in $standbys; do pid_of "postgres-$one"; done)
  before=$(told CommitsAsynchronous "")
  # Both at once; and again until the event is there: a restart may be faster than the first look.
  for _ in $(seq 10); do
    kill -KILL $pids 2>/dev/null || true
    took=$(date +%s%N)
    sql "INSERT INTO ledger VALUES ($took)"
    took=$((($(date +%s%N) - took) / 1000000))
    [ "$(told CommitsAsynchronous "")" -gt "$before" ] && break
    sleep 1
    pids=$(for one in $standbys; do pid_of "postgres-$one"; done) || true
  done
  [ "$(told CommitsAsynchronous "")" -gt "$before" ] || fail "commits wait for no standby, and no event says so"
  ok "balanced: both standbys lost, a write went on (that one took $took ms), event CommitsAsynchronous"
  until_so "both are back" is_synchronous
}

strict() {
  local code=0 began took writer
  waits_for "three standbys: any one of three" "ANY 1 (mainstay_b, mainstay_c, mainstay_d)"
  # They come up again and find nobody who lets them stream.
  PGOPTIONS="-c synchronous_commit=local" direct a "ALTER ROLE mainstay_replication NOLOGIN"
  kill -KILL $(for one in b c d; do pid_of postgres-$one; done)
  none_streams() { [ "$(direct a "SELECT count(*) FROM pg_stat_replication")" = 0 ]; }
  until_so "three standbys are lost and do not stream" none_streams
  began=$(date +%s%N)
  sql "INSERT INTO ledger VALUES (1)" &
  writer=$!
  sleep 1.2
  kill -0 "$writer" 2>/dev/null || { ms status; ms events --lines 12; fail "strict: a write did not wait although no standby streams"; }
  ok "strict: a write waits while no standby streams"
  # It fails while the stack is not well.
  says_so() { { ms status || true; } | grep -c 'writes wait: durability is "strict"' >/dev/null; }
  until_so "and status says that writes wait" says_so
  PGOPTIONS="-c synchronous_commit=local" direct a "ALTER ROLE mainstay_replication LOGIN"
  wait "$writer" || code=$?
  took=$((($(date +%s%N) - began) / 1000000))
  same "the write is done once one is back (after $took ms)" "$code" 0
  until_so "all is whole again" is_ready
  : >"$SCRATCH/acknowledged"
  start_writer 1000
  until_so "writes are acknowledged" wrote 10
  kill -KILL "$(pid_of postgres-a)"
  another() { [ "$(primary)" != a ]; }
  until_so "another takes over" another
  until_so "two others follow it, the former primary comes back" is_ready
  stop_writer
  nothing_lost 10
}

alone() {
  local code=0
  ms db info | tr -s ' \n' ' ' | grep -c "Without a standby a crash is an outage" >/dev/null || fail "db info does not say what no standby means"
  ms db switchover >"$SCRATCH/out" 2>&1 || code=$?
  [ "$code" != 0 ] || fail "a switchover without a standby"
  grep -c "standbys = 1" "$SCRATCH/out" >/dev/null || { cat "$SCRATCH/out"; fail "the refusal does not say what to do"; }
  ok "no standby: db info says what that means, a switchover is refused"
  : >"$SCRATCH/acknowledged"
  start_writer 0
  until_so "writes are acknowledged" wrote 10
  kill -KILL "$(pid_of postgres-a)"
  sleep 1
  until_so "a primary alone is started in place" is_ready
  stop_writer
  nothing_lost 10
}

locked() {
  local pid
  (sql "BEGIN; LOCK TABLE ledger; SELECT pg_sleep(60)" >/dev/null 2>&1 || true) &
  sleep 1
  (sql "INSERT INTO ledger VALUES (-4711470815)" >/dev/null 2>&1 || true) &
  waits() { ms db locks | grep -c "waits .* for RowExclusiveLock on ledger" >/dev/null; }
  until_so "db locks: who waits, for what" waits
  fits db locks
  ms db locks --json >"$SCRATCH/out" || fail "db locks --json"
  if grep -q 4711470815 "$SCRATCH/out"; then fail "db locks tells a literal of a statement"; fi
  pid=$(ms db locks | sed -n 's/.*`.*mainstay .* db cancel \([0-9]*\)`.*/\1/p')
  [ -n "$pid" ] || fail "db locks names no next command"
  fits db slow
  ms db slow | grep -c "pg_sleep(?)" >/dev/null || fail "db slow does not show what runs"
  ms db cancel "$pid" >/dev/null
  free() { ms db locks | grep -c "nobody waits" >/dev/null; }
  until_so "db cancel ends the statement in the way" free
  wait
  same "what waited went on" "$(sql "SELECT count(*) FROM ledger WHERE id = -4711470815")" 1
}

say "two standbys, balanced"
bring_up two 2 balanced
two_standbys
locked
until_so "commits wait again" is_synchronous
restarted
lost_standbys
ms down >/dev/null
nothing_runs
say "three standbys, strict"
bring_up three 3 strict
strict
ms down >/dev/null
nothing_runs
say "five standbys, balanced"
bring_up five 5 balanced
five_standbys
ms down >/dev/null
nothing_runs
say "no standby"
bring_up alone 0 balanced
alone
ms down >/dev/null
nothing_runs
all_passed

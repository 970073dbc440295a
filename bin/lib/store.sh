#!/usr/bin/env bash
# The store (Redis): copies by themselves and by hand, each loaded by a second server; damaged ones refused; put back
# after a FLUSHALL on a stack that runs and on one that is down, at the same address. Then the store with replicas: killed
# and started in place, damaged and taken over, no acknowledged key lost, at the same address. Leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh

began=$SECONDS
work_folder
begin_stack "$work/keeps"
# A stack of a store and a process that uses it; more lines of [cache] from stdin: NAME
store_stack() {
  local https http console
  mkdir -p "$work/$1"
  read -r https http console <<<"$(free_ports 3)"
  {
    printf 'stack = "%s"\n[service.worker]\nrun = "/usr/bin/sleep 86400"\nport = false\n[cache]\n' "$1"
    cat
    printf '[observe]\nenabled = false\n[edge]\nhttps_port = %s\nhttp_port = %s\n[console]\nport = %s\n' "$https" "$http" "$console"
  } >"$work/$1/mainstay.toml"
  chmod -R go+rX "$work/$1"
}
store_stack keeps <<<'copies = { every = "1m" }'

url() { ms env worker --show-secrets --json | value "it['env']['REDIS_STORE_URL']"; }
# redis-cli takes an empty user for one of that name: it gets the parts of the address.
redis() {
  local rest=${address#redis://:}
  REDISCLI_AUTH=${rest%@*} redis-cli -p "$(sed 's/.*:\([0-9]*\).*/\1/' <<<"$rest")" "$@"
}
keys() { redis DBSIZE 2>&1; }
holds() { [ "$(keys)" = "$1" ]; }
# Sets so many keys, each with its number.
fill() { /usr/bin/python3 -c 'import sys
for n in range(int(sys.argv[1])): print(f"SET key:{n} {n}")' "$1" | redis --pipe >/dev/null; }
# The last copy of a name: one that was due may come at any moment.
named() { ms store copies --json | value "[one['id'] for one in it['copies'] if one['name'] == '$1'][-1]"; }
folder() { echo "$STATE/keeps/development/store-copies"; }
# Changes a bit in the middle of a copy.
spoil() { /usr/bin/python3 - "$(folder)/$1.rdb" <<'PY'
import os, sys
with open(sys.argv[1], "r+b") as copy:
    middle = os.path.getsize(sys.argv[1]) // 2
    copy.seek(middle)
    byte = copy.read(1)
    copy.seek(middle)
    copy.write(bytes([byte[0] ^ 1]))
PY
}
# A command that must fail: CODE WORDS ARGUMENTS...
refused() {
  local wanted=$1 words=$2 code=0
  shift 2
  ms "$@" >"$SCRATCH/refused" 2>&1 || code=$?
  [ "$code" != 0 ] || fail "mainstay $* was not refused"
  grep -c "error\[$wanted\].*$words" "$SCRATCH/refused" >/dev/null || { cat "$SCRATCH/refused"; fail "mainstay $* does not say $wanted, $words"; }
  ok "mainstay $*: $wanted"
}

say "up"
come_up
address=$(url)
fill 1000
redis -n 3 LPUSH list a b c >/dev/null
redis SETEX gone:soon 1 x >/dev/null
same "the store holds" "$(keys)" 1001
refused MS2130 "there is no copy 1999" store restore --from 1999
code=0
ms store copy --name $'a\ttab' >"$SCRATCH/refused" 2>&1 || code=$?
same "what a copy is for is one line" "$code $(grep -c "another control character" "$SCRATCH/refused" || true)" "2 1"

say "a copy by hand, under load"
# It ends by itself.
/usr/bin/python3 -c '
import itertools, time
end = time.time() + 4
for n in itertools.takewhile(lambda n: n % 1000 or time.time() < end, itertools.count()): print(f"SET load:{n % 5000} {n}")' |
  redis --pipe >/dev/null 2>&1 &
load=$!
sleep 1
ms store copy --name "under load" --json >"$SCRATCH/copy" || { cat "$SCRATCH/copy"; fail "no copy"; }
wait "$load" || true
same "it is loaded and holds what the store held" "$(value "it['is_proven'] and it['keys'] > 1000" <"$SCRATCH/copy")" True
loaded() { [ "$(told StoreCopyProven "is proven")" != 0 ]; }
until_so "an event tells of it" loaded
ms status | grep -c "last proven copy" >/dev/null || fail "status does not say when the last proven copy was taken"
ok "status says when the last proven copy was taken"

say "what the store held is put back after FLUSHALL"
redis FLUSHALL >/dev/null
fill 1000
redis -n 3 LPUSH list a b c >/dev/null
ms store copy --name "before the mistake"
good=$(named "before the mistake")
redis FLUSHALL >/dev/null
redis SET mistake 1 >/dev/null
ms store restore --from "$good" >"$SCRATCH/restore" 2>&1 || { cat "$SCRATCH/restore"; fail "restore"; }
sed 's/^/        /' "$SCRATCH/restore"
same "its keys are there" "$(keys)" 1000
same "and their values" "$(redis GET key:777)$(redis -n 3 LRANGE list 0 -1 | tr -d '\n')" 777cba
same "what was set by mistake is not" "$(redis EXISTS mistake)" 0
same "the address is the same" "$(url)" "$address"
undo=$(sed -n 's/.*store restore --from \([0-9T]*[a-z]*\).*/\1/p' "$SCRATCH/restore")
store=$(pid_of store)
kill -KILL "$store"
until_so "the store was killed: it comes back with the copy's keys" holds 1000
ms store restore --from "$undo" >/dev/null 2>&1 || fail "the undo"
same "the undo brings back what was replaced" "$(keys)$(redis EXISTS mistake)" 11

say "positive control: copies that are not right"
spoil "$good"
refused MS1131 "not what was stored" store prove "$good"
refused MS1131 "not what was stored" store restore --from "$good"
# A file that loads well and holds nothing, stored as if it were the copy.
redis FLUSHALL >/dev/null
ms store copy --name "of nothing" >/dev/null
nothing=$(named "of nothing")
fill 50
ms store copy --name "of fifty" >/dev/null
fifty=$(named "of fifty")
cp "$(folder)/$nothing.rdb" "$(folder)/$fifty.rdb"
/usr/bin/python3 - "$(folder)" "$nothing" "$fifty" <<'PY'
import json, sys
folder, nothing, fifty = sys.argv[1:]
note = lambda name: f"{folder}/{name}.json"
of_nothing, of_fifty = json.load(open(note(nothing))), json.load(open(note(fifty)))
of_fifty.update(bytes=of_nothing["bytes"], sha256=of_nothing["sha256"])
json.dump(of_fifty, open(note(fifty), "w"))
PY
refused MS1131 "0 keys were loaded, the store had 50" store prove "$fifty"
same "the store is as it was" "$(keys)" 50

say "by itself"
scheduled() { [ "$(ms store copies --json | value "any(one['is_scheduled'] and one['is_proven'] for one in it['copies'])")" = True ]; }
PATIENCE=200 until_so "a copy was taken and proven because it was due" scheduled

say "on a stack that is down"
ms store copy --name "spoilt" >/dev/null
spoilt=$(named "spoilt")
redis SET last word >/dev/null
ms store copy --name "the last" >/dev/null
last=$(named "the last")
redis DEL last >/dev/null
ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }
nothing_runs
spoil "$spoilt"
refused MS1131 "not what was stored" store prove "$spoilt"
ms store restore --from "$last" >"$SCRATCH/restore" 2>&1 || { cat "$SCRATCH/restore"; fail "restore on a stack that is down"; }
grep -c "the next .* up. starts it" "$SCRATCH/restore" >/dev/null || { cat "$SCRATCH/restore"; fail "it does not say when"; }
come_up
same "the next up begins with it, at the same address" "$(redis GET last)$(url)" "word$address"
is_told() { [ "$(told StoreCopyWrong "copy $spoilt ")" -ge 1 ]; }
until_so "what was found wrong while nothing ran is told" is_told

say "positive control: without replicas a store whose file is damaged does not come back, but for a copy"
# What Redis cannot read: NAME
damage() {
  local files="$STATE/$stack/development/redis/$1/appendonlydir"
  echo "no manifest" >"$files/appendonly.aof.manifest"
}
stack=keeps
damage store
kill -KILL "$(pid_of store)"
# `status` exits with an error while not everything is ready.
loops() { { ms status --json || true; } | grep -c '"crash-loop"' >/dev/null; }
until_so "it ends again and again" loops
[ "$(keys 2>&1)" != 51 ] || fail "it serves all the same"
ms store restore --from "$last" >"$SCRATCH/restore" 2>&1 || { cat "$SCRATCH/restore"; fail "restore of a store that cannot start"; }
same "a copy brings it back" "$(redis GET last)" word
ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }
nothing_runs

say "a store with two replicas"
STACK="$work/follows"
store_stack follows <<<'store_replicas = 2'
stack=follows
come_up
address=$(url)
label() { ms status --json | value "next((b['label'] for b in it['boxes'] if b['name'] == '$1'), '')"; }
says() { label "$1" | grep -c "$2" >/dev/null; }
is_whole() { ms status --json | value "all(b['state'] == 'ready' for b in it['boxes']) or exit(1)" >/dev/null && says "$1" "^replica, 0 bytes" && says "$2" "^replica, 0 bytes"; }
until_so "both follow" is_whole store-b store-c
# Sets keys at the store's address until it is told to stop, each once, and notes what was acknowledged.
cat >"$SCRATCH/writer.py" <<'PY'
import os, socket, sys, time
port, password, acknowledged, stop = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
link, number, notes = None, 0, open(acknowledged, "w", buffering=1)
while not os.path.exists(stop):
    number += 1
    try:
        if link is None:
            link = socket.create_connection(("127.0.0.1", port), timeout=2)
            link.sendall(f"AUTH {password}\r\n".encode())
            if not link.recv(100).startswith(b"+OK"):
                raise OSError("not let in")
        link.sendall(f"SET ledger:{number} {number}\r\n".encode())
        if link.recv(100) != b"+OK\r\n":
            raise OSError("refused")
        print(number, file=notes)
    except OSError:
        if link is not None:
            link.close()
        link = None
        time.sleep(0.01)
PY
begin_writing() {
  local rest=${address#redis://:}
  rm -f "$SCRATCH/stop"
  /usr/bin/python3 "$SCRATCH/writer.py" "$(sed 's/.*:\([0-9]*\).*/\1/' <<<"$rest")" "${rest%@*}" "$SCRATCH/acknowledged" "$SCRATCH/stop" &
  writer=$!
  sleep 1
}
stop_clients() { [ -z "${SCRATCH:-}" ] || touch "$SCRATCH/stop"; }
end_writing() {
  sleep 1
  touch "$SCRATCH/stop"
  wait "$writer"
}
# How many acknowledged keys are not there, of how many. Those that are there are counted, so that no answer is none: WHAT
none_lost() {
  local count there
  count=$(wc -l <"$SCRATCH/acknowledged")
  [ "$count" -gt 100 ] || fail "$1: only $count writes were acknowledged"
  there=$(sed 's/.*/EXISTS ledger:&/' "$SCRATCH/acknowledged" | redis | grep -c '^1$')
  same "$1: of $count acknowledged keys all are there" "$there" "$count"
  redis FLUSHALL >/dev/null
}

say "killed: in place"
begin_writing
before=$(pid_of store)
kill -KILL "$before"
until_so "it answers at its address" redis EXISTS x
end_writing
none_lost "a kill"
same "nobody took over" "$(told StorePromoted "is the store")" 0
until_so "both follow again" is_whole store-b store-c

say "damaged: a replica takes over"
begin_writing
damage store
kill -KILL "$(pid_of store)"
taken_over() { [ "$(told StorePromoted "in the place of store,")" = 1 ]; }
until_so "a replica is the store" taken_over
until_so "it answers" redis EXISTS x
end_writing
none_lost "a failover"
same "and it is told once" "$(told StorePromoted "is the store")" 1
now=$(events | grep '"kind":"StorePromoted"' | sed 's/.*"subject":"\([a-z-]*\)".*/\1/')
ms events --lines 60 | grep -E "store" | tail -8 | sed 's/^/        /'
case "$now" in store-b) other=store-c ;; store-c) other=store-b ;; *) fail "who took over: '$now'" ;; esac
same "the address is the same" "$(url)" "$address"
socket=$(ms env worker --show-secrets --json | value "it['env']['REDIS_STORE_SOCKET']")
redis SET after failover >/dev/null
rest=${address#redis://:}
same "and so is its socket" "$(REDISCLI_AUTH=${rest%@*} redis-cli -s "$socket" GET after)" failover
until_so "the former primary follows" is_whole store "$other"
[ -d "$STATE/follows/development/redis/store/replaced/appendonlydir" ] || fail "what the former primary had is not kept"
ok "what it had is kept"

say "copies go on, and a restore reaches the replicas"
redis SET word kept >/dev/null
ms store copy --name "after the failover"
redis FLUSHALL >/dev/null
ms store restore --from latest >"$SCRATCH/restore" 2>&1 || { cat "$SCRATCH/restore"; fail "restore"; }
same "the copy is back" "$(redis GET word)" kept
same "and nobody took over meanwhile" "$(told StorePromoted "is the store")" 1
until_so "the replicas follow" is_whole store "$other"
rest=${address#redis://:}
same "they have it too" "$(REDISCLI_AUTH=${rest%@*} redis-cli -s "${socket%/redis-store/*}/redis-store-a/redis.sock" GET word)" kept

say "all of it again after down and up"
ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }
nothing_runs
come_up
until_so "the same one serves" says "$now" "^primary"
same "with its data, at the same address" "$(redis GET word)$(url)" "kept$address"

say "nothing was written since: a replica that has all of it takes over all the same"
until_so "both follow" is_whole store "$other"
damage "$now"
kill -KILL "$(pid_of "$now")"
in_its_place() { [ "$(told StorePromoted "in the place of $now,")" = 1 ]; }
until_so "a replica is the store" in_its_place
has_word() { [ "$(redis GET word 2>/dev/null)" = kept ]; }
until_so "with all data" has_word

say "somebody has the port when the store is started again"
now=$(events | grep '"kind":"StorePromoted"' | sed 's/.*"subject":"\([a-z-]*\)".*/\1/' | tail -n 1)
others=$(for one in store store-b store-c; do [ "$one" = "$now" ] || echo "$one"; done | paste -sd ' ')
read -r -a others <<<"$others"
until_so "both follow" is_whole "${others[@]}"
cat >"$SCRATCH/squatter.py" <<'PY'
import socket, sys, time
until = time.time() + 30
open(sys.argv[2], "w").close()
while time.time() < until:
    try:
        taken = socket.socket()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", int(sys.argv[1])))
        taken.listen()
        time.sleep(4)
        sys.exit(0)
    except OSError:
        time.sleep(0.001)
sys.exit(1)
PY
/usr/bin/python3 "$SCRATCH/squatter.py" "$(sed 's/.*:\([0-9]*\).*/\1/' <<<"${address#redis://:}")" "$SCRATCH/waits" & squatter=$!
until_so "somebody waits for the port" test -e "$SCRATCH/waits"
kill -KILL "$(pid_of "$now")"
wait "$squatter" || fail "the port was never free"
until_so "it serves when the port is free, with all data" has_word
ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }
nothing_runs
all_passed

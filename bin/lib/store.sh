#!/usr/bin/env bash
# The store (Redis): copies by themselves and by hand, each loaded by a second server; damaged ones refused; put back
# after a FLUSHALL on a stack that runs and on one that is down, at the same address. Leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh

began=$SECONDS
work_folder
begin_stack "$work/keeps"
mkdir -p "$work/keeps"
read -r https http console <<<"$(free_ports 3)"
cat >"$work/keeps/mainstay.toml" <<TOML
stack = "keeps"
[service.worker]
run = "/usr/bin/sleep 86400"
port = false
[cache]
copies = { every = "1m" }
[observe]
enabled = false
[edge]
https_port = $https
http_port = $http
[console]
port = $console
TOML
chmod -R go+rX "$work/keeps"

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
ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }
nothing_runs
all_passed

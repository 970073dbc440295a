#!/usr/bin/env bash
# The second copy of the backups in an object store: moto's S3 server from PyPI (versions in objects/requirements.txt),
# which checks every signature. Copied whole, killed in the middle, the store away, objects removed and damaged, and
# the whole stack restored from the copy and the card alone. Needs psql; leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh
. bin/lib/pinned.sh

began=$SECONDS
# A base backup is taken behind everything else: on a busy machine it takes its time.
PATIENCE=${OBJECTS_PATIENCE:-150}
pinned objects bin/lib/objects/requirements.txt

work_folder
SERVER="" DOOR="" OTHER=""
stop_clients() {
  [ -z "$OTHER" ] || "$MAINSTAY" --state "$OTHER" --file "$work/other/mainstay.toml" down >/dev/null 2>&1 || true
  [ -z "$DOOR" ] || kill "$DOOR" 2>/dev/null || true
  [ -z "$SERVER" ] || kill "$SERVER" 2>/dev/null || true
}
clean_up() { rm -rf "$work"; [ -z "$OTHER" ] || rm -rf "$OTHER"; }

read -r server_port door_port <<<"$(free_ports 2)"
endpoint="http://127.0.0.1:$door_port"
# Not in the environment of this script: the stack would inherit it, and be found to know it.
bucket() { ACCESS=${ACCESS:-} SECRET=${SECRET:-} "$PINNED/bin/python" bin/lib/objects/bucket.py "http://127.0.0.1:$server_port" "$@"; }
open_door() {
  /usr/bin/python3 bin/lib/objects/door.py "$door_port" "$server_port" "$@" & DOOR=$!
  for _ in $(seq 50); do (exec 3<>"/dev/tcp/127.0.0.1/$door_port") 2>/dev/null && return 0; sleep 0.1; done
  fail "the door does not open"
}
close_door() { kill "$DOOR"; wait "$DOOR" 2>/dev/null || true; DOOR=""; }

say "a store"
small_stack shop <<EOF
standbys = 0
[database.backup]
target = "$work/backups"
rpo = "10s"
[database.backup.keep]
by_hand = "0d"
[database.backup.copy]
to = "s3://off-site/shop"
endpoint = "$endpoint"
access_key = "SHOP_ACCESS_KEY"
secret_key = "SHOP_SECRET_KEY"
rpo = "30s"
EOF
begin_stack "$work/shop"
INITIAL_NO_AUTH_ACTION_COUNT=4 "$PINNED/bin/python" bin/lib/objects/server.py "$server_port" >"$SCRATCH/moto" 2>&1 & SERVER=$!
for _ in $(seq 150); do (exec 3<>"/dev/tcp/127.0.0.1/$server_port") 2>/dev/null && break; sleep 0.2; done
keys=$(bucket make) || { tail -n 20 "$SCRATCH/moto"; fail "the bucket cannot be made"; }
ACCESS=${keys% *} SECRET=${keys#* }
code=0
bucket names >"$SCRATCH/names" 2>&1 || { tail -n 1 "$SCRATCH/names"; fail "the right key is refused"; }
(SECRET=wrong; bucket names) >"$SCRATCH/refused" 2>&1 || code=$?
[ "$code" != 0 ] || fail "the server takes any key: what follows would prove nothing"
ok "moto's server stands, and refuses a wrong key"
open_door

copy_is() { [ "$(ms status --json | value "bool((it['backups'].get('copy') or {}) and ($1))")" = True ]; }
sql() { timeout 120 "$MAINSTAY" --state "$STATE" --file "$STACK" db psql -- -XAtqc "$1"; }
# Every file of the folder is in the copy, and nothing else: what is being written and locks are no files of it.
is_same() {
  bucket names | sort >"$SCRATCH/there"
  (cd "$work/backups" && find . -type f -printf '%P %s\n') |
    grep -vE '(^|/)(lock|lock-deleting|\.tmp-[^ ]*|\.unfinished) ' | sort >"$SCRATCH/here"
  [ -s "$SCRATCH/here" ] && diff "$SCRATCH/here" "$SCRATCH/there" >"$SCRATCH/differ"
}
# What was written until now is in the copy; a switch of WAL takes half of rpo.
is_copied_to() { copy_is "it['backups']['copy']['waiting'] == 0 and (it['backups']['newest_wal'] or 0) >= $1 and (it['backups']['copy']['up_to'] or 0) >= $1"; }

say "up without the keys is refused, with them it copies"
code=0
ms up -d >"$SCRATCH/up" 2>&1 || code=$?
grep -c "SHOP_ACCESS_KEY_FILE" "$SCRATCH/up" >/dev/null || { cat "$SCRATCH/up"; fail "it does not say how the key is given"; }
same "up without keys" "$code" 4
printf '%s\n' "$SECRET" >"$work/secret"
chmod 600 "$work/secret"
SHOP_ACCESS_KEY=$ACCESS SHOP_SECRET_KEY_FILE=$work/secret come_up
rm "$work/secret"
sql "CREATE TABLE ledger (id bigint PRIMARY KEY, text text); INSERT INTO ledger SELECT i, md5(i::text) FROM generate_series(1, 1000) i"
until_so "a base backup is in the copy" copy_is "it['backups']['copy']['backups'] >= 1"
until_so "the copy is as the folder is" is_same
ms backup list >"$SCRATCH/list"
grep -c "copy in s3://off-site/shop: everything up to .* s behind; 1 base backups" "$SCRATCH/list" >/dev/null || { cat "$SCRATCH/list"; fail "backup list does not say how far it is"; }
ok "$(tail -n 1 "$SCRATCH/list")"
[ "$(told BackupCopied '')" -ge 0 ] || fail "events"
ms backup card >"$work/card"
grep -c "copy        s3://off-site/shop (endpoint $endpoint, region us-east-1)" "$work/card" >/dev/null || fail "the card does not name the copy"
ok "the card names the copy"
# The secret is sealed: in no file, no command line, no environment, no log.
! grep -rqsF "$SECRET" "$STATE" "$work/backups" || fail "the secret key lies in the clear in $(grep -rlsF "$SECRET" "$STATE" "$work/backups" | head -n 1)"
for pid in $(processes_of_stack); do
  ! grep -qsF "$SECRET" "/proc/$pid/cmdline" "/proc/$pid/environ" || fail "process $pid knows the secret key"
done
ok "the secret key is in no file, no command line and no environment of the stack"

say "kill -9 of the control plane while it copies"
sql "INSERT INTO ledger SELECT i, (SELECT string_agg(md5((i * 1000 + j)::text || random()::text), '') FROM generate_series(1, 1000) j) FROM generate_series(1001, 3000) i"
# Copied as it is written, through a narrow door: the kills come while it is.
close_door
open_door 2000000
ms backup now --name "much" >/dev/null 2>"$SCRATCH/much" & taking=$!
kills=0
for _ in $(seq 200); do
  copy_is "it['backups']['copy']['waiting'] > 0" && pid=$(pid_of control) && kill -KILL "$pid" 2>/dev/null && kills=$((kills + 1))
  [ "$kills" -ge 3 ] && break
  sleep 0.25
done
wait "$taking" || { cat "$SCRATCH/much"; fail "backup now"; }
[ "$kills" -ge 1 ] || fail "it was never seen copying: nothing was killed"
close_door
open_door
until_so "killed $kills times, the copy has the second base backup too" copy_is "it['backups']['copy']['backups'] >= 2"
until_so "and is as the folder is" is_same
ms backup check --copy >"$SCRATCH/check" 2>&1 || { cat "$SCRATCH/check"; fail "backup check --copy"; }
grep -c "the copy is as the folder is" "$SCRATCH/check" >/dev/null || fail "backup check --copy says nothing"
ok "every object was read and compared: $(grep objects "$SCRATCH/check")"

say "the store is away"
close_door
sql "INSERT INTO ledger VALUES (5000, 'written while the store was away')"
says_why() { [ "$(ms status --json | value "any('does not go on' in fault and 'refused' in fault for fault in it['backups']['faults'])")" = True ]; }
until_so "status says so, in the system's words" says_why
[ "$(told CopyStopped '127.0.0.1')" -ge 1 ] || fail "no event CopyStopped"
code=0
ms backup check --quick >"$SCRATCH/check" 2>&1 || code=$?
same "backup check fails" "$code" 1
grep -c "second copy to s3://off-site/shop does not go on" "$SCRATCH/check" >/dev/null || { cat "$SCRATCH/check"; fail "backup check does not say why"; }
ms db psql -- -XAtqc "SELECT 1" >/dev/null || fail "the database waits for the store"
open_door
caught_up() { [ "$(told CopyResumed '')" -ge 1 ] && copy_is "it['backups']['copy']['waiting'] == 0 and it['backups']['copy']['error'] is None"; }
until_so "the store is back: the copy goes on by itself" caught_up

say "objects removed and damaged in the store"
until_so "the copy is as the folder is" is_same
pack=$(grep '^restic/data/' "$SCRATCH/there" | sort -k2 -n | tail -n 1 | cut -d' ' -f1)
segment=$(grep '^wal/' "$SCRATCH/there" | head -n 1 | cut -d' ' -f1)
bucket damage "$pack"
bucket remove "$segment"
code=0
ms backup check --copy >"$SCRATCH/check" 2>&1 || code=$?
same "backup check --copy fails" "$code" 1
grep -c "damaged in the copy: $pack has the hash" "$SCRATCH/check" >/dev/null || { cat "$SCRATCH/check"; fail "the damaged pack was not found"; }
grep -c "missing in the copy: $segment" "$SCRATCH/check" >/dev/null || { cat "$SCRATCH/check"; fail "the missing segment was not found"; }
same "both are found and nothing else" "$(grep -c 'in the copy: ' "$SCRATCH/check")" 2
code=0
ms backup check --copy --mend >"$SCRATCH/check" 2>&1 || code=$?
[ "$code" = 0 ] || [ "$code" = 1 ] || { cat "$SCRATCH/check"; fail "--mend ended with $code"; }
ms backup check --copy >"$SCRATCH/check" 2>&1 || { cat "$SCRATCH/check"; fail "it was not mended"; }
ok "--mend puts both again from the folder"

say "what retention lets go of goes there too, nothing else does"
note=$(cd "$work/backups" && ls proofs/* | head -n 1)
rm "$work/backups/$note"
ms backup now --name "more" >/dev/null
# The last proven one is kept, so another must be proven first.
is_proven() { [ "$(ms backup list --json | value "any(one['label']['name'] == 'more' and (one.get('proof') or {}).get('is_proven') for one in it['backups'])")" = True ]; }
until_so "the newest is proven" is_proven
ms backup prune >"$SCRATCH/prune" 2>&1 || { cat "$SCRATCH/prune"; fail "backup prune"; }
is_pruned() { [ "$(ms backup list --json | value "sum(one['label']['name'] == 'much' for one in it['backups'])")" = 0 ]; }
until_so "the backup by hand is gone from the folder" is_pruned
# All but the note that somebody removed by hand, unless the backup was proven anew meanwhile.
only_the_note() { [ "$(cut -d' ' -f2 "$SCRATCH/differ" | grep -cvE '^$|^[0-9,]+[acd]')" = 1 ] && grep -c "> $note " "$SCRATCH/differ" >/dev/null; }
is_same_but_for_the_note() { is_same || only_the_note; }
until_so "and from the copy, which keeps what a hand removed from the folder" is_same_but_for_the_note

say "the drill of it"
drill machine-loss 1
same "nothing of it is left" "$(find "$STATE" -name 'drill-machine' | wc -l)" 0
code=0
ms drill machine-loss --sabotage look-elsewhere >"$SCRATCH/control" 2>&1 || code=$?
[ "$code" = 10 ] || sed 's/^/        /' "$SCRATCH/control"
same "with the WAL of its rows taken from what was fetched, machine-loss fails" "$code" 10
grep -cE "cannot be read|rows of before the moment are missing" "$SCRATCH/control" >/dev/null || { cat "$SCRATCH/control"; fail "it does not say what is missing"; }

say "the machine is gone"
sql "INSERT INTO ledger VALUES (6000, 'the last')"
moment=$(date +%s)000000
until_so "the last row's WAL is in the copy" is_copied_to "$moment"
rows=$(sql "SELECT count(*), md5(string_agg(id || text, ',' ORDER BY id)) FROM ledger")
ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }
mv "$work/backups" "$work/gone"
OTHER=$(mktemp -d)
chmod 711 "$OTHER"
fetch=(--state "$OTHER" restore --from s3://off-site/shop --endpoint "$endpoint" --card "$work/card" --fetch-into "$work/fetched")
from_copy() { AWS_ACCESS_KEY_ID=$ACCESS "$MAINSTAY" "${fetch[@]}"; }
code=0
AWS_SECRET_ACCESS_KEY=wrong from_copy >"$SCRATCH/restore" 2>&1 || code=$?
[ "$code" != 0 ] || fail "a wrong key opened the store"
grep -c "error\[MS3112\].* 403 SignatureDoesNotMatch" "$SCRATCH/restore" >/dev/null || { cat "$SCRATCH/restore"; fail "the refusal is not in the store's words"; }
ok "with a wrong key the store's own words are told"
export AWS_SECRET_ACCESS_KEY=$SECRET
# Killed while it fetches: what it had is used by the next.
AWS_ACCESS_KEY_ID=$ACCESS "$MAINSTAY" "${fetch[@]}" >"$SCRATCH/killed" 2>&1 & fetching=$!
for _ in $(seq 200); do [ "$(find "$work/fetched" -type f ! -name '.tmp-fetch-*' 2>/dev/null | wc -l)" -ge 5 ] && break; sleep 0.02; done
kill -KILL "$fetching" 2>/dev/null || true
wait "$fetching" 2>/dev/null || true
from_copy >"$SCRATCH/restore" 2>&1 || { cat "$SCRATCH/restore"; fail "restore from the copy"; }
sed 's/^/        /' "$SCRATCH/restore"
grep -c "were here already" "$SCRATCH/restore" >/dev/null || fail "the second run fetched everything again"
ok "restored from the copy and the card, after one that was killed"
unset AWS_SECRET_ACCESS_KEY
mkdir "$work/other"
sed "s#$work/backups#$work/fetched#" "$work/shop/mainstay.toml" >"$work/other/mainstay.toml"
first=$STATE
STATE=$OTHER STACK=$work/other/mainstay.toml
SHOP_ACCESS_KEY=$ACCESS SHOP_SECRET_KEY=$SECRET come_up
same "every row is there, the last too" "$(sql "SELECT count(*), md5(string_agg(id || text, ',' ORDER BY id)) FROM ledger")" "$rows"
goes_on() { copy_is "it['backups']['copy']['waiting'] == 0 and it['backups']['copy']['error'] is None and it['backups']['copy']['backups'] >= 2"; }
until_so "and the copy goes on where it was" goes_on
ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }
printf '%s' "$STATE" >"$SCRATCH/state"
nothing_runs
STATE=$first STACK=$work/shop/mainstay.toml
printf '%s' "$STATE" >"$SCRATCH/state"
nothing_runs
all_passed

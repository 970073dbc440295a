#!/usr/bin/env bash
# An object store as the only place of the backups: moto's S3 server (from PyPI), as s3:// and, asked for, as gs://;
# asked for, Azurite (from npm), as az://. Both check every signature. Nothing of the repository may stay on the machine but
# what is small; what PostgreSQL was told is archived must be in the store; a moment of the past has its rows and no others;
# the way to the store is killed while rows are written; the machine is lost in the end, and then turns up again.
#   bin/lib/objects-target.sh [s3|gs|az]...     s3 without a word. Needs psql; leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh
. bin/lib/pinned.sh

began=$SECONDS
PATIENCE=${OBJECTS_PATIENCE:-150}
kinds=${*:-s3}
work_folder
SERVER="" DOOR="" OTHER="" writer=""
stop_clients() {
  [ -z "$writer" ] || kill "$writer" 2>/dev/null || true
  [ -z "$OTHER" ] || "$MAINSTAY" --state "$OTHER" --file "$STACK" down >/dev/null 2>&1 || true
  [ -z "$DOOR" ] || kill "$DOOR" 2>/dev/null || true
  [ -z "$SERVER" ] || kill "$SERVER" 2>/dev/null || true
}
clean_up() { rm -rf "$work"; [ -z "$OTHER" ] || rm -rf "$OTHER"; }

install_azurite() {
  command -v npm >/dev/null || { echo "skipped: no Node.js with npm, so az:// was not tried"; return 1; }
  AZURITE="${XDG_CACHE_HOME:-$HOME/.cache}/mainstay/azurite-$(sha256sum bin/lib/objects/azurite/package-lock.json | cut -c1-12)"
  [ ! -e "$AZURITE/complete" ] || return 0
  rm -rf "$AZURITE"
  mkdir -p "$AZURITE"
  cp bin/lib/objects/azurite/package*.json "$AZURITE"
  if ! (cd "$AZURITE" && npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error) >"$work/npm.log" 2>&1; then
    tail -n 20 "$work/npm.log"
    fail "Azurite could not be installed from npm"
  fi
  touch "$AZURITE/complete"
}

open_door() {
  /usr/bin/python3 bin/lib/objects/door.py "$door_port" "$server_port" "$@" & DOOR=$!
  for _ in $(seq 200); do (exec 3<>"/dev/tcp/127.0.0.1/$door_port") 2>/dev/null && return 0; sleep 0.1; done
  fail "the door does not open"
}
close_door() { kill "$DOOR"; wait "$DOOR" 2>/dev/null || true; DOOR=""; }

# Starts the server of a kind and makes a bucket: sets ACCESS, SECRET.
begin_server() {
  if [ "$1" = az ]; then
    ACCESS=shopaccount SECRET=$(head -c 32 /dev/urandom | base64)
    AZURITE_ACCOUNTS="$ACCESS:$SECRET" "$AZURITE/node_modules/.bin/azurite-blob" --silent --inMemoryPersistence \
      --disableTelemetry --disableProductStyleUrl --blobHost 127.0.0.1 --blobPort "$server_port" >"$SCRATCH/server" 2>&1 & SERVER=$!
  else
    INITIAL_NO_AUTH_ACTION_COUNT=4 "$PINNED/bin/python" bin/lib/objects/server.py "$server_port" >"$SCRATCH/server" 2>&1 & SERVER=$!
  fi
  for _ in $(seq 300); do (exec 3<>"/dev/tcp/127.0.0.1/$server_port") 2>/dev/null && break; sleep 0.2; done
  local made
  made=$(bucket make) || { tail -n 20 "$SCRATCH/server"; fail "the bucket cannot be made"; }
  [ "$1" = az ] || { ACCESS=${made% *} SECRET=${made#* }; }
  local code=0 wrong
  wrong=$(printf 'wrong key' | base64)
  bucket names >"$SCRATCH/names" 2>&1 || { tail -n 3 "$SCRATCH/names"; fail "the right key is refused"; }
  (SECRET=$wrong; bucket names) >"$SCRATCH/refused" 2>&1 || code=$?
  [ "$code" != 0 ] || fail "the server takes any key: what follows would prove nothing"
  ok "a server stands, and refuses a wrong key"
}
# Not in the environment of this script: the stack would inherit it, and be found to know it.
bucket() {
  local python=$PINNED/bin/python script=bucket.py
  [ "$kind" != az ] || { python=/usr/bin/python3 script=blobs.py; }
  ACCESS=${ACCESS:-} SECRET=${SECRET:-} "$python" "bin/lib/objects/$script" "http://127.0.0.1:$server_port" "$@"
}

sql() { timeout 120 "$MAINSTAY" --state "$STATE" --file "$STACK" db psql -- -XAtqc "$1"; }
state_is() { [ "$(ms status --json | value "bool($1)")" = True ]; }
beside() { echo "$STATE/shop/development/backups/$kind~off-site~shop"; }
is_proven() { [ "$(ms backup list --json | value "bool(it['backups']) and all((one.get('proof') or {}).get('is_proven') for one in it['backups'])")" = True ]; }
has_backups() { [ "$(ms backup list --json | value "len(it['backups']) $1")" = True ]; }
packs() { bucket names | grep -c '^restic/data/' || true; }
# What is here besides links, histories and what waits: no packs, and no WAL.
nothing_large_is_here() {
  same "no base backup lies on the machine" "$(find "$(beside)/restic/data" -type f | wc -l)" 0
  same "no archived WAL lies on the machine" "$(find "$(beside)/wal" -type f -name '*.zst.age' ! -name '*.history-*' | wc -l)" 0
}
# Every segment that PostgreSQL was told is archived is an object.
archived_is_there() {
  bucket names | cut -d' ' -f1 | sed -n 's#^wal/.*/##p' | cut -d- -f1 | sort >"$SCRATCH/there"
  superuser "SELECT last_archived_wal FROM pg_stat_archiver" | grep -Fx -f - "$SCRATCH/there" >/dev/null
}
# The superuser's door is the socket, whose folder root and the server's user alone can enter.
superuser() {
  local direct
  direct=$(curl --silent --fail --unix-socket "$(cat "$STATE/shop/development/runtime")/api.sock" http://localhost/api/v1/database)
  psql -XAtqc "$1" "$(printf '%s' "$direct" | value "it['direct']['a']")"
}

try_kind() {
  local code address pid rows killed before archived
  kind=$1
  read -r server_port door_port <<<"$(free_ports 2)"
  say "$kind://: a store"
  address="$kind://off-site/shop"
  rm -rf "$work/shop"
  small_stack shop <<EOF
standbys = 0
[database.backup]
target = "$address"
endpoint = "http://127.0.0.1:$door_port"
access_key = "SHOP_ACCESS_KEY"
secret_key = "SHOP_SECRET_KEY"
rpo = "10s"
[database.backup.keep]
by_hand = "0d"
EOF
  begin_stack "$work/shop"
  begin_server "$kind"
  open_door

  say "$kind://: up"
  code=0
  ms up -d >"$SCRATCH/up" 2>&1 || code=$?
  same "without keys it is refused" "$code" 4
  code=0
  SHOP_ACCESS_KEY=$ACCESS SHOP_SECRET_KEY=$(printf 'wrong key' | base64) ms up -d >"$SCRATCH/up" 2>&1 || code=$?
  [ "$code" != 0 ] || fail "it came up with a wrong key"
  grep -cE "error\[MS3112\].* 403 " "$SCRATCH/up" >/dev/null || { cat "$SCRATCH/up"; fail "the refusal is not in the store's words"; }
  same "with a wrong key the store's own words are told, and nothing is left in it" "$(bucket names | wc -l)" 0
  SHOP_ACCESS_KEY=$ACCESS SHOP_SECRET_KEY=$SECRET come_up
  sql "CREATE TABLE ledger (id bigint PRIMARY KEY, text text); INSERT INTO ledger SELECT i, md5(i::text) FROM generate_series(1, 1000) i"
  until_so "the first base backup is restored from the store, and proven" is_proven
  nothing_large_is_here
  [ "$(packs)" -ge 1 ] || fail "the store has no base backup"
  until_so "what PostgreSQL was told is archived is in the store" archived_is_there
  ms backup list >"$SCRATCH/list"
  grep -c "store $address: everything up to .* s behind; 1 base backups" "$SCRATCH/list" >/dev/null || { cat "$SCRATCH/list"; fail "backup list does not say how far it is"; }
  ok "$(tail -n 1 "$SCRATCH/list")"
  ms backup card >"$work/card"
  grep -c "repository  $address" "$work/card" >/dev/null || { cat "$work/card"; fail "the card does not name the store"; }
  ms backup check >"$SCRATCH/check" 2>&1 || { cat "$SCRATCH/check"; fail "backup check"; }
  ok "backup check reads all of it"
  ! grep -rqsF "$SECRET" "$STATE" || fail "the secret key lies in the clear in $(grep -rlsF "$SECRET" "$STATE" | head -n 1)"
  for pid in $(processes_of_stack); do
    ! grep -qsF "$SECRET" "/proc/$pid/cmdline" "/proc/$pid/environ" || fail "process $pid knows the secret key"
  done
  ok "the secret key is in no file, no command line and no environment of the stack"

  say "$kind://: a moment of the past"
  local moment past
  sql "INSERT INTO ledger SELECT i, 'before ' || i FROM generate_series(2001, 2100) i"
  rows=$(sql "SELECT count(*), md5(string_agg(id || text, ',' ORDER BY id)) FROM ledger")
  sleep 1
  moment=$(sql "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS')")
  sleep 1
  sql "DELETE FROM ledger WHERE id % 2 = 0; UPDATE ledger SET text = 'overwritten'"
  finish_segment
  until_so "its WAL is in the store" segment_is_there
  "$MAINSTAY" --state "$STATE" --file "$STACK" restore --to "$moment" --json >"$SCRATCH/past" 2>"$SCRATCH/past.talk" & past=$!
  is_open() { [ -s "$SCRATCH/past" ] || ! kill -0 "$past"; }
  until_so "a restore to it ends" is_open
  grep -c conninfo "$SCRATCH/past" >/dev/null || { cat "$SCRATCH/past" "$SCRATCH/past.talk"; fail "restore --to $moment"; }
  same "it has the rows of that moment and no others" \
    "$(psql -XAtqc "SELECT count(*), md5(string_agg(id || text, ',' ORDER BY id)) FROM ledger" "$(value "it['conninfo']" <"$SCRATCH/past") dbname=shop")" "$rows"
  kill -INT "$past"
  wait "$past" || fail "the past does not close"
  sql "DELETE FROM ledger WHERE id > 1000"

  say "$kind://: a backup is killed"
  sql "INSERT INTO ledger SELECT i, (SELECT string_agg(md5((i * 1000 + j)::text || random()::text), '') FROM generate_series(1, 500) j) FROM generate_series(1001, 2000) i"
  close_door
  open_door 2000000
  for killed in 1 2; do
    "$MAINSTAY" --state "$STATE" --file "$STACK" backup now >"$SCRATCH/killed" 2>&1 & taking=$!
    sleep "$killed"
    kill -KILL "$taking" 2>/dev/null || true
    wait "$taking" 2>/dev/null || true
  done
  close_door
  open_door
  ms backup now --name much >/dev/null 2>"$SCRATCH/much" || { cat "$SCRATCH/much"; fail "backup now"; }
  ms backup check >"$SCRATCH/check" 2>&1 || { cat "$SCRATCH/check"; fail "backup check after the kills"; }
  ok "the next one is whole, and the check finds nothing wrong"

  say "$kind://: the store is away while rows are written"
  # Each number is noted once its commit is acknowledged.
  write_rows() {
    local id=10000
    while [ ! -e "$SCRATCH/enough" ]; do
      id=$((id + 1))
      sql "INSERT INTO ledger VALUES ($id, md5('$id'))" >/dev/null 2>&1 && echo "$id" >>"$SCRATCH/acknowledged"
    done
  }
  write_rows & writer=$!
  sleep 1
  # moto keeps all in memory, so what is killed is the only way to it: connections break off, new ones are refused.
  kill -KILL "$DOOR"
  wait "$DOOR" 2>/dev/null || true
  DOOR=""
  before=$(wc -l <"$SCRATCH/acknowledged")
  sql "INSERT INTO ledger VALUES (5000, 'written while the store was away')"
  superuser "SELECT pg_switch_wal()" >/dev/null
  says_so() { state_is "any('takes nothing' in fault and 'refused' in fault for fault in it['backups']['faults'])"; }
  until_so "status says so, in the system's words" says_so
  [ "$(told CopyStopped 'takes nothing')" -ge 1 ] || fail "no event CopyStopped"
  archived=$(superuser "SELECT last_archived_wal FROM pg_stat_archiver")
  sql "INSERT INTO ledger VALUES (5001, 'the database waits for nothing')"
  superuser "SELECT pg_switch_wal()" >/dev/null
  sleep 2
  same "nothing counts as archived meanwhile" "$(superuser "SELECT last_archived_wal FROM pg_stat_archiver")" "$archived"
  [ "$(find "$(beside)/wal" -path '*/spool/*' -type f | wc -l)" -le 1 ] || fail "the spool grows"
  ok "one segment waits in the spool, the others in pg_wal"
  code=0
  ms backup check --quick >"$SCRATCH/check" 2>&1 || code=$?
  [ "$code" != 0 ] || fail "backup check is content without a store"
  [ "$(wc -l <"$SCRATCH/acknowledged")" -gt "$before" ] || fail "nothing was written while the store was away"
  open_door
  is_well() { state_is "it['backups']['waiting'] == 0 and it['backups']['faults'] == []"; }
  until_so "the store is back: everything goes on by itself" is_well
  archived_is_there || fail "what was archived is not in the store"
  touch "$SCRATCH/enough"
  wait "$writer"
  writer=""
  ok "$(wc -l <"$SCRATCH/acknowledged") rows were acknowledged before, meanwhile and after"

  say "$kind://: damage in the store"
  pack=$(bucket names | grep '^restic/data/' | sort -k2 -n | tail -n 1 | cut -d' ' -f1)
  segment=$(bucket names | grep '^wal/' | tail -n 1 | cut -d' ' -f1)
  bucket damage "$pack"
  bucket damage "$segment"
  code=0
  ms backup check >"$SCRATCH/check" 2>&1 || code=$?
  same "backup check fails" "$code" 1
  grep -c "$(basename "$pack" | cut -c1-8)" "$SCRATCH/check" >/dev/null || { cat "$SCRATCH/check"; fail "the damaged pack was not found"; }
  grep -c "$segment is damaged" "$SCRATCH/check" >/dev/null || { cat "$SCRATCH/check"; fail "the damaged segment was not found"; }
  ok "the damaged pack and the damaged segment are found"
  bucket damage "$pack"
  bucket damage "$segment"
  ms backup now --name "after the damage" >/dev/null 2>&1 || fail "backup now"

  say "$kind://: retention"
  newest_is_proven() { [ "$(ms backup list --json | value "it['backups'][-1]['label']['name'] == 'after the damage' and (it['backups'][-1].get('proof') or {}).get('is_proven') is True")" = True ]; }
  until_so "the newest is proven" newest_is_proven
  ms backup prune >"$SCRATCH/prune" 2>&1 || { cat "$SCRATCH/prune"; fail "backup prune"; }
  only_kept() { [ "$(bucket names | grep -c '^restic/snapshots/')" = "$(ms backup list --json | value "len(it['backups'])")" ]; }
  until_so "what is kept no longer goes from the store" only_kept

  say "$kind://: the folder beside the store is lost"
  sql "INSERT INTO ledger VALUES (6000, 'the last')"
  finish_segment
  until_so "all WAL is in the store" segment_is_there
  rows=$(sql "SELECT count(*), md5(string_agg(id || text, ',' ORDER BY id)) FROM ledger")
  ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }
  rm -rf "$(beside)"
  come_up
  same "all rows are there" "$(sql "SELECT count(*), md5(string_agg(id || text, ',' ORDER BY id)) FROM ledger")" "$rows"
  ms restore --to latest --once >"$SCRATCH/restore" 2>&1 || { cat "$SCRATCH/restore"; fail "restore --to latest"; }
  ok "it is gathered again from the store, and a restore goes through"
  nothing_large_is_here
  ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }

  say "$kind://: the machine is gone"
  OTHER=$(mktemp -d)
  chmod 711 "$OTHER"
  from_store() {
    SHOP_ACCESS_KEY=$ACCESS SHOP_SECRET_KEY=$SECRET "$MAINSTAY" --state "$OTHER" restore --from "$address" \
      --endpoint "http://127.0.0.1:$door_port" --access-key SHOP_ACCESS_KEY --secret-key SHOP_SECRET_KEY --read-there --card "$work/card"
  }
  from_store >"$SCRATCH/restore" 2>&1 || { cat "$SCRATCH/restore"; fail "restore from the store"; }
  sed 's/^/        /' "$SCRATCH/restore"
  first=$STATE
  STATE=$OTHER
  SHOP_ACCESS_KEY=$ACCESS SHOP_SECRET_KEY=$SECRET come_up
  sql "SELECT id FROM ledger WHERE id > 10000 ORDER BY id" >"$SCRATCH/have"
  same "of the rows that were acknowledged none is missing" "$(comm -23 <(sort "$SCRATCH/acknowledged") <(sort "$SCRATCH/have") | wc -l)" 0
  same "every row is there, the last too" "$(sql "SELECT count(*), md5(string_agg(id || text, ',' ORDER BY id)) FROM ledger")" "$rows"
  until_so "backups go on in the store" is_well
  ms backup now --name "on the new machine" >/dev/null 2>"$SCRATCH/now" || { cat "$SCRATCH/now"; fail "backup now"; }
  ms backup check >"$SCRATCH/check" 2>&1 || { cat "$SCRATCH/check"; fail "backup check on the new machine"; }
  nothing_large_is_here

  ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }

  say "$kind://: the first machine was not gone"
  STATE=$first
  come_up
  is_taken() { state_is "any('was taken over by' in fault for fault in it['backups']['faults'])"; }
  until_so "it says that another took the store over" is_taken
  code=0
  ms backup now --name "too late" >"$SCRATCH/late" 2>&1 || code=$?
  [ "$code" != 0 ] || fail "it adds a backup to the store of another"
  grep -c "was taken over by" "$SCRATCH/late" >/dev/null || { cat "$SCRATCH/late"; fail "backup now does not say why"; }
  ok "it adds nothing and frees nothing"
  ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }
  STATE=$OTHER
  come_up
  until_so "the new machine goes on" is_well
  ms backup check >"$SCRATCH/check" 2>&1 || { cat "$SCRATCH/check"; fail "backup check after the first machine was back"; }
  ok "what the new machine has is whole"
  ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }
  printf '%s' "$STATE" >"$SCRATCH/state"
  nothing_runs
  rm -rf "$first"
  close_door
  kill "$SERVER"
  wait "$SERVER" 2>/dev/null || true
  rm -rf "$OTHER" "$SCRATCH"
  SERVER="" OTHER="" ACCESS="" SECRET=""
}
finish_segment() { segment=$(superuser "SELECT pg_walfile_name(pg_switch_wal())"); }
segment_is_there() { bucket names | grep -c "/$segment-" >/dev/null; }

pinned objects bin/lib/objects/requirements.txt
for one in $kinds; do
  case "$one" in
    s3 | gs) try_kind "$one" ;;
    az) if install_azurite; then try_kind az; fi ;;
    *) echo "usage: bin/lib/objects-target.sh [s3|gs|az]..." >&2; exit 2 ;;
  esac
done
# For who cleans up at the end: it ends whatever names this, so it must be a name that no stranger has.
SCRATCH=$(mktemp -d)
printf '%s' "$STATE" >"$SCRATCH/state"
all_passed

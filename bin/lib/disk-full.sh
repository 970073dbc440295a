#!/usr/bin/env bash
# A disk of its own that fills: a file is mounted as the state folder of a stack, filled by the drill, and the ballast
# must make room. Needs root and loop devices, else it is skipped and says so. Leaves nothing running or mounted.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh

began=$SECONDS
skip() { echo "skipped: $1"; SUCCEEDED=yes; exit 0; }
[ "$(id -u)" = 0 ] || skip "only root can mount a small disk"
command -v mkfs.ext4 >/dev/null || skip "mkfs.ext4 (e2fsprogs) is not installed"
losetup --find >/dev/null 2>&1 || skip "no loop device here"
work_folder
begin_stack "$work/full"
clean_up() {
  local kept=""
  # What tells why it failed lies on the disk that goes.
  if [ "$SUCCEEDED" != yes ]; then
    kept=$(mktemp -d)
    cp -a "$STATE"/full/development/logs "$STATE"/full/development/state.db* "$kept" 2>/dev/null || true
  fi
  # Not mounted yet, or not any more, is no failure.
  umount "$STATE" 2>/dev/null || umount --lazy "$STATE" 2>/dev/null || true
  [ -z "$kept" ] || { cp -a "$kept/." "$STATE" && rm -rf "$kept"; }
  rm -rf "$work"
}
truncate --size 2000M "$work/disk"
mkfs.ext4 -q -m 0 "$work/disk"
mount -o loop "$work/disk" "$STATE" || fail "the small disk cannot be mounted"
chmod 711 "$STATE"
small_stack full </dev/null
printf '[service.client]\nrun = "sleep infinity"\nport = false\n' >>"$work/full/mainstay.toml"

ballast() { stat -c %s "$STATE/full/development/pg/ballast" 2>/dev/null || echo 0; }

say "up on a disk of 2 GB"
come_up
for _ in $(seq 50); do [ "$(ballast)" -gt 0 ] && break; sleep 0.2; done
[ "$(ballast)" -gt $((16 * 1024 * 1024)) ] || fail "no ballast was made"
ok "a ballast of $(($(ballast) / 1024 / 1024)) MiB lies there"
say "the disk is filled"
drill disk-full 1
[ "$(ballast)" -gt 0 ] || fail "the ballast did not come back"
[ ! -e "$STATE/full/development/pg/drill-filler" ] || fail "the filler is still there"
ok "the ballast is back, the filler is gone"
ms events --lines 500 | grep -c "ballast were thrown off" >/dev/null || fail "no event"
say "positive control"
code=0
ms drill disk-full --sabotage keep-ballast >"$SCRATCH/control" 2>&1 || code=$?
[ "$code" = 10 ] || sed 's/^/        /' "$SCRATCH/control"
same "with a ballast that stays, disk-full fails" "$code" 10
grep -q "the ballast was not thrown off" "$SCRATCH/control" || fail "it does not say why"
say "a drill that is killed leaves no filler"
"$MAINSTAY" --state "$STATE" --file "$STACK" drill disk-full >/dev/null 2>&1 &
drill=$!
for _ in $(seq 300); do [ -e "$STATE/full/development/pg/drill-filler" ] && break; sleep 0.1; done
[ -e "$STATE/full/development/pg/drill-filler" ] || fail "it did not fill the disk"
kill -KILL "$drill"
wait "$drill" 2>/dev/null || true
for _ in $(seq 50); do [ -e "$STATE/full/development/pg/drill-filler" ] || break; sleep 0.2; done
[ ! -e "$STATE/full/development/pg/drill-filler" ] || fail "nobody removed its filler"
ok "the stack removed it"
say "a disk without a byte left, also where the ballast was"
URL=$(ms env client --show-secrets | sed -n 's/^\(export \)\?DATABASE_URL=//p' | tr -d "\"'")
psql -XAtqc "CREATE TABLE written (id bigint PRIMARY KEY, text text)" "$URL"
# Writes until told to stop, whatever becomes of a write; an id is noted once its COMMIT was confirmed.
cat >"$SCRATCH/writer" <<'BASH'
id=0
while [ ! -e "$1/enough" ]; do
  id=$((id + 1))
  if PGCONNECT_TIMEOUT=5 timeout 20 psql -XAtqc "INSERT INTO written SELECT $id, string_agg(md5(random()::text), '') FROM generate_series(1, 30000)" "$2" >/dev/null 2>>"$1/refusals"; then
    echo "$id" >>"$1/acknowledged"
  else
    echo "not acknowledged: $id" >>"$1/refusals"
    sleep 0.2
  fi
done
BASH
: >"$SCRATCH/acknowledged" >"$SCRATCH/refusals"
bash "$SCRATCH/writer" "$SCRATCH" "$URL" &
writer=$!
stop_clients() { kill "$writer" 2>/dev/null || true; }
# Until a write has failed, and some time more.
full_for=$((SECONDS + 60)) nth=0
while [ "$SECONDS" -lt "$full_for" ]; do
  nth=$((nth + 1))
  if [ -s "$SCRATCH/refusals" ] && [ $((full_for - SECONDS)) -gt 10 ]; then full_for=$((SECONDS + 10)); fi
  # It fails when nothing more fits, which is what is wanted; whether it came so far is asked below.
  cat /dev/zero >"$STATE/stuffing-$nth" 2>/dev/null || true
  sleep 0.1
done
[ -s "$SCRATCH/refusals" ] || fail "no write was refused: the disk was not full"
ok "$(grep -c "^not ack" "$SCRATCH/refusals") writes failed, $(wc -l <"$SCRATCH/acknowledged") were acknowledged by then"
before=$(wc -l <"$SCRATCH/acknowledged")
rm -f "$STATE"/stuffing-*
writes_again() { [ "$(wc -l <"$SCRATCH/acknowledged")" -gt $((before + 2)) ]; }
PATIENCE=90
until_so "with room again, writes go on by themselves" writes_again
touch "$SCRATCH/enough"
wait "$writer"
is_synchronous() { ms status --json | value "it['database']['is_synchronous'] or None" | grep -c True >/dev/null; }
until_so "primary and standby are both there" is_synchronous
ballast_lies() { [ "$(ballast)" -gt 0 ]; }
until_so "the ballast is back" ballast_lies
psql -XAtqc "SELECT id FROM written" "$URL" | sort >"$SCRATCH/there"
lost=$(sort "$SCRATCH/acknowledged" | comm -23 - "$SCRATCH/there" | wc -l)
same "every acknowledged row is there" "$lost" 0
say "down"
ms down >/dev/null
nothing_runs
umount "$STATE"
all_passed

#!/usr/bin/env bash
# Migrations on a running stack: planned, run, refused, taken back, rehearsed on a copy, and the schema held against them;
# in Flyway's names and in sqlx's.
# Needs a built program (MAINSTAY names another than the release build's) and psql; leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh

began=$SECONDS
PATIENCE=90
work_folder

sql() { timeout 60 "$MAINSTAY" --state "$STATE" --file "$STACK" db psql -- -XAtqc "$1"; }
put() { printf '%s\n' "$2" >"$FOLDER/$1"; }
# A command of `db migrate`: its exit status, and what it says in SCRATCH/out: STATUS WORDS...
migrate() {
  local wanted=$1 code=0
  shift
  ms db migrate "$@" >"$SCRATCH/out" 2>&1 || code=$?
  [ "$code" = "$wanted" ] || { cat "$SCRATCH/out"; fail "db migrate $*: exit $code, wanted $wanted"; }
}
says() { tr -s ' \n' ' ' <"$SCRATCH/out" | grep -c -e "$1" >/dev/null || { cat "$SCRATCH/out"; fail "it does not say: $1"; }; }
# No line wider than 80 columns, but for a command to be copied.
narrow() { [ "$(grep -v -e "--state" "$SCRATCH/out" | grep -v '^error\|^hint' | LC_ALL=C.UTF-8 wc -L)" -le 80 ] || { cat "$SCRATCH/out"; fail "wider than 80 columns"; }; }

flyway() {
  put V1__users.sql "CREATE TABLE users (id bigint PRIMARY KEY);"
  put V2__rows.sql "INSERT INTO users SELECT generate_series(1, 1000);"
  come_up
  grep -c "migrate  *V1 V2" "$SCRATCH/up" >/dev/null || { cat "$SCRATCH/up"; fail "up does not say what it ran"; }
  put V3__email.sql "ALTER TABLE users ADD email text;"
  put U3__email.sql "ALTER TABLE users DROP email;"
  migrate 0 --plan
  says "V3__email.sql pending .*undo 1 of 3 pending"
  narrow
  same "a plan changes nothing" "$(sql "SELECT count(*) FROM flyway_schema_history")" 2
  migrate 0
  says "restore point before-V3-.* done 1 applied; the schema is at V1 V2 V3"
  same "the column is there" "$(sql "SELECT count(email) FROM users")" 0
  told_of() { [ "$(told MigrationsApplied 'ran V3__email.sql; schema is at V1 V2 V3.*before-V3-')" = 1 ]; }
  until_so "the log has the run and its restore point" told_of

  put V2__rows.sql "INSERT INTO users SELECT generate_series(1, 1001);"
  migrate 4
  says "MS4120.*V2__rows.sql was changed"
  migrate 4 --plan --json
  same "the plan says so too" "$(value "it['migrations'][1]['state'], it['refusals'][0]['code']" <"$SCRATCH/out")" "changed MS4120"
  put V2__rows.sql "INSERT INTO users SELECT generate_series(1, 1000);"
  migrate 4 --undo
  says "MS4002.*an undo (V3__email.sql by U3__email.sql) of flyway must be agreed to"
  migrate 0 --undo --confirm flyway
  says "V3__email.sql is taken back; the schema is at V1 V2"
  same "the column is gone" "$(sql "SELECT count(*) FROM pg_attribute WHERE attname = 'email'")" 0
  # A control plane that is started again runs nothing by itself: not this one, and none that came since.
  put V4__since.sql "CREATE TABLE since (id int);"
  local before
  before=$(pid_of control)
  kill -KILL "$before"
  another() { [ "$(pid_of control)" != None ] && [ "$(pid_of control)" != "$before" ] && is_ready; }
  until_so "another control plane" another
  sleep 2
  same "what was taken back stays so, and nothing new was run" "$(sql "SELECT count(*), to_regclass('since') IS NULL FROM pg_attribute WHERE attname = 'email'")" "0|t"
  told_pending() { [ "$(told MigrationsPending 'schema is at V1 V2; pending: V3__email.sql V4__since.sql')" = 1 ]; }
  until_so "the log names what is pending" told_pending
  # A file that cannot be taken keeps nothing from being repaired: the application ran on this schema before.
  put V5_bad.sql "SELECT 1;"
  before=$(pid_of client-1)
  kill -KILL "$(pid_of control)" "$before"
  repaired() { [ "$(pid_of client-1)" != None ] && [ "$(pid_of client-1)" != "$before" ] && is_ready; }
  until_so "a bad file and a control plane that is started again: the dead instance is back" repaired
  ms status >"$SCRATCH/out"
  says "migrations: .*V5_bad.sql"
  # Asked for and refused, it ran nothing: what was taken back is held as before, until it is run.
  held() { value "[one['script'] for one in it['held']]" <"$(echo "$STATE"/*/development/migrations-undone.json)"; }
  migrate 2
  same "a refused run lets go of nothing" "$(held)" "['V3__email.sql']"
  rm "$FOLDER/V4__since.sql" "$FOLDER/V5_bad.sql"
  migrate 0 --json
  same "a run of all lets go of it" "$(held)" "[]"
  same "asked for, it runs again" "$(value "[one['script'] for one in it['applied']], it['versions']" <"$SCRATCH/out")" "['V3__email.sql'] ['1', '2', '3']"
  put V4__good.sql "CREATE TABLE good (id int);"
  put U4__good.sql "DROP TABLE good;"
  put V5__bad.sql "COMMIT;"
  migrate 2 --plan
  says "2 of 5 pending.*MS2120.*V5__bad.sql line 1: COMMIT is not possible"
  migrate 2
  same "nothing in front of it was run either" "$(sql "SELECT to_regclass('good') IS NULL")" t
  put V5__bad.sql "CREATE TABLE half (id int);
SELECT nothing;"
  migrate 1
  says "MS1120.*V5__bad.sql line 2.*rolled back.*applied before it: V4__good.sql.*restore point before-V4-"
  same "nothing of it is left" "$(sql "SELECT to_regclass('half') IS NULL")" t
  told_of_one() { [ "$(told MigrationsApplied 'ran V4__good.sql; schema is at V1 V2 V3 V4')" = 1 ]; }
  until_so "the log has what was applied before it" told_of_one
  migrate 0 --undo --confirm flyway
  rm "$FOLDER/V5__bad.sql" "$FOLDER"/[VU]4__good.sql
}

# A proof of the backup, which the control plane makes by itself, has a copy of its own for some seconds.
no_copy() { [ -z "$(find "$STATE"/*/development/past -mindepth 1 -maxdepth 1 -type d)" ]; }

rehearsed() {
  local before
  migrate 0 --rehearse
  says "nothing is pending, so nothing was restored"
  put V4__email.sql "ALTER TABLE users ALTER email TYPE varchar(99);
UPDATE users SET email = 'x' WHERE id <= 70;
CREATE INDEX users_email ON users (email);"
  ms backup now >"$SCRATCH/out" 2>&1 || { cat "$SCRATCH/out"; fail "backup now"; }
  before=$(sql "SELECT count(*), max(installed_rank) FROM flyway_schema_history")
  migrate 0 --rehearse
  says "who reads or writes public.users waits up to .* (AccessExclusiveLock)"
  says "rows of public.users: 70 updated"
  says "nothing of the present was touched; the copy is gone"
  narrow
  same "the present has none of it" "$(sql "SELECT count(*), max(installed_rank) FROM flyway_schema_history")" "$before"
  until_so "the copy is gone" no_copy
  put V5__bad.sql "SELECT 1;
SELECT nothing;"
  migrate 1 --rehearse --json
  same "a file that fails there ends it" "$(sed -n '/^{/,$p' "$SCRATCH/out" | value "[(one['script'], one['rows'][0]['updated']) for one in it['files']], it['failed']['code'], it['failed']['text'][:31]")" "[('V4__email.sql', 70)] MS1120 on the copy: V5__bad.sql line 2"
  rm "$FOLDER/V4__email.sql" "$FOLDER/V5__bad.sql"
}

drifted() {
  migrate 0 --drift
  says "objects are as the 3 applied migrations make them"
  sql "CREATE INDEX by_hand ON users (email)"
  migrate 1 --drift
  says "extra index public.by_hand.*MS1122.*other than the 3 applied migrations"
  narrow
  until_so "the scratch server is gone" no_copy
}

# Back behind a migration by its restore point: nobody but a person runs it again.
went_back() {
  local point
  put V4__regretted.sql "DROP TABLE users;"
  migrate 0
  point=$(sed -n 's/^restore point \([^ ]*\) .*/\1/p' "$SCRATCH/out")
  swapped() { ms restore --to "name $point" --swap --confirm flyway >"$SCRATCH/out" 2>&1; }
  until_so "the state before it is the present" swapped
  says "pending again: V4__regretted.sql; nothing was run.*db migrate. runs them"
  told_pending() { [ "$(told MigrationsPending 'schema is at V1 V2 V3; pending: V4__regretted.sql')" = 1 ]; }
  until_so "the log names what is pending" told_pending
  until_so "all is ready" is_ready
  same "it was not run again" "$(sql "SELECT count(*) FROM users")" 1000
  ms status >"$SCRATCH/out"
  says "migrations: V1 V2 V3; pending: V4__regretted.sql"
  rm "$FOLDER/V4__regretted.sql"
}

# However a look at a copy ends, its server and its folder go: with the command, or with the stack.
looks_end() {
  local look open code
  put V4__slow.sql "SELECT pg_sleep(600);"
  look_at() { "$MAINSTAY" --state "$STATE" --file "$STACK" db migrate --rehearse >"$SCRATCH/look" 2>&1 & look=$!; }
  runs_there() { grep -c "running what is pending on the copy" "$SCRATCH/look" >/dev/null; }
  "$MAINSTAY" --state "$STATE" --file "$STACK" restore --to latest >"$SCRATCH/open" 2>&1 &
  open=$!
  is_open() { grep -c "it only reads" "$SCRATCH/open" >/dev/null; }
  until_so "the past is open" is_open
  look_at
  until_so "a rehearsal is under way" runs_there
  kill -INT "$look"
  code=0
  wait "$look" || code=$?
  same "given up by Ctrl-C" "$code $(grep -c 'error\[MS1005\]: given up; nothing of the present was touched' "$SCRATCH/look")" "1 1"
  one_copy() { [ "$(find "$STATE"/*/development/past -mindepth 1 -maxdepth 1 -type d | wc -l)" = 1 ]; }
  until_so "its copy is gone, the open one is not" one_copy
  look_at
  until_so "another is under way" runs_there
  kill -KILL "$look"
  wait "$look" 2>/dev/null || true
  ms down >/dev/null 2>"$SCRATCH/out" || { cat "$SCRATCH/out"; fail "down"; }
  says "closed: a copy of the past"
  code=0
  wait "$open" || code=$?
  same "what was open closed itself" "$code" 0
  no_copy || fail "a copy is left"
  ok "no copy is left"
  rm "$FOLDER/V4__slow.sql"
}

sqlx() {
  local url
  put 20260101000000_create_users.sql "CREATE TABLE users (id bigint PRIMARY KEY);"
  put 20260102000000_email.up.sql "ALTER TABLE users ADD email text;"
  put 20260102000000_email.down.sql "ALTER TABLE users DROP email;"
  come_up
  put 20260103000000_index.sql "-- no-transaction
CREATE INDEX CONCURRENTLY users_email ON users (email);"
  migrate 0 --plan
  says "names of sqlx, history in _sqlx_migrations.*1 of 3 pending"
  narrow
  migrate 0
  says "20260103000000_index.sql .* without a transaction"
  same "the index is there" "$(sql "SELECT count(*) FROM pg_index WHERE indexrelid = 'users_email'::regclass AND indisvalid")" 1
  migrate 4 --undo --confirm sqlx
  says "MS4125.*20260103000000_index.down.sql is not there"
  if [ -z "$RUST_SMOKE" ]; then
    printf '  skip  sqlx itself: cargo: %s\n' "$(tail -n 1 "$work/cargo.log")"
    return
  fi
  url=$(sed -n 's/^.*DATABASE_URL=//p' <<<"$(ms env client --show-secrets)" | tr -d "\"'" | head -n 1)
  info() { DATABASE_URL="$url" timeout 60 "$RUST_SMOKE" migrations "$FOLDER" "$@"; }
  same "sqlx itself sees all as installed" "$(info)" "20260101000000/installed create users
20260102000000/installed email
20260103000000/installed index"
  # A fourth by sqlx, seen by us; taken back by us, seen by sqlx.
  put 20260104000000_age.up.sql "ALTER TABLE users ADD age int;"
  put 20260104000000_age.down.sql "ALTER TABLE users DROP age;"
  info run | tail -n 1 >"$SCRATCH/sqlx"
  same "sqlx runs one" "$(cat "$SCRATCH/sqlx")" "20260104000000/installed age"
  migrate 0 --plan --json
  same "and the plan knows it" "$(value "it['migrations'][3]['state'], len(it['refusals'])" <"$SCRATCH/out")" "applied 0"
  migrate 0 --undo --confirm sqlx
  same "what was taken back is pending for sqlx" "$(info | tail -n 1)" "20260104000000/pending age"
  migrate 0
  info undo >/dev/null
  migrate 0 --plan
  says "20260104000000_age.up.sql pending"
  put 20260105000000_half.sql "-- no-transaction
CREATE TABLE half (id int);
SELECT nothing;"
  migrate 1
  info >"$SCRATCH/sqlx"
  same "a half-done one is dirty for sqlx" "$(head -n 1 "$SCRATCH/sqlx")" "20260105000000/dirty"
  migrate 4
  says "MS4123.*DELETE FROM _sqlx_migrations WHERE NOT success"
}

build_rust_smoke
say "Flyway's names"
{
  printf 'standbys = 0\nmigrations = "migrations"\nbackup = { target = "%s", rpo = "4s" }\n' "$work/backups"
  printf '[service.client]\nrun = "sleep infinity"\nport = false\n'
} | small_stack flyway
begin_stack "$work/flyway"
FOLDER="$work/flyway/migrations"
mkdir "$FOLDER"
flyway
rehearsed
drifted
went_back
looks_end
nothing_runs
say "sqlx's names"
{
  printf 'standbys = 0\nmigrations = "migrations"\n'
  printf '[service.client]\nrun = "sleep infinity"\nport = false\n'
} | small_stack sqlx
STACK="$work/sqlx"
FOLDER="$work/sqlx/migrations"
mkdir "$FOLDER"
sqlx
ms down >/dev/null
nothing_runs
all_passed

#!/usr/bin/env bash
# The drivers that people use, through the router in both of its modes. Needs a built program (MAINSTAY names another
# than the release build's) and installs the drivers themselves for the time of the test; what cannot be installed is
# said and skipped. Those of Rust are a crate of its own (drivers/rust), built once below target/drivers.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/install.sh
. bin/lib/stack.sh

began=$SECONDS
work_folder
SKIPPED=""
skip() { SKIPPED="$SKIPPED $1"; printf '  skip  %s: %s\n' "$1" "$2"; }

say "drivers"
cp bin/lib/drivers/*.py bin/lib/drivers/*.js bin/lib/drivers/*.rb bin/lib/drivers/Smoke.java "$work"
if /usr/bin/python3 -m venv "$work/venv" && "$work/venv/bin/pip" install -q 'psycopg[binary]>=3.2,<4' 'asyncpg>=0.30' 2>"$work/pip.log"; then
  PYTHON=yes
else
  PYTHON=no; skip "psycopg, asyncpg" "pip: $(tail -n 1 "$work/pip.log" 2>/dev/null)"
fi
if have npm && (cd "$work" && npm install --silent --no-audit --no-fund pg@8 >npm.log 2>&1); then NODE=yes; else
  NODE=no; skip node-postgres "npm: $(tail -n 1 "$work/npm.log" 2>/dev/null || echo 'not there')"
fi
JDBC=$(ls /usr/share/java/postgresql.jar 2>/dev/null || true)
if ! have javac || [ -z "$JDBC" ]; then JDBC=""; skip pgjdbc "javac or libpostgresql-jdbc-java is not installed"; fi
if ! have ruby || ! ruby -e 'require "pg"' 2>/dev/null; then RUBY=no; skip "ruby pg" "ruby-pg is not installed"; else RUBY=yes; fi
if [ "$RUBY" = no ] || ! ruby -e 'require "active_record"' 2>/dev/null; then ACTIVE=no; skip activerecord "ruby-activerecord is not installed"; else ACTIVE=yes; fi
PGBENCH=$(printf '%s\n' /usr/lib/postgresql/*/bin/pgbench | sort -V | tail -n 1)
[ -x "$PGBENCH" ] || { PGBENCH=""; skip pgbench "not installed"; }
build_rust_smoke
[ -n "$RUST_SMOKE" ] || skip "sqlx, tokio-postgres" "cargo: $(tail -n 1 "$work/cargo.log")"
[ -z "$JDBC" ] || javac -d "$work" -cp "$JDBC" "$work/Smoke.java"

# A driver's own words only when it fails: NAME COMMAND...
drive() {
  local name=$1
  shift
  if timeout 60 "$@" >"$work/out" 2>&1; then ok "$name"; else
    sed 's/^/        /' "$work/out"
    fail "$name"
  fi
}

# A stack of that many standbys and server connections in a mode: NAME MODE STANDBYS POOL
stack_of() {
  local mode=$2
  read -r https http console write read_only <<<"$(free_ports 5)"
  mkdir -p "$work/$1"
  sed -e "s/MODE/$mode/" -e "s/STANDBYS/$3/" -e "s/POOL/$4/" -e "s/WRITE/$write/" -e "s/READ/$read_only/" -e "s/HTTPS/$https/" -e "s/HTTP/$http/" \
    -e "s/CONSOLE/$console/" bin/lib/drivers/stack.toml >"$work/$1/mainstay.toml"
  STACK="$work/$1/mainstay.toml"
  come_up
  DATABASE_URL=$(ms env client --show-secrets | sed -n 's/^\(export \)\?DATABASE_URL=//p' | tr -d "\"'")
  CA=$(ms trust --path)
  export DATABASE_URL CA
  [ -n "$DATABASE_URL" ] || fail "env client names no DATABASE_URL"
}

in_mode() {
  local mode=$1
  say "pool_mode = \"$mode\""
  stack_of "$mode" "$mode" 0 4
  if [ "$PYTHON" = yes ]; then
    drive psycopg "$work/venv/bin/python" "$work/smoke.py" psycopg
    drive asyncpg "$work/venv/bin/python" "$work/smoke.py" asyncpg
  fi
  [ "$NODE" = no ] || drive node-postgres node "$work/smoke.js"
  [ -z "$JDBC" ] || drive pgjdbc java -cp "$JDBC:$work" Smoke
  if [ -n "$RUST_SMOKE" ]; then
    drive sqlx "$RUST_SMOKE" sqlx
    drive tokio-postgres "$RUST_SMOKE" tokio-postgres
  fi
  [ "$RUBY" = no ] || drive "ruby pg" ruby "$work/smoke.rb"
  [ "$ACTIVE" = no ] || drive activerecord ruby "$work/active.rb"
  if [ -n "$PGBENCH" ]; then
    drive "pgbench -i" "$PGBENCH" -i -q -s 1 "$DATABASE_URL"
    for protocol in simple extended prepared; do
      drive "pgbench $protocol" "$PGBENCH" -n -M $protocol -c 4 -j 2 -t 50 "$DATABASE_URL"
    done
  fi
  ms db pool
  end_mode
}

end_mode() {
  # The state folder stands in CA, and who looks for leftovers must not find its own programs by it.
  export -n DATABASE_URL CA
  ms down >/dev/null 2>&1
  nothing_runs
}

# All drivers at once, each with an idle connection (a statement prepared on it) and one in a transaction, while the
# primary dies: the idle one goes on, the other is told 40001, rolls back and writes again, both on their connections.
through_a_failover() {
  local name one pids="" count=0
  say "through a failover"
  # Each driver has a transaction open.
  stack_of through transaction 1 12
  READY="$work/ready"
  export READY
  mkdir -p "$READY"
  psql -XAtqc "create table held (id bigserial primary key, driver text not null)" "$DATABASE_URL"
  hold() {
    name=$1
    shift
    timeout 120 "$@" >"$work/held-$name" 2>&1 &
    pids="$pids $name=$!"
    count=$((count + 1))
  }
  if [ "$PYTHON" = yes ]; then
    hold psycopg "$work/venv/bin/python" "$work/smoke.py" psycopg through
    hold asyncpg "$work/venv/bin/python" "$work/smoke.py" asyncpg through
  fi
  [ "$NODE" = no ] || hold node-postgres node "$work/smoke.js" through
  [ -z "$JDBC" ] || hold pgjdbc java -cp "$JDBC:$work" Smoke through
  if [ -n "$RUST_SMOKE" ]; then
    hold sqlx "$RUST_SMOKE" sqlx through
    hold tokio-postgres "$RUST_SMOKE" tokio-postgres through
  fi
  [ "$RUBY" = no ] || hold ruby ruby "$work/smoke.rb" through
  [ "$ACTIVE" = no ] || hold activerecord ruby "$work/active.rb" through
  all_wait() { [ "$(find "$READY" -type f | wc -l)" = "$count" ]; }
  # One that fails says why; then there is no more to wait for.
  for _ in $(seq 300); do
    if all_wait || grep -q . "$work"/held-*; then break; fi
    sleep 0.2
  done
  all_wait || { grep . "$work"/held-* | sed 's/^/        /'; fail "not all drivers came so far"; }
  ok "$count drivers, each with an idle connection and one in a transaction"
  is_synchronous() { ms status --json | value "it['database']['is_synchronous'] or None" | grep -c True >/dev/null; }
  until_so "a standby streams" is_synchronous
  local primary
  primary_is() { ms status --json | value "it['database']['primary']"; }
  primary=$(primary_is)
  kill -KILL "$(pid_of "postgres-$primary")"
  # Until then processes of the old one may still answer.
  is_another() { local now; now=$(primary_is) && [ "$now" != None ] && [ "$now" != "$primary" ]; }
  until_so "another primary is there" is_another
  same "and it serves" "$(psql -XAtqc "select 1" "$DATABASE_URL")" 1
  touch "$READY/over"
  for one in $pids; do
    name=${one%%=*}
    if wait "${one##*=}"; then ok "$name: the idle connection went on, the lost transaction was told"; else
      sed 's/^/        /' "$work/held-$name"
      fail "$name"
    fi
  done
  same "what was lost is not there, what came after is" \
    "$(psql -XAtqc "select count(*) filter (where driver like '%lost%'), count(*) from held" "$DATABASE_URL")" "0|$count"
  export -n READY
  end_mode
}

begin_stack ""
in_mode session
in_mode transaction
through_a_failover
printf '\n%d checks passed in %d s%s\n' "$CHECKS" $((SECONDS - began)) "${SKIPPED:+; skipped:$SKIPPED}"
SUCCEEDED=yes

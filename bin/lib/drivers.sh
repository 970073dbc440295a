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
cp bin/lib/drivers/smoke.* bin/lib/drivers/Smoke.java "$work"
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

in_mode() {
  local mode=$1
  read -r https http console write read_only <<<"$(free_ports 5)"
  mkdir -p "$work/$mode"
  sed -e "s/MODE/$mode/" -e "s/WRITE/$write/" -e "s/READ/$read_only/" -e "s/HTTPS/$https/" -e "s/HTTP/$http/" \
    -e "s/CONSOLE/$console/" bin/lib/drivers/stack.toml >"$work/$mode/mainstay.toml"
  STACK="$work/$mode/mainstay.toml"
  say "pool_mode = \"$mode\""
  come_up
  DATABASE_URL=$(ms env client --show-secrets | sed -n 's/^\(export \)\?DATABASE_URL=//p' | tr -d "\"'")
  CA=$(ms trust --path)
  export DATABASE_URL CA
  [ -n "$DATABASE_URL" ] || fail "env client names no DATABASE_URL"
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
  if [ -n "$PGBENCH" ]; then
    drive "pgbench -i" "$PGBENCH" -i -q -s 1 "$DATABASE_URL"
    for protocol in simple extended prepared; do
      drive "pgbench $protocol" "$PGBENCH" -n -M $protocol -c 4 -j 2 -t 50 "$DATABASE_URL"
    done
  fi
  ms db pool
  # The state folder stands in CA, and who looks for leftovers must not find its own programs by it.
  export -n DATABASE_URL CA
  ms down >/dev/null 2>&1
  nothing_runs
}

begin_stack ""
in_mode session
in_mode transaction
printf '\n%d checks passed in %d s%s\n' "$CHECKS" $((SECONDS - began)) "${SKIPPED:+; skipped:$SKIPPED}"
SUCCEEDED=yes

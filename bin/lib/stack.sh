# Sourced by the end-to-end tests: one stack on a state folder of its own, and nothing of it left behind.
# Sets STATE (the state folder), SCRATCH (files of the test), MAINSTAY (the program); the test sets STACK (the stack file).

MAINSTAY="${MAINSTAY:-${CARGO_TARGET_DIR:-target}/release/mainstay}"
STACK="" STATE="" SCRATCH="" SUCCEEDED=no
CHECKS=0

say() { printf '\n== %s\n' "$1"; }
ok() { CHECKS=$((CHECKS + 1)); printf '  ok    %s\n' "$1"; }
fail() { printf '  FAIL  %s\n' "$1"; exit 1; }

# In these scripts `COMMAND | grep -c WORDS >/dev/null` asks whether a command says something, and not `grep -q`, which
# leaves at the first match: a command that still writes then fails, and with it the pipe.

# Compares and says so: WHAT GOT WANTED
same() { if [ "$2" = "$3" ]; then ok "$1"; else fail "$1: got '$2', wanted '$3'"; fi; }

ms() { "$MAINSTAY" --state "$STATE" --file "$STACK" "$@"; }

# A value of a JSON document by a Python expression on `it`.
value() { /usr/bin/python3 -c "import json,sys; it=json.load(sys.stdin); print($1)"; }
events() { ms events --lines 5000 --json; }
# How often an event of a kind was told, with a text; no number when nobody tells events: KIND TEXT
told() {
  events >"$SCRATCH/told" || { echo "no events"; return; }
  # Zero times is an answer too.
  grep -c "\"kind\":\"$1\".*$2" "$SCRATCH/told" || true
}
# None while nobody answers: the control plane may be just starting.
pid_of() { ms ps --json | value "next((p['pid'] for p in it if p['name'] == '$1'), None) if isinstance(it, list) else None"; }
is_ready() { ms status >/dev/null; }
# Waits until a command succeeds, PATIENCE seconds at most: WHAT COMMAND...
PATIENCE=30
until_so() {
  local what=$1 until=$((SECONDS + PATIENCE))
  shift
  while [ "$SECONDS" -lt "$until" ]; do
    if "$@" 2>/dev/null; then ok "$what"; return 0; fi
    sleep 0.2
  done
  # For whoever reads the failure; these may fail as well.
  ms status || true
  ms events --lines 40 || true
  fail "$what: not so within $PATIENCE s"
}

# A folder beside the state, for stack files and programs; it goes with the stack.
work_folder() {
  MAINSTAY=$(realpath "$MAINSTAY")
  work=$(mktemp -d)
  chmod 711 "$work"
}
clean_up() { [ -z "${work:-}" ] || rm -rf "$work"; }

# The stack file of a database and nothing else, in the folder of its name; more lines of [database] from stdin: NAME
small_stack() {
  local https http console write read_only
  mkdir -p "$work/$1"
  read -r https http console write read_only <<<"$(free_ports 5)"
  {
    printf 'stack = "%s"\n[observe]\nenabled = false\n[database]\nwrite_port = %s\nread_port = %s\n' "$1" "$write" "$read_only"
    cat
    printf '[edge]\nhttps_port = %s\nhttp_port = %s\n[console]\nport = %s\n' "$https" "$http" "$console"
  } >"$work/$1/mainstay.toml"
  chmod -R go+rX "$work/$1"
}

come_up() { ms up -d >"$SCRATCH/up" 2>&1 || { cat "$SCRATCH/up"; fail "up of $STACK"; }; }

all_passed() { SUCCEEDED=yes; printf '\nall %d checks passed in %d s\n' "$CHECKS" $((SECONDS - began)); }

# The drivers of Rust as one program, RUST_SMOKE; empty when the registry cannot be reached.
build_rust_smoke() {
  local rust=bin/lib/drivers/rust/Cargo.toml
  RUST_SMOKE=$(realpath -m "${CARGO_TARGET_DIR:-target}/drivers")
  if cargo fetch --locked --quiet --manifest-path "$rust" 2>"$work/cargo.log"; then
    cargo build --locked --offline --quiet --manifest-path "$rust" --target-dir "$RUST_SMOKE" || fail "the programs in $rust do not build"
    RUST_SMOKE=$RUST_SMOKE/debug/driver-smoke
  elif grep -q "lock file" "$work/cargo.log"; then
    fail "$(cat "$work/cargo.log")"
  else
    RUST_SMOKE=""
  fi
}

# The stack file names the application's program below target/; a build may have put it elsewhere.
program_at_target() {
  local built="${CARGO_TARGET_DIR:-target}/release/$1"
  [ "$built" -ef "target/release/$1" ] && return 0
  mkdir -p target/release
  cp "$built" "target/release/.$1.new"
  mv "target/release/.$1.new" "target/release/$1"
}

begin_stack() {
  STACK=$1
  SCRATCH=$(mktemp -d)
  STATE=$(mktemp -d)
  # Children that dropped root pass through to folders of their own.
  chmod 711 "$STATE"
  # Read from a file, so that the searching program does not find itself.
  printf '%s' "$STATE" >"$SCRATCH/state"
  trap end_stack EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# Ports that nobody listens at, as in `free_ports 5`: beside those that other stacks of this machine choose.
free_ports() {
  /usr/bin/python3 -c '
import os, socket, sys
found, port = [], 20000 + os.getpid() % 9000
while len(found) < int(sys.argv[1]):
    port += 1
    with socket.socket() as one:
        if one.connect_ex(("127.0.0.1", port)):
            found.append(str(port))
print(*found)' "$1"
}

# Port by its use, as in `port edge-https`.
port() { sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p" "$STATE"/*/development/ports.json; }

# Processes of the stack: those that work in its state folder, run its program or were started for it.
processes_of_stack() {
  # Processes end while they are looked at, and none is the good case: no failure in here counts.
  {
    ls -l /proc/[0-9]*/cwd /proc/[0-9]*/exe | grep -F "$STATE" | grep -o '/proc/[0-9]*' || true
    grep -lsFf "$SCRATCH/state" /proc/[0-9]*/cmdline /proc/[0-9]*/environ | grep -o '/proc/[0-9]*' || true
  } 2>/dev/null | sort -u | sed 's#/proc/##'
}

describe() { local pid; for pid in $1; do printf '        pid %s: %s\n' "$pid" "$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | cut -c1-120)"; done; }

# Nothing runs any more, and nobody listens at its doors.
nothing_runs() {
  local left="" name number
  # A killed child is seen by /proc until its parent or init has waited for it.
  for _ in $(seq 50); do
    left=$(processes_of_stack)
    [ -z "$left" ] && break
    sleep 0.1
  done
  if [ -n "$left" ]; then
    describe "$left"
    fail "these processes still run after down"
  fi
  for name in edge-https edge-http router-write router-read console; do
    # One of each stack of this state folder.
    for number in $(port "$name"); do
      if (exec 3<>"/dev/tcp/127.0.0.1/$number") 2>/dev/null; then fail "somebody still listens at port $number ($name)"; fi
    done
  done
  ok "nothing of the stack runs any more, its doors are closed"
}

# On any way out: the stack comes down; what a failure leaves is named and ended.
end_stack() {
  local code=$?
  trap - EXIT INT TERM
  # Whoever read what this prints may be gone: the stack comes down all the same.
  trap '' PIPE
  if declare -F stop_clients >/dev/null; then stop_clients; fi
  if [ -n "$(processes_of_stack)" ]; then
    echo "bringing the stack down"
    ms down >/dev/null 2>&1 || true
    local left
    left=$(processes_of_stack)
    if [ -n "$left" ]; then
      echo "ended after a failed down:"
      describe "$left"
      kill -KILL $left 2>/dev/null || true
    fi
  fi
  clean_up
  rm -rf "$SCRATCH"
  if [ "$SUCCEEDED" = yes ] && [ "$code" = 0 ]; then
    rm -rf "$STATE"
  else
    echo "failed; state and logs are kept in $STATE"
    [ "$code" != 0 ] || code=1
  fi
  exit "$code"
}

# One drill; its report is kept in SCRATCH and shown short, or whole when it did not pass: NAME RUNS
drill() {
  local name=$1 runs=$2 report code=0
  report="$SCRATCH/drill-$name"
  ms drill "$name" --runs "$runs" --report "$report.html" >"$report" 2>"$report.talk" || code=$?
  if [ "$code" != 0 ]; then
    sed 's/^/        /' "$report.talk" "$report"
    fail "drill $name: exit $code (10 a promise was broken, 11 nothing was proven)"
  fi
  grep -E "^$name|^  (RTO|stall|lost|duplicated|requests|fault) " "$report" | sed 's/^/        /'
  ok "drill $name, rounds: $runs; nothing lost, every fault proven"
  (cd "$SCRATCH" && sha256sum --check --quiet "drill-$name.sha256") || fail "the report of $name is not what its sums say"
  ok "its report is written: page, data, history, and their sums agree"
}

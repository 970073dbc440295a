# Sourced by the scripts of bench/: what is measured, on what machine, in which state.
# Needs jq besides what `bin/demo` installs. Sets PROFILE, MAINSTAY, APP, STATE, SCRATCH.
. bin/lib/stack.sh

PROFILE=dist
IS_BUILT=no

# Builds the programs of the profile, unless they are built already (`--built`).
build() {
  local target="${CARGO_TARGET_DIR:-target}/$PROFILE"
  if [ "$IS_BUILT" = no ]; then
    local profile=$PROFILE
    # Cargo's word for the profile whose folder is `debug`.
    [ "$profile" != debug ] || profile=dev
    cargo build --locked --profile "$profile" -p mainstay -p users
  fi
  MAINSTAY=$(realpath "$target/mainstay")
  USERS=$(realpath "$target/users")
}

# The application in a folder of its own, so that a build that goes on meanwhile changes nothing of what is measured.
begin_bench() {
  begin_stack ""
  chmod 755 "$SCRATCH"
  mkdir -p "$SCRATCH/apps" "$SCRATCH/target/release"
  cp -R apps/users "$SCRATCH/apps/users"
  cp "$USERS" "$SCRATCH/target/release/users"
  chmod -R a+rX "$SCRATCH/apps" "$SCRATCH/target"
  STACK="$SCRATCH/apps/users/mainstay.toml"
}

# Time in microseconds that tasks of this machine waited for CPU or disk so far: `pressure cpu`. Empty without PSI.
pressure() { sed -n 's/^some .*total=\([0-9]*\)$/\1/p' "/proc/pressure/$1" 2>/dev/null || true; }

micros() { echo $(($(date +%s%N) / 1000)); }

# What stands beside every figure: load, and how much of the time since MARK tasks waited for CPU or disk.
mark() { MARK_AT=$(micros) MARK_CPU=$(pressure cpu) MARK_IO=$(pressure io); }
beside() {
  local took=$(($(micros) - MARK_AT)) cpu io
  cpu=$(pressure cpu) io=$(pressure io)
  jq -n --arg load "$(cut -d' ' -f1-3 /proc/loadavg)" --argjson took "$took" \
    --argjson cpu "$(((${cpu:-0} - ${MARK_CPU:-0}) * 100 / (took + 1)))" \
    --argjson io "$(((${io:-0} - ${MARK_IO:-0}) * 100 / (took + 1)))" \
    '{took_s: ($took / 1e6 | floor), load_average: $load, waited_for_cpu_percent: $cpu, waited_for_disk_percent: $io}'
}

postgresql_version() {
  local newest
  newest=$(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)
  "$newest" --version
}

machine() {
  local memory
  memory=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)
  jq -n --arg cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" --argjson cores "$(nproc)" \
    --argjson memory_mib "$((memory / 1024))" --arg kernel "$(uname -sr)" \
    --arg system "$(. /etc/os-release && echo "$PRETTY_NAME")" \
    --arg postgresql "$(postgresql_version)" \
    --arg redis "$(redis-server --version | sed 's/.* v=\([^ ]*\).*/\1/')" \
    --arg prometheus "$(prometheus --version 2>&1 | sed -n '1s/^prometheus, version \([^ ]*\).*/\1/p')" \
    --arg rust "$(rustc --version)" \
    '{cpu: $cpu, cores: $cores, memory_mib: $memory_mib, kernel: $kernel, system: $system,
      versions: {postgresql: $postgresql, redis: $redis, prometheus: $prometheus, rust: $rust}}'
}

# What was measured: commit, whether the checkout had changes of its own, profile, hash of the program.
subject() {
  local dirty=false commit
  [ -z "$(git status --porcelain -- crates apps Cargo.toml Cargo.lock 2>/dev/null)" ] || dirty=true
  commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
  # Programs that were built before may be of another commit: who knows which says so.
  if [ "$IS_BUILT" = yes ]; then commit=${BUILT_FROM:-unknown} dirty=null; fi
  jq -n --arg commit "$commit" --argjson dirty "$dirty" \
    --arg profile "$PROFILE" --arg sha256 "$(sha256sum "$MAINSTAY" | cut -c1-16)" \
    --argjson bytes "$(stat -c %s "$MAINSTAY")" \
    '{commit: $commit, has_uncommitted_changes: $dirty, profile: $profile, program_sha256: $sha256, program_bytes: $bytes}'
}

# Brings the stack up on the present state; prints the milliseconds from the command to its end.
up() {
  local began
  began=$(micros)
  ms up -d >"$SCRATCH/up" 2>&1 || { cat "$SCRATCH/up" >&2; fail "the stack does not come up"; }
  echo $((($(micros) - began) / 1000))
}

# Pid by its name in `mainstay ps`, for those that are ours: keep, control, edge, router.
pids_of_ours() {
  ms ps --json | jq -r '(.processes? // .)[] | select(.role as $r | ["keep", "control", "edge", "router"] | index($r)) | "\(.name) \(.pid)"'
}

# Everything was measured and nothing runs any more: nothing is kept, also when a bar was missed, which the results
# tell: FILE
end_bench() {
  SUCCEEDED=yes
  jq -e '[.bars[].is_met] | all' "$1" >/dev/null && return 0
  echo "a bar was missed"
  trap - EXIT INT TERM
  clean_up
  rm -rf "$SCRATCH" "$STATE"
  exit 1
}

#!/usr/bin/env bash
# What a service can be: workers, a schedule, a release command, and commands beside them; on real processes.
# Needs a built program (MAINSTAY names another than the release build's); leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh

began=$SECONDS
work_folder
terminal="$PWD/bin/lib/terminal.py"
cp -r bin/lib/workloads "$work/jobs"
# Ports of its own, beside those that other stacks of this machine would take while this one is down.
read -r https http console write read_only <<<"$(free_ports 5)"
sed -i "s/^standbys = 0/&\nwrite_port = $write\nread_port = $read_only/" "$work/jobs/mainstay.toml"
printf '[edge]\nhttps_port = %s\nhttp_port = %s\n[console]\nport = %s\n' "$https" "$http" "$console" >>"$work/jobs/mainstay.toml"
chmod -R go+rX "$work/jobs"
begin_stack "$work/jobs"

# A file in the home of a service: SERVICE NAME [CONTENT]; without CONTENT it is removed.
home() {
  local file="$STATE/jobs/development/home/$1/$2"
  if [ $# -gt 2 ]; then printf '%s' "$3" >"$file" && chmod 644 "$file"; else rm -f "$file"; fi
}
noted() { cat "$STATE/jobs/development/home/$1/$2" 2>/dev/null || true; }
event_said() { events | grep -c "\"kind\":\"$1\".*$2" >/dev/null; }
kill_control() {
  local pid=None
  for _ in $(seq 150); do
    pid=$(pid_of control) || pid=None
    [ "$pid" = None ] || break
    sleep 0.2
  done
  [ "$pid" != None ] || fail "there is no control plane to kill"
  kill -KILL "$pid" || true
}
code_of() { local code=0; "$@" >"$SCRATCH/out" 2>"$SCRATCH/err" || code=$?; echo "$code"; }
# No line wider than 80 columns, colours aside.
fits() { sed -e 's/\x1b\[[0-9;?]*[a-zA-Z]//g' -e 's/\r//g' "$SCRATCH/out" | awk '{ if (length($0) > 80) { print "        too wide: " $0; bad = 1 } } END { exit bad }'; }

workers() {
  local before after state
  same "two instances of a worker are ready" \
    "$(ms status --json | value "[b['label'] for b in it['boxes'] if b['name'] in ('mails', 'mails-1')]")" "['2 of 2 ready', 'worker']"
  before=$(pid_of mails-1)
  kill -KILL "$before"
  restarted() { after=$(pid_of mails-1) || return 1; [ "$after" != None ] && [ "$after" != "$before" ]; }
  until_so "a killed worker is started again" restarted
  home mails broken yes
  kill -KILL "$after"
  is_looping() {
    state=$(ms status --json | value "next(b['state'] for b in it['boxes'] if b['name'] == 'mails-1')")
    [ "$state" = crash-loop ]
  }
  until_so "a worker that ends at once backs off and is shown as a crash loop" is_looping
  home mails broken
  until_so "it is started again when the cause is gone" is_ready
  ms logs mails | grep -c "mails-2 works" >/dev/null || fail "logs of a worker"
  ok "logs of workers"
}

release_command() {
  same "the release command ran once, before the first instance" "$(noted web prepared | wc -l)" "$1"
  [ "$(noted web prepared | sort | uniq -d | wc -l)" = 0 ] || fail "a release was prepared twice"
  same "with the service's environment, without PORT" "$(ms logs web-before --lines 1 | sed 's/.*│ //; s/ v[0-9]*//')" "prepares False True"
}

schedule() {
  local code
  has_run() { [ "$(noted report runs | grep -c ends)" -ge 3 ]; }
  until_so "a schedule runs by itself" has_run
  home report sleep 2.4
  until_so "a time that comes while a run lasts is skipped and said so" event_said RunSkipped "a run lasts"
  home report sleep 30
  until_so "a run that takes too long is ended and has failed" event_said RunFailed "took too long"
  home report sleep 0
  home report exit 4
  until_so "a run that fails is an event" event_said RunFailed "exit 4"
  is_degraded() { ms status >"$SCRATCH/out" && return 1; grep -q "its last run failed: exit 4" "$SCRATCH/out"; }
  until_so "status shows the failure, with the reason" is_degraded
  # Between two runs; one may be under way when it is asked for.
  for _ in $(seq 20); do code=$(code_of ms run report); [ "$code" != 1 ] && break; sleep 0.3; done
  same "a run that a person asks for has its exit status" "$code" 4
  grep -q "^reports " "$SCRATCH/out" || fail "its output is not shown"
  home report exit 0
  until_so "status is well again after a good run" is_ready
  home report sleep 2.5
  is_running() { [ "$(ms status --json | value "(it['schedules']['report']['running'] or {}).get('since') is not None")" = True ]; }
  until_so "a run is under way" is_running
  same "a second one is refused" "$(code_of ms run report)" 1
  grep -q "never two at once" "$SCRATCH/err" || fail "the refusal does not say why: $(cat "$SCRATCH/err")"
  home report sleep 0.3
}

# The control plane dies in the middle of runs, again and again.
crashes() {
  local count
  count=$(noted report runs | grep -c begins)
  for pause in 0.7 1.1 0.4 1.6 0.9; do
    kill_control
    sleep "$pause"
  done
  goes_on() { [ "$(noted report runs | grep -c begins)" -ge $((count + 4)) ]; }
  until_so "runs go on through five crashes of the control plane" goes_on
}

# Every time has one run, or is told as passed over; no two runs at once.
account() {
  noted report runs >"$SCRATCH/runs"
  events >"$SCRATCH/events"
  /usr/bin/python3 - "$SCRATCH/runs" "$SCRATCH/events" <<'PY' || fail "the account of runs"
import datetime, json, sys

def seconds(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()

runs = {}
for line in open(sys.argv[1]):
    what, due, _ = line.split()
    if what == "begins":
        runs[due] = runs.get(due, 0) + 1
twice = [due for due, starts in runs.items() if starts > 1]
assert not twice, f"run twice: {twice}"
run = {seconds(due) for due in runs}
passed = set()
for line in open(sys.argv[2]):
    event = json.loads(line)
    if event["kind"] in ("RunBegan", "RunEnded", "RunFailed"):
        # One that was ended before it could write a line.
        run.add(seconds(event["fields"]["due"]))
    if event["kind"] in ("RunSkipped", "RunMissed"):
        latest = seconds(event["fields"]["latest"])
        passed |= {latest - 2 * n for n in range(event["fields"]["times"])}
asked = {due for due in run if due % 2}
run -= asked
both = run & passed
assert not both, f"run, and said to be passed over: {both}"
first, last = int(min(run)), int(max(run | passed))
lost = [time for time in range(first, last + 1, 2) if time not in run | passed]
# A control plane that dies between the record and the event leaves one untold.
assert len(lost) <= 1, f"neither run nor told: {lost}"
print(f"        {len(run)} times were run, {len(passed)} passed over, {len(lost)} untold; {len(asked)} runs were asked for")
PY
  ok "every time had one run, or was passed over and said so"
}

commands() {
  local pid code=0
  same "run: the service's environment and folder" "$(ms run web -- sh -c 'echo $MAINSTAY_SERVICE ${PORT-none} $(pwd)')" "web none $work/jobs"
  same "run: the database by the router" "$(ms run web -- sh -c 'psql -Atc "SELECT 6 * 7" "$DATABASE_URL"')" 42
  same "run: standard input" "$(echo hello | ms run mails -- cat)" hello
  same "run: its exit status" "$(code_of ms run web -- sh -c 'exit 7')" 7
  same "run: no such program" "$(code_of ms run web -- no-such-program)" 3
  grep -q "MS3050" "$SCRATCH/err" || fail "no code: $(cat "$SCRATCH/err")"
  same "run: which service?" "$(code_of ms run -- true)" 2
  same "run: nothing to run" "$(code_of ms run web)" 2
  "$MAINSTAY" --state "$STATE" --file "$STACK" run web -- sleep 60 &
  pid=$!
  sleep 1
  kill -TERM "$pid"
  wait "$pid" || code=$?
  same "run: signals are the command's" "$code" 143
  same "run: a terminal" "$(/usr/bin/python3 "$terminal" 80 24 - 0 "$MAINSTAY" --state "$STATE" --file "$STACK" run web -- sh -c 'test -t 0 && test -t 1 && stty size' | tr -d '\r')" "24 80"
  pid=$(pid_of web-2)
  same "exec: the port of that instance" \
    "$(ms exec web-2 -- sh -c 'curl --silent --noproxy "*" http://127.0.0.1:$PORT/')" web-2
  same "exec: its user" "$(ms exec web-2 -- id -u)" "$(awk '/^Uid:/ { print $2 }' "/proc/$pid/status")"
  same "exec: a service means its first instance" "$(ms exec web -- sh -c 'echo $MAINSTAY_INSTANCE')" web-1
  same "exec: beside a worker" "$(ms exec mails-1 -- sh -c 'echo ${PORT-none}')" none
  if grep -q mainstay "/proc/$pid/cgroup"; then
    same "exec: in its control groups" "$(ms exec web-2 -- grep mainstay /proc/self/cgroup)" "$(grep mainstay "/proc/$pid/cgroup")"
  else
    echo "  skipped: no control group is writable here"
  fi
  same "exec: no such instance" "$(code_of ms exec web-9 -- true)" 2
  if [ "$(id -u)" = 0 ]; then
    same "run: root becomes the service's user" "$(ms run web -- id -u)" "$(awk '/^Uid:/ { print $2 }' "/proc/$pid/status")"
  fi
}

looking() {
  local name
  ms top --once >"$SCRATCH/top"
  for name in web-1 mails-2 control keep edge router postgres-a; do
    grep -q "^$name " "$SCRATCH/top" || { cat "$SCRATCH/top"; fail "top does not show $name"; }
  done
  same "top: a busy process is seen" "$(busy_share)" True
  same "top: in order of memory" "$(ms top --json --sort memory | value "(lambda m: m == sorted(m, reverse=True))([p['process']['memory_bytes'] or 0 for p in it['processes']])")" True
  for name in "top --once" status ps; do
    same "$name: in a terminal of 80 columns" \
      "$(code_of /usr/bin/python3 "$terminal" 80 40 - 0 "$MAINSTAY" --state "$STATE" --file "$STACK" $name)" 0
    fits || fail "$name is wider than 80 columns"
  done
  same "top: q ends it" "$(code_of /usr/bin/python3 "$terminal" 80 24 q 4 "$MAINSTAY" --state "$STATE" --file "$STACK" top)" 0
  grep -q "q ends" "$SCRATCH/out" || fail "top drew nothing"
}

# The control plane works when it is asked, and top sees that it does.
busy_share() {
  local pid
  pid=$(pid_of control)
  (for _ in $(seq 40); do ms ps >/dev/null; done) &
  ms top --json | value "any(p['process']['pid'] == $pid and (p['cpu_percent'] or 0) > 0.5 for p in it['processes'])"
  wait
}

say "up"
ms up -d
say "workers and the release command"
workers
release_command 1
say "a schedule"
schedule
crashes
account
say "commands of a person"
commands
say "looking at it"
looking
say "down and up again"
home report sleep 2.5
until_so "a run is under way" is_running
ms down
nothing_runs
same "workers end by themselves in their drain" "$(noted mails drained | grep -c ends)" 2
sleep 5
home web wait 4
ms up -d &
up=$!
is_preparing() { [ "$(noted web prepared | wc -l)" = 2 ]; }
until_so "a release command is under way" is_preparing
kill_control
wait "$up" || fail "up after a crash of the control plane in the middle of a release command"
home report sleep 0
until_so "times that were missed are made up for once" event_said RunMissed "had no run"
ms events --lines 5000 | grep -c "stubborn-1 did not end within 1 s and is killed" >/dev/null || fail "a worker that ignores SIGTERM is not killed"
ok "a worker that ignores SIGTERM is killed after its drain"
until_so "and runs go on" is_ready
release_command 2
account
say "a release command that fails"
ms down
home web fail yes
same "up fails" "$(code_of ms up -d --wait 60)" 1
for text in "release command of web ended: exit 5" "relation users does not exist" "--state $STATE logs web"; do
  grep -q -e "$text" "$SCRATCH/out" "$SCRATCH/err" || { cat "$SCRATCH/out" "$SCRATCH/err"; fail "it does not say: $text"; }
done
ok "it says why, with the last lines and the next step"
nothing_runs
all_passed

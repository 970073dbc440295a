#!/usr/bin/env bash
# Numbers of instances: the load adds some and removes them, a person does, the control plane dies meanwhile; no request
# fails, POST among them. The drills of it, and the mistakes that they must see. Then the same with an application that
# ends without finishing its requests: there some must fail, or nothing here could. Leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh

began=$SECONDS
work_folder
begin_stack "$work/scales"
mkdir -p "$work/scales"
read -r https http console <<<"$(free_ports 3)"

# Answers after as many seconds as it is asked for; at SIGTERM it finishes what it has, or not when ABRUPT says so.
cat >"$work/scales/web.py" <<'PY'
import http.server, os, signal, threading, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        time.sleep(float(self.headers.get("x-takes") or 0))
        body = os.environ["MAINSTAY_INSTANCE"].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
# They are waited for when the server is closed.
server.daemon_threads = False

def end(*_):
    if os.environ.get("ABRUPT") == "yes":
        os._exit(0)
    threading.Thread(target=server.shutdown).start()

signal.signal(signal.SIGTERM, end)
server.serve_forever()
server.server_close()
os._exit(0)
PY

# Clients of the edge, until the file STOP is there: each asks again and again by POST, four of eight for slow answers.
cat >"$work/load.py" <<'PY'
import http.client, json, os, ssl, sys, threading, time

port, rate, stop, result = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl._create_unverified_context()
lock, seen = threading.Lock(), {"good": 0, "failed": 0, "by": {}, "why": {}}

def client(slow):
    make = lambda: http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
    line, due = make(), time.time()
    headers = {"Host": f"scales.localhost:{port}", "x-takes": "1.5" if slow else "0.01"}
    while not os.path.exists(stop):
        try:
            line.request("POST", "/", body=b"x", headers=headers)
            answer = line.getresponse()
            text = answer.read().decode()
            good, why = answer.status == 200, str(answer.status)
        except Exception as error:
            good, text, why = False, "", type(error).__name__
            line.close()
            line = make()
        with lock:
            seen["good" if good else "failed"] += 1
            of, key = (seen["by"], text) if good else (seen["why"], why)
            of[key] = of.get(key, 0) + 1
        due = max(due + 4 / rate, time.time() - 1)
        time.sleep(max(0, due - time.time()))

clients = [threading.Thread(target=client, args=(number < 4,)) for number in range(8)]
[one.start() for one in clients]
[one.join() for one in clients]
json.dump(seen, open(result, "w"))
PY

# The stack file: ABRUPT
write_stack() {
  cat >"$work/scales/mainstay.toml" <<TOML
stack = "scales"
[observe]
enabled = false
[service.web]
run = "/usr/bin/python3 web.py"
health = { path = "/", interval = "1s" }
resources = { cpu = "1", memory = "128MiB" }
env = { ABRUPT = "$1" }
[service.web.scale]
min = 1
max = 4
requests = 15
cpu = 1000
down = { window = "0s" }
[target]
scale_up = { rto = "5s" }
scale_down = { rto = "5s" }
[edge]
https_port = $https
http_port = $http
[console]
port = $console
TOML
  chmod -R go+rX "$work/scales"
}

load_pid=""
begin_load() {
  rm -f "$work/stop" "$work/load.json"
  /usr/bin/python3 "$work/load.py" "$(port edge-https)" 60 "$work/stop" "$work/load.json" &
  load_pid=$!
}
# Ends it and waits for its last answers.
end_load() {
  touch "$work/stop"
  wait "$load_pid" || fail "the load ended badly"
  load_pid=""
}
stop_clients() { [ -z "$load_pid" ] || kill "$load_pid" 2>/dev/null || true; }
of_load() { value "$1" <"$work/load.json"; }

# Of the one service: EXPRESSION on its scale
scale() { ms scale --json | value "(lambda web: $1)(it[0])"; }
is_so() { [ "$(scale "$1")" = True ]; }
# Instances that run, as ps says.
running() { ms ps --json | value "sum(p['role'] == 'instance' and p['pid'] is not None for p in it) if isinstance(it, list) else None"; }
are_running() { [ "$(running)" = "$1" ]; }

say "up"
write_stack no
come_up
same "the load moves the number" "$(scale "(web['is_auto'], web['policy'], web['min'], web['max'])")" "(True, 'hpa', 1, 4)"
same "instances at first" "$(running)" 1
ms status >"$SCRATCH/status"
grep -c "1 of 1 ready (auto 1..4)" "$SCRATCH/status" >/dev/null || fail "status does not show the bounds"
ok "status shows the bounds"

say "a load that one instance should not bear alone"
begin_load
PATIENCE=120
until_so "it brings instances, and they are ready" is_so "web['wanted'] >= 3 and web['ready'] >= 3"
says_why() { [ "$(told Scaled "requests above target")" -ge 1 ]; }
until_so "an event says why" says_why
until_so "CPU is measured too" is_so "all(m['usage'] is not None for m in web['measures']) and len(web['measures']) == 2"
ms explain web >"$SCRATCH/explained"
grep -cE "requests +.*ratio .*" "$SCRATCH/explained" >/dev/null || { cat "$SCRATCH/explained"; fail "explain shows no arithmetic"; }
sed 's/^/        /' "$SCRATCH/explained"
ok "explain shows the arithmetic"

say "by hand, while it goes on"
ms scale web=2 >/dev/null
until_so "two are left" are_running 2
same "the load does not move it" "$(scale "web['is_auto']")" False
kill -KILL "$(pid_of control)"
until_so "a control plane answers again" is_ready
same "it knows the number" "$(scale "(web['wanted'], web['is_auto'])")" "(2, False)"
ms scale web=4 >/dev/null
until_so "four run" is_so "web['ready'] == 4"
ms scale web=1 >/dev/null
until_so "one is left" are_running 1
code=0
ms scale web=9 >"$SCRATCH/refused" 2>&1 || code=$?
same "more than the stack file allows" "$code $(grep -c "MS4093.*1 to 4" "$SCRATCH/refused" || true)" "2 1"
end_load
same "failed of $(of_load "it['good'] + it['failed']") requests, by $(of_load "len(it['by'])") instances ($(of_load "it['why']"))" "$(of_load "it['failed']")" 0

say "without a load"
ms scale web=3 >/dev/null
until_so "three run" are_running 3
ms scale web --auto on >/dev/null
until_so "the load takes them away again" are_running 1

say "as drills"
drill scale-up 1
drill scale-down 1
# MISTAKE DRILL WHAT: with the mistake put in the drill fails, and says so in these words.
control() {
  local code=0
  ms drill "$2" --sabotage "$1" >"$SCRATCH/control" 2>&1 || code=$?
  if [ "$code" != 10 ] || ! grep -qE "$3" "$SCRATCH/control"; then
    cat "$SCRATCH/control"
    fail "$2 with $1: exit $code, not 10 with \"$3\""
  fi
  grep -E "$3" "$SCRATCH/control" | head -2 | sed 's/^/        /'
  ok "$2 sees $1"
}
control leave-out scale-up "not asked by the edge within .* web-2, web-3, web-4"
control kill-undrained scale-down "the edge ejected web-[2-4].* taken away while requests were led to it"
code=0
ms drill scale-up --sabotage kill-undrained >"$SCRATCH/refused" 2>&1 || code=$?
same "a mistake of the other" "$code $(grep -c MS2028 "$SCRATCH/refused" || true)" "2 1"
until_so "the load's number again" are_running 1
same "the number is the load's again" "$(scale "web['is_auto']")" True

say "the control: an application that does not finish its requests"
ms down >/dev/null 2>&1
write_stack yes
come_up
ms scale web=4 >/dev/null
until_so "four run" is_so "web['ready'] == 4"
begin_load
# Which instances have the slow requests in that moment is chance.
for round in 1 2 3; do
  sleep 2
  ms scale web=1 >/dev/null
  until_so "one is left, round $round" are_running 1
  ms scale web=4 >/dev/null
  until_so "four run again" is_so "web['ready'] == 4"
done
end_load
[ "$(of_load "it['failed']")" -gt 0 ] || fail "none of $(of_load "it['good']") requests failed: the load notices nothing"
ok "of its requests $(of_load "it['failed']") failed ($(of_load "it['why']")): the load notices"

say "down"
ms down >/dev/null 2>&1
nothing_runs
all_passed

#!/usr/bin/env bash
# Releases, under load: deployed by each strategy with migrations and without, bad ones taken back, a control plane killed
# on the way, an earlier one brought back, refusals that leave all as it was. Not one request fails but those that a bad
# release was given by its own fault. Leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/stack.sh

began=$SECONDS
work_folder
app=$work/app
mkdir -p "$app/migrations"
cat >"$app/web.py" <<'PY'
"""Says which release it is; fails as often as its file `fails` says, in a hundred."""
import http.server, os, random, signal, threading

HERE = os.path.dirname(os.path.abspath(__file__))
read = lambda name, other: open(os.path.join(HERE, name)).read().strip() if os.path.exists(os.path.join(HERE, name)) else other
VERSION, FAILS = read("version", "?"), int(read("fails", "0"))

class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        is_bad = self.path != "/healthz" and random.randrange(100) < FAILS
        body = VERSION.encode()
        self.send_response(500 if is_bad else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 256

server = Server(("127.0.0.1", int(os.environ["PORT"])), Answer)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("version", VERSION, "listens", flush=True)
server.serve_forever()
PY
echo 'CREATE TABLE first (id int);' >"$app/migrations/V1__first.sql"
read -r https http console write read_only <<<"$(free_ports 5)"
# The stack file; lines of the service from stdin.
stack_file() {
  {
    printf 'stack = "shop"\n[[edge.route]]\npath = "/*"\nto = "web"\n[service.web]\n'
    printf 'before = "/usr/bin/cat version"\ninstances = 2\npool = 1\nhealth = { path = "/healthz", start_within = "20s" }\n'
    cat
    printf '[database]\nmigrations = "migrations"\nstandbys = 0\nwrite_port = %s\nread_port = %s\n' "$write" "$read_only"
    printf '[observe]\nenabled = false\n[edge]\nhttps_port = %s\nhttp_port = %s\n[console]\nport = %s\n' "$https" "$http" "$console"
    printf '[deploy]\nbake = "3s"\nsteps = ["50%%"]\nstep = "1s"\nrequests = 20\nsmoke = ["/healthz"]\n'
  } >"$app/mainstay.toml"
  chmod -R go+rX "$app"
}
good() { stack_file <<<'run = "/usr/bin/python3 web.py"'; }
good
echo one >"$app/version"
begin_stack "$app"

HOST=shop.localhost
version() { curl -sk --max-time 5 --resolve "$HOST:$https:127.0.0.1" "https://$HOST:$https/"; }
# Clients on connections that they keep, over HTTP/1.1 and HTTP/2: each with a name of its own, so that a canary has some
# of them.
LOAD=()
load() {
  local client
  for client in 1 2 3 4 5 6; do
    (
      set +e
      trap 'exit 0' TERM
      kind=--http2
      [ $((client % 2)) = 0 ] || kind=--http1.1
      for _ in $(seq 10); do printf 'url = "https://%s:%s/"\noutput = /dev/null\n' "$HOST" "$https"; done >"$SCRATCH/urls-$client"
      while :; do
        curl -sk $kind --max-time 20 -A "client-$client" --resolve "$HOST:$https:127.0.0.1" -w '%{http_code} %{time_total} %{errormsg}\n' -K "$SCRATCH/urls-$client" >>"$SCRATCH/codes-$client"
        sleep 0.02
      done
    ) &
    LOAD+=($!)
  done
}
end_load() { [ ${#LOAD[@]} = 0 ] || { kill "${LOAD[@]}" 2>/dev/null || true; wait "${LOAD[@]}" 2>/dev/null || true; }; LOAD=(); }
stop_clients() { end_load; }
# What curl has counted comes when it ends, ten requests later at most: until each client has begun anew twice.
counted() {
  local client before until=$((SECONDS + 60))
  for client in 1 2 3 4 5 6; do
    before=$(wc -l <"$SCRATCH/codes-$client")
    while [ "$(wc -l <"$SCRATCH/codes-$client")" -lt $((before + 20)) ]; do
      [ "$SECONDS" -lt "$until" ] || fail "client $client asks no more"
      sleep 0.1
    done
  done
}
# Requests that failed and were not answered 500: none may.
otherwise() { cat "$SCRATCH"/codes-* | grep -v '^200 \|^500 ' || true; }
count() { cat "$SCRATCH"/codes-* | grep -c "$1" || true; }
# A deploy that must end so: CODE WORDS ARGUMENTS...
deploys() {
  local wanted=$1 words=$2 code=0
  shift 2
  timeout 120 "$MAINSTAY" --state "$STATE" --file "$STACK" "$@" >"$SCRATCH/deploy" 2>&1 || code=$?
  [ "$code" = "$wanted" ] || { cat "$SCRATCH/deploy"; fail "mainstay $*: exit $code, wanted $wanted"; }
  grep -c -- "$words" "$SCRATCH/deploy" >/dev/null || { cat "$SCRATCH/deploy"; fail "mainstay $* does not say $words"; }
  ok "mainstay $*: exit $wanted, $words"
}
live() { ms releases --json | value "it['live']"; }
state_of() { ms releases "$1" --json | value "it['release']['state']"; }
# How often the release command of a version ran: it prints it.
ran() { grep -c "^$1\$" "$STATE/shop/development/logs/web-before.log" || true; }
tables() { ms db psql -- -Atc "select string_agg(relname, ' ' order by relname) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace and relname !~ '^flyway'"; }

say "up"
come_up
same "the folder's version answers" "$(version)" one
first=$(live)
load

say "deploy"
echo two >"$app/version"
echo 'CREATE TABLE second (id int);' >"$app/migrations/V2__second.sql"
deploys 0 "cannot be undone: V2__second.sql\|nobody can tell" deploy --plan
same "a plan changes nothing" "$(live) $(version) $(tables)" "$first one first"
deploys 0 "is live" deploy
same "the new version answers, on its schema" "$(version) $(tables)" "two first second"
two=$(live)
same "it is live" "$(state_of "v$two")" live
same "its release command ran once" "$(ran one) $(ran two)" "1 1"
same "a restore point was named before its migration" "$(told ReleaseWork "restore point release_v$two; applied V2__second.sql")" 1
echo three >"$app/version"
deploys 0 "is live" deploy --strategy canary
same "a canary ends with all clients on it" "$(version)" three
three=$(live)
[ "$(told DeployPhase "v$three is at shift, 50 % of clients")" = 1 ] || fail "half of the clients were never on the canary"
ok "half of the clients were on it for a while"

say "A control plane that is killed on the way"
echo four >"$app/version"
deploys 0 "rolls out" deploy --detach
is_watched() { ms releases --json | value "it['rollout']['phase']" | grep -c watch >/dev/null; }
until_so "the rollout is watched" is_watched
kill -9 "$(pid_of control)"
is_four() { [ "$(version)" = four ] && [ "$(live)" -gt "$three" ]; }
until_so "the next control plane ends it: v4 is live" is_four
four=$(live)
same "the one before is kept" "$(state_of "v$three")" former

say "Bad releases"
before=$(count '^200 ')
stack_file <<<'run = "/usr/bin/python3 -c 1/0"'
deploys 1 "ended 3 times before it was ready" deploy
same "its last words are told" "$(grep -c ZeroDivisionError "$SCRATCH/deploy")" 3
good
echo 'CREATE TABLE half (id int); SELECT 1/0;' >"$app/migrations/V3__half.sql"
deploys 1 "migrations failed" deploy
same "nothing of a migration that failed is there" "$(tables)" "first second"
rm "$app/migrations/V3__half.sql"
stack_file <<<'run = "/usr/bin/sleep 1000"'
sed -i 's/start_within = "20s"/start_within = "3s"/' "$app/mainstay.toml"
deploys 1 "was not ready within 3s" deploy
good
same "the good one serves all the while" "$(live) $(version)" "$four four"
counted
same "not one request failed until here ($(count '^200 ') answered)" "$(count '^500 ')$(otherwise)" 0
echo 40 >"$app/fails"
echo bad >"$app/version"
told_at=$SECONDS
deploys 1 "more errors: " deploy --strategy canary
# What document 004 asks; with the bake of this test and its rate of requests, from the command to its end.
[ $((SECONDS - told_at)) -le 300 ] || fail "it took $((SECONDS - told_at)) s to take a bad release back, 5 min are the most"
ok "a bad release was taken back $((SECONDS - told_at)) s after it was deployed"
same "the release that served before serves again" "$(live) $(version)" "$four four"
rm "$app/fails"
counted
bad=$(count '^500 ')
[ "$(count '^200 ')" -gt "$before" ] || fail "the load had ended"
ok "$bad requests were answered 500 by the bad release, no other failed"
same "none failed otherwise" "$(otherwise)" ""

say "One at a time, and back"
echo five >"$app/version"
stack_file <<<'run = "/usr/bin/python3 web.py"'
sed -i 's/^bake = .*/bake = "60s"/' "$app/mainstay.toml"
deploys 0 "rolls out" deploy --detach
until_so "the rollout is watched" is_watched
deploys 4 "error\[MS4140\]" deploy
deploys 4 "error\[MS4140\]" rollback
deploys 1 "a person took it back" deploy --abort
same "it was taken back" "$(live) $(version)" "$four four"
good
deploys 0 "is live" rollback
same "an earlier release is back" "$(live) $(version)" "$three three"
until_so "all is ready after it" is_ready
same "its policies were taken" "$(told PolicyRejected '')" 0
deploys 4 "error\[MS4142\].*v99 is not kept" rollback v99
deploys 4 "error\[MS4142\].*is live already" rollback "v$three"
echo 'CREATE TABLE third (id int);' >"$app/migrations/V3__third.sql"
echo six >"$app/version"
deploys 0 "is live" deploy
deploys 4 "error\[MS4144\].*V3__third.sql" rollback
deploys 0 "is live" rollback --keep-schema
same "back over a migration when told to" "$(version) $(tables)" "three first second third"

say "What cannot be a release"
echo "no archive" >"$work/broken.tar"
deploys 2 "error\[MS2141\].*no whole archive" deploy --archive "$work/broken.tar"
cp "$app/mainstay.toml" "$work/kept.toml"
sed -i 's/^standbys = 0/standbys = 1/' "$app/mainstay.toml"
deploys 4 "error\[MS4143\].*\[database\]" deploy
stack_file <<<'run = "bin/not-there"'
deploys 2 "error\[MS2141\].*there is no program" deploy
cp "$work/kept.toml" "$app/mainstay.toml"
tar -C "$app" -cf "$work/good.tar" .
echo "never seen" >"$app/version"
deploys 0 "is live" deploy --archive "$work/good.tar"
same "an archive's version answers" "$(version)" six
archived=$(live)
same "nothing that was refused is kept" "$(find "$STATE/shop/development/releases" -maxdepth 1 -name '.incoming-*' | wc -l)" 0

say "Drills"
# While the clients of this test ask on: three rounds, one for each strategy.
drill deploy 1
grep -c "is live again" "$SCRATCH/drill-deploy" >/dev/null || { cat "$SCRATCH/drill-deploy"; fail "what was live was not brought back"; }
same "what was live is live again" "$(live) $(version)" "$archived six"
trials=$(grep -l '"is_trial": true' "$STATE"/shop/development/releases/v*/release.json)
same "it left three numbers" "$(wc -w <<<"$trials")" 3
for trial in $trials; do [ ! -e "$(dirname "$trial")/files" ] || fail "$trial has files still"; done
ok "and no files"
# All clients ask to the end.
counted
end_load
same "not one request failed but by the bad release ($(count '^200 ') answered)" "$(count '^500 ') $(otherwise)" "$bad "
deploys 10 "it was taken away while requests were led to it" drill deploy --sabotage kill-undrained
same "what was live is live again after the control" "$(live) $(version)" "$archived six"
deploys 2 "error\[MS2028\].*strategy" drill edge-crash --strategy canary

say "Down and up"
ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }
come_up
is_ready || fail "up came back before all was ready"
ok "up came back when all was ready"
same "release commands ran once for each release, and for none that came back" "$(ran one) $(ran two) $(ran three) $(ran six)" "1 1 1 2"
same "what was deployed starts again, and not what is in the folder" "$(live) $(version)" "$archived six"

ms down >"$SCRATCH/down" 2>&1 || { cat "$SCRATCH/down"; fail "down"; }
nothing_runs
all_passed

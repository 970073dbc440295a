# Runs inside of the virtual machine, once for each boot; /var/lib/boots counts them. Its words go to the console.
set -uo pipefail
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
MS=/srv/built/mainstay
UNIT=mainstay-shop-development.service
boots=$(($(cat /var/lib/boots 2>/dev/null || echo 0) + 1))
echo "$boots" >/var/lib/boots

say() { printf '== %s\n' "$1"; }
ok() { printf '  ok    %s\n' "$1"; }
fail() {
  printf '  FAIL  %s\n' "$1"
  journalctl -u "$UNIT" -n 30 --no-pager | sed 's/^/        /'
  (cd "${at:-/srv/shop}" && $MS status 2>&1 && $MS events 2>&1 | tail -n 40) | sed 's/^/        /'
  systemctl poweroff
  exit 1
}
same() { if [ "$2" = "$3" ]; then ok "$1"; else fail "$1: got '$2', wanted '$3'"; fi; }
# Until a command succeeds: WHAT SECONDS COMMAND… Emulated processors are slow, and a busy machine below them slower.
soon() {
  local what=$1 end=$((SECONDS + 4 * $2)); shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || fail "$what (not within the time)"
    sleep 0.2
  done
  ok "$what"
}
sql() { (cd /srv/shop && mainstay db psql -- -qAtc "$1"); }
pid_of() {
  (cd /srv/shop && mainstay ps --json) |
    python3 -c 'import json, sys; print(next((p["pid"] for p in json.load(sys.stdin) if p["name"] == sys.argv[1]), ""))' "$1"
}
is_ready() { (cd /srv/shop && mainstay status --json) | grep -q '"overall":"ready"'; }
is_other_pid() { local pid; pid=$(pid_of "$1"); [ -n "$pid" ] && [ "$pid" != "$2" ]; }
group() { sed -n 's/^0:://p' "/proc/$1/cgroup"; }
ask() { curl --silent --max-time 20 --insecure --resolve "shop.localhost:8443:127.0.0.1" "https://shop.localhost:8443$1" "${@:2}"; }
is_gone() { [ -z "$(pgrep -x postgres)$(pgrep -x redis-server)$(pgrep -x mainstay)" ]; }

users() { curl --silent --max-time 20 --insecure --resolve "users.localhost:8443:127.0.0.1" "https://users.localhost:8443$1" "${@:2}"; }
is_users() { users /api/v1/info | grep -q '"' && users / | grep -q '<title>Users</title>'; }
is_users_ready() { grep -q "^ready in .* Ctrl-C brings it down" /var/log/demo; }
signs_in() {
  local password
  password=$(cd /opt/mainstay/apps/users && $MS env backend --show-secrets | sed -n 's/^ADMIN_PASSWORD=//p')
  users /api/auth/login --json "{\"username\":\"admin\",\"password\":\"$password\"}" | grep -q '"accessToken"'
}

# What the README begins with, as root, and Ctrl-C.
demo() {
  local demo at=/opt/mainstay/apps/users
  say "bin/demo"
  # What a shell puts in the background has SIGINT ignored; what a person starts has not.
  (cd /opt/mainstay && MAINSTAY_BUILT=target/release/mainstay exec env --default-signal=INT setsid bin/demo) >/var/log/demo 2>&1 &
  demo=$!
  # Packages come over an emulated network, and a database is made twice.
  soon "it installed what is missing, and the users application answers through the edge" 900 is_users
  soon "its administrator signs in" 30 signs_in
  soon "it says that everything is ready" 60 is_users_ready
  kill -INT "$demo"
  wait "$demo"
  local code=$?
  sed 's/^/        /' /var/log/demo
  same "on Ctrl-C it ends well" "$code" 0
  soon "nothing of it runs" 10 is_gone
}

# A stack of somebody who is not root, below that user's own systemd.
ordinary_user() {
  say "service install as an ordinary user"
  local as unit=mainstay-own-development.service
  useradd --create-home --shell /bin/bash op
  cp -r /srv/shop /home/op/own
  sed -i 's/^stack = .*/stack = "own"/; /^resources/d; /^\[cache\]/d' /home/op/own/mainstay.toml
  chown -R op:op /home/op/own
  loginctl enable-linger op
  soon "the user's manager is there" 30 systemctl is-active --quiet "user@$(id -u op).service"
  as() { runuser -u op -- env HOME=/home/op XDG_RUNTIME_DIR="/run/user/$(id -u op)" bash -c "cd /home/op/own && $1"; }
  as "$MS service install" >/var/log/own 2>&1 || { sed 's/^/        /' /var/log/own; as "journalctl --user -n 30 --no-pager; $MS events" | sed 's/^/        /'; fail "service install as op"; }
  sed 's/^/        /' /var/log/own
  same "systemd says" "$(as "systemctl --user is-active $unit; systemctl --user is-enabled $unit" | tr '\n' ' ')" "active enabled "
  soon "its stack is ready" 60 as "$MS status --json | grep -q '\"overall\":\"ready\"'"
  same "all of it runs as that user" "$(as "$MS ps --json" | python3 -c 'import json, os, sys; print({os.stat("/proc/%d" % p["pid"]).st_uid for p in json.load(sys.stdin) if p.get("pid")})')" "{$(id -u op)}"
  as "$MS db psql -- -qAtc 'create table own (id int); insert into own values (1)'" || fail "a write of the user's stack"
  [ -x /home/op/.local/bin/mainstay ] || fail "the program is not in the user's own folder"
  as "$MS service remove" | sed 's/^/        /'
  same "after service remove nothing of it runs" "$(pgrep -u op -x postgres | wc -l) $(pgrep -u op -x mainstay | wc -l)" "0 0"
  [ -d /home/op/.local/state/mainstay/own ] || fail "its data is gone"
  ok "its data is still there"
}

first_boot() {
  say "a fresh Debian: $(. /etc/os-release; echo "$PRETTY_NAME"), kernel $(uname -r), systemd $(systemctl --version | sed -n 's/systemd \([0-9]*\).*/\1/p')"
  soon "the network is there" 60 curl --silent --head http://deb.debian.org/
  demo
  same "none of the packages' own services runs" \
    "$(systemctl is-active postgresql redis-server prometheus prometheus-alertmanager | sort | uniq -c | tr -s ' ')" " 4 inactive"
  $MS doctor | sed 's/^/        /'

  ordinary_user

  say "service install"
  cd /srv/shop && $MS service install | sed 's/^/        /'
  [ -x /usr/local/bin/mainstay ] || fail "the program is not in /usr/local/bin"
  same "systemd says" "$(systemctl is-active $UNIT) $(systemctl is-enabled $UNIT)" "active enabled"
  soon "the stack is ready" 60 is_ready
  mainstay status | sed 's/^/        /'
  sql "create table kept (id int primary key); insert into kept values (1)"

  say "control groups v2, limits in force"
  local pid folder burnt
  pid=$(pid_of web-1)
  folder="/sys/fs/cgroup$(group "$pid")"
  case "$folder" in *"/system.slice/${UNIT%.service}-"*.scope/mainstay/*) ok "web-1 is below the scope's group: ${folder#/sys/fs/cgroup}" ;; *) fail "web-1 is in $folder" ;; esac
  same "memory.max of web-1" "$(cat "$folder/memory.max")" $((96 * 1024 * 1024))
  same "cpu.max of web-1" "$(cat "$folder/cpu.max")" "50000 100000"
  burnt=$(ask /burn)
  burnt=$(awk -v cpu="$burnt" 'BEGIN { print (cpu > 0.5 && cpu < 1.6) ? "half a core" : "all of it: " cpu }')
  same "burning for 2 s it got" "$burnt" "half a core"
  ask /eat --request POST >/dev/null
  soon "eating memory kills web-1 alone, and it is started again" 60 is_other_pid web-1 "$pid"
  soon "the stack is ready again" 60 is_ready
  if (cd /srv/shop && mainstay events --json) | grep -qi 'out of memory\|oom'; then ok "an event names the want of memory"; else fail "no event names the want of memory"; fi

  say "what systemd watches is killed"
  local main instance
  main=$(systemctl show -p MainPID --value $UNIT)
  instance=$(pid_of web-1)
  kill -KILL "$main"
  sleep 0.5
  soon "systemd started it again" 60 systemctl is-active --quiet $UNIT
  same "the instance went on" "$(pid_of web-1)" "$instance"
  [ "$(systemctl show -p MainPID --value $UNIT)" != "$main" ] || fail "the main process is still the killed one"
  soon "the stack is ready" 60 is_ready

  say "keep is killed"
  kill -KILL "$(pid_of keep)"
  soon "another keep is there, and the stack ready" 60 is_ready
  same "the instance went on" "$(pid_of web-1)" "$instance"
  same "systemd says" "$(systemctl is-active $UNIT)" active

  say "PostgreSQL's package is upgraded under it"
  local primary
  primary=$(pid_of postgres-a)
  apt-get install -y -qq --reinstall postgresql-15 postgresql-common >/var/log/reinstall 2>&1 || fail "reinstalling postgresql-15: $(tail -n 1 /var/log/reinstall)"
  same "the package's scripts left the primary alone" "$(pid_of postgres-a)" "$primary"
  sql "insert into kept values (2)" || fail "a write after the upgrade"
  case "$(readlink "/proc/$primary/exe")" in *" (deleted)") ok "the old program still runs: its file is replaced" ;; *) fail "the primary's program was not replaced: nothing was tested" ;; esac
  say "reboot"
  sync
  systemctl reboot
}

second_boot() {
  say "after the reboot"
  soon "systemd started the stack" 120 systemctl is-active --quiet $UNIT
  soon "it is ready" 60 is_ready
  same "what was written before is there" "$(sql 'select count(*) from kept')" 2
  local before
  before=$(cd /srv/shop && mainstay events --json | grep -o '"StackStopped"\|"DownAsked"' | sort -u | tr '\n' ' ')
  same "the reboot was an ordered down: its events" "$before" '"DownAsked" "StackStopped" '
  say "power is cut"
  sql "insert into kept values (3)"
  # No sync, no end of anything: as when somebody pulls the plug.
  echo b >/proc/sysrq-trigger
  sleep 60
}

third_boot() {
  say "after the cut"
  soon "systemd started the stack" 120 systemctl is-active --quiet $UNIT
  soon "it is ready" 90 is_ready
  same "what was acknowledged before the cut is there" "$(sql 'select count(*) from kept')" 3
  say "stop, start, remove"
  systemctl stop $UNIT || fail "systemctl stop"
  soon "nothing of the stack runs after systemctl stop" 10 is_gone
  systemctl start $UNIT || fail "systemctl start"
  soon "ready after systemctl start" 60 is_ready
  (cd /srv/shop && mainstay down) | sed 's/^/        /'
  sleep 3
  same "after mainstay down systemd leaves it down" "$(systemctl is-active $UNIT)" inactive
  soon "nothing runs" 10 is_gone
  (cd /srv/shop && mainstay service remove) | sed 's/^/        /'
  [ ! -e /etc/systemd/system/$UNIT ] || fail "the unit's file is still there"
  ok "the unit is removed"
  say "machine passed"
  systemctl poweroff
}

case "$boots" in
  1) first_boot ;;
  2) second_boot ;;
  *) third_boot ;;
esac

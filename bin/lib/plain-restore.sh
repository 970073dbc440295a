#!/usr/bin/env bash
# A restore without mainstay: runs every command of README.txt, as it stands in the folder of the backups, with the
# distribution's restic, age, zstd and PostgreSQL, after the machine's state was deleted, and asks for the rows. Leaves
# nothing running.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bin/lib/install.sh
. bin/lib/stack.sh

began=$SECONDS
if ! said=$( (install_missing plain) 2>&1); then
  echo "skipped: restic, age or zstd cannot be installed here: ${said//$'\n'/; }"
  exit 0
fi
version=$(restic version | sed 's/^restic \([0-9.]*\).*/\1/')
if [ "$(printf '%s\n' 0.14 "$version" | sort -V | head -1)" != 0.14 ]; then
  echo "skipped: restic $version is older than 0.14, which first reads repositories of version 2"
  exit 0
fi

work_folder
begin_stack "$work/plain"
restored="" programs=""
clean_up() {
  [ ! -d "$restored/data" ] || as_server "$programs/pg_ctl" -D "$restored/data" -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$work"
}
# Who runs PostgreSQL here.
as_server() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
mkdir "$work/backups"
chmod 711 "$work/backups"
small_stack plain <<TOML
name = "books"
[database.backup]
target = "$work/backups"
rpo = "2s"
TOML

say "a stack with a base backup and rows after it, and then the machine is gone"
come_up
sql() { ms db psql -- -qAt -v ON_ERROR_STOP=1 -c "$1"; }
sql "CREATE TABLE kept (id int PRIMARY KEY, note text)"
sql "INSERT INTO kept SELECT n, 'before' FROM generate_series(1, 1000) AS n"
ms backup now >/dev/null
sql "INSERT INTO kept SELECT n, 'after' FROM generate_series(1001, 1234) AS n"
last=$(sql "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')")
sql "INSERT INTO kept VALUES (0, 'the end')"
is_archived() { ms restore --to "$last" --dry-run >/dev/null; }
until_so "all of it is in the archive" is_archived
password=$(ms backup card | sed -n 's/^ *password *//p')
ms down >/dev/null 2>&1
nothing_runs
rm -rf "${STATE:?}/plain"
ok "the state is deleted"

say "the commands of README.txt"
# Another machine: a copy of the folder that the server's user can read, and a place of its own.
mkdir "$work/machine"
cp -r "$work/backups" "$work/machine/repository"
rm -rf "$work/backups"
[ "$(id -u)" != 0 ] || chown -R postgres "$work/machine"
restored="$work/machine/restored"
programs=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
own_port=$(free_ports 1)
readme="$work/machine/repository/README.txt"
# Its commands are what is indented by four; only the places, the port and the role are this machine's.
sed -n 's/^    //p' "$readme" >"$SCRATCH/commands"
commands=$(wc -l <"$SCRATCH/commands")
[ "$commands" -ge 30 ] || fail "only $commands lines of commands were found in README.txt"
for place in repository=/ restored=/ programs=/ port= application=; do
  grep -c "^$place" "$SCRATCH/commands" >/dev/null || fail "README.txt has no line $place"
done
sed -i -e "s|^repository=.*|repository=$work/machine/repository|" -e "s|^restored=.*|restored=$restored|" \
  -e "s|^programs=.*|programs=$programs|" -e "s|^port=.*|port=$own_port|" \
  -e "s|^application=.*|application=books|" -e '1i set -eux' "$SCRATCH/commands"
cp "$SCRATCH/commands" "$work/machine/commands"
chmod 755 "$work/machine/commands"
# In a terminal, where restic and age ask for the card's password and psql for a new one; nothing else is typed.
code=0
as_server env -i PATH="$PATH" HOME="$work/machine" LC_ALL=C.UTF-8 TERM=xterm PAGER=cat /usr/bin/python3 - "$work/machine/commands" "$password" \
  >"$SCRATCH/out" 2>&1 <<'PY' || code=$?
import os, pty, select, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("bash", ["bash", sys.argv[1]])
card, new = sys.argv[2].encode(), b"of the new machine"
answers = {
    b"enter password for repository:": card, b"enter passphrase:": card,
    b'enter new password for user "books":': new, b"enter it again:": new, b"password for user books:": new,
}
asked, seen, give_up_at = [], b"", time.monotonic() + 300
while time.monotonic() < give_up_at:
    if not select.select([terminal], [], [], 0.2)[0]:
        continue
    try:
        data = os.read(terminal, 65536)
    except OSError:
        break
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    seen = (seen + data)[-200:]
    for question, answer in answers.items():
        if seen.rstrip().lower().endswith(question):
            os.write(terminal, answer + b"\n")
            asked, seen = asked + [answer], b""
else:
    os.kill(pid, 9)
print("asked", asked.count(card), "times, and for a new one", asked.count(new), "times")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) % 256)
PY
sed 's/^/        /' "$SCRATCH/out"
same "every command of README.txt succeeds" "$code" 0
same "the password was asked for as often as the text says" "$(grep -c '^asked 3 times, and for a new one 3 times' "$SCRATCH/out")" 1

say "what is there"
# As the application, over the network, with a password: PASSWORD STATEMENT
as_application() { PGPASSWORD=$1 psql -X -h 127.0.0.1 -p "$own_port" -U books -d books -qAtc "$2"; }
new="of the new machine"
same "the rows of the base backup and of the WAL after it" \
  "$(as_application "$new" "SELECT count(*), max(id), count(*) FILTER (WHERE note = 'after') FROM kept")" "1235|1234|234"
as_application "$new" "INSERT INTO kept VALUES (9999, 'goes on')"
same "it goes on" "$(as_application "$new" 'SELECT max(id) FROM kept')" 9999
if as_application "another" "SELECT 1" >/dev/null 2>"$SCRATCH/refused"; then fail "another password is let in"; fi
grep -c "password authentication failed" "$SCRATCH/refused" >/dev/null || { cat "$SCRATCH/refused"; fail "another password is not refused as such"; }
ok "another password is refused"
as_server "$programs/pg_ctl" -D "$restored/data" -m fast stop >/dev/null
all_passed

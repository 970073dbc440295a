"""What bench/flips does to a repository: bytes flipped one at a time, and processes killed. Prints JSON."""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from wire import Stack

# What no restore reads: for people, for who waits, and files of PostgreSQL's own notes that replay never asks for.
NOT_NEEDED = ("README.txt", "history of a backup", "unfinished segment of a left timeline", "what a proof saw", "what a proof compares with")
# Of a kind of file, flips that were not found and that a restore is tried with: each takes seconds.
RESTORES = 5
SEGMENT = re.compile(r"^[0-9A-F]{24}-[0-9a-f]{64}\.zst\.age$")


def kind_of(path):
    """Of a file in the repository, by its path there."""
    folders = path.split("/")
    name = folders[-1]
    if folders[0] == "restic":
        return {"data": "pack", "index": "index", "snapshots": "snapshot", "keys": "key of the base backups", "config": "config"}[folders[1]]
    if folders[0] == "wal":
        if SEGMENT.match(name):
            return "segment of WAL"
        kinds = {".history": "history of a timeline", ".backup": "history of a backup", ".partial": "unfinished segment of a left timeline"}
        return next(kind for part, kind in kinds.items() if part in name)
    if folders[0] == "proofs":
        return "what a proof saw" if name.endswith(".proof.age") else "what a proof compares with"
    return {"wal-key.age": "key of the WAL", "mainstay.json": "whose it is", "README.txt": "README.txt"}[name]


def files_of(repository):
    """Path and size of every file that has bytes."""
    found = []
    for folder, _, names in os.walk(repository):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.getsize(path):
                found.append((os.path.relpath(path, repository), os.path.getsize(path)))
    return sorted(found)


class Flip:
    """One bit or more of one byte, for as long as it is entered. The times of the file stay as they were."""

    def __init__(self, path, offset, mask):
        self.path, self.offset, self.mask = path, offset, mask

    def _turn(self):
        times = os.stat(self.path)
        with open(self.path, "r+b") as file:
            file.seek(self.offset)
            byte = file.read(1)[0]
            file.seek(self.offset)
            file.write(bytes([byte ^ self.mask]))
        os.utime(self.path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def __enter__(self):
        self._turn()
        return self

    def __exit__(self, *_):
        self._turn()


def faults(stack):
    """What the check says: its faults, or its own error."""
    done = stack.run("backup", "check", "--json", timeout=600)
    if done.returncode == 0:
        return []
    try:
        return json.loads(done.stdout)["faults"] or ["exit without a fault"]
    except (ValueError, KeyError):
        return [f"exit {done.returncode}: {(done.stderr or done.stdout).strip()[:200]}"]


def restored_by_card(program, repository, card):
    """Restores the newest moment on an empty machine. None when it was refused, else what its files say."""
    state = tempfile.mkdtemp()
    os.chmod(state, 0o711)
    try:
        command = [program, "--state", state, "--json", "restore", "--from", repository, "--card", card]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            return None
        said = json.loads(done.stdout)
        return said["stack"], said["environment"], said["lsn"]
    finally:
        shutil.rmtree(state, ignore_errors=True)


def flips(asked):
    stack = Stack(asked.mainstay, asked.state, asked.file)
    chosen = random.Random(asked.seed)
    files = files_of(asked.repository)
    if before := faults(stack):
        sys.exit(f"the repository is damaged before anything was done to it: {before}")
    right = restored_by_card(asked.mainstay, asked.repository, asked.card)
    if right is None:
        sys.exit("the repository cannot be restored by its card before anything was done to it")
    kinds, unseen, slow = {}, [], []
    for number in range(asked.count):
        if number % 2:
            path, size = chosen.choices(files, weights=[size for _, size in files])[0]
        else:
            path, size = chosen.choice(files)
        kind = kind_of(path)
        flip = Flip(os.path.join(asked.repository, path), chosen.randrange(size), chosen.randrange(1, 256))
        with flip:
            begun = time.monotonic()
            found = faults(stack)
            slow.append(time.monotonic() - begun)
            each = kinds.setdefault(kind, {"flips": 0, "found": 0, "files": 0, "is_needed": kind not in NOT_NEEDED, "said": ""})
            each["flips"] += 1
            each["found"] += bool(found)
            each["said"] = each["said"] or (found[0] if found else "")
            if not found and each["is_needed"]:
                how = "not asked"
                if sum(one["kind"] == kind for one in unseen) < RESTORES:
                    again = restored_by_card(asked.mainstay, asked.repository, asked.card)
                    how = "refused" if again is None else "as it was" if again == right else "another"
                unseen.append({"path": path, "offset": flip.offset, "mask": flip.mask, "kind": kind, "restore_by_card": how})
        if number % 100 == 99:
            print(f"{number + 1} flips, {len(unseen)} not found", file=sys.stderr)
    for path, _ in files:
        if kind_of(path) in kinds:
            kinds[kind_of(path)]["files"] += 1
    if after := faults(stack):
        sys.exit(f"the repository is damaged after every byte was put back: {after}")
    slow.sort()
    return {
        "asked": asked.count, "bytes": sum(size for _, size in files), "files": len(files), "kinds": dict(sorted(kinds.items())),
        "not_found": len(unseen), "restored_silently": sum(one["restore_by_card"] == "another" for one in unseen),
        "unseen": unseen, "check_p50_s": round(slow[len(slow) // 2], 3), "check_worst_s": round(slow[-1], 3),
    }


def processes():
    """Pid and words of every process."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                yield int(pid), file.read().decode(errors="replace").split("\0")
        except OSError:
            continue


class Writer(threading.Thread):
    """Writes rows through the router and notes how many were acknowledged: ids are the router's to keep, in order."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.acknowledged, self.stop = url, 0, threading.Event()

    def sql(self, text):
        done = subprocess.run(["psql", "-XAtqc", text, self.url], capture_output=True, text=True, timeout=120)
        return done.stdout.strip() if done.returncode == 0 else None

    def run(self):
        while not self.stop.is_set():
            # Some pages each, so that there is WAL to archive.
            if self.sql("INSERT INTO ledger (text) SELECT repeat(md5(random()::text), 20) FROM generate_series(1, 200)") is not None:
                self.acknowledged += 200
            self.stop.wait(0.2)


class Kills:
    def __init__(self, asked):
        self.asked, self.chosen = asked, random.Random(asked.seed)
        self.stack = Stack(asked.mainstay, asked.state, asked.file)
        self.killed = {"archive": 0, "backup": 0, "restore": 0}
        self.missed = {"archive": 0, "backup": 0, "restore": 0}
        # How long each takes, from its word that it begins; learnt from one that is not killed.
        self.takes = {}

    def status(self):
        # A part that is not ready for a moment makes the command fail; what it says is wanted all the same.
        return json.loads(self.stack.run("status", "--json").stdout)

    def archiver(self):
        """Kills the program that archives a segment, while it runs: one is asked for and waited for."""
        with open(os.path.join(self.stack.folder(), "runtime")) as file:
            door = os.path.join(file.read().strip(), "api.sock")
        answer = subprocess.run(["curl", "--silent", "--unix-socket", door, "http://localhost/api/v1/database"], capture_output=True, text=True)
        direct = json.loads(answer.stdout)["direct"]
        primary = self.status()["database"]["primary"]
        ask = subprocess.Popen(["psql", "-XAtqc", "SELECT pg_switch_wal()", direct[primary]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until, victim = time.monotonic() + 15, None
        wal = os.path.join(self.asked.repository, "wal")
        while victim is None and time.monotonic() < until:
            for pid, words in processes():
                if "wal-push" in words[1:2] and wal in words:
                    victim = pid
                    break
        ask.wait()
        if victim is None:
            return False
        # It takes some 20 ms: anywhere in them.
        time.sleep(self.chosen.random() * 0.02)
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def command(self, what, kills=True):
        """Kills a backup or restore at a random moment of its work; what only waited for another is no victim."""
        words = {"backup": ["backup", "now"], "restore": ["restore", "--to", "latest", "--once"]}[what]
        begins = {"backup": "reading postgres-", "restore": "restoring backup"}[what]
        child = subprocess.Popen([*self.stack.command, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = []
        for line in child.stderr:
            said.append(line)
            if line.startswith(begins):
                break
        begun = time.monotonic()
        if not kills:
            said += child.stderr
            if child.wait(timeout=600) != 0:
                sys.exit(f"{what}: {''.join(said)}")
            self.takes[what] = time.monotonic() - begun
            return True
        try:
            child.wait(timeout=self.chosen.random() * self.takes[what])
            return False
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait() == -signal.SIGKILL
        finally:
            child.stderr.close()

    def check(self):
        # The control plane proves and frees meanwhile; the check waits for it.
        return faults(self.stack)

    def restore(self):
        done = self.stack.run("restore", "--to", "latest", "--once", timeout=600)
        return done.returncode == 0, done.stderr.strip()[-300:]

    def run(self):
        writer = Writer(self.asked.url)
        begun_with = int(writer.sql("SELECT count(*) FROM ledger"))
        for what in ("backup", "restore"):
            self.command(what, kills=False)
        writer.start()
        bad, failed, checks, restores = [], [], 0, 0
        for number in range(self.asked.count):
            what = ("archive", "backup", "restore")[number % 3]
            hit = False
            for _ in range(5):
                hit = self.archiver() if what == "archive" else self.command(what)
                if hit:
                    break
                self.missed[what] += 1
            self.killed[what] += hit
            checks += 1
            if found := self.check():
                bad.append({"after": number, "what": what, "faults": found[:3]})
            if number % 10 == 9:
                restores += 1
                is_well, why = self.restore()
                if not is_well:
                    failed.append({"after": number, "why": why})
                print(f"{number + 1} kills, {len(bad)} bad checks, {len(failed)} failed restores", file=sys.stderr)
        writer.stop.set()
        writer.join()
        return {
            "asked": self.asked.count, "killed": self.killed, "came_too_late": self.missed, "takes_s": {what: round(took, 2) for what, took in self.takes.items()},
            "checks": checks, "bad_checks": len(bad), "bad": bad, "restores": restores + 1, "failed_restores": len(failed), "failed": failed,
            "acknowledged_rows": writer.acknowledged, **self.compare(begun_with + writer.acknowledged),
        }

    def compare(self, least):
        """Rows of the newest moment: everything acknowledged must be in it once its WAL is archived."""
        time.sleep(12)
        command = [*self.stack.command, "restore", "--to", "latest", "--json"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            line = child.stdout.readline()
            if not line:
                sys.exit(f"the last restore: {child.stderr.read()}")
            name = self.status()["stack"]
            seen = subprocess.run(["psql", "-XAtqc", "SELECT count(*) FROM ledger", json.loads(line)["conninfo"] + f" dbname={name}"], capture_output=True, text=True)
            rows = int(seen.stdout)
        finally:
            child.terminate()
            child.wait()
        return {"rows_restored": rows, "lost_rows": max(0, least - rows)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["flips", "kills"])
    for name in ("mainstay", "state", "file", "repository", "card", "url"):
        parser.add_argument(f"--{name}")
    for name in ("count", "seed"):
        parser.add_argument(f"--{name}", type=int)
    asked = parser.parse_args()
    print(json.dumps(flips(asked) if asked.what == "flips" else Kills(asked).run()))


main()

"""Faults on a running stack, one every 20 s, while writers keep a ledger.

Every fault is a signal to a process that was seen running, and is looked for in the event log afterwards. Prints as
JSON: faults with their events, acknowledged, lost and doubled writes, memory of the stack's own processes with the slope
of a line through it, and whether the stack is whole at the end. Exit 1 when something is lost, doubled, missing or not
whole.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time

from wire import Database, Refused, Stack, pss_kb, quantile, raise_descriptors

OURS = ("keep", "control", "edge", "router")
# A process that ends sooner counts as ending by itself: what then follows is a back-off, not a recovery.
STEADY_S = 12
# A frozen primary is silent for as long as the stack needs to notice (`hang_after`, 3 s), and some more.
FROZEN_S = 8
MEMORY_EVERY_S = 10


class Ledger:
    """Writers that never write an id twice, and remember what they were told of it."""

    def __init__(self, url, pause):
        self.url, self.pause = url, pause
        self.acknowledged, self.unknown, self.failed = [], [], 0
        self.codes, self.longest_stall, self.is_over, self.connections = {}, 0.0, False, 0

    def note(self, error):
        code = error.code if isinstance(error, Refused) else type(error).__name__
        self.codes[code] = self.codes.get(code, 0) + 1

    async def write(self, writer):
        session, number, last = None, 0, time.monotonic()
        while not self.is_over:
            try:
                if session is None:
                    session = await asyncio.wait_for(Database.connect(self.url), 40)
                    self.connections += 1
            except Exception as error:  # noqa: BLE001 - counted by what it is
                self.note(error)
                self.failed += 1
                await asyncio.sleep(0.1)
                continue
            number += 1
            ident = writer * 10_000_000 + number
            try:
                await asyncio.wait_for(session.query(f"insert into soak_ledger values ({ident})"), 60)
                self.acknowledged.append(ident)
                self.longest_stall = max(self.longest_stall, time.monotonic() - last)
                last = time.monotonic()
            except Exception as error:  # noqa: BLE001 - counted by what it is
                self.note(error)
                self.unknown.append(ident)
                # 08007 leaves the session; whatever else it was, a new one is sure.
                if not (isinstance(error, Refused) and error.code == "08007"):
                    session.close()
                    session = None
            await asyncio.sleep(self.pause)

    async def verdict(self):
        session = await Database.connect(self.url)
        present = [int(value) for value in await session.query("select id from soak_ledger")]
        session.close()
        there = set(present)
        return {
            "acknowledged": len(self.acknowledged),
            "lost": sorted(set(self.acknowledged) - there)[:20],
            "lost_count": len(set(self.acknowledged) - there),
            "duplicated": len(present) - len(there),
            "unknown": len(self.unknown),
            "unknown_and_there": len(set(self.unknown) & there),
            "never_written_and_there": len(there - set(self.acknowledged) - set(self.unknown)),
            "sessions_opened": self.connections,
            "not_connected": self.failed,
            "clients_saw": self.codes,
            "longest_stall_ms": round(self.longest_stall * 1000),
        }


def tree(pid):
    """A process and its children: a postmaster's backends are its children."""
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return [pid, *(each for child in children.read().split() for each in tree(int(child)))]


def send(pids, what):
    for pid in pids:
        try:
            os.kill(pid, what)
        except ProcessLookupError:
            pass


def started(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(") ", 1)[1].split()[19]


class Faults:
    def __init__(self, stack, seed):
        self.stack, self.random, self.bag = stack, random.Random(seed), []
        self.done = []

    def kinds(self, processes):
        kinds = [name for name in ("keep", "control", "edge", "router", "cache", "store") if name in processes]
        if any(each["role"] == "instance" for each in processes.values()):
            kinds.append("instance")
        if any(each["detail"] == "primary" for each in processes.values()):
            kinds += ["primary", "primary-freeze"]
        if any(each["detail"].startswith("standby") for each in processes.values()):
            kinds.append("standby")
        return kinds

    def victim(self, kind, processes):
        def is_it(each):
            if kind.startswith("primary"):
                return each["detail"] == "primary"
            if kind == "standby":
                return each["detail"].startswith("standby")
            return each["role"] == "instance" if kind == "instance" else each["name"] == kind
        found = [each for each in processes.values() if is_it(each) and each["pid"]]
        return self.random.choice(found) if found else None

    async def whole(self, patience, name=None, pid=None):
        """Until everything is ready, and `name` is another process than `pid`; gives the milliseconds, or what is not."""
        began, last = time.monotonic(), "nobody answered"
        while time.monotonic() - began < patience:
            try:
                status = await asyncio.to_thread(self.stack.answer, "status")
                waiting = [box["name"] for box in status["boxes"] if box["state"] != "ready"]
                is_another = name is None or await asyncio.to_thread(self.is_another, name, pid)
                if not is_another:
                    last = f"{name} is still pid {pid}, or not started again"
                elif not waiting and status["overall"] == "ready" and status["database"]["is_synchronous"]:
                    return round((time.monotonic() - began) * 1000), None
                else:
                    last = f"not ready: {', '.join(waiting) or 'commits do not wait for the standby'}"
            except Exception as error:  # noqa: BLE001 - the control plane may be the victim
                last = str(error)
            await asyncio.sleep(0.3)
        return None, last

    def is_another(self, name, pid):
        return self.stack.processes()[name]["pid"] not in (None, pid)

    def still_primary(self, name, pid):
        """Whether who was frozen goes on as the primary, some time after the thaw."""
        time.sleep(2)
        one = self.stack.processes()[name]
        return one["pid"] == pid and one["detail"] == "primary"

    async def one(self, at_s):
        processes = await asyncio.to_thread(self.stack.processes)
        if not self.bag:
            self.bag = self.kinds(processes)
            self.random.shuffle(self.bag)
        kind = self.bag.pop()
        victim = self.victim(kind, processes)
        if victim is None:
            self.done.append({"at_s": at_s, "kind": kind, "skipped": "nobody of that kind runs"})
            return
        pid, since = victim["pid"], started(victim["pid"])
        events = await asyncio.to_thread(self.stack.answer_lines, "events", "--lines", "1")
        after = events[-1]["seq"] if events else 0
        if kind == "primary-freeze":
            pids = tree(pid)
            send(pids, signal.SIGSTOP)
            await asyncio.sleep(FROZEN_S)
            send(pids, signal.SIGCONT)
        else:
            os.kill(pid, signal.SIGKILL)
        fault = {"at_s": at_s, "kind": kind, "victim": victim["name"], "pid": pid, "after_seq": after}
        self.done.append(fault)
        # On a busy machine silence is borne longer than the freeze lasts: then nobody was to be replaced.
        fault["was_borne"] = kind == "primary-freeze" and await asyncio.to_thread(self.still_primary, victim["name"], pid)
        name = None if fault["was_borne"] else victim["name"]
        fault["whole_after_ms"], reason = await self.whole(90, name, pid)
        if reason:
            fault["not_whole"] = reason
        fault["is_gone"] = not os.path.exists(f"/proc/{pid}") or started(pid) != since

    def with_events(self, events):
        """Each fault with the first event that tells of it; a fault without one has `event` null."""
        made = [fault for fault in self.done if "victim" in fault]
        for fault, following in zip(made, made[1:] + [None]):
            name, pid = fault["victim"], fault["pid"]
            before = following["after_seq"] if following else float("inf")
            def tells(event):
                if event["seq"] <= fault["after_seq"] or event["seq"] > before:
                    return False
                if fault["was_borne"]:
                    return event["kind"] == "BoxDegraded" and name in event["text"]
                if event["kind"] == "ChildEnded" and event["fields"].get("pid") == pid:
                    return True
                if name == "keep":
                    return event["kind"] in ("KeepLost", "KeepFound")
                return name == "control" and event["kind"] == "ControlStarted"
            found = next((event for event in events if tells(event)), None)
            fault["event"] = found and f"{found['seq']}: {found['kind']} {found['text']}"
        return self.done


def slope(points):
    """Of a straight line through (seconds, KiB): KiB a minute."""
    if len(points) < 3:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    below = sum((x - mean_x) ** 2 for x, _ in points)
    return round(60 * sum((x - mean_x) * (y - mean_y) for x, y in points) / below, 2) if below else None


async def memory(stack, began, samples):
    while True:
        try:
            processes = await asyncio.to_thread(stack.processes)
            sizes = {name: pss_kb(processes[name]["pid"]) for name in OURS if processes[name]["pid"]}
            if len(sizes) == len(OURS):
                samples.append({"at_s": round(time.monotonic() - began, 1), **sizes, "sum": sum(sizes.values())})
        except Exception:  # noqa: BLE001 - a part is being restarted: no sample
            pass
        await asyncio.sleep(MEMORY_EVERY_S)


def flat(samples):
    if not samples:
        return {"samples": 0}
    series = lambda name: [(each["at_s"], each[name]) for each in samples]
    third = max(1, len(samples) // 3)
    median = lambda part: quantile([each["sum"] for each in part], 0.5)
    return {
        "samples": len(samples),
        "slope_kib_per_minute": {name: slope(series(name)) for name in (*OURS, "sum")},
        "median_of_first_third_kib": median(samples[:third]),
        "median_of_last_third_kib": median(samples[-third:]),
        "series": samples,
    }


async def main(options):
    raise_descriptors()
    stack = Stack(options.mainstay, options.state, options.file)
    url = stack.environment(options.service)["DATABASE_URL"]
    session = await Database.connect(url)
    await session.query("drop table if exists soak_ledger; create table soak_ledger (id bigint)")
    session.close()
    ledger, faults, samples = Ledger(url, options.pause), Faults(stack, options.seed), []
    began = time.monotonic()
    writers = [asyncio.create_task(ledger.write(number)) for number in range(options.writers)]
    watching = asyncio.create_task(memory(stack, began, samples))
    end = began + options.minutes * 60
    await asyncio.sleep(min(STEADY_S, options.every))
    while time.monotonic() + options.every <= end:
        turn = time.monotonic()
        await faults.one(round(turn - began, 1))
        told = faults.done[-1]
        print(f"{told['at_s']:7.1f} s  {told['kind']:<15} {told.get('victim', '-'):<12} whole again after {told.get('whole_after_ms')} ms",
              file=sys.stderr, flush=True)
        await asyncio.sleep(max(0.0, options.every - (time.monotonic() - turn)))
    whole_ms, reason = await faults.whole(120)
    ledger.is_over = True
    await asyncio.wait(writers, timeout=70)
    watching.cancel()
    events = stack.answer_lines("events", "--lines", "10000")
    done = faults.with_events(events)
    verdict = await ledger.verdict()
    made = [fault for fault in done if "victim" in fault]
    missing = [fault for fault in made if not fault["event"]]
    result = {
        "seed": options.seed, "minutes": options.minutes, "every_s": options.every, "writers": options.writers,
        "faults_made": len(made), "faults_by_kind": {kind: sum(each["kind"] == kind for each in made) for kind in sorted({each["kind"] for each in made})},
        "faults_without_event": missing, "not_whole": [fault for fault in made if fault.get("not_whole")],
        "whole_p95_ms": quantile([fault["whole_after_ms"] for fault in made if fault["whole_after_ms"]], 0.95),
        "ledger": verdict, "whole_at_the_end": reason is None, "not_whole_at_the_end": reason,
        "memory": flat(samples), "faults": done,
    }
    print(json.dumps(result, indent=2))
    is_good = reason is None and made and not missing and not verdict["lost_count"] and not verdict["duplicated"]
    return 0 if is_good and not verdict["never_written_and_there"] else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("mainstay", "state", "file"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--service", default="backend")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=20, help="seconds from one fault to the next")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two writes of a writer")
    sys.exit(asyncio.run(main(parser.parse_args())))

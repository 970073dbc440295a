"""What bench/failover measures: the primary's postmaster is killed under the load of ledger.py. Prints JSON."""

import argparse
import asyncio
import gc
import json
import os
import random
import signal
import sys
import time

from ledger import TABLE, Load, connect
from patroni import Patroni
from wire import Stack, quantile

# Before the fault and after everybody came through.
SETTLE = 1.0
# A cluster that does not serve everybody again by then has failed.
WITHIN = 180
WHOLE_WITHIN = 300


class Ours:
    """The stack, as `mainstay status` and `mainstay ps` have it."""

    def __init__(self, asked):
        self.stack, self.url = Stack(asked.mainstay, asked.state, asked.file), asked.url

    def primary(self):
        """Pid of the primary's postmaster when the cluster is whole: synchronous, nobody behind."""
        status = self.stack.answer("status")
        database = status["database"]
        if status["overall"] != "ready" or not database["is_synchronous"] or not database["is_writable"]:
            return None
        return self.stack.processes()[f"postgres-{database['primary']}"]["pid"]

    def close(self):
        """The stack is brought down by who brought it up."""


async def whole(cluster):
    until, why = time.monotonic() + WHOLE_WITHIN, None
    while time.monotonic() < until:
        try:
            if pid := await asyncio.to_thread(cluster.primary):
                return pid
        except (RuntimeError, OSError, KeyError, ValueError) as error:
            why = error
        await asyncio.sleep(0.25)
    sys.exit(f"the cluster is not whole after {WHOLE_WITHIN} s: {why}")


async def once(cluster, asked, pause):
    await whole(cluster)
    load = Load(cluster.url, asked.clients, asked.idle)
    await load.begin()
    # At any moment of whatever rhythm the cluster has.
    await asyncio.sleep(SETTLE + pause)
    pid = await whole(cluster)
    served = min(len(client.successes) for client in load.clients)
    gc.collect()
    gc.disable()
    fault = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    is_through = await load.all_came_through(fault, WITHIN)
    gc.enable()
    await asyncio.sleep(0.5)
    dropped = await load.end()
    seen = await load.judge(fault)
    return {**seen, "everybody_served_before": served > 0, "everybody_served_after": is_through, "idle": asked.idle, "idle_dropped": dropped, "killed_pid": pid}


def summed(runs):
    stalls = [run["stall_ms"] for run in runs]
    firsts = [run["first_success_ms"] for run in runs if run["first_success_ms"] is not None]
    total = lambda name: sum(run[name] for run in runs)
    of = lambda values: {"p50": quantile(values, 0.5), "p95": quantile(values, 0.95), "worst": max(values, default=None)}
    return {
        "runs": len(runs), "acknowledged": total("acknowledged"), "lost": total("lost"), "resurrected": total("resurrected"), "not_written": total("not_written"),
        "unknown": total("unknown"), "idle": total("idle"), "idle_dropped": total("idle_dropped"), "connections_lost": total("connections_lost"),
        "void": sum(not (run["everybody_served_before"] and run["everybody_served_after"]) for run in runs),
        "stall_ms": of(stalls), "stall_of_median_client_ms": of([run["stall_of_median_client_ms"] for run in runs]), "first_success_ms": of(firsts),
    }


async def measure(cluster, asked):
    database = await connect(cluster.url)
    await database.query(TABLE)
    await database.query("TRUNCATE failover_ledger")
    database.close()
    chosen, runs = random.Random(asked.seed), []
    for number in range(asked.runs):
        runs.append(await once(cluster, asked, chosen.random() * asked.rhythm))
        print(f"  run {number + 1}: " + ", ".join(f"{name} {runs[-1][name]}" for name in ("stall_ms", "acknowledged", "lost", "idle_dropped", "connections_lost")), file=sys.stderr)
    return {**summed(runs), "seen": runs}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cluster", choices=["mainstay", "patroni"])
    for name in ("mainstay", "state", "file", "url", "work", "profile"):
        parser.add_argument(f"--{name}")
    for name, value in (("runs", 1), ("clients", 64), ("idle", 64), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    # Of its own loop: the fault comes at any moment of it.
    parser.add_argument("--rhythm", type=float, default=1.0)
    asked = parser.parse_args()
    cluster = Ours(asked) if asked.cluster == "mainstay" else Patroni(asked.work, asked.profile, asked.clients + asked.idle)
    try:
        print(json.dumps(asyncio.run(measure(cluster, asked))))
    finally:
        cluster.close()


main()

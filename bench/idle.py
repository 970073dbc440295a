"""Idle clients on a running stack: HTTPS connections kept alive at the edge and database sessions at the router.

Prints as JSON what edge and router take before and with them, what each client takes, how a client that works fares
meanwhile, and whether every idle one still works at the end. Exit 1 when one does not.
"""

import argparse
import asyncio
import json
import os
import random
import ssl
import sys
import time

from wire import Database, Stack, pss_kb, quantile, raise_descriptors

# In one process: below the usual hard limit of descriptors (20,000), and a core's work each.
PER_PROCESS = 2500
# Handshakes under way at the same time in one process.
AT_ONCE = 40
# One answer; a busy machine takes its time, a hang takes longer.
PATIENCE = 60


async def request(reader, writer, host):
    writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    await reader.readexactly(length)
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(head.split(b"\r\n")[0].decode())


class Https:
    def __init__(self, place):
        self.place, self.tls = place, ssl.create_default_context(cafile=place["ca"])

    async def open(self):
        place = self.place
        # From an address of its own, as clients come: the edge limits each.
        address = f"127.1.{random.randrange(256)}.{random.randrange(1, 255)}"
        pair = await asyncio.open_connection(
            "127.0.0.1", place["port"], ssl=self.tls, server_hostname=place["host"], local_addr=(address, 0))
        await request(*pair, place["host"])
        return pair

    async def use(self, pair):
        await request(*pair, self.place["host"])


class Db:
    def __init__(self, place):
        self.place = place

    async def open(self):
        session = await Database.connect(self.place["url"])
        await session.query("select 1")
        return session

    async def use(self, session):
        if await session.query("select 42") != ["42"]:
            raise RuntimeError("another answer than 42")


KINDS = {"https": Https, "db": Db}


async def gather(jobs):
    """Each with its bound of time; failures are counted by their text."""
    gate, failures, done = asyncio.Semaphore(AT_ONCE), {}, []

    async def one(job):
        async with gate:
            try:
                done.append(await asyncio.wait_for(job(), PATIENCE))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted and told
                text = f"{type(error).__name__}: {error}"
                failures[text] = failures.get(text, 0) + 1

    await asyncio.gather(*(one(job) for job in jobs))
    return done, failures


async def worker(kind, count, place):
    """Opens, says so, waits for a line, uses each, says how that went."""
    raise_descriptors()
    client = KINDS[kind](place)
    opened, failures = await gather([client.open] * count)
    print(json.dumps({"opened": len(opened), "failures": failures}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    took = []

    async def use(each):
        began = time.monotonic()
        await client.use(each)
        took.append((time.monotonic() - began) * 1000)

    used, failures = await gather([lambda each=each: use(each) for each in opened])
    print(json.dumps({"used": len(used), "failures": failures, "p95_ms": quantile(took, 0.95)}), flush=True)


async def good(place, rounds):
    """A client that comes now: connects, asks, goes."""
    took = {"request": [], "query": []}
    for _ in range(rounds):
        for name, client in (("request", Https(place)), ("query", Db(place))):
            began = time.monotonic()
            session = await asyncio.wait_for(client.open(), PATIENCE)
            took[name].append((time.monotonic() - began) * 1000)
            session.close() if name == "query" else session[1].close()
    return {name: {"p50_ms": round(quantile(times, 0.5), 1), "worst_ms": round(max(times), 1)} for name, times in took.items()}


async def spawn(kind, count, place):
    process = await asyncio.create_subprocess_exec(
        sys.executable, os.path.abspath(__file__), "--worker", kind, str(count), json.dumps(place),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    return process, kind


def sizes(stack):
    processes = stack.processes()
    return {name: (processes[name]["pid"], pss_kb(processes[name]["pid"])) for name in ("edge", "router")}


async def main(options):
    stack = Stack(options.mainstay, options.state, options.file)
    folder = stack.folder()
    with open(os.path.join(folder, "ports.json")) as ports:
        text = json.load(ports)
    find = lambda tree: tree.get("edge-https") or next(find(each) for each in tree.values() if isinstance(each, dict))
    place = {"ca": os.path.join(folder, "ca/ca.pem"), "port": find(text), "host": options.host,
             "url": stack.environment(options.service)["DATABASE_URL"]}
    result = {"descriptors_of_a_client_process": raise_descriptors(), "asked": {"https": options.https, "db": options.db}}
    result["good_client_before"] = await good(place, options.rounds)
    before = sizes(stack)
    began = time.monotonic()
    workers = []
    for kind, count in (("https", options.https), ("db", options.db)):
        for start in range(0, count, PER_PROCESS):
            workers.append(await spawn(kind, min(PER_PROCESS, count - start), place))
    opened, failures = {"https": 0, "db": 0}, {}
    for process, kind in workers:
        said = json.loads(await process.stdout.readline())
        opened[kind] += said["opened"]
        failures.update(said["failures"])
    result |= {"opened": opened, "opened_in_s": round(time.monotonic() - began, 1), "failures_to_open": failures}
    await asyncio.sleep(options.hold)
    during = sizes(stack)
    for name, kind in (("edge", "https"), ("router", "db")):
        (pid, less), (now, more) = before[name], during[name]
        result[name] = {"pss_before_kb": less, "pss_with_them_kb": more, "is_the_same_process": pid == now,
                        "kib_per_client": round((more - less) / max(opened[kind], 1), 2)}
    result["pools"] = stack.answer("db", "pool")
    result["good_client_meanwhile"] = await good(place, options.rounds)
    used, slowest, failures = {"https": 0, "db": 0}, {}, {}
    for process, _ in workers:
        process.stdin.write(b"\n")
    for process, kind in workers:
        said = json.loads(await process.stdout.readline())
        used[kind] += said["used"]
        slowest[kind] = max(slowest.get(kind, 0), said["p95_ms"] or 0)
        failures.update(said["failures"])
    result |= {"still_work": used, "use_p95_ms": {kind: round(ms, 1) for kind, ms in slowest.items()},
               "failures_to_use": failures, "idle_for_s": options.hold}
    print(json.dumps(result, indent=2))
    return 0 if used == {"https": options.https, "db": options.db} else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        asyncio.run(worker(sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])))
        sys.exit(0)
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("mainstay", "state", "file"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--host", default="users.localhost")
    parser.add_argument("--service", default="backend")
    parser.add_argument("--https", type=int, default=10_000)
    parser.add_argument("--db", type=int, default=1_000)
    parser.add_argument("--hold", type=int, default=30, help="seconds between the last connection and the first use")
    parser.add_argument("--rounds", type=int, default=10, help="requests and queries of the client that works")
    sys.exit(asyncio.run(main(parser.parse_args())))

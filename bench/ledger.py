"""The load of bench/failover, the same for every cluster: clients that write rows with numbers of their own and note
what was acknowledged, and sessions that sit idle. Judged by what is in the table afterwards."""

import asyncio
import time

from wire import Database, Refused

# How long a client thinks between two rows: 64 of them ask for 1,280 rows a second at most.
PAUSE = 0.05
# One that lost its connection tries again after.
RETRY = 0.01
CONNECT_WITHIN = 2.0
BROKEN = (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError)
TABLE = "CREATE TABLE IF NOT EXISTS failover_ledger (client int, number int, PRIMARY KEY (client, number))"


async def connect(url):
    return await asyncio.wait_for(Database.connect(url), CONNECT_WITHIN)


class Client:
    """Every fourth writes in a transaction of its own words (BEGIN, INSERT, COMMIT); the others let the server do it."""

    def __init__(self, load, identity):
        self.load, self.identity = load, identity
        self.in_words = identity % 4 == 0
        self.database, self.number = None, 0
        # When each success was asked for and came; numbers by what is known of them.
        self.successes, self.acknowledged, self.unknown, self.failed = [], set(), set(), set()
        self.lost_connections = 0

    async def work(self):
        while not self.load.is_over:
            if self.database is None:
                try:
                    self.database = await connect(self.load.url)
                except (*BROKEN, Refused) as error:
                    self.load.saw(error)
                    await asyncio.sleep(RETRY)
                    continue
            self.number += 1
            begun = time.monotonic()
            try:
                await self.write(self.number)
            except Refused as error:
                # 40001 is a promise that nothing of it is there; of the rest nobody knows.
                (self.failed if error.code == "40001" else self.unknown).add(self.number)
                self.load.saw(error)
                await self.roll_back()
                await asyncio.sleep(RETRY)
                continue
            except BROKEN as error:
                self.unknown.add(self.number)
                self.load.saw(error)
                self.drop()
                await asyncio.sleep(RETRY)
                continue
            self.acknowledged.add(self.number)
            self.successes.append((begun, time.monotonic()))
            await asyncio.sleep(PAUSE)
        self.drop(is_counted=False)

    async def write(self, number):
        row = f"INSERT INTO failover_ledger VALUES ({self.identity}, {number})"
        for words in ("BEGIN", row, "COMMIT") if self.in_words else (row,):
            await self.database.query(words)

    async def roll_back(self):
        if self.in_words:
            try:
                await self.database.query("ROLLBACK")
            except (*BROKEN, Refused):
                self.drop()

    def drop(self, is_counted=True):
        if self.database is not None:
            self.database.close()
            self.database = None
            self.lost_connections += is_counted

    def stall(self, fault):
        """Longest time between two successes that ended after the fault."""
        ends = [end for _, end in self.successes]
        return max((after - before for before, after in zip(ends, ends[1:]) if after > fault), default=0.0)

    def has_come_through(self, fault):
        return bool(self.successes) and self.successes[-1][0] > fault


class Load:
    def __init__(self, url, clients, idle):
        self.url, self.is_over, self.errors = url, False, {}
        self.clients = [Client(self, identity) for identity in range(clients)]
        self.idle_wanted, self.idle, self.tasks = idle, [], []

    def saw(self, error):
        word = error.code if isinstance(error, Refused) else type(error).__name__
        self.errors[word] = self.errors.get(word, 0) + 1

    async def begin(self):
        self.idle = await asyncio.gather(*[connect(self.url) for _ in range(self.idle_wanted)])
        await asyncio.gather(*[one.query("SELECT 1") for one in self.idle])
        self.tasks = [asyncio.create_task(client.work()) for client in self.clients]

    async def all_came_through(self, fault, within):
        until = time.monotonic() + within
        while time.monotonic() < until:
            if all(client.has_come_through(fault) for client in self.clients):
                return True
            await asyncio.sleep(0.02)
        return False

    async def end(self):
        """Stops the writers, and asks every idle session whether it still is one. Gives how many are not."""
        self.is_over = True
        await asyncio.wait(self.tasks, timeout=60)
        for task in self.tasks:
            task.cancel()

        async def is_gone(database):
            try:
                return await asyncio.wait_for(database.query("SELECT 1"), 40) != ["1"]
            except (*BROKEN, Refused):
                return True
            finally:
                database.close()

        return sum(await asyncio.gather(*[is_gone(one) for one in self.idle]))

    async def judge(self, fault):
        """What clients saw, and what the table has."""
        database = await connect(self.url)
        there = {tuple(map(int, row.split(","))) for row in await database.query("SELECT client || ',' || number FROM failover_ledger")}
        await database.query("TRUNCATE failover_ledger")
        database.close()
        of = lambda kind: {(client.identity, number) for client in self.clients for number in getattr(client, kind)}
        acknowledged, unknown, failed = of("acknowledged"), of("unknown"), of("failed")
        firsts = [end for client in self.clients for begun, end in client.successes if begun > fault]
        stalls = sorted(client.stall(fault) for client in self.clients)
        return {
            "acknowledged": len(acknowledged), "lost": len(acknowledged - there), "not_written": len(there - acknowledged - unknown - failed),
            "resurrected": len(failed & there), "unknown": len(unknown), "unknown_there": len(unknown & there), "failed": len(failed),
            "stall_ms": round(stalls[-1] * 1000), "stall_of_median_client_ms": round(stalls[len(stalls) // 2] * 1000),
            "first_success_ms": round((min(firsts) - fault) * 1000) if firsts else None,
            "connections_lost": sum(client.lost_connections for client in self.clients), "clients_saw": dict(sorted(self.errors.items())),
        }

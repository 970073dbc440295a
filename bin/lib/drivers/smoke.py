"""The same small script in psycopg and asyncpg: `smoke.py DRIVER [through]`; DATABASE_URL says where.

`through`: one connection is idle, one in a transaction, while the primary dies: READY is the folder where it is told
that they are, and where it is waited for the end of that.
"""
import asyncio
import os
import pathlib
import sys
import time

URL = os.environ["DATABASE_URL"]
CA = os.environ["CA"]


def psycopg():
    import psycopg

    for parameters in ({"sslmode": "disable"}, {"sslmode": "verify-full", "sslrootcert": CA}):
        with psycopg.connect(URL, **parameters) as db:
            # Prepared by the server from the sixth execution on.
            for number in range(12):
                assert db.execute("select %s::int + 1", [number]).fetchone()[0] == number + 1
            db.execute("create table if not exists psycopg_t (id int, t text)")
            db.commit()
            with db.cursor().copy("copy psycopg_t from stdin") as copy:
                for number in range(1000):
                    copy.write_row((number, "x" * 50))
            db.commit()
            with db.cursor().copy("copy psycopg_t to stdout") as copy:
                assert sum(1 for _ in copy.rows()) == 1000
            with db.pipeline():
                cursors = [db.execute("select %s::int", [number]) for number in range(20)]
                assert [cursor.fetchone()[0] for cursor in cursors] == list(range(20))
            db.commit()
            try:
                db.execute("select 1/0")
                raise AssertionError("no error")
            except psycopg.errors.DivisionByZero:
                db.rollback()
            with db.cursor(name="server_side") as cursor:
                cursor.execute("select generate_series(1, 5000)")
                assert sum(1 for _ in cursor) == 5000
            db.execute("listen news")
            db.execute("notify news, 'hello'")
            db.commit()
            assert next(db.notifies()).payload == "hello"
            db.execute("drop table psycopg_t")


async def asyncpg():
    import ssl

    import asyncpg

    for tls in (False, ssl.create_default_context(cafile=CA)):
        db = await asyncpg.connect(URL, ssl=tls)
        for number in range(12):
            assert await db.fetchval("select $1::int + 1", number) == number + 1
        await db.execute("create table if not exists asyncpg_t (id int, t text)")
        rows = [(number, "y" * 50) for number in range(1000)]
        await db.copy_records_to_table("asyncpg_t", records=rows)
        await db.executemany("insert into asyncpg_t values ($1, $2)", rows[:50])
        async with db.transaction():
            assert await db.fetchval("select count(*) from asyncpg_t") == 1050
            async for _ in db.cursor("select id from asyncpg_t"):
                pass
        try:
            await db.fetchval("select 1/0")
            raise AssertionError("no error")
        except asyncpg.DivisionByZeroError:
            pass
        try:
            await db.fetchval("select pg_sleep(20)", timeout=0.3)
            raise AssertionError("no timeout")
        except asyncio.TimeoutError:
            pass
        assert len(await db.fetchval("select repeat('z', 3000000)")) == 3_000_000
        await db.execute("drop table asyncpg_t")
        await db.close()


def wait_for_the_failover(name):
    ready = pathlib.Path(os.environ["READY"])
    (ready / name).touch()
    while not (ready / "over").exists():
        time.sleep(0.05)


def psycopg_through():
    import psycopg

    with psycopg.connect(URL, autocommit=True) as idle, psycopg.connect(URL) as busy:
        add = lambda: idle.execute("select %s::int + 1", [1], prepare=True).fetchone()[0]
        assert add() == 2
        busy.execute("insert into held (driver) values ('psycopg, lost')")
        wait_for_the_failover("psycopg")
        assert add() == 2
        try:
            busy.execute("select 1")
            raise AssertionError("the lost transaction went on")
        except psycopg.errors.SerializationFailure:
            busy.rollback()
        busy.execute("insert into held (driver) values ('psycopg')")
        busy.commit()


async def asyncpg_through():
    import asyncpg

    idle, busy = await asyncpg.connect(URL), await asyncpg.connect(URL)
    add = await idle.prepare("select $1::int + 1")
    assert await add.fetchval(1) == 2
    transaction = busy.transaction()
    await transaction.start()
    await busy.execute("insert into held (driver) values ('asyncpg, lost')")
    wait_for_the_failover("asyncpg")
    assert await add.fetchval(1) == 2
    try:
        await busy.fetchval("select 1")
        raise AssertionError("the lost transaction went on")
    except asyncpg.SerializationError:
        await transaction.rollback()
    await busy.execute("insert into held (driver) values ('asyncpg')")
    await idle.close()
    await busy.close()


ALL = {
    ("psycopg",): psycopg,
    ("psycopg", "through"): psycopg_through,
    ("asyncpg",): lambda: asyncio.run(asyncpg()),
    ("asyncpg", "through"): lambda: asyncio.run(asyncpg_through()),
}
ALL[tuple(sys.argv[1:])]()

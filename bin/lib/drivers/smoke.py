"""The same small script in psycopg and asyncpg: `smoke.py DRIVER`; DATABASE_URL says where."""
import asyncio
import os
import sys

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


if sys.argv[1] == "psycopg":
    psycopg()
else:
    asyncio.run(asyncpg())

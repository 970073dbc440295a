"""A door before a server: passes bytes to it until it is killed. The server stays, and what it holds.

door.py PORT SERVER_PORT [BYTES_PER_SECOND]
"""
import asyncio
import sys

port, behind = map(int, sys.argv[1:3])
rate = int(sys.argv[3]) if len(sys.argv) > 3 else None


async def carry(reader, writer):
    try:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
            if rate:
                await asyncio.sleep(len(piece) / rate)
    except OSError:
        pass
    finally:
        writer.close()


async def pass_on(reader, writer):
    try:
        there = await asyncio.open_connection("127.0.0.1", behind)
    except OSError:
        writer.close()
        return
    await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))


async def main():
    server = await asyncio.start_server(pass_on, "127.0.0.1", port)
    await server.serve_forever()


asyncio.run(main())

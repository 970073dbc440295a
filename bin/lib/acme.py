"""Helpers of acme.sh.

forward FROM TO              a door to another port of this machine; whoever kills it closes the door
load HOST PORT ROOT REPORT   opens one connection after the other until it is told to stop (SIGTERM), each held to the
                             authority in the file ROOT and to the name; then writes what it saw
"""

import asyncio
import json
import signal
import socket
import ssl
import sys
import time


async def forward(listen_port, port):
    async def copy(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader, writer):
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", listen_port)
    async with server:
        await server.serve_forever()


def load(host, port, root, report):
    is_over = False

    def stop(*_):
        nonlocal is_over
        is_over = True

    signal.signal(signal.SIGTERM, stop)
    context = ssl.create_default_context(cafile=root)
    handshakes, failures, serials = 0, [], []
    while not is_over:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
                with context.wrap_socket(plain, server_hostname=host) as stream:
                    serial = stream.getpeercert()["serialNumber"]
                    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                    stream.sendall(request.encode())
                    answer = b""
                    while part := stream.recv(65536):
                        answer += part
            if not answer.startswith(b"HTTP/1.1 200"):
                raise OSError(f"answered {answer[:60]!r}")
            handshakes += 1
            if serial not in serials:
                serials.append(serial)
        except OSError as error:
            failures.append(f"{time.strftime('%H:%M:%S')} {error}")
        time.sleep(0.05)
    with open(report, "w") as file:
        json.dump({"handshakes": handshakes, "failures": failures, "serials": serials}, file)


if sys.argv[1] == "forward":
    asyncio.run(forward(int(sys.argv[2]), int(sys.argv[3])))
else:
    load(sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])

"""Asks as one address as often as it may and more, and compares what was let through with 1,000 a minute.

    limit.py PORT CA HOST PATH

First without pause until a request is refused (429): what a minute has, and what comes meanwhile. Then for 30 s about
twice as often as is allowed: the rate, and no more. Each within 1 %. At last /api/v1/info, which no limit holds up.
"""

import http.client
import socket
import ssl
import sys
import time

PER_SECOND = 1000 / 60
LONG = 30
# Nobody else's.
ADDRESS = "127.0.77.7"

port, ca, host, path = int(sys.argv[1]), *sys.argv[2:]
context = ssl.create_default_context(cafile=ca)
line = None


def ask(what):
    """Status of one request; a connection is kept for as long as the edge keeps it."""
    global line
    if line is None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=40, source_address=(ADDRESS, 0))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = http.client.HTTPSConnection(host, port, timeout=40)
        line.sock = context.wrap_socket(raw, server_hostname=host)
    line.request("GET", what)
    answer = line.getresponse()
    answer.read()
    if answer.will_close:
        line.close()
        line = None
    if answer.status == 429 and int(answer.headers["retry-after"]) < 1:
        raise SystemExit("429 without a time to wait")
    return answer.status


def compare(what, got, wanted):
    print(f"{what}: {got}, computed {wanted:.1f}")
    if abs(got - wanted) > max(wanted / 100, 1):
        raise SystemExit(f"{what}: more than 1 % off")


began = time.monotonic()
let_through = 0
while ask(path) != 429:
    let_through += 1
took = time.monotonic() - began
compare(f"without pause, in {took:.2f} s, before the first refusal", let_through, 1000 + took * PER_SECOND)

began, let_through, sent = time.monotonic(), 0, 0
while (now := time.monotonic()) < began + LONG:
    # Evenly, and as fast as is possible when it was late.
    time.sleep(max(0, began + sent / PER_SECOND / 2 - now))
    sent += 1
    let_through += ask(path) != 429
took = time.monotonic() - began
# On a busy machine a handshake after each refusal takes its time; what counts is that it asked for more all along.
if sent < took * PER_SECOND * 1.05:
    raise SystemExit(f"only {sent} requests in {took:.1f} s: the limit was not tried")
compare(f"of {sent} in {took:.1f} s after that", let_through, took * PER_SECOND)

exempt = [ask("/api/v1/info") for _ in range(100)]
if exempt != [200] * 100:
    raise SystemExit(f"/api/v1/info is limited: {sorted(set(exempt))}")

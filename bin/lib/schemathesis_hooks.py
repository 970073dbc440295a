"""Names below localhost are this machine (RFC 6761, 6.3), also where the C library does not say so.

With ADDRESSES=many each connection comes from an address of its own, so that a limit per address does not end the test:
the edge closes the connection of whom it refuses, and the next one is somebody else's.
"""

import os
import random
import socket

_ask = socket.getaddrinfo
_connect = socket.socket.connect


def _getaddrinfo(host, *args, **kwargs):
    if isinstance(host, str) and host.rstrip(".").endswith(".localhost"):
        host = "127.0.0.1"
    return _ask(host, *args, **kwargs)


def _connect_from_elsewhere(self, address):
    if self.family == socket.AF_INET and address[0] == "127.0.0.1":
        self.bind((f"127.2.{random.randrange(256)}.{random.randrange(1, 255)}", 0))
    return _connect(self, address)


socket.getaddrinfo = _getaddrinfo
if os.environ.get("ADDRESSES") == "many":
    socket.socket.connect = _connect_from_elsewhere

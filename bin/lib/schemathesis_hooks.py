"""Names below localhost are this machine (RFC 6761, 6.3), also where the C library does not say so."""

import socket

_ask = socket.getaddrinfo


def _getaddrinfo(host, *args, **kwargs):
    if isinstance(host, str) and host.rstrip(".").endswith(".localhost"):
        host = "127.0.0.1"
    return _ask(host, *args, **kwargs)


socket.getaddrinfo = _getaddrinfo

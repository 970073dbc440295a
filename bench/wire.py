"""What the load programs of bench/ share: PostgreSQL's protocol with SCRAM, the program's answers, sizes of processes.
Python's own library only: nothing is to be installed."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import resource
import struct
import subprocess
from urllib.parse import unquote, urlsplit


def raise_descriptors():
    """As many as the system allows; gives how many that is."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Refused(Exception):
    """An ErrorResponse. `code` is its SQLSTATE."""

    def __init__(self, body):
        fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
        self.code = fields.get(b"C", "")
        super().__init__(f"{self.code} {fields.get(b'M', '')}")


class Database:
    """One session by the simple query protocol."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, url):
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
        self = cls(reader, writer)
        user, password = unquote(parts.username), unquote(parts.password)
        body = struct.pack("!i", 196608)
        for word in ("user", user, "database", parts.path.strip("/"), "application_name", "bench", ""):
            body += word.encode() + b"\0"
        writer.write(struct.pack("!i", len(body) + 4) + body)
        try:
            await self._authenticate(password)
        except BaseException:
            writer.close()
            raise
        return self

    async def _authenticate(self, password):
        nonce = base64.b64encode(os.urandom(18)).decode()
        bare = f"n=,r={nonce}"
        server_first = ""
        while True:
            kind, body = await self._message()
            if kind == b"Z":
                return
            if kind != b"R":
                continue
            step = struct.unpack("!i", body[:4])[0]
            if step == 10:
                first = f"n,,{bare}".encode()
                self._send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
            elif step == 11:
                server_first = body[4:].decode()
                self._send(b"p", self._proof(password, bare, server_first).encode())

    @staticmethod
    def _proof(password, bare, server_first):
        given = dict(part.split("=", 1) for part in server_first.split(","))
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(given["s"]), int(given["i"]))
        key = hmac.digest(salted, b"Client Key", "sha256")
        final = f"c=biws,r={given['r']}"
        auth = f"{bare},{server_first},{final}".encode()
        signature = hmac.digest(hashlib.sha256(key).digest(), auth, "sha256")
        proof = bytes(left ^ right for left, right in zip(key, signature))
        return f"{final},p={base64.b64encode(proof).decode()}"

    def _send(self, kind, body):
        self.writer.write(kind + struct.pack("!i", len(body) + 4) + body)

    async def _message(self):
        kind, length = struct.unpack("!ci", await self.reader.readexactly(5))
        body = await self.reader.readexactly(length - 4)
        if kind == b"E":
            raise Refused(body)
        return kind, body

    async def query(self, text):
        """Rows of the first column."""
        self._send(b"Q", text.encode() + b"\0")
        rows, refused = [], None
        while True:
            try:
                kind, body = await self._message()
            except Refused as error:
                refused = error
                continue
            if kind == b"D":
                length = struct.unpack("!i", body[2:6])[0]
                rows.append(body[6 : 6 + length].decode() if length >= 0 else None)
            if kind == b"Z":
                if refused:
                    raise refused
                return rows

    def close(self):
        self.writer.close()


class Stack:
    """A running stack, by its program."""

    def __init__(self, program, state, file):
        self.command = [program, "--state", state, "--file", file]
        self.state = state

    def run(self, *words, timeout=60):
        return subprocess.run([*self.command, *words], capture_output=True, text=True, timeout=timeout)

    def answer(self, *words):
        done = self.run(*words, "--json")
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def answer_lines(self, *words):
        done = self.run(*words, "--json")
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def processes(self):
        return {each["name"]: each for each in self.answer("ps")}

    def environment(self, service):
        done = self.run("env", service, "--show-secrets")
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def folder(self):
        found = [os.path.join(self.state, name, "development") for name in os.listdir(self.state)]
        return next(path for path in found if os.path.isdir(path))


def pss_kb(pid):
    """Proportional set size: shared pages are counted once, divided among those who share them."""
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def quantile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else None

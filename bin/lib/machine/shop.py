"""A service that eats memory, or all of a core, when it is asked to."""
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Shop(BaseHTTPRequestHandler):
    def do_POST(self):
        # Not a GET: the edge would ask the next instance for it, and that one would be killed too.
        eaten = []
        while True:
            eaten.append(bytearray(b"x" * 1024 * 1024))

    def do_GET(self):
        if self.path == "/burn":
            before, end = time.process_time(), time.monotonic() + 2
            while time.monotonic() < end:
                pass
            self.answer(str(time.process_time() - before))
        else:
            self.answer("shop %d" % os.getpid())

    def answer(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Shop).serve_forever()

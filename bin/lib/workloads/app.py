"""One program, several processes. What it does can be changed by files in its home."""
import http.server
import os
import signal
import sys
import time

HOME = os.environ["HOME"]


def read(name, default):
    try:
        with open(os.path.join(HOME, name)) as file:
            return file.read().strip()
    except FileNotFoundError:
        return default


def note(name, text):
    with open(os.path.join(HOME, name), "a") as file:
        file.write(text + "\n")


def serve():
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = os.environ["MAINSTAY_INSTANCE"].encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.serve_forever()


def work():
    name = os.environ["MAINSTAY_INSTANCE"]
    if read("broken", ""):
        print("cannot work: a file says so", flush=True)
        sys.exit(3)

    def finish(*_):
        note("drained", name + " begins")
        time.sleep(1)
        note("drained", name + " ends")
        sys.exit(0)

    signal.signal(signal.SIGTERM, finish)
    print(name, "works", flush=True)
    while True:
        time.sleep(60)


def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


def report():
    due = os.environ["MAINSTAY_DUE"]
    note("runs", f"begins {due} {time.time():.3f}")
    print("reports", due, flush=True)
    time.sleep(float(read("sleep", "0")))
    note("runs", f"ends {due} {time.time():.3f}")
    sys.exit(int(read("exit", "0")))


def prepare():
    note("prepared", os.environ["MAINSTAY_RELEASE"])
    print("prepares", os.environ["MAINSTAY_RELEASE"], "PORT" in os.environ, "DATABASE_URL" in os.environ, flush=True)
    time.sleep(float(read("wait", "0")))
    if read("fail", ""):
        print("relation users does not exist", flush=True)
        sys.exit(5)


globals()[sys.argv[1]]()

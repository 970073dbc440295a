"""Runs a command in a terminal of its own and prints what it wrote.

terminal.py COLUMNS ROWS KEYS SECONDS COMMAND...: KEYS are typed after SECONDS; `-` types nothing. Exits as it does.
"""
import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

columns, rows, keys, seconds = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "xterm"
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.execvp(sys.argv[5], sys.argv[5:])
type_at = time.monotonic() + seconds
give_up_at = time.monotonic() + 60
while True:
    if keys != "-" and time.monotonic() >= type_at:
        os.write(terminal, keys.encode())
        keys = "-"
    if time.monotonic() > give_up_at:
        os.kill(pid, 9)
    ready, _, _ = select.select([terminal], [], [], 0.1)
    if ready:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status) % 256)

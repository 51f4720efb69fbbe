"""One of two racers, which connect at the same moment, each on its own processor.

racer.py CPU SHARED-FILE ADDRESS PORT: each line of standard input starts a round, whose result is printed: 1 if the
connection was accepted, else 0. Byte CPU of the shared file is the last round this racer was ready for (mod 256), byte 2 the last round that
one of them has won."""

import mmap
import os
import select
import socket
import sys
import time

cpu, path, address, port = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
os.sched_setaffinity(0, {cpu})
with open(path, "r+b") as file:
    ready = mmap.mmap(file.fileno(), 3)
for line in sys.stdin:
    target, other = int(line) % 256, 1 - cpu
    with socket.socket() as runner:
        runner.setblocking(False)
        ready[cpu] = target
        while ready[other] != target:
            pass
        runner.connect_ex((address, port))
        # Both may look connected: the greeting is for one.
        deadline, readable = time.monotonic() + 3, []
        while not readable and ready[2] != target and time.monotonic() < deadline:
            readable = select.select([runner], [], [], 0.001)[0]
        readable = readable or select.select([runner], [], [], 0.02)[0]
        try:
            won = bool(readable) and runner.recv(100) != b""
        except OSError:
            won = False
        if won:
            ready[2] = target
        print(int(won), flush=True)

#!/usr/bin/env python3
"""Measures the cost of the proxy in comparison with a direct connection and microsocks, in turns, in one run.

    proxy.py [--quick]

Needs root; works in its own network namespaces. Prints each figure when it is measured, stores all of them in
docs/benchmarks.json, and renders the document. With --quick it measures less and stores nothing.
"""

import collections
import contextlib
import ctypes
import fcntl
import os
import random
import select
import socket
import struct
import sys
import threading
import time

from bench import prepare, publish
from contestants import BINARY, DISK, GROUP, PORT, TMPFS, Knockknock
from results import Section, median
from world import SERVER, Network, Process

GREETER, SOURCE = PORT + 1, PORT + 2       # not guarded, unlike PORT, which sends the same byte as GREETER
OURS, MICROSOCKS = 1080, 1081
FAR, FAR_CLIENT = "10.94.0.1", "10.94.0.2"
PIECE, CLONE_NEWNET = 1 << 20, 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000


def serve(amount):
    """Runs the servers: two ports send one byte, the third sends `amount` bytes."""
    def run(port, answer):
        with socket.create_server(("", port), backlog=1000) as listener:
            if port == SOURCE:
                print("serving", flush=True)
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with connection, contextlib.suppress(OSError):
                    answer(connection)

    def greet(connection):
        connection.sendall(b"x")
        connection.recv(1)

    def send(connection):
        for _ in range(amount // PIECE):
            connection.sendall(bytes(PIECE))

    for port in (PORT, GREETER):
        threading.Thread(target=run, args=(port, greet), daemon=True).start()
    run(SOURCE, send)


@contextlib.contextmanager
def inside(namespace):
    """Moves this thread into the namespace for the with block, so that its new sockets belong to it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net", encoding="ascii") as home, \
            open(f"/run/netns/{namespace}", encoding="ascii") as there:
        libc.setns(there.fileno(), CLONE_NEWNET)
        try:
            yield
        finally:
            libc.setns(home.fileno(), CLONE_NEWNET)


def cable(client, server, milliseconds):
    """Connects two namespaces by a link that delays each frame, in user space because not every kernel has netem."""
    ends = []
    for namespace in (client, server):
        with inside(namespace):
            ends.append(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
            fcntl.ioctl(ends[-1], TUNSETIFF, struct.pack("16sH22x", b"far0", IFF_TAP | IFF_NO_PI))
    print("up", flush=True)
    on_the_way, delay = collections.deque(), milliseconds / 1000
    while True:
        wait = max(on_the_way[0][0] - time.monotonic(), 0) if on_the_way else None
        for end in select.select(ends, [], [], wait)[0]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    on_the_way.append((time.monotonic() + delay, ends[end == ends[0]], os.read(end, 2048)))
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _, end, frame = on_the_way.popleft()
            with contextlib.suppress(OSError):      # the other end is not up yet
                os.write(end, frame)


def connect(namespace, port, proxy=None, server=SERVER):
    """Connects to the server's port, directly or through a proxy; returns (socket, time of the request)."""
    with inside(namespace):
        client = socket.socket()
    client.settimeout(20)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not proxy:
        asked = time.perf_counter()
        client.connect((server, port))
        return client, asked
    client.connect(("127.0.0.1", proxy))
    client.sendall(b"\x05\x01\x00")
    assert client.recv(2) == b"\x05\x00"
    request = b"\x05\x01\x00\x01" + socket.inet_aton(server) + struct.pack("!H", port)
    asked = time.perf_counter()
    client.sendall(request)
    answer = client.recv(10, socket.MSG_WAITALL)
    if answer[:2] != b"\x05\x00":
        raise OSError(f"the proxy refused: {answer.hex()}")
    return client, asked


def first_byte(namespace, port, proxy=None, server=SERVER):
    """Returns the milliseconds from the request to the server's first byte."""
    client, asked = connect(namespace, port, proxy, server)
    with client:
        assert client.recv(1) == b"x"
        return (time.perf_counter() - asked) * 1000


def throughput(namespace, proxy, amount):
    """Returns the megabytes per second of one download."""
    client, _ = connect(namespace, SOURCE, proxy)
    buffer, got, start = bytearray(PIECE), 0, time.perf_counter()
    with client:
        while length := client.recv_into(buffer):
            got += length
    assert got == amount
    return got / (time.perf_counter() - start) / 1e6


@contextlib.contextmanager
def world(log, amount, round_trip_ms=0, store=TMPFS):
    """Starts a server with the daemon and a client with both proxies. Yields (client, our proxy, microsocks)."""
    settings = {"ports": PORT, "wire": "stealth"}
    with Network() as network, Knockknock(network, store=store, log=log, **settings) as ours, contextlib.ExitStack() as stack:
        def start(label, namespace, *words, **options):
            process = Process(label, [str(word) for word in words], namespace=namespace, **options)
            stack.callback(process.stop)
            return process

        if round_trip_ms:
            words = [sys.executable, __file__, "cable", network.client, network.server, str(round_trip_ms / 2)]
            stack.callback(Process("cable", words, ready="up").stop)
            for namespace, address in ((network.client, FAR_CLIENT), (network.server, FAR)):
                network.run(namespace, "ip", "address", "add", f"{address}/24", "dev", "far0")
                network.run(namespace, "ip", "link", "set", "far0", "up")
        server = FAR if round_trip_ms else SERVER
        ours.key.write(ours.path(f"client/{server}"), Knockknock.knock_port, **settings)
        start("server", network.server, sys.executable, __file__, "serve", amount, ready="serving")
        proxy = start("proxy", network.client, BINARY, "proxy", "--dir", ours.path("client"), OURS, ready="ready")
        micro = start("microsocks", network.client, "microsocks", "-i", "127.0.0.1", "-p", MICROSOCKS, pause=0.3)
        yield network.client, proxy, micro


def latency(section, log, round_trip_ms, n, goal, store):
    cases = {"direct": (GREETER, None), "microsocks": (GREETER, MICROSOCKS), "without a knock": (GREETER, OURS),
             "with a knock": (PORT, OURS)}
    values = {case: [] for case in cases}
    server = FAR if round_trip_ms else SERVER
    with world(log, PIECE, round_trip_ms, store) as (client, _, _):
        for _ in range(5):                      # lets the proxy learn how long an opening usually takes
            first_byte(client, PORT, OURS, server)
        for _ in range(n):
            for case, (port, proxy) in cases.items():
                time.sleep(random.uniform(0.02, 0.08))
                try:
                    values[case].append(first_byte(client, port, proxy, server))
                except OSError as error:        # three knocks were lost, and the proxy backs off before the next one
                    print(f"  {case}: {error}", file=sys.stderr)
                    time.sleep(3)
    section.group(f"Round trip {round_trip_ms} ms, {log.split(':')[0]}, counters on {'disk' if store == DISK else 'tmpfs'}")
    direct = median(values["direct"])
    for case, found in values.items():
        ours = case.startswith("with")
        more = median(found) - direct
        limit = goal if case == "with a knock" else None
        section.row("knockknock-proxy" if ours else case, case if ours else "", found, "ms", n,
                    None, None, f"direct + {limit} ms at most" if limit else "", more <= limit if limit else None,
                    {"beyond direct": f"{more:+.2f} ms"} if case != "direct" else None)


def processor_seconds(process):
    """Returns the processor seconds of all threads of a process, including finished ones."""
    with open(f"/proc/{process.popen.pid}/stat", encoding="ascii") as file:
        return sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def transfer(section, n, amount):
    """Measures the bytes per second of one large download."""
    proxies = {"direct": None, "microsocks": MICROSOCKS, "knockknock-proxy": OURS}
    values, used = {program: [] for program in proxies}, {}
    with world("kmsg", amount) as (client, ours, micro):
        processes = {"microsocks": micro, "knockknock-proxy": ours}
        for _ in range(n):
            for program, proxy in proxies.items():
                before = processor_seconds(processes[program]) if proxy else 0
                values[program].append(throughput(client, proxy, amount))
                if proxy:
                    used[program] = used.get(program, 0) + processor_seconds(processes[program]) - before
    peer = {"microsocks": median(values["microsocks"])}
    for program, found in values.items():
        ours = program == "knockknock-proxy"
        section.row(program, "", found, "MB/s", n, peer if ours else None, None, "≥ microsocks" if ours else "",
                    median(found) >= peer["microsocks"] if ours else None,
                    {"processor time": f"{used[program] / n / amount * 1e9:.2f} s/GB"} if program in used else None)


def idle_connections(section, n):
    """Measures the memory with many idle connections."""
    with world("kmsg", PIECE) as (client, ours, micro):
        for program, proxy, process in (("microsocks", MICROSOCKS, micro), ("knockknock-proxy", OURS, ours)):
            before, clients = process.pss_kb(), []
            for _ in range(n):
                clients.append(connect(client, GREETER, proxy)[0])
            after = process.pss_kb()
            section.row(program, f"{n} connections", [(after - before) / n], "KB/connection",
                        more={"without connections": f"{before:,} KB", "with them": f"{after:,} KB"})
            for each in clients:
                each.close()


def main(words):
    if words[:1] == ["serve"]:
        return serve(int(words[1]))
    if words[:1] == ["cable"]:
        return cable(words[1], words[2], float(words[3]))
    quick = "--quick" in words
    prepare()
    n = 15 if quick else 60
    latencies = Section("proxy-latency")
    for round_trip_ms in (0, 50):
        for log, goal in (("kmsg", 8), (f"nflog:{GROUP}", 3)):
            for store in (DISK, TMPFS):
                latency(latencies, log, round_trip_ms, n, goal, store)
    transfers = Section("proxy-transfer")
    transfer(transfers, 3 if quick else 9, 1 << 30)
    memory = Section("proxy-memory")
    idle_connections(memory, 50 if quick else 200)
    if not quick:
        publish([latencies, transfers, memory])
    return None


if __name__ == "__main__":
    main(sys.argv[1:])

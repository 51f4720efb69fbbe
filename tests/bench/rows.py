"""The measurements. Each function in SECTIONS fills one section of the document."""

import collections
import contextlib
import os
import random
import re
import subprocess
import time

import packets
from contestants import DISK, GROUP, PORT, TMPFS, Floor, Fwknop, FwknopUdp, Knockd, Knockknock
from results import median, p90
from world import BUILD, CLIENT_MAC, CROWD, SERVER, SERVER_MAC, Network, command

PEERS = FwknopUdp, Fwknop, Knockd
MEASURE = f"{BUILD}/measure"


# Latency

def measured(mode, network, knocks, timeout_ms=1000):
    """Passes (wait, packet) pairs to the measuring program; returns its lines, split into words."""
    lines = "".join(f"{int(wait * 1e6)} {timeout_ms} {packet.hex()}\n" for wait, packet in knocks)
    out = command(MEASURE, mode, network.client, network.server, str(PORT), input=lines)
    return [line.split() for line in out.splitlines()]


def connected(contestant, n, wait=None, timeout_ms=1000):
    """Returns the milliseconds from packet to connection of each knock that opened."""
    shortest, longest = (wait, wait) if wait else contestant.wait
    knocks = [(random.uniform(shortest, longest), packet) for packet in contestant.knocks(n)]
    answers = measured("latency", contestant.network, knocks, timeout_ms)
    return [int(answer[1]) / 1000 for answer in answers if answer[1] != "-"]


def trial(kind, n, **options):
    with Network() as network, kind(network, **options) as contestant:
        return connected(contestant, n)


def latency(section, quick):
    """Measures the time from a knock's packet to the connection, for each log source, with the counter on disk and in
    memory."""
    n, rounds, peer_runs = (15, 1, 3) if quick else (30, 3, 15)
    peers = {}
    for peer in PEERS[:1] if quick else PEERS:
        values = trial(peer, peer_runs)
        section.row(peer.label, "", values, "ms", peer_runs)
        if values:
            peers[peer.label] = median(values)
    for log, factor in (("kmsg", 1.25), (f"nflog:{GROUP}", 1.5)):
        for store, where in ((DISK, "disk"), (TMPFS, "tmpfs")):
            floor, ours = [], []
            for _ in range(rounds):     # in turns, so that other load on the machine affects both
                floor += trial(Floor, n, store=store, log=log)
                ours += trial(Knockknock, n, store=store, log=log)
            tried, case = n * rounds, f"{log.split(':')[0]}, counter on {where}"
            base = section.row("floor", case, floor, "ms", tried)
            met = len(ours) == tried and median(ours) <= factor * base and median(ours) < min(peers.values(), default=float("inf"))
            section.row("knockknock", case, ours, "ms", tried, peers, base, f"≤ {factor} × floor, faster than every peer", met)


def client(section, quick):
    """Measures a client's whole run, from spawn to exit, and that of /bin/true for comparison."""
    n, rounds = (20, 2) if quick else (50, 6)
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network())
        kinds = {"tmpfs": (Knockknock, TMPFS), "disk": (Knockknock, DISK), "fwknop": (FwknopUdp, DISK), "knock": (Knockd, DISK)}
        commands = {"true": ["/bin/true"]}
        for name, (kind, store) in kinds.items():    # without a server, since no client waits for a reply
            commands[name] = stack.enter_context(contextlib.closing(kind(network, store))).client()
        times = {name: [] for name in commands}
        for _ in range(rounds):
            for name, words in commands.items():
                out = network.run(network.client, MEASURE, "run", str(n), *words)
                times[name] += [int(line) / 1000 for line in out.split()]
        trace = f"{BUILD}/client.strace"
        network.run(network.client, "strace", "-f", "-o", trace, *commands["tmpfs"])
    floor = section.row("/bin/true", "", times["true"], "ms")
    peers = {program: section.row(program, "", times[name], "ms", floor=floor)
             for name, program in (("fwknop", "fwknop"), ("knock", "knockd's knock"))}
    for store, goal in (("tmpfs", "≤ 1.5 × floor"), ("disk", "")):
        values = times[store]
        section.row("knockknock", f"counter on {store}", values, "ms", None, peers, floor, goal,
                    median(values) <= 1.5 * floor if goal else None)
    with open(trace, encoding="utf-8", errors="replace") as file:
        calls = re.findall(r"^\d+ +(\w+)\(", file.read(), re.M)
    each = ", ".join(f"{name} {n}" for name, n in collections.Counter(calls).most_common())
    section.remark(f"System calls of one knock: {len(calls)} ({each}).")


# Cost at rest

def idle(section, quick):
    """Counts the system calls of all processes while nothing happens."""
    seconds, tries = (3, 2) if quick else (10, 6)
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    for kind in (Knockknock,) if quick else (*PEERS, Knockknock):
        with Network() as network, kind(network) as contestant:
            time.sleep(1)
            for _ in range(tries):      # repeated, since a kernel log line of another program wakes all readers
                os.lseek(log, 0, os.SEEK_END)
                calls = system_calls(contestant.process.pids(), seconds)
                others = records(log)
                if kind in PEERS or not others:
                    break
        ours = kind is Knockknock
        section.row(kind.label, f"{seconds} s", [calls], "calls", goal="0 while the kernel log is silent" if ours else "",
                    met=calls == 0 if ours and not others else None)
    if others:
        section.remark(f"Other programs wrote {others} record(s) to the kernel log meanwhile.")
    os.close(log)


def footprint(section, quick):
    """Measures the memory of all processes at rest, and the size of the files that they run."""
    for kind in (Knockknock, Floor) if quick else (Knockknock, Floor, *PEERS):
        with Network() as network, kind(network) as contestant:
            time.sleep(1)
            memory_kb = contestant.process.pss_kb()
            program, libraries = contestant.process.file_sizes()
        ours = kind is Knockknock
        section.row(kind.label, "", [memory_kb], "KB", goal="≤ 600 KB of memory" if ours else "",
                    met=memory_kb <= 600 if ours else None, more={"program, bytes": program, "libraries, bytes": libraries})


def records(log):
    """Counts the records from the current position to the end of the kernel log."""
    n = 0
    while True:
        try:
            os.read(log, 8192)
            n += 1
        except BlockingIOError:
            return n
        except BrokenPipeError:     # the ring buffer was overrun; reading continues at its oldest record
            pass


def system_calls(pids, seconds):
    trace = f"{BUILD}/idle.strace"
    attach = [word for pid in pids for word in ("-p", str(pid))]
    subprocess.run(["timeout", str(seconds), "strace", "-f", "-qq", "-o", trace, *attach], check=False,
                   stderr=subprocess.DEVNULL)
    with open(trace, encoding="utf-8", errors="replace") as file:
        return sum(" = " in line for line in file)


def memory(section, quick):
    """Measures memory before and after many lines and knocks."""
    lines, knocks = (100_000, 1_000) if quick else (1_000_000, 10_000)
    block = "".join(random.choice((packets.foreign_line, lambda: packets.knock_line(Knockknock.knock_port)))()
                    for _ in range(1000)).encode()
    with Network() as network, Knockknock(network, log="-", stdin=subprocess.PIPE, delay=1) as ours:
        pipe, fields = ours.process.popen.stdin, ours.key.fields(PORT, knocks + knocks // 1000 + 2)

        def knock(numbers):
            """Writes knocks to the daemon and waits until it has opened for each; returns its memory."""
            for at in numbers:
                source = f"{CROWD}{at // 250}.{at % 250 + 1}"
                pipe.write(packets.knock_line(Knockknock.knock_port, next(fields), source).encode())
            pipe.flush()
            deadline = time.monotonic() + 60
            while (opened := ours.process.output().count(": opened port ")) < numbers.stop:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{numbers.stop} knocks were given, {opened} opened")
                time.sleep(0.02)
            return ours.process.pss_kb()

        sizes, tenth = [knock(range(1))], knocks // 10
        for start in range(0, knocks, tenth):
            for _ in range(lines // 10_000):
                pipe.write(block)
            for at in range(max(start, 1), start + tenth, 500):
                size = knock(range(at, min(at + 500, start + tenth)))
                time.sleep(0.5)     # an opening lives for 1 to 2 s, and at most 4,096 exist at a time
            sizes.append(size)
    section.row("knockknock", "after 1 knock", [sizes[0]], "KB")
    section.row("knockknock", f"after {lines // 10:,} lines and {tenth:,} knocks", [sizes[1]], "KB")
    section.row("knockknock", f"after {lines:,} lines and {knocks:,} knocks", [sizes[-1]], "KB",
                goal="no growth after the first tenth (16 KB tolerance)", met=sizes[-1] <= sizes[1] + 16)


# Lines

def write_lines(name, line, size=None, count=None):
    """Writes a file of `count` different lines, or of a repeated block of 30,000 lines until it has `size` bytes."""
    path = f"{BUILD}/{name}"
    with open(path, "wb") as file:
        if count:
            file.writelines(line().encode() for _ in range(count))
        else:
            block = "".join(line() for _ in range(30_000)).encode()
            while file.tell() < size:
                file.write(block)
    return path


def read_through(ours, path, delay=0):
    """Lets the daemon read a whole file, that many seconds after its start: it refuses an input that has ended before it
    is ready. Returns (seconds, processor seconds)."""
    producer = subprocess.Popen(["sh", "-c", f"sleep {delay}; exec cat \"$0\"", path], stdout=subprocess.PIPE) if delay else None
    with producer.stdout if producer else open(path, "rb") as ours.stdin:
        ours.start()
    if producer:
        producer.wait()
    ours.process.wait(300)
    if ours.process.popen.returncode < 0:
        raise RuntimeError(f"the daemon did not end with its input:\n{ours.process.output()}")
    return ours.process.seconds, ours.process.cpu


@contextlib.contextmanager
def reader(**options):
    """Returns a daemon for read_through(), not started yet."""
    with Network() as network, contextlib.closing(Knockknock(network, log="-", **options)) as ours:
        yield ours


def foreign(section, quick):
    """Measures the reading of a large log without a knock, and grep for comparison."""
    size, rounds = (1 << 28, 3) if quick else (1 << 30, 5)
    path = write_lines("kern.log", packets.foreign_line, size)
    grep, ours, cpu = [], [], []
    for _ in range(rounds):
        start = time.monotonic()
        subprocess.run(["grep", "-c", f"DPT={Knockknock.knock_port}", path], env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
                       stdout=subprocess.DEVNULL, check=False)
        grep.append(time.monotonic() - start)
        with reader() as daemon:
            seconds, used = read_through(daemon, path)
        ours.append(seconds)
        cpu.append(used)
    lines = int(command("wc", "-l", path).split()[0])
    os.unlink(path)
    base = section.row("LC_ALL=C grep -c", f"{size >> 20} MB", grep, "s", more={"lines/s": round(lines / median(grep))})
    section.row("knockknock", f"{size >> 20} MB", ours, "s", None, None, base, "≤ grep", median(ours) <= base,
                {"lines/s": round(lines / median(ours)), "processor time": f"{median(cpu):.2f} s"})


def per_line(ours, path, delay=0.5):
    """Returns the processor time per line in microseconds, without that of the start and of the `delay` seconds after it."""
    with open(path, "rb") as file, open(f"{BUILD}/empty", "wb") as empty:
        lines = sum(1 for _ in file)
    start, whole = (median([read_through(ours, name, delay)[1] for _ in range(3)]) for name in (empty.name, path))
    return (whole - start) / lines * 1e6


def in_turns(options, lines, rounds):
    """Lets running daemons, one for each of `options`, read the same lines in turn, so that other load on the machine
    affects all. Returns each round's processor times per line in microseconds."""
    with contextlib.ExitStack() as stack:
        daemons = []
        for each in options:
            network = stack.enter_context(Network())
            daemons.append(stack.enter_context(Knockknock(network, log="-", stdin=subprocess.PIPE, **each)).process)
        return [[cost(daemon, lines) for daemon in daemons] for _ in range(rounds)]


def cost(daemon, lines):
    """Writes lines to a daemon once it is idle, after its start and when its table is full."""
    before = idle_cpu(daemon)
    daemon.popen.stdin.write(lines)
    daemon.popen.stdin.flush()
    return (idle_cpu(daemon) - before) / lines.count(b"\n") * 1e6


def idle_cpu(daemon):
    """Waits until a daemon is idle, and returns the processor seconds that it has used."""
    used = None
    while used != (now := daemon.cpu_seconds()):
        used = now
        time.sleep(0.2)
    return used


def wrong_tag(section, quick):
    """Measures lines with a wrong tag, which anybody can cause, and the resynchronisation search that some of them
    trigger while the log is quiet."""
    count = 200_000 if quick else 400_000
    knock_port = Knockknock.knock_port
    path = write_lines("wrong.log", lambda: packets.knock_line(knock_port), count=count)
    section.group("Tried against a window of 20 counters")
    for case, goal, options in (("any port allowed", 200_000, {"ports": None}), ("`ports` set", 3_000_000, {}),
                                ("stealth", 3_000_000, {"wire": "stealth"})):
        if options.get("wire") == "stealth":
            path = write_lines("wrong.log", lambda: packets.guess_line(knock_port), count=count)
        with reader(**options) as ours:
            rate = 1e6 / per_line(ours, path)
        section.row("knockknock", case, [rate], "lines/s", goal=f"≥ {goal:,}", met=rate >= goal)
    os.unlink(path)
    section.group("Searched for 10,000 counters ahead, any port allowed, all on one knock port")
    for profiles in (1, 100):
        options = {"profiles": profiles, "shared": True, "ports": None}
        with Network() as network, Knockknock(network, log="-", stdin=subprocess.PIPE, **options) as ours:
            # Each source has an account of its own, or shares one of 64, and each account pays for one such search.
            lines, before = 50, ours.process.cpu_seconds()
            pipe = ours.process.popen.stdin
            pipe.write("".join(packets.knock_line(knock_port) for _ in range(lines)).encode())
            pipe.flush()
            time.sleep(0.1)
            start = time.monotonic()
            pipe.write(packets.knock_line(knock_port, next(ours.key.fields(PORT, 3))).encode())
            pipe.flush()
            while "opened port" not in ours.process.output():
                time.sleep(0.001)
            wait, used = time.monotonic() - start, idle_cpu(ours.process)
        section.row("knockknock", plural(profiles, "profile"), [(used - before) / lines * 1e6], "µs/line",
                    more={"a valid knock meanwhile": f"{wait * 1000:.0f} ms"})


def growth(section, quick):
    """Measures the cost of a wrong tag by number of profiles and by window, without resynchronisation searches, and the
    cost of profiles at the start."""
    count = 50_000 if quick else 200_000
    knock_port, costs = Knockknock.knock_port, {}
    section.group("By the number of profiles, `ports` set")
    for profiles in (1, 100) if quick else (1, 100, 10_000):
        path = write_lines("growth.log", lambda n=profiles: packets.knock_line(knock_port + random.randrange(n)), count=count)
        with reader(profiles=profiles, resync_window=0) as ours:
            costs[profiles] = per_line(ours, path)
            ours.stdin = subprocess.PIPE
            ours.start()
            ready, memory_kb = ours.process.seconds_to_ready, ours.process.pss_kb()
        section.row("knockknock", plural(profiles, "profile"), [costs[profiles]], "µs/line", goal="independent of their number",
                    met=costs[profiles] <= 1.5 * costs[1], more={"ready after": f"{ready * 1000:.0f} ms", "memory": f"{memory_kb:,} KB"})
    lines = "".join(packets.guess_line(knock_port) for _ in range(20_000 if quick else 50_000)).encode()
    for title, limit, cases in (
            ("By the number of stealth profiles with one knock port", "1.2 × one profile",
             {plural(n, "profile"): {"profiles": n, "shared": True} for n in (1, 1000)}),
            ("By the window, stealth", "1.5 × 20 counters", {f"{n:,} counters": {"error_window": n} for n in (20, 2000)})):
        section.group(title)
        pairs = in_turns([{"wire": "stealth", **options} for options in cases.values()], lines, 7 if quick else 15)
        ratio = median([second / first for first, second in pairs])
        for case, values in zip(cases, zip(*pairs)):
            section.row("knockknock", case, [median(values)], "µs/line", goal=f"≤ {limit}", met=ratio <= float(limit.split()[0]))
        section.remark(f"{title}: in {len(pairs)} rounds the second took {ratio:.2f} × the first (median).")
    windows, cost = (20, 200) if quick else (20, 200, 2000), []
    path = write_lines("growth.log", lambda: packets.knock_line(knock_port), count=count // 20)
    section.group("By the window, any port allowed")
    for window in windows:
        with reader(error_window=window, resync_window=0, ports=None) as ours:
            cost.append(per_line(ours, path))
    slope = (cost[-1] - cost[0]) / (windows[-1] - windows[0]) * 1000
    for window, each in zip(windows, cost):
        section.row("knockknock", f"{window:,} counters", [each], "µs/line", goal="linear in the window",
                    met=each <= 1.5 * (cost[0] + slope * (window - windows[0]) / 1000))
    section.remark(f"Each counter tried costs {slope:.0f} ns.")
    os.unlink(path)


# Floods

@contextlib.contextmanager
def flooding(network, port, rate, sources, seconds):
    """Floods the server during the with block; without a port, the addresses of links. The dictionary that it yields has
    the flood's figures afterwards."""
    first, destination = ("10.93.0.1", SERVER) if port else ("2001:db8:93::1", LINKS.partition("/")[0])
    words = [f"{BUILD}/flood", "wan0", SERVER_MAC, first, sources, destination, port or 80, rate, seconds]
    figures = {}
    with subprocess.Popen(["ip", "netns", "exec", network.client, *map(str, words)], stdout=subprocess.PIPE,
                          text=True) as flood:
        time.sleep(0.3)
        yield figures
        sent, took, cpu = map(float, flood.communicate(timeout=60)[0].split())
        figures.update(sent=sent, rate=sent / took, cost=cpu / sent * 1e6)


LINKS = "2001:db8:0:ff::/64"
LOGGED = "knock port", "links"      # the targets whose SYNs our daemon logs


def under_flood(kind, target, rate, sources, seconds, wait, **options):
    """Returns (milliseconds of the knocks that opened, number of knocks, the daemon's share of a core, the flood's figures).
    Among the figures is the number of SYNs that our daemon has read."""
    n = int(seconds / wait)
    if target == "links":
        options["links"] = LINKS
    with Network() as network, kind(network, **options) as contestant:
        port = {"knock port": kind.knock_port, "another port": 81, "links": None}[target]
        if not port:
            # The resets have a way back.
            for words in ("address add fd91::1/64 dev wan0 nodad", f"neighbour add fd91::2 lladdr {CLIENT_MAC} dev wan0",
                          "-6 route add default via fd91::2"):
                command("ip", "-n", network.server, *words.split())
        with flooding(network, port, rate, sources, seconds + 1) as flood:
            start, used = time.monotonic(), contestant.process.cpu_seconds()
            values = connected(contestant, n, wait)
            share = (contestant.process.cpu_seconds() - used) / (time.monotonic() - start)
        if kind is Knockknock:
            time.sleep(1.1)     # the daemon publishes its counts once a second
            flood["read"] = contestant.count("received")
            flood["log"] = log_growth(flood["read"] / flood["sent"] * flood["rate"]) if options.get("log") == "kmsg" else ""
    return values, n, share, flood


def log_growth(rate):
    """Describes how fast the kernel log grows by `rate` lines a second. All lines are as long as the newest one, or nearly."""
    lines = re.findall(r"^.*knockknock IN=.*$", command("dmesg"), re.M)
    return f"{rate:,.0f} lines/s, {rate * len(lines[-1]) / 1e6:.1f} MB/s" if lines and rate >= 100 else ""


def flood(section, quick):
    """Measures valid knocks during a SYN flood."""
    seconds = 4 if quick else 10
    for rate in (20_000,) if quick else (20_000, 50_000):
        for sources in (1, 10_000):
            peers = {}
            section.group(f"{rate:,} SYN/s from {plural(sources, 'source')}")
            if not quick and rate == 20_000:
                for peer in PEERS:
                    target = "knock port" if peer.authentic else "another port"
                    values, n, *_ = under_flood(peer, target, rate, sources, seconds, peer.wait[0])
                    section.row(peer.label, target, values, "ms", n)
                    if len(values) == n:
                        peers[peer.label] = median(values)
            runs = [("kmsg", "knock port"), ("kmsg", "another port"), (f"nflog:{GROUP}", "knock port")]
            if sources > 1 and rate == 50_000:
                runs.append(("kmsg", "links"))
            for log, target in runs[:1] if quick else runs:
                values, n, share, figures = under_flood(Knockknock, target, rate, sources, seconds, 0.5, log=log)
                opened = len(values) == n and p90(values) < 50 if sources == 1 else len(values) >= 0.95 * n
                goal = "all, 90 % within 50 ms" if sources == 1 else "19 of 20 within 1 s"
                most = (0.08 if log != "kmsg" else 0.1) if sources > 1 and rate == 50_000 else 0.3
                section.row("knockknock", f"{target}, {log.split(':')[0]}",
                            values, "ms", n, peers, None, f"{goal}, ≤ {most:.0%} of a core".replace("%", " %"), opened and share <= most,
                            {"daemon": f"{share * 100:.0f} % of a core, {share / figures['rate'] * 1e6:.1f} µs/SYN", "kernel and sender": f"{figures['cost']:.1f} µs/SYN", "log": figures["log"]})
                if target in LOGGED and sources > 1 and figures["read"] < 0.99 * figures["sent"]:
                    section.remark(f"{rate:,} SYN/s from {plural(sources, 'source')}, {log.split(':')[0]}: the daemon read "
                                   f"{figures['read'] / figures['sent']:.0%} of them".replace("%", " %") + "; the log lost the others.")
                if figures["rate"] < 0.99 * rate:
                    section.remark(f"Only {figures['rate']:,.0f} of {rate:,} SYN/s were reached.")


def crowd(section, quick):
    """Sends many knocks from as many sources within a second. All must open, in order, each for one connection."""
    n = 200 if quick else 1000
    with Network() as network, Knockknock(network) as ours:
        sources = [f"{CROWD}{i // 250}.{i % 250 + 1}" for i in range(n)]
        knocks = [packets.syn(source, SERVER, ours.knock_port, fields)
                  for source, fields in zip(sources, ours.key.fields(PORT, n + n // 1000 + 2))]
        lines = measured("burst", network, [(0.9 / n, packet) for packet in knocks], 5000)
    values = [int(line[1]) / 1000 for line in lines]
    all_once = [line[0] for line in lines] == sources[:len(lines)] and len(lines) == n
    entered = sum(line[2] == "1" for line in lines), sum(line[3] == "1" for line in lines)
    section.row("knockknock", f"{n:,} knocks from {n:,} sources", values, "ms", n, goal="all open in order, each for one connection",
                met=all_once and entered == (n, 0), more={"connected": entered[0], "connected twice": entered[1],
                                                          "in order": "yes" if all_once else "no"})


def plural(n, word):
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


SECTIONS = {"latency": latency, "client": client, "footprint": footprint, "idle": idle, "memory": memory, "flood": flood,
            "crowd": crowd, "foreign": foreign, "wrong-tag": wrong_tag, "growth": growth}

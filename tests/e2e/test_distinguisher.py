"""What somebody who sees every packet could tell knocks from connections by: 2,000 of each, side by side.

Real SYNs are connect()s of the same machine from the same 2,000 addresses. The judges below are shown to be
able to say no: to the classic wire, and to a clock."""

import bisect
import collections
import contextlib
import math
import os
import time

import pytest

from stage import BINARY, FAMILIES, SERVER, Capture, Profile

MANY = 2000
SURE = 5.5  # standard deviations; chance does it once in 26 million times

NETWORKS = {
    "IPv4": ("10.10.{}.{}", "10.10.0.0/16", "10.9.0.0/24 dev eth0 proto kernel scope link"),
    "IPv6": ("fd10::{:x}:{:x}", "fd10::/64", "fd09::/64 dev eth0 proto kernel metric 256"),
}


def addresses(family, count):
    pattern = NETWORKS[family][0]
    return [pattern.format(n // 250 + 1, n % 250 + 1) for n in range(count)]


@pytest.fixture
def street(stage):
    """A client with many addresses on each family, all of them known to the server; a profile, no daemon."""
    stage.gate = Profile(stage, "gate", wire="stealth")
    for host, _ in FAMILIES.values():
        stage.gate.give_to_client(host)
    # In memory: thousands of counters would wait for the disk.
    memory = stage.directory / "memory"
    memory.mkdir()
    stage.client.run("mount", "-t", "tmpfs", "memory", memory)
    stage.client.run("cp", "-a", f"{stage.client_dir}/.", memory)
    stage.client_dir = memory
    for family, (_, network, _) in NETWORKS.items():
        stage.server.run("ip", "route", "add", network, "via", FAMILIES[family][1])
    return stage


def live_at(stage, family, count):
    option = " nodad" if family == "IPv6" else ""
    stage.client.run("ip", "-batch", "-", input="".join(
        f"address add {address} dev eth0{option}\n" for address in addresses(family, count)))


def connects(stage, family, count):
    """The SYNs of real connections, one from each address."""
    capture = stage.keep(Capture(stage.client))
    host, _ = FAMILIES[family]
    for address in addresses(family, count):
        stage.client.begin(stage.gate.knock_port, host, source=address)
    return capture.sent(stage.gate.knock_port)


def knocks(stage, family, count, *arguments):
    """Knocks, one from each address: the route names the one to use."""
    capture = stage.keep(Capture(stage.client))
    ip = "ip -6" if family == "IPv6" else "ip"
    stage.client.run("sh", "-ec", f"""
        for address in {" ".join(addresses(family, count))}; do
            {ip} route replace {NETWORKS[family][2]} src $address
            "{BINARY}" -p 22 --dir "{stage.client_dir}" {" ".join(arguments)} {FAMILIES[family][0]}
        done""", timeout=100)
    return capture.sent(stage.gate.knock_port)


# The judges.

def normal(squares, freedom):
    """A chi-squared sum as standard deviations from what is expected (Wilson and Hilferty, 1931)."""
    share = 2 / (9 * freedom)
    return ((squares / freedom) ** (1 / 3) - (1 - share)) / math.sqrt(share)


def unevenness(values, bits):
    """How far from uniform the values of a field of so many bits are, in standard deviations: the worst of each byte's
    distribution, each bit's share, and each value's likeness to the one before."""
    found = {}
    for shift in range(0, bits, 8):
        width = min(8, bits - shift)
        counts = collections.Counter(value >> shift & (1 << width) - 1 for value in values)
        expected = len(values) / (1 << width)
        squares = sum((counts[byte] - expected) ** 2 / expected for byte in range(1 << width))
        found[f"byte at bit {shift}"] = normal(squares, (1 << width) - 1)
    for bit in range(bits):
        ones = sum(value >> bit & 1 for value in values)
        found[f"bit {bit}"] = (ones - len(values) / 2) / math.sqrt(len(values) / 4)
    middle = (1 << bits) / 2
    products = sum((one - middle) * (other - middle) for one, other in zip(values, values[1:]))
    found["neighbours"] = products / ((1 << bits) ** 2 / 12) / math.sqrt(len(values) - 1)
    return max(found.items(), key=lambda item: abs(item[1]))


FIELDS = {"IPv4": [("identification", 16), ("sequence", 32), ("timestamp", 32)],
          "IPv6": [("flow_label", 20), ("sequence", 32), ("timestamp", 32)]}


def judge_uniformity(family, packets):
    for field, bits in FIELDS[family]:
        where, deviation = unevenness([getattr(packet, field) for packet in packets], bits)
        print(f"{family} {field}: {deviation:+.2f} standard deviations at its worst ({where})")
        assert abs(deviation) < SURE, f"{field}: {where}"


def shapes(packets):
    """All the values of all header fields but the three and the source's address and port."""
    return {packet.shape.replace(packet.source_octets.hex(), "*") for packet in packets}


def judge_headers(genuine, ours):
    assert shapes(genuine) == shapes(ours)


def farthest(ones, others):
    """How far apart two samples' distributions are, for samples of this size (Kolmogorov and Smirnov): 3 happens by
    chance once in 30 million times."""
    ones, others = sorted(ones), sorted(others)
    gap = max(abs(bisect.bisect(ones, value) / len(ones) - bisect.bisect(others, value) / len(others))
              for value in ones + others)
    return gap * math.sqrt(len(ones) * len(others) / (len(ones) + len(others)))


def steps(packets):
    """From each packet's source port to the next one's, around the end of the ephemeral range."""
    return [(after.source_port - before.source_port) % 28232 for before, after in zip(packets, packets[1:])]


def judge_ports(genuine, ours):
    """Their values, and the order in which they come."""
    values = farthest(*([packet.source_port for packet in packets] for packets in (genuine, ours)))
    order = farthest(steps(genuine), steps(ours))
    print(f"source ports: values {values:.2f} apart, steps {order:.2f}")
    assert {packet.source_port % 2 for packet in genuine} == {packet.source_port % 2 for packet in ours} == {0}
    assert values < 3 and order < 3


# What they say.

def test_2000_knocks_among_2000_connections(street, family):
    live_at(street, family, MANY)
    genuine, ours = connects(street, family, MANY), knocks(street, family, MANY)
    assert [packet.source for packet in genuine] == [packet.source for packet in ours] == addresses(family, MANY)
    judge_headers(genuine, ours)
    for packets in (genuine, ours):
        judge_uniformity(family, packets)
    judge_ports(genuine, ours)


def test_the_judges_can_say_no_to_the_classic_wire(street, family):
    live_at(street, family, 200)
    genuine, classic = connects(street, family, 200), knocks(street, family, 200, "--wire", "classic")
    with pytest.raises(AssertionError):
        judge_headers(genuine, classic)
    print(f"{family}: {len(shapes(genuine))} shape of 200 connections, {len(shapes(classic))} of 200 classic knocks")
    assert len({packet.window for packet in classic}) > 190 and 0 not in {packet.acknowledgment for packet in classic}


def test_the_judge_of_uniformity_can_say_no():
    noise = [int.from_bytes(os.urandom(4), "big") for _ in range(MANY)]
    assert abs(unevenness(noise, 32)[1]) < SURE
    for name, values in {
        "a clock": range(7, 7 + MANY * 3, 3),
        "one bit that is always set": [value | 1 << 19 for value in noise],
        "one byte that is zero in every eighth": [value if n % 8 else value & ~0xFF for n, value in enumerate(noise)],
        "each value three times": [noise[n // 3] for n in range(MANY)],
        "a range that is cut": [value % 3_000_000_000 for value in noise],
    }.items():
        where, deviation = unevenness(values, 32)
        print(f"{name}: {deviation:+.1f} ({where})")
        assert abs(deviation) > 2 * SURE, name
    assert farthest(noise, range(0, 2**32, 2**20)) < 3 < farthest([value % 2**31 for value in noise], noise)


# What one who watches a single pair of addresses over time still sees. SECURITY.md says so.

@pytest.mark.parametrize("timestamps", [1, 2])
def test_one_pair_of_addresses_over_time(street, family, timestamps):
    """Does one who knows the timestamps of a pair's connections know the knocks by theirs?

    Older kernels (without 165573e41f2f: 6.1.176 is one, 6.18.44 is not) have one clock for each pair of addresses, and with
    tcp_timestamps=2 every kernel has one for all: a knock does not follow it. Newer ones add an offset of each port's own."""
    host, _ = FAMILIES[family]
    street.client.run("sysctl", "-qw", f"net.ipv4.tcp_timestamps={timestamps}")
    capture, sent = street.keep(Capture(street.client)), []
    for _ in range(100):
        sent.append(time.monotonic())
        street.client.begin(street.gate.knock_port, host)
        sent.append(time.monotonic())
        street.knock(host=host)
    packets = capture.sent(street.gate.knock_port)
    assert len(packets) == len(sent)
    offsets = [(packet.timestamp - round(when * 1000)) % 2**32 for when, packet in zip(sent, packets)]
    # From the clock that the first connection has shown, in milliseconds.
    off = [min((offset - offsets[0]) % 2**32, (offsets[0] - offset) % 2**32) for offset in offsets]
    connections, knocks = sorted(off[::2]), sorted(off[1::2])
    print(f"{family}, tcp_timestamps={timestamps}: connections within {connections[-1]} ms of the first one's clock,"
          f" knocks {knocks[0] / 1000:.0f} s off at least")
    uniform = range(0, 2**32, 2**20)
    assert farthest(offsets[1::2], uniform) < 3
    if connections[-1] < 1000:
        assert knocks[0] > 1000 * connections[-1]
    else:
        assert timestamps == 1
        assert farthest(offsets[::2], uniform) < 3
    # From one SYN of the pair to the next the kernel takes the next even port but a few, and starts anew every 10 s.
    ports = steps(packets)
    assert sum(not 2 <= step <= 16 for step in ports) <= 3
    assert farthest(ports[::2], ports[1::2]) < 3


@pytest.mark.parametrize("answer", ["reject with tcp reset", "drop"])
def test_a_knock_is_not_sent_again(street, answer):
    """A connection's SYN is, where nobody answers; where the knock port is refused, neither is."""
    street.server.run("nft", f"add table inet wall; add chain inet wall input {{ type filter hook input priority 0; }};"
                      f" add rule inet wall input tcp dport {street.gate.knock_port} {answer}")
    capture = street.keep(Capture(street.client))
    street.knock()
    with street.client.socket() as connection:
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection.connect((SERVER, street.gate.knock_port))
        time.sleep(3.3)
        knock, *genuine = capture.sent(street.gate.knock_port)
    assert knock.source_port not in {packet.source_port for packet in genuine}
    print(f"{answer}: a knock is 1 packet, a connection {len(genuine)} in 3.3 s")
    assert len(genuine) == 1 if "reset" in answer else len(genuine) > 1

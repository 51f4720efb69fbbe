"""Statistical tests by which an observer of all packets could tell knocks from connections, with 2,000 of each.

The connections are those of connect() on the same machine, from the same 2,000 addresses. Other tests show that the
statistics can detect a difference: they reject the classic wire, and a clock."""

import bisect
import collections
import contextlib
import math
import os
import random
import statistics
import time

import pytest

import observer
from stage import BINARY, FAMILIES, SERVER, Capture, Profile

MANY = 2000
SURE = 5.5  # standard deviations; by chance once in 26 million times

NETWORKS = {
    "IPv4": ("10.10.{}.{}", "10.10.0.0/16", "10.9.0.0/24 dev eth0 proto kernel scope link"),
    "IPv6": ("fd10::{:x}:{:x}", "fd10::/64", "fd09::/64 dev eth0 proto kernel metric 256"),
}


def addresses(family, count):
    pattern = NETWORKS[family][0]
    return [pattern.format(n // 250 + 1, n % 250 + 1) for n in range(count)]


@pytest.fixture
def street(stage):
    """A client with many addresses of each family, to which the server has routes, and a profile; no daemon."""
    stage.gate = Profile(stage, "gate", wire="stealth")
    for host, _ in FAMILIES.values():
        stage.gate.give_to_client(host)
    # In memory: thousands of fdatasync() calls on a disk would take too long.
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
    """Captures the SYNs of real connections, one from each address."""
    capture = stage.keep(Capture(stage.client))
    host, _ = FAMILIES[family]
    for address in addresses(family, count):
        stage.client.start_connect(stage.gate.knock_port, host, source=address)
    return capture.sent(stage.gate.knock_port)


def knocks(stage, family, count, *arguments):
    """Captures knocks, one from each address, which the route selects."""
    capture = stage.keep(Capture(stage.client))
    ip = "ip -6" if family == "IPv6" else "ip"
    stage.client.run("sh", "-ec", f"""
        for address in {" ".join(addresses(family, count))}; do
            {ip} route replace {NETWORKS[family][2]} src $address
            "{BINARY}" -p 22 --dir "{stage.client_dir}" {" ".join(arguments)} {FAMILIES[family][0]}
        done""", timeout=100)
    return capture.sent(stage.gate.knock_port)


# Statistics.

def normal(squares, freedom):
    """Converts a chi-squared sum to standard deviations from its expected value (Wilson and Hilferty, 1931)."""
    share = 2 / (9 * freedom)
    return ((squares / freedom) ** (1 / 3) - (1 - share)) / math.sqrt(share)


def unevenness(values, bits):
    """Measures how far the values of a `bits`-bit field are from uniform, in standard deviations: the worst of each
    byte's distribution, each bit's share, and the correlation of successive values."""
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


FIELDS = {"IPv4": [("identification", 16), ("sequence", 32)], "IPv6": [("flow_label", 20), ("sequence", 32)]}


def judge_uniformity(family, packets):
    for field, bits in FIELDS[family]:
        where, deviation = unevenness([getattr(packet, field) for packet in packets], bits)
        print(f"{family} {field}: {deviation:+.2f} standard deviations at its worst ({where})")
        assert abs(deviation) < SURE, f"{field}: {where}"


def shapes(packets):
    """All the values of all header fields but those that no two SYNs share, and the source's address and port."""
    return {packet.shape.replace(packet.source_octets.hex(), "*") for packet in packets}


def judge_headers(genuine, ours):
    assert shapes(genuine) == shapes(ours)


def farthest(ones, others):
    """Returns the Kolmogorov-Smirnov distance of two samples, scaled by their sizes. By chance it reaches 3 once in 30
    million times."""
    ones, others = sorted(ones), sorted(others)
    gap = max(abs(bisect.bisect(ones, value) / len(ones) - bisect.bisect(others, value) / len(others))
              for value in ones + others)
    return gap * math.sqrt(len(ones) * len(others) / (len(ones) + len(others)))


def steps(packets):
    """Returns the differences of successive source ports, modulo the size of the ephemeral range."""
    return [(after.source_port - before.source_port) % 28232 for before, after in zip(packets, packets[1:])]


def judge_ports(genuine, ours):
    """Compares the distributions of the source ports and of their differences."""
    values = farthest(*([packet.source_port for packet in packets] for packets in (genuine, ours)))
    order = farthest(steps(genuine), steps(ours))
    print(f"source ports: values {values:.2f} apart, steps {order:.2f}")
    assert {packet.source_port % 2 for packet in genuine} == {packet.source_port % 2 for packet in ours} == {0}
    assert values < 3 and order < 3


# The tests.

def test_2000_knocks_among_2000_connections(street, family):
    live_at(street, family, MANY)
    genuine, ours = connects(street, family, MANY), knocks(street, family, MANY)
    assert [packet.source for packet in genuine] == [packet.source for packet in ours] == addresses(family, MANY)
    judge_headers(genuine, ours)
    for packets in (genuine, ours):
        judge_uniformity(family, packets)
    judge_ports(genuine, ours)


def test_the_tests_reject_the_classic_wire(street, family):
    live_at(street, family, 200)
    street.gate.use_classic_wire()
    genuine, classic = connects(street, family, 200), knocks(street, family, 200)
    with pytest.raises(AssertionError):
        judge_headers(genuine, classic)
    print(f"{family}: {len(shapes(genuine))} shape of 200 connections, {len(shapes(classic))} of 200 classic knocks")
    assert len({packet.window for packet in classic}) > 190 and 0 not in {packet.acknowledgment for packet in classic}


def test_the_test_of_uniformity_can_fail():
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


# An observer who knows the pair of hosts.

def watched(street, family, knocks, connections):
    """1,000 connections of one pair of hosts, recorded; then knocks and connections in random order: the packets of
    both, and which of the later ones are knocks."""
    host, _ = FAMILIES[family]
    is_knock = [True] * knocks + [False] * connections
    random.shuffle(is_knock)
    capture = street.keep(Capture(street.client))
    for _ in range(1000):
        street.client.start_connect(street.gate.knock_port, host)
        time.sleep(random.uniform(0, 0.002))
    recorded = capture.sent(street.gate.knock_port)
    assert len(recorded) == 1000
    for knock in is_knock:
        time.sleep(random.uniform(0, 0.002))
        if knock:
            street.knock(host=host)
        else:
            street.client.start_connect(street.gate.knock_port, host)
    seen = capture.sent(street.gate.knock_port)
    assert len(seen) == len(is_knock)
    return recorded, seen, is_knock


@pytest.mark.parametrize("timestamps", [1, 2])
def test_an_observer_of_one_pair_of_hosts(street, family, timestamps):
    """It has learned their clock, labels, ports and sequence numbers from 1,000 connections."""
    street.client.run("sysctl", "-qw", f"net.ipv4.tcp_timestamps={timestamps}")
    for _ in range(observer.TRIES):
        recorded, seen, is_knock = watched(street, family, 100, 100)
        best, deviation, p = observer.permutation_test(observer.features(recorded, seen), is_knock)
        print(f"{family}, tcp_timestamps={timestamps}: best is {best!r}, {deviation:.1f} standard deviations, p = {p:.3f}")
        if p > 0.01:
            return
    assert False, "the observer knew the knocks"


def test_the_observer_can_succeed(street, family):
    """Two changes to the packets that it has seen, each of which it finds."""
    street.client.run("sysctl", "-qw", "net.ipv4.tcp_timestamps=2")
    recorded, seen, is_knock = watched(street, family, 60, 60)
    timestamps = [packet.timestamp for packet in seen]
    for name, value in {"random timestamps": lambda _: random.randrange(2**32),
                        "even timestamps": lambda timestamp: timestamp & ~1}.items():
        found = observer.features(recorded, seen)
        knocks = [value(timestamp) if knock else timestamp for timestamp, knock in zip(timestamps, is_knock)]
        clock = [packet.at * 1000 for packet in seen]
        off = [abs((timestamp - round(at) + 2**31) % 2**32 - 2**31) for timestamp, at in zip(knocks, clock)]
        found["timestamp, off the pair's clock"] = [abs(one - statistics.median(off)) for one in off]
        found["timestamp, lowest bit"] = [timestamp & 1 for timestamp in knocks]
        best, deviation, p = observer.permutation_test(found, is_knock)
        print(f"{name}: {best!r}, {deviation:.1f} standard deviations, p = {p:.4f}")
        assert p < 0.001 and "timestamp" in best


def test_the_lowest_bit_of_the_timestamps(street, family):
    """getsockopt clears it: a knock that wore the value as it is given would be even each time."""
    host, _ = FAMILIES[family]
    capture = street.keep(Capture(street.client))
    for _ in range(400):
        street.knock(host=host)
        street.client.start_connect(street.gate.knock_port, host)
    packets = capture.sent(street.gate.knock_port)
    odd = [sum(packet.timestamp & 1 for packet in group) for group in (packets[::2], packets[1::2])]
    print(f"{family}: {odd[0]} of 400 knocks and {odd[1]} of 400 connections have an odd timestamp")
    assert len(packets) == 800
    assert abs(odd[0] - odd[1]) < 4 * math.sqrt(400 / 4 * 2)


@pytest.mark.parametrize("answer", ["reject with tcp reset", "drop"])
def test_a_knock_is_not_retransmitted(street, answer):
    """A connection's SYN is retransmitted if there is no reply. If the port replies with an RST, neither is."""
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

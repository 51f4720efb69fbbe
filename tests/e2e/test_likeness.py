"""Compares stealth knocks with the SYNs of connect() on the same machine, byte for byte, except for the fields that
differ from one SYN to the next."""

import ctypes
import os
import platform
import socket
import struct

import pytest

from stage import BINARY, FAMILIES, SERVER, SERVER6, Capture, Profile


@pytest.fixture
def door(stage):
    """A profile on both machines, for all of the server's addresses; no daemon."""
    stage.gate = Profile(stage, "gate", wire="stealth")
    for host in (SERVER, SERVER6, "127.0.0.1", "::1"):
        stage.gate.give_to_client(host)
    return stage


def knock(stage, host, *arguments, **options):
    return stage.client.run(BINARY, "-p", 22, "--dir", stage.client_dir, *arguments, host, **options)


def pair(stage, host, interface="eth0"):
    """Captures a knock, and the SYN of a connect() from the same port, since each port may have a clock of its own."""
    capture = stage.keep(Capture(stage.client, interface))
    knock(stage, host)
    [ours] = capture.sent(stage.gate.knock_port, quiet=0.02)
    stage.client.start_connect(stage.gate.knock_port, host, source_port=ours.source_port)
    [genuine] = capture.sent(stage.gate.knock_port, quiet=0.02)
    assert ours.checksums_right
    return ours, genuine


def off_the_clock(ours, genuine, unit=1e-3):
    """How far the knock's timestamp is from the connection's clock, in seconds."""
    passed = (genuine.timestamp - ours.timestamp + 2**31) % 2**32 - 2**31
    return passed * unit - (genuine.at - ours.at)


def alike(stage, host, interface="eth0"):
    ours, genuine = pair(stage, host, interface)
    assert ours.shape == genuine.shape
    assert ours.timestamp is None or abs(off_the_clock(ours, genuine)) < 0.002
    return ours


NETWORK = object()  # placeholder for the route to the server, in the address family under test


def sysctl(name):
    return ["sysctl", "-qw", name]


def route(*metrics):
    return ["ip", "route", "replace", NETWORK, *metrics]


# Settings that change a SYN, as commands.
SETTINGS = {
    "as the machine comes": [],
    "mtu 1492": [["ip", "link", "set", "eth0", "mtu", "1492"]],
    "mtu 1280": [["ip", "link", "set", "eth0", "mtu", "1280"]],
    "mtu 9000": [["ip", "link", "set", "eth0", "mtu", "9000"]],
    "a small buffer": [sysctl("net.ipv4.tcp_rmem=4096 16384 6291456")],
    "a large buffer": [sysctl("net.ipv4.tcp_rmem=4096 1000000 67108864")],
    "a buffer smaller than a segment": [sysctl("net.ipv4.tcp_rmem=2304 2400 2500")],
    "an odd buffer": [sysctl("net.ipv4.tcp_rmem=4096 87381 174763")],
    "no window scaling": [sysctl("net.ipv4.tcp_window_scaling=0")],
    "no sack": [sysctl("net.ipv4.tcp_sack=0")],
    "neither": [sysctl("net.ipv4.tcp_window_scaling=0"), sysctl("net.ipv4.tcp_sack=0")],
    "signed windows": [sysctl("net.ipv4.tcp_workaround_signed_windows=1")],
    "timestamps without offsets": [sysctl("net.ipv4.tcp_timestamps=2")],
    "no ecn": [sysctl("net.ipv4.tcp_ecn=0")],
    "ecn": [sysctl("net.ipv4.tcp_ecn=1")],
    "another ttl": [sysctl("net.ipv4.ip_default_ttl=128"), sysctl("net.ipv6.conf.eth0.hop_limit=255")],
    "no path mtu discovery": [sysctl("net.ipv4.ip_no_pmtu_disc=1")],
    "a larger least mss": [sysctl("net.ipv4.route.min_adv_mss=1470"), sysctl("net.ipv6.route.min_adv_mss=1450")],
    "a route's mtu": [route("mtu", "1400")],
    "a route's locked mtu": [route("mtu", "lock", "1400")],
    "a route's advmss": [route("advmss", "1001")],
    "a route's window": [route("window", "20000")],
    "a route's large window": [route("window", "3000000")],
    "a route's initrwnd": [route("initrwnd", "7")],
    "a route's hoplimit": [route("hoplimit", "33")],
    "a route's ecn": [route("features", "ecn")],
    "everything at once": [
        ["ip", "link", "set", "eth0", "mtu", "1492"], sysctl("net.ipv4.tcp_rmem=4096 300000 3000000"),
        sysctl("net.ipv4.tcp_sack=0"), sysctl("net.ipv4.tcp_ecn=1"),
        route("advmss", "1300", "window", "200000", "initrwnd", "11", "hoplimit", "99", "features", "ecn")],
}


def apply(stage, commands, family):
    for command in commands:
        at = {"IPv4": ["10.9.0.0/24", "dev", "eth0", "proto", "kernel", "scope", "link"],
              "IPv6": ["fd09::/64", "dev", "eth0", "proto", "kernel", "metric", "256"]}[family]
        stage.client.run(*(part for word in command for part in (at if word is NETWORK else [word])))


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_knock_is_what_the_kernel_would_send(door, family, settings):
    apply(door, SETTINGS[settings], family)
    alike(door, FAMILIES[family][0])


def count_in_microseconds(machine, family):
    """Does `ip route replace NETWORK features tcp_usec_ts` by rtnetlink(7); the ip of Debian 12 lacks the feature."""
    def attribute(kind, value):
        return struct.pack("HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
    network, bits, version = {"IPv4": ("10.9.0.0", 24, socket.AF_INET), "IPv6": ("fd09::", 64, socket.AF_INET6)}[family]
    with machine.inside():
        interface = socket.if_nametoindex("eth0")
    main, by_kernel, link, unicast = 254, 2, 253 if family == "IPv4" else 0, 1
    body = struct.pack("BBBBBBBBI", version, bits, 0, 0, main, by_kernel, link, unicast, 0)
    body += attribute(1, socket.inet_pton(version, network)) + attribute(4, struct.pack("I", interface))  # RTA_DST, _OIF
    if family == "IPv6":
        body += attribute(6, struct.pack("I", 256))  # RTA_PRIORITY
    body += attribute(8, attribute(12, struct.pack("I", 1 << 4)))  # RTA_METRICS: RTAX_FEATURES, RTAX_FEATURE_TCP_USEC_TS
    request_replace_create_ack = 0x1 | 0x100 | 0x400 | 0x4
    with machine.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as rtnetlink:
        rtnetlink.send(struct.pack("IHHII", 16 + len(body), 24, request_replace_create_ack, 1, 0) + body)  # RTM_NEWROUTE
        [error] = struct.unpack("i", rtnetlink.recv(4096)[16:20])
    assert error == 0


@pytest.mark.parametrize("setting", ["timestamps 1", "timestamps 2", "microseconds"])
def test_the_timestamp_is_the_one_that_the_connection_would_have(door, family, setting):
    """It is exact to the millisecond, lowest bit included. A connection from the same port shows the kernel's clock."""
    host = FAMILIES[family][0]
    if setting == "microseconds":
        count_in_microseconds(door.client, family)
    else:
        door.client.run(*sysctl(f"net.ipv4.tcp_timestamps={setting[-1]}"))
    unit = 1e-6 if setting == "microseconds" else 1e-3
    off = [off_the_clock(*pair(door, host), unit) for _ in range(40)]
    print(f"{family}, {setting}: {min(off) * 1000:+.2f} to {max(off) * 1000:+.2f} ms off")
    assert max(map(abs, off)) < 0.002


def test_a_slow_machine_sent_a_random_timestamp(door, family):
    """Its clock ticks during each reading of the timestamp."""
    door.client.run(*sysctl("net.ipv4.tcp_timestamps=2"))
    host = FAMILIES[family][0]
    capture = door.keep(Capture(door.client))
    door.client.run("strace", "-qq", "-o", door.directory / "strace", "-e", "inject=getsockopt:delay_exit=2000",
                    BINARY, "-p", 22, "--dir", door.client_dir, host)
    [ours] = capture.sent(door.gate.knock_port, quiet=0.02)
    door.client.start_connect(door.gate.knock_port, host)
    [genuine] = capture.sent(door.gate.knock_port, quiet=0.02)
    assert abs(off_the_clock(ours, genuine)) < 0.05


def test_an_mtu_that_only_ipv4_has(door):
    door.client.run("ip", "link", "set", "eth0", "mtu", 270)
    assert alike(door, SERVER).options[:4] == b"\x02\x04" + (256).to_bytes(2, "big")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_knock_over_loopback(door, host):
    alike(door, host, "lo")


def test_a_machine_without_timestamps(door, family):
    door.client.run(*sysctl("net.ipv4.tcp_timestamps=0"))
    assert alike(door, FAMILIES[family][0]).timestamp is None


@pytest.mark.parametrize("number", [0, 2])
def test_flow_labels_off_are_refused(door, number):
    door.client.run(*sysctl(f"net.ipv6.auto_flowlabels={number}"))
    capture = door.keep(Capture(door.client))
    done = knock(door, SERVER6, check=False)
    assert done.returncode == 1
    assert "needs IPv6 flow labels" in done.stderr and "-4" in done.stderr
    knock(door, SERVER)
    door.client.start_connect(door.gate.knock_port, SERVER6)
    _, genuine = capture.sent(door.gate.knock_port)
    assert genuine.flow_label == 0, "the kernel sends none"


@pytest.mark.parametrize("split", [0, 1])
def test_the_top_of_a_flow_label(door, split):
    """With `flowlabel_state_ranges` the kernel sets the first bit of every label that it generates."""
    door.client.run(*sysctl(f"net.ipv6.flowlabel_state_ranges={split}"))
    capture = door.keep(Capture(door.client))
    for _ in range(40):
        knock(door, SERVER6)
    ours = {packet.flow_label >> 19 for packet in capture.sent(door.gate.knock_port)}
    for _ in range(40):
        door.client.start_connect(door.gate.knock_port, SERVER6)
    genuine = {packet.flow_label >> 19 for packet in capture.sent(door.gate.knock_port)}
    assert ours == genuine == ({1} if split else {0, 1})


def test_source_ports_continue_the_kernels_sequence(door, family):
    """For each address pair and destination port, connect() advances by a few even ports and restarts elsewhere every
    10 s. Knocks do the same."""
    host = FAMILIES[family][0]
    capture = door.keep(Capture(door.client))
    for _ in range(40):
        knock(door, host)
        door.client.start_connect(door.gate.knock_port, host)
    ports = [packet.source_port for packet in capture.sent(door.gate.knock_port)]
    steps = [(after - before) % 28232 for before, after in zip(ports, ports[1:])]
    assert len(steps) == 79 and {step % 2 for step in steps} == {0}
    assert sum(not 2 <= step <= 16 for step in steps) <= 3


@pytest.mark.parametrize("setting", ["tcp_fastopen=0", "tcp_fastopen_blackhole_timeout_sec=3600"])
def test_source_ports_if_the_connection_cannot_be_prepared(door, family, setting):
    door.client.run(*sysctl(f"net.ipv4.{setting}"))
    door.client.run(*sysctl("net.ipv4.ip_local_port_range=40001 50000"))
    capture = door.keep(Capture(door.client))
    for _ in range(20):
        knock(door, FAMILIES[family][0])
    door.client.start_connect(door.gate.knock_port, FAMILIES[family][0])
    *ours, genuine = capture.sent(door.gate.knock_port)
    assert {packet.shape for packet in ours} == {genuine.shape}
    ports = {packet.source_port for packet in ours}
    assert len(ports) > 15 and min(ports) >= 40001 and max(ports) <= 50000
    assert {port % 2 for port in ports} == {1} == {genuine.source_port % 2}


def test_only_the_knock_is_sent(door, family):
    """The connection that is prepared to learn its source port sends nothing."""
    capture = door.keep(Capture(door.client))
    for _ in range(10):
        knock(door, FAMILIES[family][0])
    assert len(capture.sent(door.gate.knock_port, quiet=1.5)) == 10


def test_a_knock_takes_the_route_of_its_source(door):
    """Routing rules may depend on the source address, and knocks must follow them as connections do."""
    door.client.run("ip", "-batch", "-", input="""
        link add eth1 type veth peer name peer
        link set eth1 up
        link set peer up
        neighbour add 10.9.0.1 lladdr 02:00:00:00:00:01 dev eth1 nud permanent
        route add default dev eth1 table 7
        rule add from 10.9.0.2 table 7 priority 10
    """)
    alike(door, SERVER, "eth1")


def second_uplink(stage, host, *metrics, table="main"):
    """Adds the interface eth1 with a route to `host`."""
    ip, bits = (["ip", "-6"], 128) if ":" in host else (["ip"], 32)
    for command in (["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "peer"],
                    ["ip", "link", "set", "eth1", "up"], ["ip", "link", "set", "peer", "up"],
                    [*ip, "neighbour", "add", host, "lladdr", "02:00:00:00:00:01", "dev", "eth1", "nud", "permanent"],
                    [*ip, "route", "add", f"{host}/{bits}", "dev", "eth1", "table", table, *metrics]):
        stage.client.run(*command)
    return ip


@pytest.mark.parametrize("kernel", ["since 6.4", "before"])
def test_a_routing_rule_for_tcp_sent_the_knock_by_another_uplink(door, family, kernel):
    """A raw packet has no protocol of its own, so such rules and IPsec policies passed it over. Kernels before 6.4 do
    not let the sender name one."""
    host = FAMILIES[family][0]
    ip = second_uplink(door, host, table="7")
    door.client.run(*ip, "rule", "add", "ipproto", "tcp", "table", "7", "priority", "10")
    if kernel == "since 6.4":
        alike(door, host, "eth1")
        return
    capture, trace = door.keep(Capture(door.client)), door.directory / "strace"
    door.client.run("strace", "-qq", "-o", trace, "-e", "trace=sendmsg", "-e", "inject=sendmsg:error=EINVAL:when=1",
                    BINARY, "-p", 22, "--dir", door.client_dir, host)
    assert len(capture.sent(door.gate.knock_port)) == 1 and trace.read_text().count("sendmsg(") == 2


def bpf(command, attributes):
    system_call = {"x86_64": 321, "aarch64": 280}[platform.machine()]
    libc, memory = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(attributes, 128)
    number = libc.syscall(system_call, command, memory, len(memory))
    assert number >= 0, os.strerror(ctypes.get_errno())
    return number


def bind_sockets(group, interface):
    """Binds all sockets of a control group's processes to an interface, by its index, as `ip vrf exec` does (bpf(2))."""
    program = b"".join(struct.pack("<BBhi", *instruction) for instruction in (
        (0xB7, 2, 0, interface), (0x63, 0x21, 0, 0), (0xB7, 0, 0, 1), (0x95, 0, 0, 0)))  # bound_dev_if = r2; return 1
    code, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"GPL")
    load, attach, cgroup_sock, create = 5, 8, 9, 2
    loaded = bpf(load, struct.pack("<IIQQ", cgroup_sock, 4, ctypes.addressof(code), ctypes.addressof(licence)))
    at = os.open(group, os.O_RDONLY)
    bpf(attach, struct.pack("<IIII", at, loaded, create, 0))
    for fd in (at, loaded):
        os.close(fd)


def test_a_knock_of_a_vrf_had_another_routes_metrics(door, family):
    """`ip vrf exec` binds all sockets of a program to an interface, and so their routes."""
    host = FAMILIES[family][0]
    ip = second_uplink(door, host, "metric", "9999", "advmss", "900")
    door.client.run(*ip, "route", "add", f"{host}/{128 if family == 'IPv6' else 32}", "dev", "eth0", "advmss", "1111")
    groups = door.directory / "groups"
    groups.mkdir()
    door.client.run("mount", "-t", "cgroup2", "groups", groups)
    group = groups / f"knockknock-test-{os.getpid()}"
    door.client.run("mkdir", group)
    with door.client.inside():
        eth1 = socket.if_nametoindex("eth1")
    bind_sockets(f"/proc/{door.client.pid}/root{group}", eth1)
    capture = door.keep(Capture(door.client, "eth1"))
    door.client.run("sh", "-ec", f'echo $$ >"{group}/cgroup.procs"; "{BINARY}" -p 22 --dir "{door.client_dir}" {host}')
    [ours] = capture.sent(door.gate.knock_port)
    door.client.run("rmdir", group)
    assert ours.options[:4] == b"\x02\x04" + (900).to_bytes(2, "big")

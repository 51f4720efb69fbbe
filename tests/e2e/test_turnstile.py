"""One knock is one connection: what the kernel's own shortcuts, other people's rules and forged packets make of that."""

import os
import socket
import struct
import subprocess
import time

import pytest

from rawtcp import ACK, FIN, RST, SYN, RawClient
from services import Plain, echo, wait_until
from stage import BINARY, SERVER, Machine, Profile, Service

# As on a kernel without connection labels: what names them is refused when it is checked.
NFT_WITHOUT_LABELS = """#!/bin/sh
if [ "$1" = -c ]; then
    input=$(cat)
    case $input in *'ct label'*) echo 'no labels' >&2; exit 1 ;; esac
    printf '%s\\n' "$input" | /usr/sbin/nft "$@"
else
    exec /usr/sbin/nft "$@"
fi
"""


def at_syn(stage):
    """The environment of a daemon whose nft cannot use labels."""
    programs = stage.directory / "without-labels"
    programs.mkdir()
    (programs / "nft").write_text(NFT_WITHOUT_LABELS)
    (programs / "nft").chmod(0o755)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}


@pytest.fixture(params=["nft", "nft at the SYN", "iptables"])
def wall(request, stage):
    """A daemon is started by `wall()`, with each firewall and each turnstile; it returns the stage."""
    def start(**keys):
        options = {"env": at_syn(stage)} if request.param == "nft at the SYN" else {}
        return stage.set_up(request.param.split()[0], daemon_options=options, **keys)
    start.kind = request.param
    return start


def foreign(machine, rules, priority="mangle - 20", name="other"):
    """Rules of somebody else in a chain of prerouting."""
    machine.run("nft", "-f", "-", input=f"""table inet {name} {{ {rules[0] if len(rules) > 1 else ''}
        chain prerouting {{ type filter hook prerouting priority {priority}
            {rules[-1]}
        }}
    }}""")


def resets(connection):
    """A service that resets once something has come."""
    connection.recv(100)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def fast_open(machine, port=22):
    """A listener that takes data in SYNs, without a cookie."""
    machine.run("sysctl", "-qw", "net.ipv4.tcp_fastopen=0x603")
    service = Plain(machine, port, resets)
    service._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 100)
    return service


def test_check_names_the_turnstile(stage):
    Profile(stage, "gate")
    for firewall, environment, expected in (
        ("nft", None, "the handshake's ACK uses"), ("nft", at_syn(stage), "the SYN uses"), ("iptables", None, "the SYN uses")):
        stage.configure(firewall=firewall, guard="22", log="kmsg")
        done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check",
                                **({"env": environment} if environment else {}))
        [line] = [line for line in done.stdout.splitlines() if line.startswith("turnstile ")]
        assert expected in line


@pytest.mark.parametrize("options", [b"", bytes.fromhex("2202 0101"), bytes.fromhex("fe04f989")],
                         ids=["data", "fast open", "experimental fast open"])
def test_fast_open_makes_one_connection_of_one_knock(wall, options):
    """Six SYNs with data from one port; the service resets each time."""
    stage = wall()
    stage.service.close()
    service = stage.keep(fast_open(stage.server))
    stage.open_port()
    client = stage.keep(RawClient(stage.client, 41000))
    for _ in range(6):
        client.send(SYN, b"hello", options)
        client.answers(RST | ACK, 0.1)
    assert service.accepted <= 1
    if wall.kind == "nft":
        assert service.accepted == 0, "the opening was not used"
        with stage.client.connect(22) as connection:
            connection.sendall(b"x")
            wait_until(lambda: service.accepted == 1)
    assert stage.client.connect(22) is None


def test_a_half_open_connection_does_not_prolong_its_opening(wall):
    """The SYN of a connection that was never completed, after the delay and the end of the listener's patience."""
    stage = wall(delay=2)
    stage.server.run("sysctl", "-qw", "net.ipv4.tcp_synack_retries=0")
    stage.open_port()
    client = stage.keep(RawClient(stage.client, 41000))
    client.send(SYN)
    assert client.answers(SYN | ACK)
    while client.receive(0.1):
        pass
    time.sleep(3.2)
    client.send(SYN)
    assert not client.answers(SYN | ACK, 0.6)
    assert stage.service.accepted == 0


def test_an_ack_after_the_delay_comes_too_late(stage):
    stage.set_up("nft", delay=1)
    stage.open_port()
    client = stage.keep(RawClient(stage.client, 41000))
    client.send(SYN)
    assert client.answers(SYN | ACK)
    time.sleep(1.3)
    client.sequence += 1
    client.send(ACK)
    time.sleep(0.2)
    assert stage.service.accepted == 0


BEFORE_US = {
    "a map": ["", "ct mark set tcp dport map { 21 : 0x1, 22 : 0x08000000 }"],
    "a named map": ["map marks { type inet_service : mark; elements = { 22 : 0x08000001 }; }",
                    "ct mark set tcp dport map @marks"],
    "the packet's mark": ["", "meta mark set 0x08000000 ct mark set meta mark"],
    "a constant": ["", "ct mark set ct mark or 0x08000000"],
}


@pytest.mark.parametrize("rule", BEFORE_US)
def test_a_mark_set_by_another_rule_admits_nobody(wall, rule):
    stage = wall()
    foreign(stage.server, BEFORE_US[rule])
    assert not stage.connects()
    stage.open_port()
    assert stage.connects()
    assert not stage.connects()


BEHIND_US = {
    "nft": "nft add rule inet other prerouting ct state new ct mark set 0x2",
    "iptables": "iptables -t mangle -A PREROUTING -i eth0 -m conntrack --ctstate NEW -j CONNMARK --set-mark 2",
}


@pytest.mark.parametrize("owner", BEHIND_US)
def test_a_mark_overwritten_by_another_rule_blocks_nobody(wall, owner):
    """As a router with two uplinks does with each new connection."""
    stage = wall()
    foreign(stage.server, [""], "mangle + 5")
    stage.server.run(*BEHIND_US[owner].split())
    assert not stage.connects()
    stage.open_port()
    assert stage.connects()
    assert not stage.connects()


def ftp(connection):
    """As much of an FTP server as its helper looks at; the port that it names is 22's."""
    connection.sendall(b"220 hello\r\n")
    connection.recv(100)
    connection.sendall(b"227 Entering Passive Mode (%s,0,22)\r\n" % SERVER.replace(".", ",").encode())
    connection.recv(100)


def test_a_connection_that_an_ftp_server_announces_enters_by_no_other_knock(wall):
    stage = wall(guard="21, 22, 7")
    stage.keep(Plain(stage.server, 21, ftp))
    stage.server.run("nft", "-f", "-", input="""table ip other {
        ct helper ftp { type "ftp" protocol tcp; }
        chain prerouting { type filter hook prerouting priority filter; tcp dport 21 ct helper set "ftp"; }
    }""")
    stage.client.send(stage.gate.packet(0, port=21))
    stage.opened(21)
    with stage.client.connect(21) as control:
        assert control.recv(100).startswith(b"220")
        control.sendall(b"PASV\r\n")
        assert control.recv(100).startswith(b"227")
        assert "dport=22" in stage.server.run("cat", "/proc/net/nf_conntrack_expect").stdout
        assert not stage.connects()


def test_an_ack_of_no_connection_does_not_reach_a_listener_behind_a_redirect(wall):
    stage = wall()
    stage.server.run("nft", "-f", "-", input="""table ip other { chain dstnat {
        type nat hook prerouting priority dstnat; tcp dport 2222 redirect to :22
    }
    }""")
    client = stage.keep(RawClient(stage.client, 41000, port=2222))
    client.send(SYN)
    assert client.receive() is None
    cold = stage.keep(RawClient(stage.client, 41001, port=2222))
    cold.send(ACK, acknowledgment=1)
    assert cold.receive() is None, "an RST reveals the port"


def first_connection(stage, service, port=22):
    """Opens the port, and returns a client that is connected to the service."""
    stage.open_port(port)
    client = stage.keep(RawClient(stage.client, 41000, port=port))
    assert client.handshake()
    wait_until(lambda: service.accepted == 1)
    return client


@pytest.mark.parametrize("address, end", [("::", "RST"), ("::", "FIN"), ("::", "FIN_WAIT2"), (SERVER, "RST")])
@pytest.mark.parametrize("port", [22, 2222], ids=["direct", "redirected"])
def test_a_cookies_ack_makes_one_connection(stage, port, address, end):
    """SYN cookies: the handshake's ACK alone makes a connection, and again after its end.

    Whoever knows one cookie knows others, because a cookie is a sum with the client's sequence number."""
    stage.server.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=2", "net.ipv4.tcp_fin_timeout=1")
    stage.set_up("nft", guard="7, 22, 2222")
    stage.server.run("nft", "-f", "-", input="""table ip other { chain dstnat {
        type nat hook prerouting priority dstnat; tcp dport 2222 redirect to :22
    }
    }""")
    stage.service.close()
    serve = {"RST": resets, "FIN": echo, "FIN_WAIT2": lambda connection: None}[end]
    service = stage.keep(Plain(stage.server, 22, serve, address))
    client = first_connection(stage, service, port)
    cookies = [{"sequence": client.sequence + n, "acknowledgment": client.acknowledgment + n} for n in (0, -1)]
    if end == "RST":
        client.send(ACK, b"x")
        assert client.answers(RST | ACK, 1) or client.answers(RST, 0.1)
    else:
        if end == "FIN":
            client.send(FIN | ACK)
            client.sequence += 1
        assert client.answers(FIN | ACK, 1)
        client.send(ACK)
        # A socket in FIN_WAIT2 disappears without a packet.
        wait_until(lambda: f":{41000:04X} " not in stage.server.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout)
    for cookie in 3 * cookies:
        client.send(ACK, **cookie)
        client.receive(0.1)
        client.send(ACK, b"x", **cookie)
        while client.receive(0.1):
            pass
    assert service.accepted == 1


def test_a_client_that_missed_the_reset_is_reset_again(stage):
    stage.set_up("nft")
    stage.service.close()
    client = first_connection(stage, stage.keep(Plain(stage.server, 22, resets)))
    for _ in range(2):
        client.send(ACK, b"x")
        packet = client.receive()
        while packet and not packet.flags & RST:
            packet = client.receive()
        assert packet


def test_a_segment_that_was_lost_before_the_end_arrives(stage):
    """The server says nothing, so the segment carries the first ACK number of the connection."""
    received = []
    stage.set_up("nft")
    stage.service.close()
    client = first_connection(stage, stage.keep(Plain(
        stage.server, 22, lambda connection: received.extend(iter(lambda: connection.recv(100), b"")))))
    client.send(FIN | ACK, b"end", sequence=client.sequence + 5)
    assert client.receive()
    client.send(ACK, b"start")
    wait_until(lambda: b"".join(received) == b"startend")


def test_behind_a_syn_proxy_nobody_gets_in(wall):
    """Its SYNs belong to no connection, so no opening can be tied to them."""
    stage = wall()
    stage.server.run("nft", "-f", "-", input="""table inet proxy {
        chain early { type filter hook prerouting priority raw; tcp dport 22 tcp flags & (syn | ack) == syn notrack; }
        chain input { type filter hook input priority filter
            tcp dport 22 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
        }
    }""")
    assert not stage.connects()
    stage.open_port()
    # The proxy may answer; its own SYN never reaches the listener.
    connection = stage.client.connect(22, timeout=1.5)
    if connection:
        with connection, pytest.raises(TimeoutError):
            connection.recv(1)
    assert stage.service.accepted == 0


def test_the_owner_gets_in_despite_spoofed_syns(stage):
    stage.set_up("nft")
    flood = stage.client.start("hping3", "--syn", "--interval", "u2000", "--baseport", 50000, "--destport", 22, SERVER,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.3)
        for _ in range(5):
            stage.open_port()
            time.sleep(0.1)
            with stage.client.connect(22, timeout=2) as connection:
                assert connection.recv(100) == Service.GREETING
        assert flood.poll() is None
    finally:
        flood.kill()
        flood.wait()


def two_handshakes_in_one_opening(stage):
    """Opens the port, and returns two clients that have received a SYN/ACK and not answered it."""
    stage.set_up("nft")
    stage.open_port()
    clients = [stage.keep(RawClient(stage.client, port)) for port in (41000, 41001)]
    for client in clients:
        client.send(SYN)
        assert client.answers(SYN | ACK)
        client.sequence += 1
    return clients


def test_the_second_connection_of_an_opening_is_reset(stage):
    first, second = two_handshakes_in_one_opening(stage)
    second.send(ACK)
    assert second.receive() is not None, "the greeting"
    first.send(ACK)
    assert first.receive(0.2) is None, "on another processor, the packet before it may be using the opening"
    for payload in (b"x", b""):
        first.send(ACK, payload)
        assert first.receive().flags & RST
    assert stage.service.accepted == 1
    # As a kernel answers the SYN/ACK that the server retransmits.
    assert first.answers(SYN | ACK, 2)
    first.send(RST)
    assert first.receive(4) is None


def test_a_connection_that_came_too_late_does_not_use_the_next_knock(stage):
    """It goes on sending, as a kernel does that takes it for connected."""
    first, second = two_handshakes_in_one_opening(stage)
    first.send(ACK)
    second.send(ACK)
    stage.open_port()
    for _ in range(3):
        second.send(ACK, b"x")
    time.sleep(0.1)
    assert stage.service.accepted == 1
    assert stage.connects()
    assert not stage.connects()


def test_a_link_local_address_that_may_be_on_another_link_gets_no_opening(wall):
    """With one link it is: test_a_link_local_address_with_its_zone."""
    stage = wall()
    stage.server.run("ip", "address", "add", "fe80::1/64", "dev", "eth0", "nodad")
    stage.client.run("ip", "address", "add", "fe80::2/64", "dev", "eth0", "nodad")
    stage.client.run("ip", "-6", "route", "replace", "fe80::/64", "dev", "eth0", "src", "fe80::2", "metric", 1)
    stage.gate.give_to_client("fe80::1%eth0")
    other = stage.keep(Machine())
    stage.server.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", other.pid)
    for machine, interface, address in ((stage.server, "eth1", "fe80::1"), (other, "eth0", "fe80::2")):
        machine.run("ip", "-batch", "-", input=f"link set {interface} up\naddress add {address}/64 dev {interface} nodad\n")
    stage.knock(host="fe80::1%eth0")
    stage.daemon.wait_for("port 22 stays closed to fe80::2: a link-local source may be a different host")
    assert not other.connect(22, "fe80::1%eth0", timeout=0.3)
    assert not stage.client.connect(22, "fe80::1%eth0", timeout=0.3)
    stage.server.run("ip", "link", "set", "eth1", "down")
    stage.knock(host="fe80::1%eth0")
    stage.opened(source="fe80::2")
    with stage.client.connect(22, "fe80::1%eth0") as connection:
        assert connection.recv(100) == Service.GREETING

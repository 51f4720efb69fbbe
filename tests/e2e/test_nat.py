"""Both wires through NAT, MSS clamping, and the MTU of a PPPoE line."""

import socket

import pytest

from stage import BINARY, FAMILIES, SERVER6, Capture, Machine, Service

INNER, INNER6 = "192.168.7.2", "fd07::2"

MASQUERADE = {
    "nft": [["nft", "add table inet nat; add chain inet nat post { type nat hook postrouting priority 100; };"
             " add rule inet nat post oifname eth0 masquerade"]],
    "iptables": [["iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE"],
                 ["ip6tables", "-w", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE"]],
}


@pytest.fixture(params=MASQUERADE)
def behind_nat(request, stage):
    """The stage with a machine behind NAT: its packets leave with the client's address."""
    stage.inner = stage.keep(Machine())
    stage.client.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", stage.inner.pid)
    stage.client.run("ip", "-batch", "-", input="""
        address add 192.168.7.1/24 dev eth1
        address add fd07::1/64 dev eth1 nodad
        link set eth1 up
    """)
    stage.inner.run("ip", "-batch", "-", input=f"""
        link set lo up
        address add {INNER}/24 dev eth0
        address add {INNER6}/64 dev eth0 nodad
        link set eth0 up
        route add default via 192.168.7.1
        route add default via fd07::1
    """)
    stage.client.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    for command in MASQUERADE[request.param]:
        stage.client.run(*command)
    return stage


def knocks_through(stage, host, source):
    """Knocks and connects from the inner machine. Returns the knock as it leaves the router."""
    stage.gate.give_to_client(SERVER6)
    capture = stage.keep(Capture(stage.client))
    stage.inner.run(BINARY, "-p", 22, "--dir", stage.client_dir, host)
    stage.opened(source=source)
    [knock] = capture.sent(stage.gate.knock_port)
    assert knock.source == source
    connection = stage.inner.connect(22, host)
    with connection:
        assert connection.recv(100) == Service.GREETING
    assert stage.inner.connect(22, host) is None
    return knock


def test_an_opening_is_for_the_translated_address(behind_nat, wire, family):
    stage = behind_nat.set_up(wire=wire)
    knocks_through(stage, *FAMILIES[family])


CLAMP = {"nft": [["nft", "add table inet clamp; add chain inet clamp forward { type filter hook forward priority 0; };"
                  " add rule inet clamp forward tcp flags syn tcp option maxseg size set rt mtu"]],
         "iptables": [[program, "-w", "-t", "mangle", "-A", "FORWARD", "-p", "tcp", "--syn", "-j", "TCPMSS",
                       "--clamp-mss-to-pmtu"] for program in ("iptables", "ip6tables")]}


@pytest.mark.parametrize("clamp", CLAMP)
@pytest.mark.parametrize("behind_nat", ["nft"], indirect=True)
def test_a_knock_through_a_clamped_pppoe_line(behind_nat, wire, family, clamp):
    stage = behind_nat.set_up(wire=wire)
    for machine in (stage.client, stage.server):
        machine.run("ip", "link", "set", "eth0", "mtu", 1492)
    for command in CLAMP[clamp]:
        stage.client.run(*command)
    knock = knocks_through(stage, *FAMILIES[family])
    assert knock.options[:4] == b"\x02\x04" + (1492 - (40 if family == "IPv4" else 60)).to_bytes(2, "big")


@pytest.mark.parametrize("behind_nat", ["nft"], indirect=True)
def test_a_learned_path_mtu_applies_to_the_knock(behind_nat, family):
    """After an ICMP "packet too big" the kernel advertises a smaller MSS to that destination."""
    stage = behind_nat.set_up(wire="stealth")
    host, source = FAMILIES[family]
    stage.client.run("ip", "link", "set", "eth0", "mtu", 1492)
    with stage.inner.socket(socket.AF_INET6 if family == "IPv6" else socket.AF_INET, socket.SOCK_DGRAM) as big:
        big.connect((host, 9))
        big.send(bytes(1500 - 28 if family == "IPv4" else 1500 - 48))
        with pytest.raises(OSError):  # the router has replied with "packet too big"
            while True:
                big.send(bytes(1500 - 28 if family == "IPv4" else 1500 - 48))
    knock = knocks_through(stage, host, source)
    assert knock.options[:4] == b"\x02\x04" + (1492 - (40 if family == "IPv4" else 60)).to_bytes(2, "big")


# What a middlebox on the path may do to the timestamps option (nft's reset, tc's pedit).
MEDDLING = {
    "removed": [["nft", "add table inet meddler; add chain inet meddler forward { type filter hook forward priority 0; };"
                 " add rule inet meddler forward tcp flags syn reset tcp option timestamp"]],
    "rewritten": [["nft", "add table inet meddler; add chain inet meddler forward { type filter hook forward priority 0; };"
                   " add rule inet meddler forward tcp dport KNOCK_PORT tcp option timestamp tsval set 7"]],
}


@pytest.mark.parametrize("timestamp", MEDDLING)
@pytest.mark.parametrize("behind_nat", ["nft"], indirect=True)
def test_a_stealth_knock_through_a_middlebox_that_changes_the_timestamp(behind_nat, family, timestamp):
    stage = behind_nat.set_up(wire="stealth")
    for command in MEDDLING[timestamp]:
        stage.client.run(*(word.replace("KNOCK_PORT", str(stage.gate.knock_port)) for word in command))
    knock = knocks_through(stage, *FAMILIES[family])
    assert knock.timestamp == {"removed": None, "rewritten": 7}[timestamp]

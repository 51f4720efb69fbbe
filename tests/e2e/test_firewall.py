"""The guard: which connections it stops, which changes it survives, and how it coexists with other firewalls."""

import errno
import fcntl
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rawtcp import ACK, RawClient
from services import SSH_OPTIONS, Sshd, wait_until
from stage import BINARY, FAMILIES, SERVER, SERVER6, Machine, Profile, Service
from test_hostile import repaired


def nft(machine, ruleset):
    machine.run("nft", "-f", "-", input=ruleset)


def test_the_guard_applies_to_ipv6(gate):
    assert not gate.connects(address=SERVER6)


def test_the_guard_leaves_loopback_alone(gate):
    with gate.server.connect(22, "127.0.0.1") as connection:
        assert connection.recv(100) == Service.GREETING


def test_the_guard_leaves_other_ports_alone(gate):
    gate.keep(Service(gate.server, 80))
    assert gate.connects(80)


def test_a_connection_outlives_its_opening(stage, firewall):
    stage.service.close()
    listener = stage.server.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((SERVER, 22))
    listener.listen()
    stage.service = stage.keep(listener)
    stage.set_up(firewall, delay=1)
    stage.open_port()
    with stage.client.connect(22) as client, listener.accept()[0] as server:
        time.sleep(1.3)
        for sender, receiver in ((client, server), (server, client)):
            receiver.settimeout(1)
            sender.sendall(b"still here")
            assert receiver.recv(100) == b"still here"


def test_an_earlier_session_survives_the_start_of_the_daemon(stage, firewall):
    with stage.client.connect(22) as connection:
        stage.set_up(firewall)
        connection.settimeout(1)
        assert connection.recv(100) == Service.GREETING
        assert connection.recv(100) == b""


@pytest.mark.parametrize("first", ["client", "server"])
def test_an_untracked_session_continues(stage, firewall, family, first):
    """On a server without connection tracking the daemon's rules are the first that need it."""
    stage.service.close()
    listener = stage.server.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.bind(("::", 22))
    listener.listen()
    stage.service = stage.keep(listener)
    with stage.client.connect(22, FAMILIES[family][0]) as client, listener.accept()[0] as server:
        stage.set_up(firewall)
        for sender, receiver in [(client, server), (server, client)][:: 1 if first == "client" else -1]:
            receiver.settimeout(1)
            sender.sendall(b"still here")
            assert receiver.recv(100) == b"still here"


def test_ssh_sessions_continue_when_tracking_begins(stage, firewall, tmp_path):
    sshd = stage.keep(Sshd(stage.server, tmp_path / "sshd", 2222))
    options = ["-p", "2222", "-i", sshd.key, *SSH_OPTIONS, SERVER, "cat"]
    sessions = [stage.client.start("ssh", terminal, *options, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL) for terminal in ("-tt", "-T")]

    def echoes(session, text):
        session.stdin.write(text + b"\n")
        heard = b""
        while text not in heard and select.select([session.stdout], [], [], 3)[0]:
            heard += session.stdout.read(100)
        return text in heard

    try:
        assert [echoes(session, b"before") for session in sessions] == [True, True]
        stage.set_up(firewall, guard="2222, 7")
        assert stage.client.connect(2222) is None
        assert [echoes(session, b"after") for session in sessions] == [True, True]
    finally:
        for session in sessions:
            session.kill()
            session.communicate()


def older_connections_pass(stage, firewall):
    """Whether packets pass of connections that are older than the rules; with nft for how many more seconds."""
    if firewall == "nft":
        listed = stage.server.run("nft", "list", "set", "inet", "knockknock", "starting").stdout
        return float(listed.split("expires ")[1].split("s")[0]) if "expires" in listed else 0
    return stage.server.run("cat", "/proc/net/xt_recent/kkstart", "/proc/net/xt_recent/kkstartv6").stdout.count("last_seen") == 2


def test_packets_of_older_connections_pass_for_a_minute_after_the_first_start(stage, firewall):
    stage.set_up(firewall)
    left = older_connections_pass(stage, firewall)
    if firewall == "iptables":
        rules = stage.server.run("iptables", "-t", "mangle", "-S").stdout
        assert left and rules.count("--rcheck --seconds 60 --reap --name kkstart ") == 2, rules
        return
    assert 50 < left < 60
    time.sleep(1.1)
    stage.daemon.stop()
    stage.start_daemon()
    assert left - 10 < older_connections_pass(stage, firewall) < left, "a restart neither renews nor ends it"


@pytest.mark.parametrize("start", ["first", "later"])
def test_an_ack_to_a_listener_is_dropped_from_the_start(stage, start):
    """It could be that of a SYN cookie, and an RST would say that there is a port."""
    if start == "later":
        nft(stage.server, "table inet knockknock")
    stage.set_up("nft")
    assert bool(older_connections_pass(stage, "nft")) == (start == "first")
    cold = stage.keep(RawClient(stage.client, 41000))
    cold.send(ACK, acknowledgment=1)
    assert cold.receive() is None


def test_a_reset_session_cannot_reconnect_from_its_source_port(gate):
    gate.service.close()
    gate.service = gate.keep(Service(gate.server, 22, reset=True))
    gate.open_port()
    with gate.client.connect(22, source_port=41000) as connection:
        assert connection.recv(100) == Service.GREETING
        connection.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    assert gate.client.connect(22, source_port=41000) is None


def test_a_refused_connection_cannot_reconnect_from_its_source_port(gate, firewall):
    gate.service.close()
    gate.open_port()
    with gate.client.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(1)
        connection.bind(("", 41000))
        assert connection.connect_ex((SERVER, 22)) == errno.ECONNREFUSED
    gate.service = gate.keep(Service(gate.server, 22))
    if firewall == "nft":  # where the handshake's ACK uses the opening, a refused SYN has not
        assert gate.connects(source_port=41000)
    assert gate.client.connect(22, source_port=41000) is None


class Race:
    """Repeated rounds of two simultaneous connections from two processors."""

    def __init__(self, stage):
        shared = stage.directory / "race"
        shared.write_bytes(b"\xff\xff\xff")
        self._racers = [
            stage.client.start(sys.executable, "-B", Path(__file__).with_name("racer.py"), cpu, shared, SERVER, 22,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            for cpu in sorted(os.sched_getaffinity(0))[:2]]

    def run(self, number):
        """Returns how many of the two connections were accepted."""
        for racer in self._racers:
            racer.stdin.write(f"{number}\n")
        return sum(int(racer.stdout.readline()) for racer in self._racers)

    def close(self):
        for racer in self._racers:
            racer.stdin.close()
            racer.stdout.close()
            racer.wait()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_one_of_two_racing_connections_is_admitted(gate):
    """The race is real: without the limit in the set's elements, both connections pass in two of three rounds."""
    race = gate.keep(Race(gate))
    winners = []
    for counter in range(60):
        gate.client.send(gate.gate.packet(counter))
        gate.opened()
        winners.append(race.run(counter))
    assert winners == [1] * 60
    assert gate.service.accepted == 60


def test_a_flushed_ruleset_is_restored_within_a_second(stage, unowned):
    """No knock is needed. The repair works repeatedly, and repeated repairs are not all logged."""
    stage.set_up("nft", daemon_options=unowned)
    for _ in range(3):
        stage.server.run("nft", "flush", "ruleset")
        repaired(stage)
    stage.daemon.wait_for("restored them")


@pytest.mark.parametrize("what", [
    "delete table inet knockknock",
    "flush table inet knockknock",
    "flush chain inet knockknock prerouting",
    "flush chain inet knockknock knock",
    "flush set inet knockknock guarded",
])
def test_a_damaged_table_is_repaired_within_a_second(stage, unowned, what):
    stage.set_up("nft", daemon_options=unowned)
    stage.server.run("nft", *what.split())
    stage.daemon.wait_for("restored them", timeout=1)
    assert not stage.connects()
    stage.open_port()
    assert stage.connects()
    assert not stage.connects()


def test_tables_of_other_programs_are_left_alone(stage):
    stage.set_up("nft")
    nft(stage.server, "table inet other { set s { type ipv4_addr; }\n }\n")
    nft(stage.server, "add element inet other s { 10.0.0.1 }\n")
    stage.server.run("nft", "flush", "table", "inet", "other")
    stage.server.run("nft", "delete", "table", "inet", "other")
    stage.open_port()
    assert not [line for line in stage.daemon.lines if "restored them" in line]


def test_the_guard_stays_when_the_daemon_ends_and_unguard_removes_it(gate, firewall):
    gate.daemon.stop()
    assert not gate.connects()
    gate.server.run(BINARY, "daemon", "--dir", gate.server_dir, "--unguard")
    assert gate.connects()
    left = gate.server.run("nft", "list", "ruleset").stdout
    assert "knockknock" not in left and "kk22" not in left
    if firewall == "iptables":
        assert "kk" not in gate.server.run("iptables-save").stdout + gate.server.run("ip6tables-save").stdout


def test_a_restart_does_not_duplicate_rules(gate):
    def rules():
        lines = gate.server.run("nft", "list", "ruleset").stdout.splitlines()
        return len([line for line in lines if "elements = {" not in line])  # some of them end by themselves
    before = rules()
    for _ in range(2):
        gate.daemon.stop()
        gate.start_daemon()
    assert rules() == before
    gate.open_port()
    assert gate.connects()
    assert not gate.connects()


def test_an_opening_outlives_a_restart(gate):
    gate.open_port()
    gate.daemon.stop()
    gate.start_daemon()
    assert gate.connects()
    assert not gate.connects()


@pytest.mark.parametrize("owner", ["nft", "iptables"])
def test_another_firewall_admits_by_the_mark(gate, owner):
    if owner == "nft":
        nft(gate.server, """table inet filter { chain input {
            type filter hook input priority filter; policy drop;
            ct state established,related accept
            ct mark and 0x08000000 != 0 accept
        }
        }
        """)
    else:
        gate.server.run("iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
        gate.server.run("iptables", "-A", "INPUT", "-m", "connmark", "--mark", "0x08000000/0x08000000", "-j", "ACCEPT")
        gate.server.run("iptables", "-P", "INPUT", "DROP")
    assert not gate.connects()
    gate.open_port()
    assert gate.connects()
    assert not gate.connects()


def test_a_port_outside_the_guard_opens_by_the_mark_alone(stage):
    stage.set_up("nft")
    stage.keep(Service(stage.server, 80))
    web = Profile(stage, "web", ports=[80])
    stage.daemon.stop()
    stage.start_daemon()
    nft(stage.server, """table inet filter { chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        ct mark and 0x08000000 != 0 accept
    }
    }
    """)
    assert not stage.connects(80)
    stage.client.send(web.packet(0, port=80))
    stage.opened(80)
    assert stage.connects(80)
    assert not stage.connects(80)


def test_another_mark_can_be_configured(stage):
    stage.set_up("nft", mark="0x10000000")
    stage.open_port()
    assert stage.connects()
    assert not stage.connects()
    table = stage.server.run("nft", "list", "table", "inet", "knockknock").stdout
    assert "0x10000000" in table and "0x08000000" not in table


def test_the_guard_is_for_the_named_interfaces(stage, firewall):
    stage.server.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth2")
    stage.set_up(firewall, interfaces="eth1")
    assert stage.connects()
    stage.daemon.stop()
    stage.configure(firewall=firewall, guard="22, 7", log="kmsg", interfaces="eth1, eth0")
    stage.start_daemon()
    assert not stage.connects()
    stage.open_port()
    assert stage.connects()


def test_the_guard_waits_for_an_interface_that_comes_later(stage, firewall):
    stage.server.run("ip", "link", "set", "eth0", "down")
    stage.server.run("ip", "link", "set", "eth0", "name", "later0")
    stage.set_up(firewall, interfaces="eth0")
    assert [line for line in stage.daemon.lines if 'interface "eth0" does not exist' in line]
    stage.server.run("ip", "link", "set", "later0", "name", "eth0")
    stage.server.run("ip", "link", "set", "eth0", "up")
    assert not stage.connects()
    stage.open_port()
    assert stage.connects()


@pytest.mark.parametrize("moment", ["before the start", "while it runs"])
def test_an_interface_that_is_a_port_of_a_bridge_is_guarded(stage, firewall, moment):
    """The input interface of its packets is the bridge, so a guard on its name alone would not match."""
    def bridge():
        ethernet = stage.server.run("cat", "/sys/class/net/eth0/address").stdout.strip()
        stage.server.run("ip", "-batch", "-", input=f"""
            link add br0 address {ethernet} type bridge
            link set br0 up
            link set eth0 master br0
            address del {SERVER}/24 dev eth0
            address add {SERVER}/24 dev br0
        """)
    if moment == "before the start":
        bridge()
    stage.set_up(firewall, interfaces="eth0")
    if moment == "while it runs":
        bridge()
        stage.daemon.wait_for('interface "eth0" is a port of "br0": the guard also applies to "br0"')
        time.sleep(0.1)
    assert not stage.connects()
    stage.open_port()
    assert stage.connects()
    assert not stage.connects()
    stage.server.run("ip", "link", "set", "eth0", "nomaster")
    time.sleep(0.3)
    assert "br0" not in stage.server.run("sh", "-c", "nft list table inet knockknock; iptables -t mangle -S", check=False).stdout


def test_a_renamed_interface_is_reported(stage):
    stage.set_up("nft", interfaces="eth0")
    stage.server.run("ip", "link", "set", "eth0", "down")
    stage.server.run("ip", "link", "set", "eth0", "name", "lan0")
    stage.daemon.wait_for('interface "eth0" does not exist: the guard will apply to it when it appears')


def iptables_legacy(stage):
    """The environment of a daemon whose iptables is iptables-legacy."""
    programs = stage.directory / "bin"
    programs.mkdir()
    for name in ("iptables", "ip6tables"):
        for action in ("", "-restore", "-save"):
            (programs / (name + action)).symlink_to(f"/usr/sbin/{name}-legacy{action}")
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}


def test_a_held_lock_of_iptables_does_not_block_the_daemon(stage):
    Profile(stage, "gate")
    stage.configure(firewall="iptables", guard="22", log="kmsg")
    lock = stage.directory / "xtables.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check", check=False,
                                env={**iptables_legacy(stage), "XTABLES_LOCKFILE": str(lock)})
        assert 4 < time.monotonic() - began < 10
    assert done.returncode == 1
    assert f"lock {lock}" in done.stderr


def test_a_held_lock_of_iptables_does_not_block_status(stage):
    environment = iptables_legacy(stage)
    stage.set_up("iptables", daemon_options={"env": environment})
    lock = stage.directory / "xtables.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        done = stage.server.run(BINARY, "status", "--dir", stage.server_dir,
                                env={**environment, "XTABLES_LOCKFILE": str(lock)})
        assert time.monotonic() - began < 10
    assert "firewall" in done.stdout


def test_the_guard_works_with_iptables_legacy(stage):
    """The older kernel interface of iptables works too."""
    environment = iptables_legacy(stage)
    assert "legacy" in stage.server.run("iptables", "-V", env=environment).stdout
    stage.set_up("iptables", daemon_options={"env": environment})
    assert not stage.connects()
    stage.open_port()
    assert stage.connects()
    assert not stage.connects()
    assert "kk22" in stage.server.run("iptables-legacy-save").stdout
    assert "kk22" not in stage.server.run("nft", "list", "ruleset").stdout


def test_a_check_changes_nothing_not_even_for_a_moment(stage, firewall):
    Profile(stage, "gate")
    stage.configure(firewall=firewall, guard="22", log="kmsg")
    seen = stage.directory / "monitor"
    with seen.open("w") as file:
        monitor = stage.server.start("stdbuf", "-oL", "nft", "monitor", stdout=file)
    try:
        while "generation" not in seen.read_text():  # until nft monitor has subscribed
            nft(stage.server, "add table inet before")
            nft(stage.server, "delete table inet before")
        nft(stage.server, "add table inet between")
        stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check")
        nft(stage.server, "add table inet after")
        wait_until(lambda: "table inet after" in seen.read_text())
    finally:
        monitor.kill()
        monitor.wait()
    told = seen.read_text().split("add table inet between\n")[1].split("add table inet after\n")[0]
    assert [line for line in told.splitlines() if not line.startswith("# new generation")] == []


def test_auto_takes_nftables(stage):
    stage.set_up("auto")
    assert "table inet knockknock" in stage.server.run("nft", "list", "ruleset").stdout
    stage.open_port()
    assert stage.connects()


def test_a_flood_from_one_source_does_not_silence_another(stage):
    """The log rule has a rate limit per source. The flood and the knock have different source addresses."""
    stage.set_up("nft")
    flood = stage.client.run("hping3", "--syn", "--faster", "--count", 3000, "--spoof", "10.9.0.77",
                             "--destport", stage.gate.knock_port, SERVER, check=False)
    assert "3000 packets transmitted" in flood.stdout + flood.stderr
    stage.open_port()
    assert stage.connects()


def test_a_forwarded_port_is_guarded_at_addresses_that_are_not_ours(stage, firewall):
    """Port forwards often have no destination address, so they also match packets to addresses of other machines."""
    inner = stage.keep(Machine())
    stage.server.run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", inner.pid)
    stage.server.run("ip", "-batch", "-", input="address add 10.10.0.1/24 dev lan0\nlink set lan0 up\n")
    inner.run("ip", "-batch", "-", input="link set lo up\naddress add 10.10.0.2/24 dev eth0\nlink set eth0 up\n"
                                         "route add default via 10.10.0.1\n")
    stage.server.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    stage.keep(Service(inner, 22))
    stage.server.run("nft", "-f", "-", input="""table inet forwards { chain dstnat {
        type nat hook prerouting priority dstnat
        iifname "eth0" meta nfproto ipv4 tcp dport 2222 dnat ip to 10.10.0.2:22
        iifname "eth0" meta nfproto ipv4 tcp dport 2223 redirect to :22
    }
    }""")
    stage.client.run("ip", "route", "add", "203.0.113.0/24", "via", SERVER)
    stage.set_up(firewall, guard="2222, 2223")
    for port in (2222, 2223):
        for address in (SERVER, "203.0.113.9"):
            assert not stage.client.connect(port, address, timeout=0.5)
        stage.knock(port)
        stage.opened(port)
        with stage.client.connect(port, SERVER, timeout=1) as connection:
            assert connection.recv(100)
        assert not stage.client.connect(port, SERVER, timeout=0.5)


def test_a_table_of_an_older_version_is_replaced(stage):
    nft(stage.server, "table inet knockknock { set knock_ports { type inet_service; }; set open4 { type ipv4_addr; }; }")
    stage.set_up("nft")
    stage.open_port()
    assert stage.connects()


def test_without_a_path_no_program_of_the_working_directory_is_run(stage):
    trap = stage.directory / "trap"
    trap.mkdir()
    (trap / "nft").write_text(f"#!/bin/sh\ntouch {trap}/sprung\n")
    (trap / "nft").chmod(0o755)
    for path in ({}, {"PATH": ""}):
        done = stage.server.run("env", "-i", *(f"{key}={value}" for key, value in path.items()), "/bin/sh", "-c",
                                f"cd {trap} && exec {BINARY} daemon --unguard --dir {stage.server_dir}")
        assert "removed the guard" in done.stderr
    assert not (trap / "sprung").exists()

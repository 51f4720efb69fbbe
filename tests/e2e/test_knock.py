"""The client: it sends one packet, uses one counter, and keeps no privileges."""

import os
import re
import shutil
import stat
import time
from pathlib import Path

import pytest

import classic
import packets
from stage import BINARY, CLIENT, SERVER, SERVER6, Capture, Profile

USER = 65432  # a uid without an account
SENT = r" send(to|m?msg)\((?!.*nlmsg_)"  # excludes netlink requests for the route, which stay on the machine


@pytest.fixture
def door(stage):
    """A profile on both sides; no daemon."""
    stage.gate = Profile(stage, "gate")
    stage.gate.give_to_client()
    return stage


def test_tcpdump_sees_one_packet_and_none_from_the_daemon(gate):
    dump = gate.directory / "cable.pcap"
    tcpdump = gate.server.start(
        "tcpdump", "--immediate-mode", "-Uni", "eth0", "-w", dump, "ip or arp or (ip6 and (tcp or udp))",
        stderr=-1, text=True)
    while "listening on" not in (line := tcpdump.stderr.readline()):
        assert line, "tcpdump ended"
    gate.open_port()
    gate.keep(Capture(gate.client)).sent(0, quiet=0.3)  # time for further packets, which must not come
    tcpdump.terminate()
    tcpdump.communicate()
    seen = gate.server.run("tcpdump", "-tnr", dump).stdout.splitlines()
    knock, *rest = seen
    assert re.match(rf"IP {CLIENT}\.\d+ > {SERVER}\.{gate.gate.knock_port}: Flags \[S\], ", knock)
    # The server's kernel replies with an RST, as for any closed port.
    assert len(rest) <= 1
    for line in rest:
        assert line.startswith(f"IP {SERVER}.{gate.gate.knock_port} > {CLIENT}.") and "Flags [R" in line


def test_the_packet_carries_the_knock_and_the_headers_of_this_linux(door):
    capture = door.keep(Capture(door.client))
    door.knock()
    [knock] = capture.sent(door.gate.knock_port)
    assert knock.fields == door.gate.fields(0)
    assert knock.flags == packets.SYN
    assert knock.checksums_right
    assert knock.dont_fragment and knock.ttl == 64
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert low <= knock.source_port <= high
    door.client.connect(door.gate.knock_port)
    [genuine] = capture.sent(door.gate.knock_port)

    def shape(options):  # without the timestamp value
        return options[:8] + options[12:]
    assert len(knock.options) == len(genuine.options) == 20
    assert shape(knock.options) == shape(genuine.options)


def test_the_mss_follows_the_route(door):
    door.client.run("ip", "link", "set", "eth0", "mtu", 1400)
    capture = door.keep(Capture(door.client))
    door.knock()
    [knock] = capture.sent(door.gate.knock_port)
    assert knock.options[:4] == b"\x02\x04" + (1360).to_bytes(2, "big")


def test_the_source_ports_vary(door):
    capture = door.keep(Capture(door.client))
    for _ in range(20):
        door.knock()
    assert len({knock.source_port for knock in capture.sent(door.gate.knock_port)}) > 15


def test_eight_concurrent_clients_never_reuse_a_counter(door):
    capture = door.keep(Capture(door.client))
    loop = f'for i in $(seq 200); do "{BINARY}" -p 22 --dir "{door.client_dir}" {SERVER} || exit 1; done'
    clients = [door.client.start("sh", "-c", loop) for _ in range(8)]
    assert [client.wait(120) for client in clients] == [0] * 8
    used = door.gate.client_counter
    table = {fields: counter for counter, fields in enumerate(classic.knocks(*door.gate.keys, range(used), 22))}
    skipped = sum(fields.identification == 0 for fields in table)
    counters = [table[knock.fields] for knock in capture.sent(door.gate.knock_port)]
    assert len(counters) == len(set(counters)) == 1600 == used - skipped
    assert (door.gate.client_path / "counter").read_text() == f"{used:010}\n"


def test_a_counter_with_an_identification_of_zero_is_skipped(door):
    zero = classic.counter_of_identification_zero(*door.gate.keys, 22)
    (door.gate.client_path / "counter").write_text(f"{zero}\n")
    capture = door.keep(Capture(door.client))
    door.knock()
    [knock] = capture.sent(door.gate.knock_port)
    assert knock.fields == door.gate.fields(zero + 1)
    assert door.gate.client_counter == zero + 2


def test_only_the_first_line_of_the_counter_counts(door):
    """Version 0.8 rewrites the file in place without truncating it, so older digits may follow the first line."""
    (door.gate.client_path / "counter").write_text("17\n99\n9")
    capture = door.keep(Capture(door.client))
    door.knock()
    [knock] = capture.sent(door.gate.knock_port)
    assert knock.fields == door.gate.fields(17)
    assert (door.gate.client_path / "counter").read_text().split("\n")[0] == "0000000018"


def test_a_server_by_name(door):
    door.set_client_hosts(f"{SERVER} gate.example\n")
    door.gate.client_path.rename(door.client_dir / "gate.example")
    capture = door.keep(Capture(door.client))
    door.client.run(BINARY, "-p", 22, "--dir", door.client_dir, "gate.example")
    [knock] = capture.sent(door.gate.knock_port)
    assert knock.fields == door.gate.fields(0)


def test_wait_returns_when_the_port_is_ready(stage):
    """`knockknock -p 22 HOST && ssh HOST` lost a second whenever ssh's SYN was there before the opening."""
    stage.set_up("nft")
    slowest = 0
    for _ in range(20):
        stage.knock(22, "--wait")
        began = time.monotonic()
        assert stage.connects(timeout=0.9), "the first SYN is let in"
        slowest = max(slowest, time.monotonic() - began)
        assert stage.service.accepted % 2 == 0, "the test connection was the other one"
    assert slowest < 0.5
    assert not stage.connects()
    assert stage.gate.client_counter == stage.gate.counter >= 40


@pytest.mark.parametrize("fault", ["no daemon", "no service", "another key"])
def test_wait_ends_with_an_error_when_the_port_does_not_answer(stage, fault):
    stage.set_up("nft")
    if fault == "no daemon":
        stage.daemon.stop()
    elif fault == "no service":
        stage.service.close()
    else:
        key = stage.gate.client_path / "mac.key"
        key.write_bytes(b"A" * 22 + b"==\n")
    began = time.monotonic()
    done = stage.knock(22, "--wait", check=False)
    assert time.monotonic() - began < 8
    assert done.returncode == 1
    what, advice = done.stderr.splitlines()
    assert what.startswith(f"knockknock: cannot connect to {SERVER}:22: ")
    meaning = "the knock has worked" if fault == "no service" else "3 knocks went unanswered"
    assert f"{meaning}; to find the cause: knockknock doctor {SERVER}" in advice


def test_wait_knocks_at_no_port_that_the_profile_may_not_open(door):
    with (door.gate.client_path / "config").open("a") as config:
        config.write("ports = 443\n")
    done = door.knock(22, "--wait", check=False)
    assert done.returncode == 1 and "may not open port 22" in done.stderr
    assert door.gate.client_counter == 0


@pytest.mark.parametrize("wire, first", [("", SERVER), ("wire = classic\n", SERVER6)])
def test_a_profile_of_0_8_knocks_at_ipv4_first(door, wire, first):
    """A host with both kinds of address was knocked at by IPv6, which 0.8 cannot read."""
    door.set_client_hosts(f"{SERVER6} both.example\n{SERVER} both.example\n")
    profile = door.gate.client_path.rename(door.client_dir / "both.example")
    (profile / "config").write_text(f"[main]\nknock_port = {door.gate.knock_port}\n{wire}")
    assert f", to {first}, " in door.knock(22, "-v", host="both.example").stderr
    assert f", to {SERVER6}, " in door.knock(22, "-v6", host="both.example").stderr


def test_verbose_says_what_was_sent_and_no_secret(door):
    capture = door.keep(Capture(door.client))
    output = door.knock(22, "-v").stderr
    [knock] = capture.sent(door.gate.knock_port)
    assert output == (f'knockknock: sent a knock for port 22 with profile "{SERVER}": from {CLIENT}, to {SERVER}, '
                    f"knock port {door.gate.knock_port}, classic wire\n")
    assert not set(map(int, re.findall(r"\d+", output))) & set(knock.fields)
    config = door.gate.client_path / "config"
    config.write_text(config.read_text().replace("wire = classic", "ports = 22\nwire = stealth"))
    assert door.knock(22, "--verbose").stderr.endswith(", stealth wire\n")
    door.client.run("sysctl", "-qw", "net.ipv4.tcp_fastopen=0")
    assert door.knock(22, "-v").stderr.endswith(
        "this kernel cannot prepare a connection: the knock's source port and timestamp are random\n")
    assert door.knock().stderr == ""


@pytest.mark.parametrize("order", ["burnt before it is sent", "no capability when the profile is read",
                                   "one packet, no child process"])
def test_root_is_dropped_before_the_profile_is_read_and_the_counter_stored_before_the_packet_leaves(door, order):
    trace = door.directory / "strace"
    door.client.run("strace", "-f", "-o", trace, BINARY, "-p", 22, "--dir", door.client_dir, SERVER)
    calls = trace.read_text().splitlines()

    def first(pattern):
        return next(at for at, call in enumerate(calls) if re.search(pattern, call))

    def last(pattern):
        return max(at for at, call in enumerate(calls) if re.search(pattern, call))

    if order == "burnt before it is sent":
        assert first(r" (pwrite64|write|pwritev)\(.*0000000001") < first(r" (fdatasync|fsync)\(") < first(SENT)
    elif order == "no capability when the profile is read":
        assert first(r"socket\(AF_INET, SOCK_RAW") < last(r" capset\(") < first(r"cipher\.key|mac\.key|counter")
        assert first(r"PR_CAPBSET_DROP") and first(r"PR_SET_NO_NEW_PRIVS")
    else:
        assert not [call for call in calls[1:] if re.search(r" (execve|v?fork|clone3?)\(", call)]
        assert len([call for call in calls if re.search(SENT, call)]) == 1


@pytest.fixture
def typist(door, public):
    """The home directory of a client user with profiles, who runs the program with sudo: `door.sudo`."""
    passwd = door.directory / "passwd"
    passwd.write_text(Path("/etc/passwd").read_text() + f"typist:x:{USER}:{USER}::{public}/typist:/bin/sh\n")
    door.client.run("mount", "--bind", passwd, "/etc/passwd")
    home = public / "typist"
    shutil.copytree(door.client_dir, home / ".knockknock")
    for path in (home, *home.rglob("*")):
        shutil.chown(path, USER, USER)
        path.chmod(0o700 if path.is_dir() else 0o600)
    door.sudo = lambda *argv: door.client.run(
        "env", f"SUDO_UID={USER}", f"SUDO_GID={USER}", "HOME=/root", BINARY, *argv)
    return home


def test_with_sudo_the_callers_profile_is_used(door, typist):
    home = typist
    capture = door.keep(Capture(door.client))
    door.sudo("-p", 22, SERVER)
    assert len(capture.sent(door.gate.knock_port)) == 1
    counter = home / ".knockknock" / SERVER / "counter"
    assert counter.read_text() == "0000000001\n"
    assert counter.stat().st_uid == USER and stat.S_IMODE(counter.stat().st_mode) == 0o600


@pytest.mark.parametrize("ip, host, network", [(["ip"], SERVER, "default"), (["ip", "-6"], SERVER6, "fd09::1/128")],
                         ids=["IPv4", "IPv6"])
def test_with_sudo_the_knock_left_by_another_uplink_than_the_users_connections(door, typist, ip, host, network):
    """Machines with several uplinks may have routing rules for each user (`ip rule uidrange`)."""
    shutil.copytree(typist / ".knockknock" / SERVER, typist / ".knockknock" / SERVER6)
    for path in (typist / ".knockknock" / SERVER6).rglob("*"):
        shutil.chown(path, USER, USER)
    shutil.chown(typist / ".knockknock" / SERVER6, USER, USER)
    for command in (["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "peer"],
                    ["ip", "link", "set", "eth1", "up"], ["ip", "link", "set", "peer", "up"],
                    [*ip, "neighbour", "add", host, "lladdr", "02:00:00:00:00:01", "dev", "eth1", "nud", "permanent"],
                    [*ip, "route", "add", network, "dev", "eth1", "table", "7"],
                    [*ip, "rule", "add", "uidrange", f"{USER}-{USER}", "table", "7", "priority", "10"]):
        door.client.run(*command)
    capture = door.keep(Capture(door.client, "eth1"))
    door.sudo("-p", 22, host)
    assert len(capture.sent(door.gate.knock_port)) == 1


def test_root_without_sudo_reads_its_own_home(door, public):
    shutil.copytree(door.client_dir, public / ".knockknock")
    door.client.run("env", "-u", "SUDO_UID", f"HOME={public}", BINARY, "-p", 22, SERVER)
    assert (public / ".knockknock" / SERVER / "counter").read_text() == "0000000001\n"


def private_copy(door, public):
    """Copies the binary, and the profiles for a user."""
    binary = public / "knockknock"
    shutil.copy(BINARY, binary)
    home = public / "home"
    shutil.copytree(door.client_dir, home / ".knockknock")
    for path in (home, *home.rglob("*")):
        shutil.chown(path, USER, USER)
    as_user = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "env", "-u", "SUDO_UID", f"HOME={home}"]
    return binary, as_user, home / ".knockknock" / SERVER / "counter"


def test_a_user_may_knock_with_a_file_capability(door, public):
    binary, as_user, counter = private_copy(door, public)
    door.client.run("setcap", "cap_net_raw+ep", binary)
    capture = door.keep(Capture(door.client))
    door.client.run(*as_user, binary, "-p", 22, SERVER)
    assert len(capture.sent(door.gate.knock_port)) == 1
    assert counter.read_text() == "0000000001\n"


def test_without_the_capability_the_error_names_setcap_and_the_path(door, public):
    binary, as_user, counter = private_copy(door, public)
    before = counter.read_bytes()
    done = door.client.run(*as_user, binary, "-p", 22, SERVER, check=False)
    assert done.returncode == 1
    assert f"setcap cap_net_raw+ep {binary}" in done.stderr
    assert counter.read_bytes() == before


def test_a_host_is_never_a_path(door):
    (door.directory / "elsewhere").mkdir()
    shutil.copytree(door.gate.client_path, door.directory / "elsewhere" / SERVER)
    for host in (f"../elsewhere/{SERVER}", f"./{SERVER}", f"{SERVER}/", f"{door.client_dir}/{SERVER}", "..", ".", ""):
        done = door.client.run(BINARY, "-p", 22, "--dir", door.client_dir, host, check=False)
        assert done.returncode == (1 if host else 2), host
    assert door.gate.client_counter == 0


def test_a_full_disk_sends_nothing(door):
    """A counter that cannot be stored is not used."""
    capture = door.keep(Capture(door.client))
    for call in ("fdatasync", "pwrite64"):
        trace = door.directory / "strace"
        done = door.client.run("strace", "-qq", "-o", trace, "-e", f"inject={call}:error=ENOSPC",
                               BINARY, "-p", 22, "--dir", door.client_dir, SERVER, check=False)
        assert "INJECTED" in trace.read_text()
        assert done.returncode == 1
        assert "counter" in done.stderr
    assert capture.sent(door.gate.knock_port) == []

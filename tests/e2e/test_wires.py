"""Both wires, over IPv4 and IPv6, with every firewall and log; and what does not open on either."""

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import packets
import stealth
from stage import BINARY, CLIENT, CLIENT6, FAMILIES, SERVER, SERVER6, Capture, KernelLog, Profile


def open_up(stage, *arguments, hosts=(SERVER6,), **keys):
    """The stage with its daemon, and with the client's profile under more of the server's names."""
    stage.open_up(*arguments, **keys)
    for host in hosts:
        stage.gate.give_to_client(host)
    return stage


def lets_one_in(stage, host, source):
    stage.opened(source=source)
    assert stage.connects(address=host)
    assert not stage.connects(address=host)


def once_and_never_again(stage, family):
    host, source = FAMILIES[family]
    capture = stage.keep(Capture(stage.client))
    assert not stage.connects(address=host)
    stage.knock(host=host)
    lets_one_in(stage, host, source)
    [knock] = capture.sent(stage.gate.knock_port)
    assert (knock.acknowledgment == 0) == (stage.gate.wire == "stealth")
    capture.replay(knock)
    assert stage.nothing_opened()
    assert not stage.connects(address=host)


def test_one_knock_lets_one_connection_in(stage, wire, family, firewall, log):
    once_and_never_again(open_up(stage, firewall, log, wire), family)


def test_one_knock_lets_one_connection_in_by_nflog(stage, wire, family):
    once_and_never_again(open_up(stage, log="nflog:5", wire=wire), family)


def stealth_packet(profile, counter, source=CLIENT, destination=SERVER, source_port=40000, **changes):
    """A stealth knock of a sender that is not ours."""
    fields = stealth.knock(*profile.keys, counter, profile.knock_port, 22)._asdict()
    return packets.syn(source, destination, source_port, profile.knock_port, **{**fields, **changes})


def classic_packet(profile, counter, source=CLIENT, destination=SERVER):
    fields = profile.fields(counter)._asdict()
    return packets.syn(source, destination, 40000, profile.knock_port, **fields)


@pytest.mark.parametrize("profile_wire", ["classic", "stealth"])
def test_one_profile_takes_both_wires(stage, family, profile_wire):
    open_up(stage, wire=profile_wire)
    host, source = FAMILIES[family]
    for counter, packet in enumerate([stealth_packet, classic_packet, stealth_packet]):
        stage.client.send(packet(stage.gate, counter, source, host))
        lets_one_in(stage, host, source)
    assert stage.gate.counter == 3


def test_the_command_line_overrides_the_profiles_wire(stage):
    open_up(stage, wire="classic")
    capture = stage.keep(Capture(stage.client))
    stage.knock(22, "--wire", "stealth")
    stage.opened()
    stage.knock(22, "--wire=classic")
    stage.opened()
    one, other = capture.sent(stage.gate.knock_port)
    assert one.acknowledgment == 0 != other.acknowledgment


def test_a_sender_of_the_originals_opens_where_the_profile_is_stealthy(stage, firewall):
    open_up(stage, firewall, wire="stealth")
    fields = stage.gate.fields(0)
    stage.client.run(
        "hping3", "--count", 1, "--syn", "--destport", stage.gate.knock_port, "--id", fields.identification,
        "--setseq", fields.sequence, "--setack", fields.acknowledgment, "--win", fields.window, SERVER, check=False)
    lets_one_in(stage, SERVER, CLIENT)


@pytest.mark.parametrize("first, second", [(stealth_packet, classic_packet), (classic_packet, stealth_packet)],
                         ids=["classic after stealth", "stealth after classic"])
@pytest.mark.parametrize("counter", [0, 3])
def test_a_counter_that_one_wire_has_used_is_dead_on_the_other(stage, first, second, counter):
    open_up(stage)
    stage.client.send(first(stage.gate, counter))
    lets_one_in(stage, SERVER, CLIENT)
    for used in {counter, 0}:
        stage.client.send(second(stage.gate, used))
        stage.client.send(first(stage.gate, used))
    assert stage.nothing_opened()
    assert not stage.connects()


def test_a_replay_over_the_other_family_is_dead(stage, wire):
    """The message does not depend on the addresses: it is its counter that is used up."""
    open_up(stage)
    packet = {"classic": classic_packet, "stealth": stealth_packet}[wire]
    stage.client.send(packet(stage.gate, 0))
    lets_one_in(stage, SERVER, CLIENT)
    stage.client.send(packet(stage.gate, 0, CLIENT6, SERVER6))
    assert stage.nothing_opened()
    assert not stage.connects(address=SERVER6)


@pytest.mark.parametrize("changes", [
    {"acknowledgment": 1}, {"timestamp": 7}, {"sequence": 7}, {"identification": 7},
    {"timestamp": None, "options": b""}, {"timestamp": None, "options": b"\1" * 40},
], ids=["an acknowledgment", "a timestamp", "a sequence number", "an identification", "no options", "nothing but padding"])
def test_a_stealth_knock_that_is_changed_does_nothing(stage, changes):
    open_up(stage)
    stage.client.send(stealth_packet(stage.gate, 0, **changes))
    assert stage.nothing_opened()
    stage.client.send(stealth_packet(stage.gate, 0))
    stage.opened()


def test_the_top_of_the_flow_label_is_free(stage):
    open_up(stage)
    label = stealth.knock(*stage.gate.keys, 0, stage.gate.knock_port, 22).identification | 0xA0000
    stage.client.send(stealth_packet(stage.gate, 0, CLIENT6, SERVER6, identification=label))
    lets_one_in(stage, SERVER6, CLIENT6)


def test_an_ipv6_opening_is_for_the_address_that_knocked(stage, firewall, wire):
    """Not for its neighbours in the same network, as privacy addresses are."""
    open_up(stage, firewall, wire=wire)
    stage.client.run("ip", "address", "add", "fd09::22/64", "dev", "eth0", "nodad", "preferred_lft", 0)
    ethernet = stage.client.run("cat", "/sys/class/net/eth0/address").stdout.strip()
    stage.server.run("ip", "neighbour", "add", "fd09::22", "lladdr", ethernet, "dev", "eth0", "nud", "permanent")
    packet = {"classic": classic_packet, "stealth": stealth_packet}[wire]
    stage.client.send(packet(stage.gate, 0, "fd09::22", SERVER6))
    stage.opened(source="fd09::22")
    assert not stage.connects(address=SERVER6)


def test_a_link_local_address_with_its_zone(stage, firewall, wire):
    stage.server.run("ip", "address", "add", "fe80::1/64", "dev", "eth0", "nodad")
    stage.client.run("ip", "address", "add", "fe80::2/64", "dev", "eth0", "nodad")
    host = "fe80::1%eth0"
    open_up(stage, firewall, wire=wire, hosts=[host])
    stage.client.run("ip", "-6", "route", "replace", "fe80::/64", "dev", "eth0", "src", "fe80::2", "metric", 1)
    stage.knock(host=host)
    lets_one_in(stage, host, "fe80::2")


def test_a_mapped_address_is_an_ipv4_address(stage, wire):
    host = f"::ffff:{SERVER}"
    open_up(stage, wire=wire, hosts=[host])
    stage.knock(host=host)
    lets_one_in(stage, SERVER, CLIENT)


@pytest.fixture
def named(stage):
    """A server whose name has addresses of both families."""
    hosts = stage.directory / "hosts"
    hosts.write_text(f"{SERVER} gate.example\n{SERVER6} gate.example\n")
    stage.client.run("mount", "--bind", hosts, "/etc/hosts")
    return open_up(stage, wire="stealth", hosts=["gate.example"])


def test_the_family_that_is_asked_for(named):
    named.knock(22, "-4", host="gate.example")
    lets_one_in(named, SERVER, CLIENT)
    named.knock(22, "-6", host="gate.example")
    lets_one_in(named, SERVER6, CLIENT6)


def test_the_first_address_of_a_name(named):
    first = named.client.run("getent", "ahosts", "gate.example").stdout.split()[0]
    named.knock(host="gate.example")
    lets_one_in(named, *(FAMILIES["IPv6"] if ":" in first else FAMILIES["IPv4"]))


def test_a_family_that_a_host_does_not_have(stage):
    open_up(stage, wire="stealth")
    for flag, host in (("-6", SERVER), ("-4", SERVER6)):
        done = stage.knock(22, flag, host=host, check=False)
        assert done.returncode == 1
        assert "no address of the family asked for" in done.stderr
    assert stage.gate.client_counter == 0


def test_a_machine_without_ipv6(stage):
    """IPv4 goes on; IPv6 gets an error that says why, and no counter is used."""
    open_up(stage, wire="stealth")
    stage.client.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    stage.knock()
    lets_one_in(stage, SERVER, CLIENT)
    done = stage.knock(host=SERVER6, check=False)
    assert done.returncode == 1
    assert f"cannot find a way to {SERVER6}" in done.stderr
    assert stage.gate.client_counter == 0


def test_a_kernel_without_ipv6(stage):
    """It has no sockets of that family at all."""
    open_up(stage, wire="stealth")
    trace = stage.directory / "strace"
    stage.client.run("strace", "-qq", "-o", trace, "-e", "inject=socket:error=EAFNOSUPPORT:when=2",
                     BINARY, "-p", 22, "--dir", stage.client_dir, SERVER)
    assert [line for line in trace.read_text().splitlines() if "AF_INET6" in line and "INJECTED" in line]
    lets_one_in(stage, SERVER, CLIENT)


# A log that does not show what a stealth knock needs.

def test_a_log_rule_without_options_is_noticed(stage):
    """The daemon is told of what another log rule shows, as where a syslog daemon sorts by prefix."""
    stage.configure(log=stage.log_dir / "kern.log", firewall="nft", guard=22)
    profile = Profile(stage, "gate", wire="stealth")
    profile.give_to_client()
    stage.keep(KernelLog(stage.log_dir / "kern.log", only=b"REJECT "))
    stage.server.run("iptables", "-w", "-A", "INPUT", "-p", "tcp", "--syn", "-j", "LOG", "--log-prefix", "REJECT ",
                     "--log-level", "debug", "--log-tcp-sequence")
    daemon = stage.start_daemon()
    for _ in range(4):
        stage.knock()
    line = daemon.wait_for("without TCP options")
    assert f"knock port {profile.knock_port}" in line
    assert "tcp sequence,options" in line and "--log-tcp-options" in line
    stage.client.send(profile.packet(4))  # behind all these
    daemon.wait_for("opened port 22")
    assert len([line for line in daemon.said if "options" in line]) == 1


def test_a_stray_syn_without_options_is_not_noticed(stage):
    open_up(stage)
    bare = [packets.syn(CLIENT, SERVER, 1000 + n, stage.gate.knock_port, 1, n) for n in range(4)]
    for packet in (*bare[:2], stealth_packet(stage.gate, 0), *bare[2:]):
        stage.client.send(packet)
    stage.client.send(stage.fence.packet(0, 7))
    stage.daemon.wait_for("opened port 7 ")
    assert not [line for line in stage.daemon.said if "options" in line]


# The format, as written down.

@pytest.mark.parametrize("name", ["stealth", "hotp"])
def test_the_vectors_are_those_of_the_script(name):
    script = Path(stealth.__file__).with_name(f"{name}.py")
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert made == script.with_suffix(".tsv").read_text()


def test_the_example_of_the_manual_page():
    """Its commands are run as they stand there, and what they print is put together as its text says."""
    page = (Path(__file__).parents[2] / "man/knockknock-wire.7").read_text()
    text = re.search(r"^\.Ss Example\n(.*?)^\.S[hs] ", page, re.M | re.S)[1]
    cipher_key, mac_key = map(bytes.fromhex, re.findall(r"\b[0-9a-f]{32}\b", text)[:2])
    stated = re.search(r"identification (\d+),\nsequence number (\d+) and timestamp value (\d+)\.", text).groups()
    assert tuple(map(int, stated)) == tuple(stealth.knock(cipher_key, mac_key, 1, 666, 22))

    display = re.search(r"^\.Bd -literal\n(.*?)^\.Ed", text, re.M | re.S)[1]
    display = display.replace("\\e", "\\").replace("\\-", "-").replace("\\(aq", "'")
    hmac, block = (subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
                   for command in re.split(r"^\$ ", display, flags=re.M)[1:])
    message = (22).to_bytes(2, "big") + bytes.fromhex(hmac.split()[-1])[:8]
    sent = bytes(one ^ other for one, other in zip(message, bytes.fromhex(block)))
    assert struct.unpack("!HII", sent) == tuple(map(int, stated))

"""Both wires, over IPv4 and IPv6, with every firewall and log source; and packets that open nothing on either."""

import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import hotp
import packets
from stage import BINARY, CLIENT, CLIENT6, FAMILIES, SERVER, SERVER6, Capture, KernelLog, Profile


def set_up(stage, *arguments, hosts=(SERVER6,), **keys):
    """Starts the daemon, and copies the client's profile to further names of the server."""
    stage.set_up(*arguments, **keys)
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


def test_one_knock_admits_one_connection(stage, wire, family, firewall, log):
    once_and_never_again(set_up(stage, firewall, log, wire), family)


def test_one_knock_admits_one_connection_with_nflog(stage, wire, family):
    once_and_never_again(set_up(stage, log="nflog:5", wire=wire), family)


def stealth_packet(profile, counter, source=CLIENT, destination=SERVER, source_port=40000, **changes):
    """A stealth knock of a sender that is not ours."""
    fields = hotp.code(profile.keys[1], counter, 22)._asdict()
    return packets.syn(source, destination, source_port, profile.knock_port, **{**fields, **changes})


def classic_packet(profile, counter, source=CLIENT, destination=SERVER):
    fields = profile.fields(counter)._asdict()
    return packets.syn(source, destination, 40000, profile.knock_port, **fields)


PACKETS = {"classic": classic_packet, "stealth": stealth_packet}


def test_a_profile_accepts_only_its_own_wire(stage, family, wire):
    set_up(stage, wire=wire)
    host, source = FAMILIES[family]
    [other] = PACKETS.keys() - {wire}
    stage.client.send(PACKETS[other](stage.gate, 0, source, host))
    assert stage.nothing_opened()
    stage.client.send(PACKETS[wire](stage.gate, 0, source, host))
    lets_one_in(stage, host, source)
    stage.client.send(PACKETS[other](stage.gate, 0, source, host))
    assert stage.nothing_opened()
    assert stage.gate.counter == 1


def test_a_replay_over_the_other_family_does_nothing(stage, wire):
    """The message does not depend on the addresses: it is its counter that is used up."""
    set_up(stage, wire=wire)
    packet = PACKETS[wire]
    stage.client.send(packet(stage.gate, 0))
    lets_one_in(stage, SERVER, CLIENT)
    stage.client.send(packet(stage.gate, 0, CLIENT6, SERVER6))
    assert stage.nothing_opened()
    assert not stage.connects(address=SERVER6)


@pytest.mark.parametrize("changes", [{"acknowledgment": 1}, {"sequence": 7}, {"identification": 7}],
                         ids=["an acknowledgment", "a sequence number", "an identification"])
def test_a_stealth_knock_that_is_changed_does_nothing(stage, changes):
    set_up(stage, wire="stealth")
    stage.client.send(stealth_packet(stage.gate, 0, **changes))
    assert stage.nothing_opened()
    stage.client.send(stealth_packet(stage.gate, 0))
    stage.opened()


@pytest.mark.parametrize("changes", [
    {"timestamp": 7}, {"options": b""}, {"options": b"\1" * 40}, {"window": 7},
], ids=["a timestamp", "no options", "nothing but padding", "a window"])
def test_fields_that_middleboxes_change_do_not_matter_to_a_stealth_knock(stage, changes):
    set_up(stage, wire="stealth")
    stage.client.send(stealth_packet(stage.gate, 0, **changes))
    stage.opened()


def test_the_top_of_the_flow_label_is_free(stage):
    set_up(stage, wire="stealth")
    label = hotp.code(stage.gate.keys[1], 0, 22).identification | 0xA0000
    stage.client.send(stealth_packet(stage.gate, 0, CLIENT6, SERVER6, identification=label))
    lets_one_in(stage, SERVER6, CLIENT6)


def test_a_counter_whose_identification_is_0_is_skipped_by_the_sender_and_taken_by_the_daemon(stage):
    set_up(stage, wire="stealth")
    mac_key = stage.gate.keys[1]
    skipped = next(counter for counter in range(2**20) if hotp.code(mac_key, counter, 22).identification == 0)
    for path in (stage.gate.path, stage.client_dir / SERVER):
        (path / "counter").write_text(f"{skipped}\n")
    stage.daemon.process.send_signal(signal.SIGHUP)
    stage.daemon.wait_for(": ready")
    capture = stage.keep(Capture(stage.client))
    stage.knock()
    stage.opened()
    [knock] = capture.sent(stage.gate.knock_port)
    assert (knock.identification, knock.sequence) == hotp.code(mac_key, skipped + 1, 22)


def test_an_ipv6_opening_is_for_the_address_that_knocked(stage, firewall, wire):
    """It does not admit other addresses of the same network, such as privacy addresses."""
    set_up(stage, firewall, wire=wire)
    stage.client.run("ip", "address", "add", "fd09::22/64", "dev", "eth0", "nodad", "preferred_lft", 0)
    ethernet = stage.client.run("cat", "/sys/class/net/eth0/address").stdout.strip()
    stage.server.run("ip", "neighbour", "add", "fd09::22", "lladdr", ethernet, "dev", "eth0", "nud", "permanent")
    packet = PACKETS[wire]
    stage.client.send(packet(stage.gate, 0, "fd09::22", SERVER6))
    stage.opened(source="fd09::22")
    assert not stage.connects(address=SERVER6)


def test_a_link_local_address_with_its_zone(stage, firewall, wire):
    stage.server.run("ip", "address", "add", "fe80::1/64", "dev", "eth0", "nodad")
    stage.client.run("ip", "address", "add", "fe80::2/64", "dev", "eth0", "nodad")
    host = "fe80::1%eth0"
    set_up(stage, firewall, wire=wire, hosts=[host])
    stage.client.run("ip", "-6", "route", "replace", "fe80::/64", "dev", "eth0", "src", "fe80::2", "metric", 1)
    stage.knock(host=host)
    lets_one_in(stage, host, "fe80::2")


def test_a_mapped_address_is_an_ipv4_address(stage, wire):
    host = f"::ffff:{SERVER}"
    set_up(stage, wire=wire, hosts=[host])
    stage.knock(host=host)
    lets_one_in(stage, SERVER, CLIENT)


@pytest.fixture
def named(stage):
    """The stage with a server name that has addresses of both families."""
    stage.set_client_hosts(f"{SERVER} gate.example\n{SERVER6} gate.example\n")
    return set_up(stage, wire="stealth", hosts=["gate.example"])


def test_the_requested_family_is_used(named):
    named.knock(22, "-4", host="gate.example")
    lets_one_in(named, SERVER, CLIENT)
    named.knock(22, "-6", host="gate.example")
    lets_one_in(named, SERVER6, CLIENT6)


def test_the_first_address_of_a_name(named):
    first = named.client.run("getent", "ahosts", "gate.example").stdout.split()[0]
    named.knock(host="gate.example")
    lets_one_in(named, *(FAMILIES["IPv6"] if ":" in first else FAMILIES["IPv4"]))


def test_a_missing_family_is_an_error(stage):
    set_up(stage, wire="stealth")
    for flag, host, missing in (("-6", SERVER, "IPv6"), ("-4", SERVER6, "IPv4")):
        done = stage.knock(22, flag, host=host, check=False)
        assert done.returncode == 1
        assert f"has no {missing} address" in done.stderr
    assert stage.gate.client_counter == 0


def test_a_machine_without_ipv6(stage):
    """IPv4 still works. IPv6 fails with a reason and uses no counter."""
    set_up(stage, wire="stealth")
    stage.client.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    stage.knock()
    lets_one_in(stage, SERVER, CLIENT)
    done = stage.knock(host=SERVER6, check=False)
    assert done.returncode == 1
    assert f"cannot find a route to {SERVER6}" in done.stderr
    assert stage.gate.client_counter == 0


def test_a_kernel_without_ipv6(stage):
    """The kernel cannot create IPv6 sockets at all."""
    set_up(stage, wire="stealth")
    trace = stage.directory / "strace"
    stage.client.run("strace", "-qq", "-o", trace, "-e", "inject=socket:error=EAFNOSUPPORT:when=2",
                     BINARY, "-p", 22, "--dir", stage.client_dir, SERVER)
    assert [line for line in trace.read_text().splitlines() if "AF_INET6" in line and "INJECTED" in line]
    lets_one_in(stage, SERVER, CLIENT)


def test_a_log_rule_without_options_is_enough_for_stealth(stage):
    """The daemon reads what another log rule shows, as where a syslog daemon sorts by prefix."""
    stage.configure(log=stage.log_dir / "kern.log", firewall="nft", guard=22)
    profile = Profile(stage, "gate", wire="stealth")
    profile.give_to_client()
    stage.keep(KernelLog(stage.log_dir / "kern.log", only=b"REJECT "))
    stage.server.run("iptables", "-w", "-A", "INPUT", "-p", "tcp", "--syn", "-j", "LOG", "--log-prefix", "REJECT ",
                     "--log-level", "debug", "--log-tcp-sequence")
    daemon = stage.start_daemon()
    stage.knock()
    daemon.wait_for("opened port 22")


# The documented format.

def test_the_vectors_are_those_of_the_script():
    script = Path(hotp.__file__)
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert made == script.with_suffix(".tsv").read_text()


def test_the_example_of_the_manual_page():
    """Runs the command of the page unchanged, and cuts up its output as the page describes."""
    page = (Path(__file__).parents[2] / "man/knockknock-wire.7").read_text()
    text = re.search(r"^\.Ss Example\n(.*?)^\.S[hs] ", page, re.M | re.S)[1]
    mac_key = bytes.fromhex(re.search(r"\b[0-9a-f]{32}\b", text)[0])
    stated = tuple(map(int, re.search(r"identification (\d+) and\nsequence number (\d+)\.", text).groups()))
    assert stated == hotp.code(mac_key, 1, 22)

    display = re.search(r"^\.Bd -literal\n(.*?)^\.Ed", text, re.M | re.S)[1]
    command = display.replace("\\e", "\\").replace("\\-", "-").replace("\\(aq", "'").removeprefix("$ ")
    output = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert struct.unpack("!HI", bytes.fromhex(output.split()[-1])[:6]) == stated

"""Openings: which packets open a port, for which source, port and duration; and which do not."""

import os
import re
import signal
import subprocess
import time

import pytest

import classic
import packets
import test_wires
from stage import CLIENT, FAMILIES, SERVER, Capture, Profile
from test_faults import process


def test_one_knock_admits_one_connection(stage, firewall, log):
    stage.set_up(firewall, log)
    assert not stage.connects()
    line = stage.open_port()
    assert line == f'knockknock-daemon: opened port 22 to {CLIENT} for 15 s (profile "gate")'
    assert stage.connects()
    assert not stage.connects()


def test_each_knock_opens_again(gate):
    for _ in range(5):
        gate.open_port()
        assert gate.connects()
    assert not gate.connects()
    assert gate.gate.counter == gate.gate.client_counter == 5


def test_an_opening_expires_after_the_delay(stage, firewall):
    stage.set_up(firewall, delay=1)
    stage.open_port()
    time.sleep(1.2)
    assert not stage.connects()


def test_a_second_knock_renews_the_delay(stage, firewall):
    stage.set_up(firewall, delay=2)
    stage.open_port()
    time.sleep(1.3)
    stage.open_port()
    time.sleep(1.3)
    assert stage.connects()
    assert not stage.connects()


def unused(stage, seconds):
    """Returns the sources whose opening of port 22 expires unused within `seconds`, according to the daemon."""
    time.sleep(seconds)
    stage.daemon.new_lines()
    lines = [line for line in stage.daemon.lines if "no connection used" in line]
    assert sum("knockknock doctor" in line for line in stage.daemon.lines) == len(lines)
    return [re.fullmatch("knockknock-daemon: no connection used the opening of port 22 to (.*) within 1 s", line)[1] for line in lines]


def test_an_opening_that_nobody_used_is_reported_with_source_and_port(stage, firewall, family):
    stage.set_up(firewall, delay=1)
    server, client = FAMILIES[family]
    stage.client.send(test_wires.classic_packet(stage.gate, 0, client, server))
    stage.opened(source=client)
    assert unused(stage, 0.5) == []
    assert unused(stage, 2) == [client]
    assert not stage.connects(address=server)
    assert unused(stage, 2) == [client], "once"


def test_an_opening_that_was_used_is_not_reported_as_unused(stage, firewall):
    stage.set_up(firewall, delay=1)
    for knocks in (1, 2):
        for _ in range(knocks):
            stage.open_port()
        assert stage.connects()
    assert unused(stage, 3) == []


def test_an_unused_opening_after_a_used_one_is_reported(stage, firewall):
    stage.set_up(firewall, delay=1)
    stage.open_port()
    assert stage.connects()
    stage.open_port()
    assert unused(stage, 2.5) == [CLIENT]


def test_the_opener_sleeps_before_and_after_an_opening_that_nobody_uses(stage, firewall):
    stage.set_up(firewall, delay=2)
    opener = process(stage.daemon, "opener")
    stage.open_port()
    trace = stage.directory / "strace"
    tracer = stage.server.start("strace", "-ttt", "-o", trace, "-p", opener, stderr=subprocess.PIPE, text=True)
    assert "attached" in tracer.stderr.readline()
    time.sleep(6)
    tracer.send_signal(signal.SIGINT)
    tracer.communicate()
    times = [float(line.split()[0]) for line in trace.read_text().splitlines() if re.match(r"\d", line)]
    gaps = sorted(later - earlier for earlier, later in zip(times, times[1:]))
    assert len(times) < 20 and gaps[-1] > 1, "it wakes up once"


def test_an_opening_is_for_the_sender_only(gate):
    gate.client.run("ip", "address", "add", "10.9.0.3/24", "dev", "eth0")
    gate.server.run("ip", "neighbour", "add", "10.9.0.3", "dev", "eth0", "lladdr",
                    gate.client.run("cat", "/sys/class/net/eth0/address").stdout.strip())
    gate.client.send(gate.gate.packet(0, source="10.9.0.3"))
    gate.opened(source="10.9.0.3")
    assert not gate.connects()


def test_an_opening_is_for_the_requested_port_only(stage, firewall):
    stage.set_up(firewall, guard="22, 23, 7")
    stage.client.send(stage.gate.packet(0, port=23))
    stage.opened(23)
    assert not stage.connects(22)


def test_a_replay_does_nothing(stage, firewall, log):
    stage.set_up(firewall, log)
    capture = stage.keep(Capture(stage.client))
    stage.open_port()
    [knock] = capture.sent(stage.gate.knock_port)
    assert stage.connects()
    capture.replay(knock)
    assert stage.nothing_opened()
    assert not stage.connects()


def test_an_overtaken_knock_does_nothing(gate):
    gate.client.send(gate.gate.packet(3))
    gate.opened()
    assert gate.connects()
    gate.client.send(gate.gate.packet(1))
    assert gate.nothing_opened()
    assert not gate.connects()
    assert gate.gate.counter == 4


def test_lost_knocks_are_forgiven_up_to_the_window(gate):
    gate.client.send(gate.gate.packet(20))
    assert gate.nothing_opened()
    gate.client.send(gate.gate.packet(19))
    gate.opened()
    assert gate.gate.counter == 20


def test_a_wrong_key_does_nothing(gate):
    [fields] = classic.knocks(os.urandom(16), os.urandom(16), [0], 22)
    gate.client.send(packets.tcp(CLIENT, SERVER, 40000, gate.gate.knock_port, fields))
    assert gate.nothing_opened()
    assert not gate.connects()
    assert gate.gate.counter == 0


def test_a_wrong_mac_key_does_nothing(gate):
    cipher_key, _ = gate.gate.keys
    [fields] = classic.knocks(cipher_key, os.urandom(16), [0], 22)
    gate.client.send(packets.tcp(CLIENT, SERVER, 40000, gate.gate.knock_port, fields))
    assert gate.nothing_opened()
    assert not gate.connects()


def test_a_knock_at_another_profiles_port_does_nothing(gate):
    fields = gate.gate.fields(0)
    gate.client.send(packets.tcp(CLIENT, SERVER, 40000, gate.fence.knock_port, fields))
    assert gate.nothing_opened()
    assert not gate.connects()


def test_a_port_that_the_profile_may_not_open_stays_closed(stage, firewall):
    stage.configure(guard="22, 7", firewall=firewall)
    narrow = Profile(stage, "narrow", ports=[22])
    stage.set_up(firewall)
    stage.client.send(narrow.packet(0, port=7))
    assert stage.nothing_opened()
    assert [line for line in stage.daemon.lines if '"narrow"' in line and "port 7" in line]
    assert narrow.counter == 1, "the knock is used up all the same"
    stage.client.send(narrow.packet(1, port=22))
    stage.opened()


@pytest.mark.parametrize("flags", [packets.SYN | packets.ACK, packets.ACK, packets.RST, packets.SYN | 1],
                         ids=["SYN+ACK", "ACK", "RST", "SYN+FIN"])
def test_only_a_plain_syn_is_a_knock(gate, flags):
    profile = gate.gate
    gate.client.send(packets.tcp(CLIENT, SERVER, 40000, profile.knock_port, profile.fields(0), flags))
    assert gate.nothing_opened()


def test_a_sender_that_is_not_ours_opens(gate):
    fields = gate.gate.fields(0)
    gate.client.run(
        "hping3", "--count", 1, "--syn", "--destport", gate.gate.knock_port, "--id", fields.identification,
        "--setseq", fields.sequence, "--setack", fields.acknowledgment, "--win", fields.window, SERVER, check=False)
    gate.opened()
    assert gate.connects()
    assert not gate.connects()


def test_an_identification_of_zero_is_accepted(gate):
    profile = gate.gate
    counter = classic.counter_of_identification_zero(*profile.keys, 22)
    gate.daemon.stop()
    (profile.path / "counter").write_text(f"{counter:010}\n")
    gate.start_daemon()
    gate.client.send(profile.packet(counter))
    gate.opened()


def test_the_last_counter_is_accepted_once_and_never_wraps(gate):
    profile, last = gate.gate, 2**32 - 1
    gate.daemon.stop()
    (profile.path / "counter").write_text(f"{last}\n")
    gate.start_daemon()
    gate.client.send(profile.packet(last))
    gate.opened()
    assert gate.connects()
    gate.client.send(profile.packet(last))
    gate.client.send(profile.packet(0))
    assert gate.nothing_opened()
    gate.daemon.stop()
    gate.start_daemon()
    gate.client.send(profile.packet(last))
    gate.client.send(profile.packet(0))
    assert gate.nothing_opened()

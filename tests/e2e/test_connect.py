"""connect: knocks, connects, and relays the connection to standard input and output."""

import contextlib
import os
import re
import select
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from rawtcp import RawClient
from services import Plain, Sshd, echo, wait_until
from stage import BINARY, CLIENT6, FAMILIES, SERVER, SERVER6, Capture, Service, status

ECHO, SSH, PLAIN, MUTE = 4000, 2222, 4001, 4002


@pytest.fixture
def door(stage, firewall):
    """The stage with guarded services, and one that is not guarded."""
    stage.set_up(firewall, guard=f"{stage.PORT}, {stage.FENCE_PORT}, {ECHO}, {SSH}, {MUTE}")
    stage.keep(Plain(stage.server, ECHO, echo))
    stage.keep(Plain(stage.server, PLAIN, echo))
    return stage


def connect(stage, *arguments, directory=None, **options):
    return stage.client.run(BINARY, "connect", "--dir", directory or stage.client_dir, *arguments, **options)


def start(stage, *arguments):
    return stage.client.start(BINARY, "connect", "--dir", stage.client_dir, *arguments,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def call_profile(stage, host):
    """Renames the client's profile to `host`."""
    stage.gate.client_path = stage.gate.client_path.rename(stage.client_dir / host)


def test_it_knocks_and_connects(door):
    assert not door.connects()
    assert connect(door, SERVER, door.PORT).stdout == Service.GREETING.decode()
    assert not door.connects()
    assert door.gate.client_counter == door.gate.counter == 1


def test_a_half_close_is_passed_on_and_the_answer_still_arrives(door):
    text = "one line\n" * 100_000
    assert connect(door, SERVER, ECHO, input=text).stdout == text


def test_input_and_output_may_be_files(door):
    source, target = door.directory / "source", door.directory / "target"
    source.write_bytes(os.urandom(3_000_000))
    for mode in ("wb", "ab"):  # splice(2) cannot write to a file that is open for appending
        with source.open("rb") as given, target.open(mode) as taken:
            process = door.client.start(BINARY, "connect", "--dir", door.client_dir, SERVER, ECHO, stdin=given, stdout=taken)
            assert process.wait(20) == 0
    assert target.read_bytes() == source.read_bytes() * 2


def test_full_buffers_in_both_directions_do_not_deadlock(door):
    """The test reads nothing until it can write nothing more."""
    process = start(door, SERVER, ECHO)
    given, taken = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(given, False)
    sent, received = bytearray(), bytearray()
    while select.select([], [given], [], 1)[1]:
        with contextlib.suppress(BlockingIOError):
            piece = os.urandom(1 << 16)
            sent += piece[:os.write(given, piece)]
    assert len(sent) > 1 << 20
    while len(received) < len(sent):
        assert select.select([taken], [], [], 5)[0]
        received += os.read(taken, 1 << 16)
    assert received == sent
    process.stdin.close()
    assert process.stdout.read() == b""
    assert process.wait(5) == 0


def test_the_end_of_output_is_passed_on_while_input_continues(door):
    taken = []

    def serve(connection):
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        while octets := connection.recv(100):
            taken.append(octets)
        taken.append(None)

    door.keep(Plain(door.server, MUTE, serve))
    process = start(door, SERVER, MUTE)
    assert process.stdout.read() == b"bye"
    process.stdin.write(b"still here")
    process.stdin.close()
    assert process.wait(5) == 0
    wait_until(lambda: taken[-1:] == [None])
    assert b"".join(taken[:-1]) == b"still here"


def test_a_reset_is_an_error_and_ends_it(door):
    def serve(connection):
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    door.keep(Plain(door.server, MUTE, serve))
    process = start(door, SERVER, MUTE)
    process.stdin.write(b"x")
    process.stdin.flush()
    assert process.wait(5) == 1
    first = b"knockknock-connect: cannot continue the connection: connection reset by peer\n"
    assert process.stderr.read().startswith(first)
    process.stdin.close()


@pytest.mark.parametrize("firewall", ["nft"])
def test_an_urgent_byte_does_not_stop_the_relay(door):
    """splice() stops at an urgent byte and reports end of file."""
    def serve(connection):
        connection.sendall(b"before")
        connection.send(b"!", socket.MSG_OOB)
        time.sleep(0.1)
        connection.sendall(b"behind")

    door.keep(Plain(door.server, MUTE, serve))
    assert connect(door, SERVER, MUTE, input="").stdout == "before!behind"


@pytest.mark.parametrize("firewall", ["nft"])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("which", ["input", "output"])
def test_input_and_output_may_be_non_blocking(door, kind, which):
    """Another program that shares the descriptor may have set it to non-blocking mode."""
    (given, sender), (receiver, taken) = (
        [end.detach() for end in socket.socketpair()] if kind == "socket" else os.pipe() for _ in range(2))
    os.set_blocking(given if which == "input" else taken, False)
    process = door.client.start("timeout", 15, BINARY, "connect", "--dir", door.client_dir, SERVER, ECHO,
                                stdin=given, stdout=taken, stderr=subprocess.PIPE)
    os.close(given)
    os.close(taken)
    sent = os.urandom(8 << 20)

    def send():
        with open(sender, "wb", buffering=0) as file:
            time.sleep(0.5)  # nothing is there at the first read
            at = 0
            with contextlib.suppress(BrokenPipeError):
                while at < len(sent):
                    at += file.write(sent[at:])

    thread = threading.Thread(target=send)
    thread.start()
    time.sleep(1)  # the echoed data fills all buffers
    with open(receiver, "rb") as file:
        received = file.read()
    thread.join()
    assert received == sent
    assert (process.stderr.read(), process.wait(5)) == (b"", 0)


@pytest.mark.parametrize("firewall", ["nft"])
def test_an_input_that_fails_ends_it_and_is_no_end_of_the_input(door):
    ends = []

    def serve(connection):
        try:
            ends.append(connection.recv(1))
        except OSError as error:
            ends.append(type(error))

    door.keep(Plain(door.server, MUTE, serve))
    directory = os.open(door.directory, os.O_RDONLY)  # read() on a directory fails
    process = door.client.start(BINARY, "connect", "--dir", door.client_dir, SERVER, MUTE,
                                stdin=directory, stderr=subprocess.PIPE)
    os.close(directory)
    assert process.wait(5) == 1
    assert process.stderr.read() == b"knockknock-connect: cannot continue the connection: is a directory\n"
    wait_until(lambda: ends == [ConnectionResetError])


def test_a_host_without_a_profile_is_connected_without_a_knock(door):
    capture = door.keep(Capture(door.client))
    call_profile(door, "elsewhere")
    assert connect(door, SERVER, PLAIN, input="x").stdout == "x"
    assert connect(door, SERVER, PLAIN, directory="/nonexistent", input="x").stdout == "x"
    assert capture.sent(door.gate.knock_port) == []


def test_a_port_that_the_profile_may_not_open_is_connected_without_a_knock(door):
    with (door.gate.client_path / "config").open("a") as config:
        config.write(f"ports = {ECHO}\n")
    assert connect(door, SERVER, PLAIN, input="x").stdout == "x"
    assert door.gate.client_counter == 0
    assert connect(door, SERVER, ECHO, input="x").stdout == "x"
    assert door.gate.client_counter == 1


@pytest.mark.parametrize("what, why", [
    ([SERVER, "0"], "\"0\" is not a port from 1 to 65535"),
    ([SERVER], "required positional arguments not provided: port"),
    (["-4", "-6", SERVER, "22"], "-4 and -6 exclude each other")])
def test_wrong_arguments_show_the_usage(door, what, why):
    done = connect(door, *what, check=False)
    assert done.returncode == 2 and why in done.stderr


def test_a_refused_connection_without_a_knock_is_reported_at_once(door):
    call_profile(door, "elsewhere")
    began = time.monotonic()
    done = connect(door, SERVER, PLAIN + 7, check=False)
    assert time.monotonic() - began < 0.5
    assert (done.returncode, done.stderr) == (
        1, f"knockknock-connect: cannot connect to {SERVER}:{PLAIN + 7}: connection refused\n"
           f'knockknock-connect: there is no profile for "{SERVER}" in "{door.client_dir}", so no knock was sent\n')


def test_three_unanswered_knocks_are_an_error(door):
    """No daemon receives the knocks, and the guard drops the connections."""
    door.daemon.stop()
    capture = door.keep(Capture(door.client))
    began = time.monotonic()
    done = connect(door, SERVER, ECHO, check=False)
    assert 3 < time.monotonic() - began < 6
    assert done.returncode == 1
    assert f"cannot connect to {SERVER}:{ECHO}: timed out\n" in done.stderr
    assert f"3 knocks went unanswered; to find the cause: knockknock doctor {SERVER}\n" in done.stderr
    assert len(capture.sent(door.gate.knock_port)) == 3
    assert door.gate.client_counter == 3


@pytest.mark.parametrize("firewall", ["nft"])
def test_a_lost_knock_is_repeated(door):
    door.server.run("nft", "-f", "-", input=f"""
        table inet loss {{ chain input {{ type filter hook prerouting priority raw;
            tcp dport {door.gate.knock_port} limit rate 1/day burst 2 packets drop
            }}
        }}""")
    began = time.monotonic()
    assert connect(door, SERVER, ECHO, input="x").stdout == "x"
    assert 1.9 < time.monotonic() - began < 2.5
    assert door.gate.client_counter == 3


@pytest.mark.parametrize("firewall", ["nft"])
@pytest.mark.parametrize("answer", ["tcp reset", "icmp type port-unreachable", "icmp type admin-prohibited"])
def test_a_refusal_while_the_port_is_closed_means_try_again(door, answer):
    """The guard drops connections without a knock; here another firewall rejects them."""
    door.add_rejecting_firewall(ECHO, answer)
    for _ in range(5):
        assert connect(door, SERVER, ECHO, input="x").stdout == "x"
    assert door.gate.client_counter == 5


UNREACHABLE = "no route to host|host is unreachable"


@pytest.mark.parametrize("firewall", ["nft"])
@pytest.mark.parametrize("family, answer, why", [
    ("IPv4", "icmp type port-unreachable", "connection refused"),
    ("IPv4", "icmp type admin-prohibited", UNREACHABLE),
    ("IPv4", "icmp type net-unreachable", "network (is )?unreachable"),
    ("IPv6", "icmpv6 type port-unreachable", "connection refused"),
    ("IPv6", "icmpv6 type admin-prohibited", "rejected by a firewall or router"),
    ("IPv6", "icmpv6 type addr-unreachable", UNREACHABLE)])
def test_a_rejection_is_reported_although_most_attempts_get_no_answer(door, family, answer, why):
    """Firewalls and routers limit the rate of ICMP errors, and it said that the connection timed out."""
    server, _ = FAMILIES[family]
    door.add_rejecting_firewall(ECHO, answer)
    door.daemon.stop()
    call_profile(door, server)
    done = connect(door, server, ECHO, check=False)
    address = f"[{server}]" if family == "IPv6" else server
    assert re.search(f"^knockknock-connect: cannot connect to {re.escape(address)}:{ECHO}: ({why})$", done.stderr, re.M), done.stderr
    found = door.client.run(BINARY, "doctor", "--dir", door.client_dir, "-p", ECHO, server, check=False).stdout
    assert re.search(rf"^note +guard +without a knock.*({why}|refuses)", found, re.M), found
    assert re.search(rf"^wrong +knock .*: ({why})$", found, re.M) and "rejects" in found, found


@pytest.mark.parametrize("firewall", ["nft"])
def test_the_failure_of_each_address_is_reported(door):
    """A refusal hid that the other address had not answered, or the other way round."""
    door.set_client_hosts(f"{SERVER6} both.example\n{SERVER} both.example\n")
    call_profile(door, "both.example")
    door.add_rejecting_firewall(ECHO, "tcp reset")
    door.server.run("nft", "insert rule inet other input ip daddr", SERVER, "tcp dport", ECHO, "drop")
    door.daemon.stop()
    done = connect(door, "both.example", ECHO, check=False)
    assert f"cannot connect to [{SERVER6}]:{ECHO}: connection refused; to {SERVER}:{ECHO}: timed out\n" in done.stderr


def test_few_packets_are_sent(door):
    capture = door.keep(Capture(door.client))
    for _ in range(20):
        connect(door, SERVER, ECHO, input="x")
    # One knock per connection, except for a few knocks that the log of a busy machine loses.
    assert 20 <= len(capture.sent(door.gate.knock_port)) <= 23
    # Two attempts if the reply is immediate, which it is not always on a busy machine.
    starts = []
    for _ in range(5):
        capture = door.keep(Capture(door.client))
        connect(door, SERVER, ECHO, input="x")
        starts.append(sum(packet.flags == 2 for packet in capture.sent(ECHO)))
    assert 1 <= min(starts) <= 4


def test_ten_connections_at_once_take_turns(door):
    began = time.monotonic()
    assert connect(door, SERVER, ECHO, input="x").stdout == "x"
    one = time.monotonic() - began
    began = time.monotonic()
    processes = [start(door, SERVER, ECHO) for _ in range(10)]
    for number, process in enumerate(processes):
        assert process.communicate(b"%d" % number, 20)[0] == b"%d" % number
    assert time.monotonic() - began < max(10 * one, 1)
    assert 11 <= door.gate.client_counter <= 14


def test_a_killed_holder_of_the_knock_lock_does_not_block_others(door):
    door.daemon.stop()
    first = start(door, SERVER, ECHO)
    wait_until(lambda: door.gate.client_counter == 1)
    os.kill(first.pid, signal.SIGSTOP)
    door.start_daemon()
    second = start(door, SERVER, ECHO)
    time.sleep(0.2)
    assert second.poll() is None
    first.kill()
    first.communicate()
    assert second.communicate(b"x", 5)[0] == b"x"


@pytest.mark.parametrize("firewall", ["nft"])
def test_it_connects_over_ipv6(door):
    call_profile(door, SERVER6)
    assert connect(door, SERVER6, ECHO, input="x").stdout == "x"
    assert door.daemon.wait_for(f"opened port {ECHO} to {CLIENT6} ")


@pytest.mark.parametrize("firewall", ["nft"])
def test_knock_and_connection_leave_from_the_same_address(door):
    """With IPv6 privacy addresses the next packet may have another source address."""
    mac = door.client.run("cat", "/sys/class/net/eth0/address").stdout.strip()
    call_profile(door, SERVER6)
    used = set()
    for number in range(3, 9):
        address = f"fd09::2:{number}"
        door.server.run("ip", "neighbour", "add", address, "lladdr", mac, "dev", "eth0", "nud", "permanent")
        door.client.run("ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad")
        assert connect(door, SERVER6, ECHO, input="x").stdout == "x"
        used.add(door.daemon.wait_for(f"opened port {ECHO} to "))
    assert len(used) > 1, "it did change"


@pytest.mark.parametrize("firewall", ["nft"])
def test_a_dead_ipv6_address_costs_a_quarter_of_a_second(door):
    door.set_client_hosts(f"127.0.0.1 localhost\nfd09::dead host.example\n{SERVER} host.example\n")
    call_profile(door, "host.example")
    began = time.monotonic()
    assert connect(door, "host.example", ECHO, input="x").stdout == "x"
    assert 0.2 < time.monotonic() - began < 0.6
    assert door.gate.client_counter == 2, "one knock for each address"
    assert connect(door, "-4", "host.example", ECHO, input="x").stdout == "x"
    assert door.gate.client_counter == 3


def test_ssh_and_scp_behind_the_guard(door):
    sshd = door.keep(Sshd(door.server, door.directory / "sshd", SSH))
    options = sshd.options(f"{BINARY} connect --dir {door.client_dir} %h %p")
    assert door.client.run("ssh", *options, "-p", SSH, f"root@{SERVER}", "echo $SSH_CONNECTION").stdout.endswith(f"{SSH}\n")
    source, target = door.directory / "source", door.directory / "target"
    source.write_bytes(os.urandom(100 << 20))
    door.client.run("scp", *options, "-P", SSH, source, f"root@{SERVER}:{target}", timeout=100)
    assert target.read_bytes() == source.read_bytes()
    assert not door.connects(SSH)


@pytest.mark.parametrize("firewall", ["nft"])
def test_it_keeps_no_privilege(door):
    process = start(door, SERVER, ECHO)
    wait_until(lambda: door.gate.client_counter == 1)
    state = status(process.pid)
    assert {int(state[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert state["NoNewPrivs"] == "1"
    process.communicate(b"", 5)


# The handshake's ACK

def connect_with_many_attempts(stage, meanwhile=lambda: None):
    """Starts connect, and stops it until all its attempts are established at the client's end; then calls
    `meanwhile`.

    The SYNs arrive before the opening. The client's kernel retransmits them a second later, while connect is
    stopped, and delays the ACKs by 0.2 s."""
    def send_all(number):
        for pid in (stage.daemon.pid, *stage.daemon.children()):
            os.kill(pid, number)

    send_all(signal.SIGSTOP)
    capture = stage.keep(Capture(stage.client))
    process = start(stage, SERVER, stage.PORT)
    sent = []
    wait_until(lambda: sent.extend(capture.sent(stage.PORT, quiet=0.01)) or len(sent) >= 6)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGSTOP)
    send_all(signal.SIGCONT)
    stage.opened()
    time.sleep(max(began + 1.05 - time.monotonic(), 0))
    meanwhile()
    os.kill(process.pid, signal.SIGCONT)
    return process, capture


@pytest.mark.parametrize("firewall", ["nft"])
def test_the_server_sees_one_of_many_attempts(door):
    """With the turnstile at the ACK, the server answers every attempt's SYN."""
    process, capture = connect_with_many_attempts(door)
    assert process.communicate(b"", 10)[0] == Service.GREETING
    packets = capture.sent(door.PORT)
    assert len({packet.source_port for packet in packets if packet.flags & 0x16 == 0x10}) == 1, "one attempt sends an ACK"
    assert door.service.accepted == 1
    assert not door.connects()


@pytest.mark.parametrize("firewall", ["nft"])
def test_the_winner_is_greeted_when_its_first_ack_is_lost(door):
    """Otherwise the ACK of another attempt takes the opening, and the winner stays silent."""
    door.client.run("nft", "-f", "-", input=f"""
        table inet loss {{ chain output {{ type filter hook output priority filter;
            tcp dport {door.PORT} tcp flags & (syn | rst | ack) == ack limit rate 1/day burst 1 packets drop
            }}
        }}""")
    process, _ = connect_with_many_attempts(door)
    assert select.select([process.stdout], [], [], 5)[0], "the server retransmits its SYN/ACK after a second"
    assert process.communicate(b"", 5)[0] == Service.GREETING


@pytest.mark.parametrize("firewall", ["nft"])
def test_all_of_two_hundred_connections_are_greeted(door):
    for _ in range(200):
        assert connect(door, SERVER, door.PORT).stdout == Service.GREETING.decode()
        door.daemon.new_lines()
    assert door.service.accepted == 200


@pytest.mark.parametrize("firewall", ["nft"])
def test_a_connection_whose_opening_is_gone_is_an_error(door):
    """It is established at the client's end, and the server's firewall resets it."""
    neighbour = door.keep(RawClient(door.client, 41000, door.PORT))
    process, _ = connect_with_many_attempts(door, meanwhile=neighbour.handshake)
    process.stdin.write(b"x")
    process.stdin.flush()
    assert process.wait(5) == 1
    assert process.stderr.read().decode() == (
        "knockknock-connect: cannot continue the connection: connection reset by peer\n"
        "knockknock-connect: try again; another connection from this network may have used the opening\n")
    wait_until(lambda: door.service.accepted == 1)  # the neighbour's


@pytest.mark.parametrize("firewall", ["nft"])
def test_a_profile_of_0_8_waits_until_its_server_has_read_its_log(door):
    """Early attempts used up the three lines a second of the log rule of 0.8."""
    config = door.gate.client_path / "config"
    config.write_text(f"[main]\nknock_port = {door.gate.knock_port}\n")
    capture = door.keep(Capture(door.client))
    began = time.monotonic()
    assert connect(door, SERVER, ECHO, input="x").stdout == "x"
    assert time.monotonic() - began > 0.27
    assert sum(packet.flags == 2 for packet in capture.sent(ECHO)) == 1
    assert door.gate.client_counter == 1


@pytest.mark.parametrize("firewall", ["nft"])
def test_a_silent_connection_is_left_alone(door):
    """Neither side sends anything for longer than a refusal takes to show."""
    door.keep(Plain(door.server, MUTE, lambda connection: connection.sendall(connection.recv(1))))
    process = start(door, SERVER, MUTE)
    time.sleep(4.5)
    assert process.communicate(b"x", 5)[0] == b"x"

"""The SOCKS proxy: real clients, misbehaving clients, many clients."""

import contextlib
import fcntl
import os
import re
import random
import resource
import select
import signal
import socket
import statistics
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

from rawtcp import RawClient
from services import Plain, Sshd, Web, echo, wait_until
from stage import BINARY, CLIENT, CLIENT6, SERVER, SERVER6, Capture, status

PROXY, WEB, ECHO, SSH, PLAIN, OTHER = 1080, 8000, 4000, 2222, 4001, 4002
GRANTED, FAILED, NOT_ALLOWED, NET, HOST, REFUSED, TIMED_OUT, COMMAND, KIND = range(9)


class Proxy:
    """A running knockknock-proxy on a machine."""

    def __init__(self, machine, directory, *arguments, wrap=(), **options):
        self.machine, self.lines = machine, []
        self.process = machine.start(*wrap, BINARY, "proxy", "--dir", directory, *arguments, PROXY,
                                     stderr=subprocess.PIPE, text=True, **options)
        self.pid = self.process.pid
        while ": ready" not in (line := self.process.stderr.readline()):
            assert line, f"the proxy ended: {self.lines}"
            self.lines.append(line)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        self.lines += self.process.stderr

    def socket(self, timeout=10, address="127.0.0.1"):
        """Opens a connection to the proxy."""
        client = self.machine.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.settimeout(timeout)
        client.connect((address, PROXY))
        return client

    def ask(self, host, port, timeout=10):
        """Requests a connection by SOCKS 5. Returns the socket and the reply code."""
        client = self.socket(timeout)
        client.sendall(b"\x05\x01\x00")
        assert exactly(client, 2) == b"\x05\x00"
        client.sendall(request(host, port))
        return client, reply(client)

    def files(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self):
        """Returns the resident memory in KB."""
        return int(status(self.pid)["VmRSS"].split()[0])

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()


def request(host, port, command=1):
    """Returns the bytes of a SOCKS 5 request."""
    kind, octets = 3, bytes([len(host)]) + host.encode()
    for number, family in ((1, socket.AF_INET), (4, socket.AF_INET6)):
        with contextlib.suppress(OSError, ValueError):
            kind, octets = number, socket.inet_pton(family, host)
    return bytes([5, command, 0, kind]) + octets + struct.pack("!H", port)


def exactly(client, count):
    octets = b""
    while len(octets) < count and (more := client.recv(count - len(octets))):
        octets += more
    return octets


def reply(client):
    head = exactly(client, 4)
    assert head[:1] == b"\x05" and head[2:3] == b"\0", head
    exactly(client, {1: 4, 4: 16}[head[3]] + 2)
    return head[1]


def rest(client):
    """Reads until end of file."""
    octets = b""
    while more := client.recv(1 << 16):
        octets += more
    return octets


@pytest.fixture
def firewall():
    """One backend is enough here; other tests cover the backends."""
    return "nft"


@pytest.fixture
def door(stage, firewall):
    """The stage with guarded services, and one that is not guarded."""
    stage.set_up(firewall, guard=f"{stage.PORT}, {stage.FENCE_PORT}, {WEB}, {ECHO}, {SSH}, {OTHER}")
    stage.keep(Plain(stage.server, ECHO, echo))
    stage.keep(Plain(stage.server, PLAIN, echo))
    return stage


@pytest.fixture
def proxy(door):
    return door.keep(Proxy(door.client, door.client_dir))


def call_profile(stage, host):
    """Renames the client's profile to `host`."""
    stage.gate.client_path = stage.gate.client_path.rename(stage.client_dir / host)


def give_names(stage, **names):
    """Writes the client's /etc/hosts."""
    stage.set_client_hosts("127.0.0.1 localhost\n" + "".join(
        f"{address} {name.replace('_', '.')}\n" for name, addresses in names.items() for address in addresses))


# Real clients

HOSTS = SERVER, "four.example", "both.example", "six.example", f"[{SERVER6}]"


@pytest.mark.parametrize("scheme, host", [
    *(("socks5", host) for host in HOSTS), *(("socks5h", host) for host in HOSTS),
    *(("socks4", host) for host in HOSTS[:3]), *(("socks4a", host) for host in HOSTS[:4])])  # SOCKS 4 has no IPv6
def test_curl_works_through_the_proxy(door, scheme, host):
    give_names(door, four_example=[SERVER], six_example=[SERVER6], both_example=[SERVER6, SERVER])
    call_profile(door, host.strip("[]"))
    web = door.keep(Web(door.server, door.directory / "web", WEB))
    content = os.urandom(1_000_000)
    (web.directory / "file").write_bytes(content)
    door.keep(Proxy(door.client, door.client_dir))
    assert not door.connects(WEB)
    target = door.directory / "target"
    for number in range(1, 3):
        door.client.run("curl", "-sSf", "-x", f"{scheme}://127.0.0.1:{PROXY}", "-o", target, f"http://{host}:{WEB}/file")
        assert target.read_bytes() == content
        assert door.gate.client_counter == number, "one connection, one knock"


def test_ssh_and_scp_work_through_the_proxy(door, proxy):
    sshd = door.keep(Sshd(door.server, door.directory / "sshd", SSH))
    options = sshd.options(f"socat - SOCKS4A:127.0.0.1:%h:%p,socksport={PROXY}")
    assert door.client.run("ssh", *options, "-p", SSH, f"root@{SERVER}", "echo hello").stdout == "hello\n"
    source, target, back = (door.directory / name for name in ("source", "target", "back"))
    source.write_bytes(os.urandom(100 << 20))
    door.client.run("scp", *options, "-P", SSH, source, f"root@{SERVER}:{target}", timeout=100)
    assert target.read_bytes() == source.read_bytes()
    door.client.run("scp", *options, "-P", SSH, f"root@{SERVER}:{target}", back, timeout=100)
    assert back.read_bytes() == source.read_bytes()
    assert door.gate.client_counter == 3


# Which host has a profile

def test_an_address_of_a_named_profile_gets_a_knock(door):
    give_names(door, host_example=[SERVER], alias_example=[SERVER])
    call_profile(door, "host.example")
    proxy = door.keep(Proxy(door.client, door.client_dir))
    for number, host in enumerate([SERVER, "alias.example", "host.example", "HOST.Example"], 1):
        client, answer = proxy.ask(host, ECHO)
        assert (answer, door.gate.client_counter) == (GRANTED, number), host
        client.close()


def test_an_unresolvable_name_does_not_block_addresses(door):
    """The profile's name cannot be resolved."""
    call_profile(door, "no.such.host.invalid")
    proxy = door.keep(Proxy(door.client, door.client_dir))
    client, answer = proxy.ask(SERVER, PLAIN)
    assert answer == GRANTED
    client.close()


def test_a_profile_that_appears_is_used_at_once(door, proxy):
    path = door.gate.client_path
    hidden = path.rename(door.directory / "hidden")
    client, answer = proxy.ask(SERVER, PLAIN)
    assert answer == GRANTED
    client.close()
    hidden.rename(path)
    client, answer = proxy.ask(SERVER, ECHO)
    assert (answer, door.gate.client_counter) == (GRANTED, 1)
    client.close()


def test_other_hosts_and_ports_are_connected_without_a_knock(door, proxy):
    with (door.gate.client_path / "config").open("a") as config:
        config.write(f"ports = {ECHO}\n")
    capture = door.keep(Capture(door.client))
    for host in (SERVER, SERVER6):
        client, answer = proxy.ask(host, PLAIN)
        assert answer == GRANTED
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        client.close()
    assert capture.sent(door.gate.knock_port) == []


def test_a_damaged_profile_is_an_error_and_never_ignored(door, proxy):
    (door.gate.client_path / "mac.key").chmod(0o644)
    client, answer = proxy.ask(SERVER, ECHO)
    assert (answer, door.gate.client_counter) == (FAILED, 0)
    client.close()
    wait_until(lambda: any("mac.key" in line for line in proxy.lines))


def test_an_error_that_each_request_causes_is_logged_once(door, proxy):
    """A damaged profile cost a line for each request of a web page."""
    (door.gate.client_path / "mac.key").chmod(0o644)
    for _ in range(50):
        client, answer = proxy.ask(SERVER, ECHO)
        assert answer == FAILED
        client.close()
    (door.gate.client_path / "mac.key").unlink()
    proxy.ask(SERVER, ECHO)[0].close()
    wait_until(lambda: any("no such file" in line for line in proxy.lines))
    assert sum("mac.key\": others" in line for line in proxy.lines) == 1, proxy.lines


# Replies

def test_each_failure_has_its_reply(door, proxy):
    give_names(door, dead_example=["100::1"])
    door.gate.client_path.rename(door.directory / "hidden")
    for host, expected in [("100::1", NET), ("dead.example", NET), ("203.0.113.1", NET), ("no.such.host.invalid", HOST), ("", HOST), ("a\0b", HOST)]:
        client, answer = proxy.ask(host, 22)
        assert answer == expected, host
        assert rest(client) == b""
        client.close()
    for port in (0, PLAIN + 7):
        client, answer = proxy.ask(SERVER, port)
        assert (answer, rest(client)) == (REFUSED, b"")
        client.close()
    door.server.run("nft", "-f", "-", input=f"""
        table inet other {{ chain input {{ type filter hook input priority filter;
            tcp dport {OTHER + 1} reject with icmp type host-unreachable
            }}
        }}""")
    client, answer = proxy.ask(SERVER, OTHER + 1)
    assert (answer, rest(client)) == (HOST, b"")
    client.close()


@pytest.mark.parametrize("command", [2, 3, 9])
def test_other_commands_are_refused(proxy, command):
    with proxy.socket() as client:
        client.sendall(b"\x05\x01\x00" + request(SERVER, ECHO, command))
        assert exactly(client, 2) == b"\x05\x00"
        assert reply(client) == COMMAND
        assert rest(client) == b""


@pytest.mark.parametrize("sent, answer", [
    (b"\x05\x01\x02", b"\x05\xff"),
    (b"\x05\x00", b"\x05\xff"),
    (b"\x05\xff" + bytes(range(1, 256)), b"\x05\xff"),
    (b"\x05\xff" + bytes(range(255)) + b"\x05\x01\x00\x05", b"\x05\x00\x05\x08\x00\x01\0\0\0\0\0\0"),
    (b"\x04\x02\x00\x16\x0a\x09\x00\x01\x00", b"\x00\x5b\0\0\0\0\0\0"),
    (b"\x04\x01\x00\x16\x00\x00\x00\x01\x00\x00", b"\x00\x5b\0\0\0\0\0\0"),
    (b"\x04\x01\x00\x16\x0a\x09\x00\x01" + b"u" * 10000, b"\x00\x5b\0\0\0\0\0\0"),
    (b"\x05\x01\x00\x05\x01\x00\x03\xff" + b"n" * 255 + b"\x00\x16", b"\x05\x00\x05\x04\x00\x01\0\0\0\0\0\0"),
], ids=["password only", "no methods", "255 methods but none", "no such address", "4: bind", "4a: no name",
        "4: endless user", "a name of 255 bytes"])
def test_the_reply_to_a_refused_request_reaches_the_client(proxy, sent, answer):
    with proxy.socket(20) as client:
        client.sendall(sent)
        assert rest(client) == answer


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\0", os.urandom(5000).replace(b"\4", b"\0").replace(b"\5", b"\0")])
def test_other_protocols_are_closed(proxy, sent):
    with proxy.socket() as client, contextlib.suppress(ConnectionResetError):
        client.sendall(sent)
        assert client.recv(100) == b""


def test_a_request_may_arrive_one_byte_at_a_time(door, proxy):
    for opening, answers in [(b"\x05\x03\x01\x00\x02" + request(SERVER, ECHO), [b"\x05\x00", b"\x05\x00\x00\x01"]),
                             (b"\x04\x01" + struct.pack("!H", ECHO) + b"\0\0\0\1user\0" + SERVER.encode() + b"\0", [b"\0\x5a"])]:
        with proxy.socket() as client:
            for octet in opening:
                client.sendall(bytes([octet]))
                time.sleep(0.002)
            for expected in answers:
                assert exactly(client, len(expected)) == expected
            exactly(client, 6)
            client.sendall(b"x")
            assert client.recv(1) == b"x"


def test_bytes_after_the_request_reach_the_server(proxy):
    with proxy.socket() as client:
        client.sendall(b"\x05\x01\x00" + request(SERVER, ECHO) + b"payload")
        assert exactly(client, 2) == b"\x05\x00" and reply(client) == GRANTED
        assert exactly(client, 7) == b"payload"


def test_a_thousand_rude_clients_leak_nothing(door, proxy):
    web = request(SERVER, PLAIN)
    whole = b"\x05\x01\x00" + web
    four = b"\x04\x01\x00\x16\x0a\x09\x00\x01user\x00"
    openings = [whole[:cut] for cut in range(len(whole) + 1)] + [four[:cut] for cut in range(len(four))] + [
        b"\x05\xff" + b"\x01" * 255, b"GET / HTTP/1.0\r\n\r\n", b"\x05\x01\x00" + request("no.such.host.invalid", 22),
        b"\x05\x01\x00" + request("", 22), b"\x05\x01\x00" + request("a\0b", 22), os.urandom(300), b"\x05\x01\x00" + request(SERVER, ECHO)]
    door.gate.client_path.rename(door.directory / "hidden")
    client, _ = proxy.ask(SERVER, PLAIN)
    client.close()
    wait_until(lambda: proxy.files() <= 12)
    before, memory = proxy.files(), proxy.memory()
    kept = []
    for number in range(1000):
        client = proxy.socket()
        with contextlib.suppress(OSError):
            client.sendall(openings[number % len(openings)])
            if number % 3 == 0:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif number % 3 == 1:
                client.shutdown(socket.SHUT_WR)
        kept.append(client)
        if len(kept) == 50:
            random.shuffle(kept)
            for client in kept:
                client.close()
            kept.clear()
    wait_until(lambda: proxy.files() <= before, 20)
    assert proxy.memory() < memory + 1000
    client, answer = proxy.ask(SERVER, PLAIN)
    assert answer == GRANTED
    client.close()


def test_a_silent_client_is_closed(proxy):
    with proxy.socket(40) as mute, proxy.socket(40) as half:
        half.sendall(b"\x05\x01")
        began = time.monotonic()
        assert (rest(mute), rest(half)) == (b"", b"")
        assert 25 < time.monotonic() - began < 35


# The relay

def test_both_directions_close_independently(door, proxy):
    client, _ = proxy.ask(SERVER, ECHO)
    sent = os.urandom(5_000_000)

    def send():
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    received = rest(client)
    sender.join()
    assert received == sent
    client.close()


def test_a_half_close_by_the_server_keeps_the_other_direction_open(door, proxy):
    taken = []

    def serve(connection):
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        taken.append(rest(connection))

    door.keep(Plain(door.server, OTHER, serve))
    client, _ = proxy.ask(SERVER, OTHER)
    assert rest(client) == b"bye"
    client.sendall(b"still here")
    time.sleep(0.1)
    client.close()
    wait_until(lambda: taken == [b"still here"])


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_passed_on(door, proxy, who):
    at_server = []
    done = threading.Event()

    def serve(connection):
        connection.sendall(b"x")
        try:
            if who == "server":
                connection.recv(1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                at_server.append(rest(connection))
        except OSError as error:
            at_server.append(type(error))
        finally:
            done.set()

    door.keep(Plain(door.server, OTHER, serve))
    client, _ = proxy.ask(SERVER, OTHER)
    assert client.recv(1) == b"x"
    if who == "server":
        client.sendall(b"y")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    else:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert done.wait(5)
    assert at_server == ([ConnectionResetError] if who == "client" else [])


def test_an_urgent_byte_does_not_stop_the_relay(door, proxy):
    """telnet sends its interrupt, and FTP its ABOR, with urgent data."""
    client, _ = proxy.ask(SERVER, ECHO)
    for text in (b"one", b"two"):
        client.sendall(text)
        client.send(b"!", socket.MSG_OOB)
        assert exactly(client, 4) == text + b"!"
    client.sendall(b"three")
    assert exactly(client, 5) == b"three"
    client.close()


def test_a_client_that_does_not_read_blocks_only_its_server(door, proxy):
    sent, stopped = [], threading.Event()

    def serve(connection):
        connection.settimeout(2)
        with contextlib.suppress(TimeoutError):
            while True:
                sent.append(connection.send(bytes(1 << 16)))
        stopped.set()

    door.keep(Plain(door.server, OTHER, serve))
    lazy, _ = proxy.ask(SERVER, OTHER)
    memory = proxy.memory()
    wait_until(lambda: sent and sum(sent) > 100_000)
    for _ in range(20):
        other, answer = proxy.ask(SERVER, PLAIN)
        other.sendall(b"x")
        assert answer == GRANTED and other.recv(1) == b"x"
        other.close()
    assert stopped.wait(20)
    assert proxy.memory() < memory + 500
    total = sum(sent)
    assert total < 50 << 20
    assert len(rest(lazy)) == total
    lazy.close()


def test_a_failed_losing_attempt_does_not_affect_the_winner(door):
    """The server resets connections without a knock. The proxy is suspended until two attempts are due. It makes both
    and receives both results together: one connection is established, the other was reset."""
    door.add_rejecting_firewall(OTHER, "tcp reset")
    taken = []

    def serve(connection):
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        taken.append(rest(connection))

    def send_all(number):
        for pid in (door.daemon.pid, *door.daemon.children()):
            os.kill(pid, number)

    door.keep(Plain(door.server, OTHER, serve))
    proxy = door.keep(Proxy(door.client, door.client_dir))
    for number in range(1, 6):
        send_all(signal.SIGSTOP)
        client = proxy.socket()
        client.sendall(b"\x05\x01\x00" + request(SERVER, OTHER))
        wait_until(lambda: door.gate.client_counter == number)
        time.sleep(0.03)
        os.kill(proxy.pid, signal.SIGSTOP)
        send_all(signal.SIGCONT)
        door.opened(OTHER)
        time.sleep(0.3)
        os.kill(proxy.pid, signal.SIGCONT)
        assert exactly(client, 2) == b"\x05\x00" and reply(client) == GRANTED
        assert rest(client) == b"bye"
        for _ in range(3):
            client.sendall(b"x")
            time.sleep(0.01)
        client.close()
        wait_until(lambda: len(taken) == number)
    assert taken == [b"xxx"] * 5


# Many clients

def test_five_hundred_connections_at_once(door, proxy):
    door.gate.client_path.rename(door.directory / "hidden")
    proxy.ask(SERVER, PLAIN)[0].close()
    before = proxy.memory()
    clients = [proxy.socket(30) for _ in range(500)]
    opening = b"\x05\x01\x00" + request(SERVER, PLAIN)
    for client in clients:
        client.sendall(opening)
    for number, client in enumerate(clients):
        assert exactly(client, 2) == b"\x05\x00" and reply(client) == GRANTED
        client.sendall(b"%04d" % number * 1000)
    during = proxy.memory()
    for number, client in enumerate(clients):
        assert exactly(client, 4000) == b"%04d" % number * 1000
        client.close()
    wait_until(lambda: proxy.files() < 40)
    print(f"memory: {before} kB before, {during} kB with 500 connections, {proxy.memory()} kB after")
    assert during - before < 1000 and proxy.memory() - before < 1000


def test_five_hundred_connections_at_once_to_a_guarded_port(door, proxy):
    clients = [proxy.socket(60) for _ in range(500)]
    opening = b"\x05\x01\x00" + request(SERVER, ECHO)
    began = time.monotonic()
    for client in clients:
        client.sendall(opening)
    for number, client in enumerate(clients):
        assert exactly(client, 2) == b"\x05\x00" and reply(client) == GRANTED
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    print(f"500 knocks and connections took {time.monotonic() - began:.1f} s, {door.gate.client_counter} counters")
    assert door.gate.client_counter < 510
    for client in clients:
        client.close()


def test_ten_connections_at_once_to_one_port_take_turns(door, proxy):
    spent = []
    for _ in range(20):
        began = time.monotonic()
        proxy.ask(SERVER, ECHO)[0].close()
        spent.append(time.monotonic() - began)
    together = []
    for _ in range(5):
        clients = [proxy.socket() for _ in range(10)]
        began = time.monotonic()
        for client in clients:
            client.sendall(b"\x05\x01\x00" + request(SERVER, ECHO))
        for client in clients:
            assert exactly(client, 2) == b"\x05\x00" and reply(client) == GRANTED
        together.append(time.monotonic() - began)
        for client in clients:
            client.close()
    assert statistics.median(together) < 10 * max(spent)
    # One counter per connection, except for a few knocks that the log of a busy machine loses.
    assert 70 <= door.gate.client_counter <= 73


def test_the_command_line_and_the_proxy_share_a_profile(door, proxy):
    clients, processes = [], []
    for _ in range(20):
        clients.append(proxy.socket(30))
        clients[-1].sendall(b"\x05\x01\x00" + request(SERVER, ECHO))
        processes.append(door.client.start(BINARY, "connect", "--dir", door.client_dir, SERVER, ECHO,
                                           stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    for client in clients:
        assert exactly(client, 2) == b"\x05\x00" and reply(client) == GRANTED
        client.close()
    for process in processes:
        assert process.communicate(b"x", 30)[0] == b"x"
    assert door.gate.client_counter == door.gate.counter
    assert 40 <= door.gate.counter <= 43


def test_beyond_the_limit_clients_are_refused(door):
    """The limit of 600 descriptors allows 16 connections. Without CAP_SYS_RESOURCE, root cannot raise it."""
    few = ["setpriv", "--bounding-set=-sys_resource", "prlimit", "--nofile=600:600"]
    door.gate.client_path.rename(door.directory / "hidden")
    proxy = door.keep(Proxy(door.client, door.client_dir, wrap=few))
    clients = [proxy.ask(SERVER, PLAIN) for _ in range(16)]
    assert [answer for _, answer in clients] == [GRANTED] * 16
    for _ in range(3):
        client, answer = proxy.ask(SERVER, PLAIN)
        assert (answer, rest(client)) == (FAILED, b"")
        client.close()
    wait_until(lambda: sum("further clients are refused" in line for line in proxy.lines) == 1)
    for client, _ in clients:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        client.close()
    wait_until(lambda: proxy.files() < 20)
    client, answer = proxy.ask(SERVER, PLAIN)
    assert answer == GRANTED
    client.close()


# One connection at a time for each profile

def test_unanswered_knocks_are_an_error_and_a_back_off(door, proxy):
    door.daemon.stop()
    waiting = [proxy.socket(20) for _ in range(3)]
    began = time.monotonic()
    for client in waiting:
        client.sendall(b"\x05\x01\x00" + request(SERVER, ECHO))
    for client in waiting:
        assert exactly(client, 2) == b"\x05\x00" and reply(client) == TIMED_OUT
        client.close()
    assert 3 < time.monotonic() - began < 6
    assert door.gate.client_counter == 3, "who waited is refused as well"
    client, answer = proxy.ask(SERVER, ECHO)
    assert (answer, door.gate.client_counter) == (TIMED_OUT, 3)
    client.close()
    wait_until(lambda: any("3 knocks went unanswered" in line for line in proxy.lines))
    notices = [line for line in proxy.lines if "not knocking for" in line]
    assert len(notices) == 1, "one notice, however many connections are refused"
    assert re.search(f'not knocking for "{SERVER}" for another 1 s: its last 3 knocks went unanswered', notices[0])
    time.sleep(1.1)
    assert proxy.ask(SERVER, ECHO)[1] == TIMED_OUT
    assert door.gate.client_counter == 6
    time.sleep(1.1)
    assert proxy.ask(SERVER, ECHO)[1] == TIMED_OUT
    assert door.gate.client_counter == 6, "two seconds the second time"
    door.start_daemon()
    time.sleep(1.1)
    client, answer = proxy.ask(SERVER, ECHO)
    assert answer == GRANTED
    client.close()


def test_a_client_that_vanishes_in_the_queue_costs_no_counter(door, proxy):
    door.daemon.stop()
    clients = [proxy.socket() for _ in range(10)]
    for client in clients:
        client.sendall(b"\x05\x01\x00" + request(SERVER, ECHO))
        assert exactly(client, 2) == b"\x05\x00"
    wait_until(lambda: door.gate.client_counter == 1)
    for client in reversed(clients):
        client.close()
    time.sleep(0.3)
    assert door.gate.client_counter == 1
    door.start_daemon()
    client, answer = proxy.ask(SERVER, ECHO)
    assert (answer, door.gate.client_counter) == (GRANTED, 2)
    client.close()


def test_a_client_that_vanishes_while_another_program_knocks_blocks_nobody(door, proxy):
    turnstile = os.open(door.gate.client_path, os.O_RDONLY)
    fcntl.flock(turnstile, fcntl.LOCK_EX)
    clients = [proxy.socket() for _ in range(3)]
    for client in clients:
        client.sendall(b"\x05\x01\x00" + request(SERVER, ECHO))
        assert exactly(client, 2) == b"\x05\x00"
        time.sleep(0.05)
    for client in clients[:2]:
        client.close()
    time.sleep(0.1)
    os.close(turnstile)
    assert reply(clients[2]) == GRANTED
    assert door.gate.client_counter == 1
    clients[2].close()


def test_a_stopped_program_that_holds_a_counter_does_not_stop_the_others_connections(door, proxy):
    """As a knock would that is stopped between taking the counter and sending the packet."""
    connected, _ = proxy.ask(SERVER, PLAIN)
    with (door.gate.client_path / "counter").open() as counter:
        fcntl.flock(counter, fcntl.LOCK_EX)
        waiting = proxy.socket()
        waiting.sendall(b"\x05\x01\x00" + request(SERVER, ECHO))
        assert exactly(waiting, 2) == b"\x05\x00"
        for _ in range(3):
            connected.sendall(b"x")
            assert exactly(connected, 1) == b"x"
            client, answer = proxy.ask(SERVER, PLAIN)
            assert answer == GRANTED
            client.close()
    assert reply(waiting) == GRANTED
    assert door.gate.client_counter == 1
    for client in (waiting, connected):
        client.close()


def test_a_connection_whose_opening_is_gone_is_reset(door, proxy):
    """As with connect: all attempts are established before the proxy goes on, and the opening is gone."""
    def send_all(number):
        for pid in (door.daemon.pid, *door.daemon.children()):
            os.kill(pid, number)

    send_all(signal.SIGSTOP)
    neighbour = door.keep(RawClient(door.client, 41000, ECHO))
    capture, sent = door.keep(Capture(door.client)), []
    client = proxy.socket()
    client.sendall(b"\x05\x01\x00" + request(SERVER, ECHO) + b"x")
    wait_until(lambda: sent.extend(capture.sent(ECHO, quiet=0.01)) or len(sent) >= 6)
    began = time.monotonic()
    os.kill(proxy.pid, signal.SIGSTOP)
    send_all(signal.SIGCONT)
    door.opened(ECHO)
    time.sleep(max(began + 1.05 - time.monotonic(), 0))
    assert neighbour.handshake()
    os.kill(proxy.pid, signal.SIGCONT)
    assert exactly(client, 2) == b"\x05\x00" and reply(client) == GRANTED
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    client.close()


# The process

def test_it_does_nothing_while_nothing_happens(door, proxy):
    client, _ = proxy.ask(SERVER, ECHO)
    other, _ = proxy.ask("no.such.host.invalid", ECHO)
    other.close()
    time.sleep(4)  # until a refusal would have shown
    trace = door.directory / "trace"
    strace = subprocess.Popen(["strace", "-f", "-qq", "-o", trace, "-p", str(proxy.pid)], stderr=subprocess.DEVNULL)
    time.sleep(5)
    strace.send_signal(signal.SIGINT)
    strace.wait()
    calls = [line for line in trace.read_text().splitlines() if "epoll_" not in line and "resumed" not in line]
    assert calls == []
    assert len(trace.read_text().splitlines()) == 1
    assert len(os.listdir(f"/proc/{proxy.pid}/task")) == 1, "no thread stays"
    client.close()


@pytest.fixture
def public(door):
    """A function that gives the profiles to a user and lets every user enter the directories above them."""
    def give(user):
        for path in [door.client_dir, *door.client_dir.rglob("*")]:
            os.chown(path, user, user)
        for path in [door.directory, *door.directory.parents]:
            if path.stat().st_mode & 0o777 == 0o700:
                path.chmod(0o711)
        return user
    return give


@pytest.mark.parametrize("how", ["sudo", "--user"])
def test_it_switches_to_another_user_and_keeps_no_privileges(door, public, how):
    user = public(2 if how == "--user" else 65432)
    arguments = ["--user", "bin"] if how == "--user" else []
    environment = {**os.environ, "SUDO_UID": str(user), "SUDO_GID": str(user)} if how == "sudo" else os.environ
    proxy = door.keep(Proxy(door.client, door.client_dir, *arguments, env=environment))
    state = status(proxy.pid)
    assert set(state["Uid"].split()) == set(state["Gid"].split()) == {str(user)}
    client, answer = proxy.ask(SERVER, ECHO)
    assert answer == GRANTED
    client.close()


def test_root_stays_root_without_capabilities(proxy):
    state = status(proxy.pid)
    assert set(state["Uid"].split()) == {"0"}
    assert {int(state[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert state["NoNewPrivs"] == "1"


def test_it_listens_on_other_addresses_only_with_allow_remote(door):
    done = door.client.run(BINARY, "proxy", "--dir", door.client_dir, "--listen", "0.0.0.0", PROXY, check=False)
    assert done.returncode == 1 and "--allow-remote" in done.stderr
    proxy = door.keep(Proxy(door.client, door.client_dir, "--listen", "0.0.0.0", "--allow-remote"))
    for host, expected in [("127.0.0.1", NOT_ALLOWED), (CLIENT, NOT_ALLOWED), (SERVER6, NOT_ALLOWED),
                           ("localhost", NOT_ALLOWED), (SERVER, GRANTED)]:
        client, answer = proxy.ask(host, ECHO)
        assert answer == expected, host
        client.close()


@pytest.mark.parametrize("arguments, why", [
    (["0"], "is not a port"), (["x"], "is not a port"), (["--listen", "here", "1080"], "is not an IP address"),
    (["--user", "no such user", "1080"], "there is no user"), ([], "required positional arguments not provided: listenport")])
def test_wrong_arguments_show_the_usage(door, arguments, why):
    done = door.client.run(BINARY, "proxy", *arguments, check=False)
    assert done.returncode == 2 and why in done.stderr, done.stderr


def test_a_port_in_use_is_an_error(door, proxy):
    done = door.client.run(BINARY, "proxy", "--dir", door.client_dir, PROXY, check=False)
    assert done.returncode == 1
    # the messages of glibc and musl
    assert re.fullmatch(rf"knockknock-proxy: cannot listen on 127.0.0.1:{PROXY}: address (already )?in use\n", done.stderr)


def test_it_runs_in_the_background(door):
    door.client.run(BINARY, "proxy", "--dir", door.client_dir, "--background", PROXY)
    [pid] = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline")
             if path.read_bytes().find(b"--background") > 0 and str(door.client_dir).encode() in path.read_bytes()]
    try:
        with door.client.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect(("127.0.0.1", PROXY))
            client.sendall(b"\x05\x01\x00")
            assert exactly(client, 2) == b"\x05\x00"
    finally:
        os.kill(pid, signal.SIGTERM)


# Strangers

def resolve_by(stage, nameserver):
    """The client asks this name server only."""
    file = stage.directory / "resolv.conf"
    file.write_text(f"nameserver {nameserver}\n")
    stage.client.run("mount", "--bind", file, "/etc/resolv.conf")


@pytest.fixture
def silent_resolver(door):
    """A name server that never answers."""
    door.server.run("nft", "-f", "-", input="table inet mute { chain c { type filter hook input priority raw; udp dport 53 drop; }; }")
    resolve_by(door, SERVER)


@pytest.fixture
def many_files():
    """This process may have as many clients as it likes."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, max(8192, before[1])))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def ask_and_leave(proxy, names):
    """Asks for a name with each client, which is gone at once."""
    for name in names:
        with proxy.socket() as client:
            client.sendall(b"\x05\x01\x00" + request(name, 80))


@pytest.mark.usefixtures("silent_resolver")
def test_unanswered_names_do_not_block_other_names(door, proxy):
    proxy.ask("localhost", 1)[0].close()
    memory, began = proxy.memory(), time.monotonic()
    ask_and_leave(proxy, (f"n{number}.example" for number in range(5000)))
    asked = time.monotonic()
    client, answer = proxy.ask("localhost", 1, timeout=60)
    answered = time.monotonic()
    client.close()
    print(f"5,000 names in {asked - began:.1f} s, then localhost after {answered - asked:.2f} s, {proxy.memory() - memory} kB")
    assert answer == REFUSED and answered - asked < 3
    ask_and_leave(proxy, (f"m{number}.example" for number in range(20_000)))
    print(f"25,000 names: {proxy.memory() - memory} kB")
    assert proxy.memory() - memory < 1000


@pytest.mark.usefixtures("silent_resolver")
def test_the_number_of_clients_with_unanswered_names_is_limited(door, proxy, many_files):
    clients = [proxy.socket(60) for _ in range(1000)]
    for number, client in enumerate(clients):
        client.sendall(b"\x05\x01\x00" + request(f"{'n' * 50}.{'n' * 50}.{'n' * 50}.{number}.example", 80))
        assert exactly(client, 2) == b"\x05\x00"
    refused = select.poll()
    for client in clients:
        refused.register(client, select.POLLIN)
    wait_until(lambda: len(refused.poll(0)) == 1000 - 512)
    assert sum("too many names" in line for line in proxy.lines) == 1
    assert len(os.listdir(f"/proc/{proxy.pid}/task")) < 34
    # Those that left make room, and one that resolves is not held up.
    for client in clients:
        client.close()
    client, answer = proxy.ask("localhost", 1, timeout=60)
    assert answer == REFUSED
    client.close()


def test_silent_clients_do_not_delay_the_next(door, proxy, many_files):
    door.gate.client_path.rename(door.directory / "hidden")
    silent = []
    for number in range(4600):
        silent.append(proxy.socket(60))
        if number % 2:
            silent[-1].sendall(b"\x05\x01\x00")
    began = time.monotonic()
    client, answer = proxy.ask(SERVER, PLAIN, timeout=60)
    print(f"behind 4,600 silent clients: {time.monotonic() - began:.3f} s")
    assert answer == GRANTED and time.monotonic() - began < 1
    client.close()
    for client in silent:
        client.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", CLIENT, "0.0.0.0", "::1", "::", CLIENT6, "::ffff:127.0.0.1"])
def test_dns_cannot_open_the_loopback_to_remote_clients(door, address):
    """Whoever answers for the profile's host may name an address of the proxy's own machine."""
    local = door.keep(Plain(door.client, OTHER, echo))
    give_names(door, host_example=[address])
    call_profile(door, "host.example")
    with (door.gate.client_path / "config").open("a") as config:
        config.write(f"ports = {ECHO}\n")
    proxy = door.keep(Proxy(door.client, door.client_dir, "--listen", "0.0.0.0", "--allow-remote"))
    for host in ("host.example", address):
        for port in (OTHER, ECHO):
            client, answer = proxy.ask(host, port)
            assert (answer, rest(client)) == (NOT_ALLOWED, b""), (host, port)
            client.close()
    assert (local.accepted, door.gate.client_counter) == (0, 0)


def test_endless_connections_use_a_limited_number_of_counters(door, proxy):
    stop = threading.Event()

    def connect_again_and_again():
        while not stop.is_set():
            with contextlib.suppress(OSError, AssertionError):
                proxy.ask(SERVER, ECHO)[0].close()

    def limited():
        door.daemon.new_lines()  # otherwise its messages fill the pipe, and it blocks
        return any("limited to 2 a second" in line for line in proxy.lines)

    threads = [threading.Thread(target=connect_again_and_again) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        wait_until(limited, 90)
        before = door.gate.client_counter
        assert before >= 1000
        time.sleep(5)
        assert door.gate.client_counter - before <= 2 * 5 + 2
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert sum("limited to 2 a second" in line for line in proxy.lines) == 1
    # It is slowed down and not shut out.
    client, answer = proxy.ask(SERVER, ECHO, timeout=10)
    assert answer == GRANTED
    client.close()

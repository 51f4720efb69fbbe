"""The environment of the end-to-end tests: a client and a server, connected by a veth pair.

Each machine is a network namespace without a name. A process keeps it open; the kernel deletes it when its last
process has ended. The kernel, its firewall and its log are real. All namespaces share one log, so knock ports and keys
differ from run to run.
"""

import base64
import contextlib
import ctypes
import itertools
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import classic
import packets

BINARY = os.environ.get("KNOCKKNOCK") or str(Path(__file__).parents[2] / "target/release/knockknock")

SERVER, CLIENT = "10.9.0.1", "10.9.0.2"
SERVER6, CLIENT6 = "fd09::1", "fd09::2"
FAMILIES = {"IPv4": (SERVER, CLIENT), "IPv6": (SERVER6, CLIENT6)}

ETH_P_ALL, PACKET_OUTGOING = 3, 4
SO_TIMESTAMPNS = 35
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_knock_ports = itertools.count(20000 + os.getpid() * 97 % 20000)


def _setns(fd, kind):
    if _libc.setns(fd, kind) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Machine:
    """A network namespace with its own /sys."""

    def __init__(self):
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", "mount -t sysfs sysfs /sys && echo up && exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._holder.stdout.readline() != b"up\n":
            raise OSError("cannot make a network namespace")
        self.pid = self._holder.pid

    def close(self):
        """Kills all processes on this machine."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._holder.communicate()

    def processes(self):
        """Returns the PIDs of all processes on this machine."""
        def namespace(pid):
            with contextlib.suppress(OSError):  # the process has just ended
                return os.readlink(f"/proc/{pid}/ns/net")
        here = namespace(self.pid)
        return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and namespace(pid) == here]

    @contextlib.contextmanager
    def inside(self):
        """Opens the calling thread's sockets on this machine."""
        with open("/proc/thread-self/ns/net") as home, open(f"/proc/{self.pid}/ns/net") as here:
            _setns(here.fileno(), CLONE_NEWNET)
            try:
                yield
            finally:
                _setns(home.fileno(), CLONE_NEWNET)

    def socket(self, *kind):
        with self.inside():
            return socket.socket(*kind)

    def listen(self, port, address="::"):
        """Returns a TCP socket that listens on a port: for IPv4 and IPv6, or at one address."""
        listener = self.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1000)
        return listener

    def start(self, *argv, **options):
        """Starts a program on this machine. The PID is the program's, not that of a wrapper."""
        enter = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--wdns=/"]
        return subprocess.Popen([*enter, *map(str, argv)], **options)

    def run(self, *argv, input=None, check=True, timeout=20, **options):
        """Runs a program and returns its exit code and output (text). Fails if the code is not 0, unless `check` is False."""
        with self.start(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                        text=True, **options) as process:
            try:
                stdout, stderr = process.communicate(input, timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        done = subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)
        assert not check or done.returncode == 0, f"{' '.join(map(str, argv))}: exit {done.returncode}\n{stdout}{stderr}"
        return done

    def send(self, packet):
        """Sends an IPv4 or IPv6 packet, including its IP header, unchanged."""
        family, address = {4: (socket.AF_INET, packet[16:20]), 6: (socket.AF_INET6, packet[24:40])}[packet[0] >> 4]
        with self.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(packet, (socket.inet_ntop(family, address), 0))

    def address(self, address, port):
        """Converts an address for a socket. A zone is the name of an interface of this machine."""
        with self.inside():
            return socket.getaddrinfo(address, port, flags=socket.AI_NUMERICHOST)[0][4]

    def start_connect(self, port, address=SERVER, source=None, source_port=0):
        """Starts a connection, so that the kernel sends a SYN, and closes it without waiting."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.socket(family, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            if source:
                connection.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
                connection.bind((source, 0))
            elif source_port:
                connection.bind(("", source_port))
            connection.connect_ex(self.address(address, port))

    def connect(self, port, address=SERVER, timeout=0.3, source_port=0):
        """Returns a connected socket, or None if the connection is dropped or refused."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = self.socket(family, socket.SOCK_STREAM)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.settimeout(timeout)
        try:
            connection.bind(("", source_port))
            connection.connect(self.address(address, port))
            return connection
        except OSError:
            connection.close()
            return None


class Service:
    """A TCP service on IPv4 and IPv6 that sends a greeting to each client."""

    GREETING = b"welcome\n"

    def __init__(self, machine, port, reset=False):
        self.accepted = 0
        self._reset = reset
        self._listener = machine.listen(port)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            connection.settimeout(2)
            with connection, contextlib.suppress(OSError):
                connection.sendall(self.GREETING)
                if self._reset:  # closing sends an RST instead of a FIN
                    connection.recv(1)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self):
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


class Capture:
    """Captures the frames on a machine's interface from now on, and sends frames there."""

    def __init__(self, machine, interface="eth0"):
        self._socket = machine.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind((interface, ETH_P_ALL))

    def sent(self, port, quiet=0.1):
        """Returns the TCP packets sent to `port`, as Packets. Stops when none has come for `quiet` seconds."""
        found = []
        while select.select([self._socket], [], [], quiet)[0]:
            frame, [(*_, stamp)], _, (_, ethertype, direction, *_) = self._socket.recvmsg(65535, 64)
            protocol = {0x0800: frame[23], 0x86DD: frame[20]}.get(ethertype)
            if direction == PACKET_OUTGOING and protocol == socket.IPPROTO_TCP:
                packet = packets.Packet(frame)
                seconds, nanoseconds = struct.unpack("qq", stamp)
                packet.at = seconds + nanoseconds / 1e9
                if packet.port == port:
                    found.append(packet)
        return found

    def replay(self, packet):
        self._socket.send(packet.frame)

    def close(self):
        self._socket.close()


class KernelLog:
    """Copies the lines of the kernel log that contain `only` to a file or pipe, as a syslog daemon does, in a thread."""

    def __init__(self, path, mode="ab", only=b""):
        self.path = Path(path)
        self._mode = mode
        self._only = only
        self._stop, self._stopped = os.pipe()
        self._kmsg = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._kmsg, 0, os.SEEK_END)
        self.reopen()
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def reopen(self):
        """Opens the file again, and creates it if necessary, as a syslog daemon does after a rotation."""
        self._file = open(self.path, self._mode, buffering=0)
        if self.path.is_file():  # the mode and group of Debian
            os.chmod(self.path, 0o640)
            shutil.chown(self.path, "root", "adm")

    def _copy(self):
        while self._stop not in select.select([self._kmsg, self._stop], [], [])[0]:
            with contextlib.suppress(BrokenPipeError):  # EPIPE from kmsg: older records were lost; go on
                head, text = os.read(self._kmsg, 8192).split(b";", 1)
                if self._only not in text:
                    continue
                microseconds = int(head.split(b",")[2])
                stamp = time.strftime("%b %d %H:%M:%S").encode()
                self._file.write(b"%s host kernel: [%5d.%06d] %s\n" % (
                    stamp, microseconds // 1000000, microseconds % 1000000, text.split(b"\n")[0]))

    def stop(self):
        """Stops copying; the file stays open."""
        if self._thread.is_alive():
            os.close(self._stopped)
            self._thread.join()

    def close(self):
        if self._file.closed:
            return
        self.stop()
        os.close(self._kmsg)
        os.close(self._stop)
        self._file.close()


class Daemon:
    """A knockknock-daemon in the foreground, and the lines that it logs."""

    def __init__(self, machine, directory, *arguments, ready=True, binary=BINARY, enter=(), **options):
        self.lines = []
        self._position = 0
        self._rest = b""
        self.process = machine.start(
            *enter, binary, "daemon", "--dir", directory, *arguments, stderr=subprocess.PIPE, **options)
        self.pid = self.process.pid
        os.set_blocking(self.process.stderr.fileno(), False)
        if ready:
            self.wait_for(": ready")

    def wait_for(self, text, timeout=3):
        """Waits for a line with `text`, after the line that the last call returned. Returns it."""
        deadline = time.monotonic() + timeout
        while True:
            for at in range(self._position, len(self.lines)):
                if text in self.lines[at]:
                    self._position = at + 1
                    return self.lines[at]
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"no line with {text!r} in {timeout} s; the daemon logged:\n" + "\n".join(self.lines))

    def new_lines(self):
        """Returns the lines after the one that the last `wait_for` returned."""
        while self._read(0):
            pass
        return self.lines[self._position:]

    def wait_for_end(self, timeout=3):
        """Waits until all its processes have ended. Returns the exit status."""
        deadline = time.monotonic() + timeout
        while self._rest is not None:
            left = deadline - time.monotonic()
            assert self._read(left) or self._rest is None, "the daemon is still running; it logged:\n" + "\n".join(self.lines)
        return self.process.wait(timeout)

    def _read(self, timeout):
        """Reads what the daemon logs. Returns False if nothing came, or nothing will come."""
        stderr = self.process.stderr
        if self._rest is None or not select.select([stderr], [], [], max(timeout, 0))[0]:
            return False
        octets = stderr.read()
        if octets:
            *lines, self._rest = (self._rest + octets).split(b"\n")
            self.lines += [line.decode() for line in lines]
        else:
            self._rest = None
        return bool(octets)

    def children(self):
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def stop(self, number=signal.SIGTERM):
        """Ends the daemon with a signal. Returns the exit status."""
        if self._rest is not None:
            self.process.send_signal(number)
        return self.wait_for_end()

    def close(self):
        if self._rest is not None:
            for pid in [*self.children(), self.pid] if self.process.poll() is None else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.wait_for_end()
        self.process.stderr.close()


def status(pid):
    """Returns /proc/PID/status as a dictionary."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(re.split(r":\s*", line, maxsplit=1) for line in lines)


class Profile:
    """A profile on the server, its copy on the client, and classic knocks from an independent implementation."""

    def __init__(self, stage, name, ports=None, knock_port=None, wire="classic"):
        self._stage = stage
        self.name = name
        self.wire = wire
        self.knock_port = knock_port or next(_knock_ports)
        if wire == "stealth":  # it needs a list of ports
            ports = ports or [22]
        arguments = ["--ports", ",".join(map(str, ports))] if ports else []
        stage.server.run(BINARY, "genprofile", name, self.knock_port, "--dir", stage.server_dir,
                         "--wire", wire, *arguments)
        self.path = stage.server_dir / "profiles" / name

    def give_to_client(self, host=SERVER):
        """Copies the profile to the client, under the name `host`."""
        self.client_path = self._stage.client_dir / host
        shutil.copytree(self.path, self.client_path)

    def use_classic_wire(self):
        """Makes the client knock with the classic wire, with all copies of the profile."""
        config = f"[main]\nknock_port = {self.knock_port}\n"
        self._stage.client.run("sh", "-c", f'for file in "{self._stage.client_dir}"/*/config; do echo "$0" >"$file"; done', config)

    @property
    def keys(self):
        return [base64.b64decode((self.path / name).read_bytes()) for name in ("cipher.key", "mac.key")]

    @property
    def counter(self):
        """The counter on the server's disk, as a number."""
        return int((self.path / "counter").read_text().split("\n")[0])

    @property
    def client_counter(self):
        return int((self.client_path / "counter").read_text().split("\n")[0])

    def fields(self, counter, port=22):
        return classic.knocks(*self.keys, [counter], port)[0]

    def packet(self, counter, port=22, source=CLIENT):
        return packets.tcp(source, SERVER, 40000, self.knock_port, self.fields(counter, port))


class Stage:
    """A client and a server, each with a directory of profiles."""

    PORT, FENCE_PORT = 22, 7

    def __init__(self, directory):
        self._closing = contextlib.ExitStack()
        self.directory = directory
        self.server_dir = directory / "server"
        self.client_dir = directory / "client"
        self.log_dir = directory / "log"
        for path in (self.server_dir, self.client_dir, self.log_dir):
            path.mkdir()
            path.chmod(0o755)
        self.client, self.server = self.keep(Machine()), self.keep(Machine())
        self._connect_machines()
        self.service = self.keep(Service(self.server, self.PORT))
        self.daemon = None

    def keep(self, thing):
        """Returns `thing`, and closes it when the stage is closed, in reverse order."""
        return self._closing.enter_context(contextlib.closing(thing))

    @property
    def record(self):
        """The file that the daemon writes its status to."""
        return Path("/run/knockknock/status" + os.path.realpath(self.server_dir).replace("/", "-"))

    def close(self):
        self._closing.close()
        self.record.unlink(missing_ok=True)

    def _connect_machines(self):
        self.client.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.server.pid)
        for machine, address, address6 in ((self.client, CLIENT, CLIENT6), (self.server, SERVER, SERVER6)):
            machine.run("ip", "-batch", "-", input=f"""
                link set lo up
                address add {address}/24 dev eth0
                address add {address6}/64 dev eth0 nodad
                link set eth0 up
            """)
        # Neighbours are known from the start, so that no capture contains ARP or neighbour discovery.
        for machine, other, addresses in ((self.client, self.server, (SERVER, SERVER6)),
                                          (self.server, self.client, (CLIENT, CLIENT6))):
            ethernet = other.run("cat", "/sys/class/net/eth0/address").stdout.strip()
            machine.run("ip", "-batch", "-", input="".join(
                f"neighbour add {address} lladdr {ethernet} dev eth0 nud permanent\n" for address in addresses))

    def configure(self, **keys):
        """Writes the daemon's config."""
        lines = [f"{key} = {value}\n" for key, value in keys.items()]
        (self.server_dir / "config").write_text("[main]\n" + "".join(lines))

    def add_rejecting_firewall(self, port, answer):
        """Replaces the guard of `port` by another firewall, which rejects connections without a knock with `answer`."""
        self.daemon.stop()
        self.configure(firewall="nft", guard=self.FENCE_PORT)
        self.start_daemon()
        self.server.run("nft", "-f", "-", input=f"""
            table inet other {{ chain input {{ type filter hook input priority filter;
                ct state established accept
                ct mark and 0x08000000 != 0 accept
                tcp dport {port} reject with {answer}
                }}
            }}""")

    def set_up(self, firewall="nft", log="kmsg", wire="classic", daemon_options=None, **keys):
        """Starts the daemon with guarded ports, the profile "gate" on both sides, and the profile "fence" on the server.

        With log = file the daemon reads the kernel's log from a file, with log = - from standard input."""
        self.configure(**{"firewall": firewall, "guard": f"{self.PORT}, {self.FENCE_PORT}",
                          "log": self.log_dir / "kern.log" if log == "file" else log, **keys})
        self.gate = Profile(self, "gate", wire=wire)
        self.gate.give_to_client()
        self.fence = Profile(self, "fence")
        options = daemon_options or {}
        if log == "file":
            self.log = self.keep(KernelLog(self.log_dir / "kern.log"))
        elif log == "-":
            read_end, write_end = os.pipe()
            self.log = self.keep(KernelLog(f"/dev/fd/{write_end}", "wb"))
            os.close(write_end)
            options = {"stdin": read_end, **options}
        self.start_daemon(**options)
        return self

    def start_daemon(self, *arguments, **options):
        self.daemon = self.keep(Daemon(self.server, self.server_dir, *arguments, **options))
        return self.daemon

    def set_client_hosts(self, text):
        """Gives the client an /etc/hosts of its own."""
        hosts = self.directory / "hosts"
        hosts.write_text(text)
        self.client.run("mount", "--bind", hosts, "/etc/hosts")

    def knock(self, port=PORT, *arguments, host=SERVER, **options):
        """Knocks with our client. Returns the completed process."""
        return self.client.run(BINARY, "-p", port, "--dir", self.client_dir, *arguments, host, **options)

    def open_port(self, port=PORT):
        """Knocks with our client, and waits until the daemon opens the port. Returns the daemon's line."""
        self.knock(port)
        return self.opened(port)

    def opened(self, port=PORT, source=CLIENT):
        return self.daemon.wait_for(f"opened port {port} to {source} ")

    def connects(self, port=PORT, **options):
        """Returns whether the client can connect to the service. Fails if the service does not greet it."""
        connection = self.client.connect(port, **options)
        if connection is None:
            return False
        with connection:
            assert connection.recv(100) == Service.GREETING
        return True

    def nothing_opened(self):
        """Waits until the daemon has handled everything sent so far. Returns whether it has opened nothing.

        The log keeps its order, so a knock with the profile "fence" marks the end of what was sent."""
        seen = self.daemon._position
        self.client.send(self.fence.packet(self.fence.counter, self.FENCE_PORT))
        self.daemon.wait_for(f"opened port {self.FENCE_PORT} ")
        between = self.daemon.lines[seen:self.daemon._position - 1]
        return not any("opened" in line for line in between)

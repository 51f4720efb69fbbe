"""The stage of every end-to-end test: a client and a server on one cable.

Each is a network namespace of its own, kept by a process and without a name: the kernel takes it
away with its last process. The kernel, its firewall and its log are
the real ones. The log is one for all namespaces, so knock ports and keys differ from run to run.
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
    """A network namespace with /sys to match, and what one does on a machine."""

    def __init__(self):
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", "mount -t sysfs sysfs /sys && echo up && exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._holder.stdout.readline() != b"up\n":
            raise OSError("cannot make a network namespace")
        self.pid = self._holder.pid

    def close(self):
        """Ends every process that is left on this machine."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._holder.communicate()

    def processes(self):
        """The pids of all that runs here."""
        def namespace(pid):
            with contextlib.suppress(OSError):  # it has just ended
                return os.readlink(f"/proc/{pid}/ns/net")
        here = namespace(self.pid)
        return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and namespace(pid) == here]

    @contextlib.contextmanager
    def inside(self):
        """The calling thread's sockets are made on this machine meanwhile."""
        with open("/proc/thread-self/ns/net") as home, open(f"/proc/{self.pid}/ns/net") as here:
            _setns(here.fileno(), CLONE_NEWNET)
            try:
                yield
            finally:
                _setns(home.fileno(), CLONE_NEWNET)

    def socket(self, *kind):
        with self.inside():
            return socket.socket(*kind)

    def start(self, *argv, **options):
        """A process on this machine; its pid is the program's own."""
        enter = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--wdns=/"]
        return subprocess.Popen([*enter, *map(str, argv)], **options)

    def run(self, *argv, input=None, check=True, timeout=20, **options):
        """Runs a program to its end: .returncode, .stdout, .stderr (text)."""
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
        """Sends an IPv4 or IPv6 packet as it is."""
        family, address = {4: (socket.AF_INET, packet[16:20]), 6: (socket.AF_INET6, packet[24:40])}[packet[0] >> 4]
        with self.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(packet, (socket.inet_ntop(family, address), 0))

    def address(self, address, port):
        """As sockets take it: a zone is the number of one of this machine's interfaces."""
        with self.inside():
            return socket.getaddrinfo(address, port, flags=socket.AI_NUMERICHOST)[0][4]

    def begin(self, port, address=SERVER, source=None, source_port=0):
        """A connect() of this machine's kernel that nobody waits for: a real SYN leaves."""
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
        """A connected socket, or None where the connection is dropped or refused."""
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
    """A TCP service that greets everybody, on IPv4 and IPv6."""

    GREETING = b"welcome\n"

    def __init__(self, machine, port, reset=False):
        self.accepted = 0
        self._reset = reset
        self._listener = machine.socket(socket.AF_INET6, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("::", port))
        self._listener.listen(1000)
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
    """What passes a machine's end of the cable, from now on; and a way to send frames onto it."""

    def __init__(self, machine, interface="eth0"):
        self._socket = machine.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind((interface, ETH_P_ALL))

    def sent(self, port, quiet=0.1):
        """The TCP packets that left for `port`, as Packets, until none comes for `quiet` seconds."""
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
    """Copies the kernel's log into a file (or pipe) as a syslog daemon does, on this thread's behalf:
    the lines with `only` in them."""

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
        """Makes the file anew if it is not there, as a syslog daemon does when it is told of a rotation."""
        self._file = open(self.path, self._mode, buffering=0)
        if self.path.is_file():  # as Debian has it
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
        """Copies no more; the file stays open."""
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
    """A knockknock-daemon in the foreground, and what it says."""

    def __init__(self, machine, directory, *arguments, ready=True, binary=BINARY, enter=(), **options):
        self.said = []
        self._heard = 0
        self._rest = b""
        self.process = machine.start(
            *enter, binary, "daemon", "--dir", directory, *arguments, stderr=subprocess.PIPE, **options)
        self.pid = self.process.pid
        os.set_blocking(self.process.stderr.fileno(), False)
        if ready:
            self.wait_for(": ready")

    def wait_for(self, text, timeout=3):
        """The next line with `text` in it that no earlier call has returned or passed."""
        deadline = time.monotonic() + timeout
        while True:
            for at in range(self._heard, len(self.said)):
                if text in self.said[at]:
                    self._heard = at + 1
                    return self.said[at]
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"no line with {text!r} in {timeout} s; it said:\n" + "\n".join(self.said))

    def unheard(self):
        """The lines since the last one that was waited for."""
        while self._read(0):
            pass
        return self.said[self._heard:]

    def wait_for_end(self, timeout=3):
        """Waits until all its processes are gone; the exit status."""
        deadline = time.monotonic() + timeout
        while self._rest is not None:
            left = deadline - time.monotonic()
            assert self._read(left) or self._rest is None, "it still runs; it said:\n" + "\n".join(self.said)
        return self.process.wait(timeout)

    def _read(self, timeout):
        """Takes in what it says; False when nothing comes any more."""
        stderr = self.process.stderr
        if self._rest is None or not select.select([stderr], [], [], max(timeout, 0))[0]:
            return False
        octets = stderr.read()
        if octets:
            *lines, self._rest = (self._rest + octets).split(b"\n")
            self.said += [line.decode() for line in lines]
        else:
            self._rest = None
        return bool(octets)

    def children(self):
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def stop(self, number=signal.SIGTERM):
        """Ends it by a signal; the exit status."""
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
    """/proc/PID/status as a dictionary."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(re.split(r":\s*", line, maxsplit=1) for line in lines)


class Profile:
    """A profile on the server, its copy on the client, and a sender of its knocks that is not ours."""

    def __init__(self, stage, name, ports=None, knock_port=None, wire="classic"):
        self._stage = stage
        self.name = name
        self.wire = wire
        self.knock_port = knock_port or next(_knock_ports)
        if wire == "stealth":  # which needs a list
            ports = ports or [22]
        arguments = ["--ports", ",".join(map(str, ports))] if ports else []
        stage.server.run(BINARY, "genprofile", name, self.knock_port, "--dir", stage.server_dir,
                         "--wire", wire, *arguments)
        self.path = stage.server_dir / "profiles" / name

    def give_to_client(self, host=SERVER):
        """The copy that the client keeps under the server's name."""
        self.client_path = self._stage.client_dir / host
        shutil.copytree(self.path, self.client_path)

    def turn_classic(self):
        """Has the client's copies of the profile knock by the classic wire."""
        config = f"[main]\nknock_port = {self.knock_port}\n"
        self._stage.client.run("sh", "-c", f'for file in "{self._stage.client_dir}"/*/config; do echo "$0" >"$file"; done', config)

    @property
    def keys(self):
        return [base64.b64decode((self.path / name).read_bytes()) for name in ("cipher.key", "mac.key")]

    @property
    def counter(self):
        """The counter on the server's disk."""
        return int((self.path / "counter").read_text().split("\n")[0])

    @property
    def client_counter(self):
        return int((self.client_path / "counter").read_text().split("\n")[0])

    def fields(self, counter, port=22):
        return classic.knocks(*self.keys, [counter], port)[0]

    def packet(self, counter, port=22, source=CLIENT):
        return packets.tcp(source, SERVER, 40000, self.knock_port, self.fields(counter, port))


class Stage:
    """Client and server on one cable, with a directory of profiles each, and the daemon's log."""

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
        self._lay_cable()
        self.service = self.keep(Service(self.server, self.PORT))
        self.daemon = None

    def keep(self, thing):
        """Closes `thing` when the stage closes, the latest first."""
        return self._closing.enter_context(contextlib.closing(thing))

    @property
    def record(self):
        """The file that the daemon writes its status to."""
        return Path("/run/knockknock/status" + os.path.realpath(self.server_dir).replace("/", "-"))

    def close(self):
        self._closing.close()
        self.record.unlink(missing_ok=True)

    def _lay_cable(self):
        self.client.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.server.pid)
        for machine, address, address6 in ((self.client, CLIENT, CLIENT6), (self.server, SERVER, SERVER6)):
            machine.run("ip", "-batch", "-", input=f"""
                link set lo up
                address add {address}/24 dev eth0
                address add {address6}/64 dev eth0 nodad
                link set eth0 up
            """)
        # Known from the start, so that no capture holds a question for it.
        for machine, other, addresses in ((self.client, self.server, (SERVER, SERVER6)),
                                          (self.server, self.client, (CLIENT, CLIENT6))):
            ethernet = other.run("cat", "/sys/class/net/eth0/address").stdout.strip()
            machine.run("ip", "-batch", "-", input="".join(
                f"neighbour add {address} lladdr {ethernet} dev eth0 nud permanent\n" for address in addresses))

    def configure(self, **keys):
        """Writes the daemon's config."""
        lines = [f"{key} = {value}\n" for key, value in keys.items()]
        (self.server_dir / "config").write_text("[main]\n" + "".join(lines))

    def hand_over(self, port, answer):
        """Another firewall answers with `answer` what was not knocked for at `port`, where the guard would drop it."""
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

    def open_up(self, firewall="nft", log="kmsg", wire="classic", daemon_options=None, **keys):
        """A guarded port, the profile "gate" on both sides, the profile "fence", a running daemon.

        log = file: the kernel's log reaches the daemon through a file; log = -: through its standard input."""
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

    def knock(self, port=PORT, *arguments, host=SERVER, **options):
        """Our client knocks; its outcome."""
        return self.client.run(BINARY, "-p", port, "--dir", self.client_dir, *arguments, host, **options)

    def open_port(self, port=PORT):
        """Our client knocks and the daemon opens; its line."""
        self.knock(port)
        return self.opened(port)

    def opened(self, port=PORT, source=CLIENT):
        return self.daemon.wait_for(f"opened port {port} to {source} ")

    def connects(self, port=PORT, **options):
        """Whether the client gets through to the service and is greeted."""
        connection = self.client.connect(port, **options)
        if connection is None:
            return False
        with connection:
            assert connection.recv(100) == Service.GREETING
        return True

    def nothing_opened(self):
        """True once the daemon is through with all that was sent before, and has opened nothing.

        The log keeps its order, so a knock for another profile is the fence behind all that."""
        seen = self.daemon._heard
        self.client.send(self.fence.packet(self.fence.counter, self.FENCE_PORT))
        self.daemon.wait_for(f"opened port {self.FENCE_PORT} ")
        between = self.daemon.said[seen:self.daemon._heard - 1]
        return not any("opened" in line for line in between)

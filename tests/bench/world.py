"""Two network namespaces joined by a veth pair, and processes whose cost can be measured."""

import contextlib
import glob
import itertools
import os
import re
import signal
import subprocess
import time

SERVER, CLIENT = "10.91.0.1", "10.91.0.2"
SERVER_MAC, CLIENT_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
CROWD = "10.92."       # the client has every address with this prefix
BUILD = "target/bench"

# The directory where scripts/setup.sh unpacks peers instead of installing them, which would start their services.
TOOLS = os.environ.get("KNOCKKNOCK_TOOLS") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "knockknock")
os.environ["PATH"] = ":".join([os.environ["PATH"], *glob.glob(f"{TOOLS}/aside/*/usr/*bin")])

_numbers = itertools.count()


def command(*words, **options):
    return subprocess.run(words, check=True, capture_output=True, text=True, **options).stdout


class Network:
    """A client and a server. The end of the with block removes both and kills the processes that still run there."""

    def __enter__(self):
        name = f"kkb{os.getpid()}x{next(_numbers)}"
        self.client, self.server = f"{name}c", f"{name}s"
        try:
            for namespace in (self.client, self.server):
                command("ip", "netns", "add", namespace)
            command("ip", "link", "add", "wan0", "netns", self.server, "address", SERVER_MAC, "type", "veth",
                    "peer", "name", "wan0", "netns", self.client, "address", CLIENT_MAC)
            for namespace, own, other, mac in ((self.server, SERVER, CLIENT, CLIENT_MAC),
                                               (self.client, CLIENT, SERVER, SERVER_MAC)):
                ip = "ip", "-n", namespace
                command(*ip, "address", "add", f"{own}/24", "dev", "wan0")
                for link in ("lo", "wan0"):
                    command(*ip, "link", "set", link, "up")
                command(*ip, "neighbour", "add", other, "lladdr", mac, "dev", "wan0")
                self.run(namespace, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0",
                         "net.ipv4.conf.wan0.rp_filter=0")
            command("ip", "-n", self.server, "route", "add", "default", "via", CLIENT)
            command("ip", "-n", self.client, "route", "add", "local", f"{CROWD}0.0/16", "dev", "lo")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for namespace in (self.client, self.server):
            left = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, check=False).stdout
            for pid in map(int, left.split()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", namespace], stderr=subprocess.DEVNULL, check=False)

    def run(self, namespace, *words, **options):
        return command("ip", "netns", "exec", namespace, *words, **options)


class Process:
    """A program and its child processes. It is ready when it prints `ready`, or `pause` seconds after the start."""

    def __init__(self, label, words, ready=None, pause=0.0, stdin=subprocess.DEVNULL, namespace=None):
        words = [*(("ip", "netns", "exec", namespace) if namespace else ()), *words]
        self.start = time.monotonic()
        self.log = open(f"{BUILD}/{label}.log", "wb")
        self.popen = subprocess.Popen(words, stdin=stdin, stdout=self.log, stderr=self.log)
        time.sleep(pause)
        while ready and ready not in self.output():
            if self.ended() and ready not in self.output() or time.monotonic() > self.start + 60:
                self.stop()
                raise RuntimeError(f"{' '.join(words)}: not ready:\n{self.output()}")
            time.sleep(0.001)
        self.seconds_to_ready = time.monotonic() - self.start

    def output(self):
        with open(self.log.name, "rb") as file:
            return file.read().decode(errors="replace")

    def ended(self):
        return os.waitid(os.P_PID, self.popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def pids(self):
        found = [self.popen.pid]
        for pid in found:
            found += map(int, _read(pid, f"task/{pid}/children").split())
        return found

    def cpu_seconds(self):
        return sum(int((_read(pid, "schedstat") or "0").split()[0]) for pid in self.pids()) / 1e9

    def pss_kb(self):
        return sum(int(kb) for pid in self.pids() for kb in re.findall(r"^Pss:\s+(\d+)", _read(pid, "smaps_rollup"), re.M))

    def file_sizes(self):
        """Returns the size in bytes of the program file, and that of the libraries that its processes have mapped."""
        paths = {path for pid in self.pids() for path in re.findall(r"^\S+ r-xp .* (/.+)$", _read(pid, "maps"), re.M)}
        program = os.readlink(f"/proc/{self.popen.pid}/exe")
        return os.path.getsize(program), sum(os.path.getsize(path) for path in paths - {program})

    def stop(self):
        """Stops the program: closes its input and sends SIGTERM."""
        if self.popen.stdin:
            self.popen.stdin.close()
        if self.popen.returncode is None:
            os.kill(self.popen.pid, signal.SIGTERM)
        self.wait(5)

    def wait(self, seconds):
        """Waits for the program to exit, and kills processes that are left after `seconds`. Sets `seconds` to the running
        time and `cpu` to the processor seconds of all processes."""
        deadline = time.monotonic() + seconds
        while self.popen.returncode is None:
            pid, status, used = os.wait4(self.popen.pid, os.WNOHANG)
            if pid:
                self.popen.returncode = os.waitstatus_to_exitcode(status)
                self.seconds = time.monotonic() - self.start
                self.cpu = used.ru_utime + used.ru_stime
            elif time.monotonic() > deadline:
                for pid in reversed(self.pids()):
                    os.kill(pid, signal.SIGKILL)
                deadline += 5
            time.sleep(0.001)
        self.log.close()


def _read(pid, name):
    """Returns a file of a process in /proc; empty if the process has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/{name}", encoding="ascii") as file:
        return file.read()
    return ""

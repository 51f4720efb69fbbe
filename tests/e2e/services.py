"""Real services for real clients: sshd, a web server, and TCP servers that run a given function."""

import functools
import http.server
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

# Options that isolate the ssh client from the host: no configuration, keys or known hosts of the host.
SSH_OPTIONS = ["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
               "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10"]


# The directory where scripts/setup.sh unpacks packages instead of installing them, which would start services.
ASIDE = Path(os.environ.get("KNOCKKNOCK_TOOLS") or
             Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knockknock") / "aside"


class Sshd:
    """An OpenSSH server with its own host key. Its only user is the one who runs the tests."""

    def __init__(self, machine, directory, port):
        directory.mkdir()
        directory.chmod(0o755)
        self.port, self.key = port, directory / "client_key"
        for path in (self.key, directory / "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        (directory / "authorized_keys").write_text((directory / "client_key.pub").read_text())
        config = directory / "sshd_config"
        config.write_text(f"""
            Port {port}
            HostKey {directory}/host_key
            AuthorizedKeysFile {directory}/authorized_keys
            PidFile none
            StrictModes no
            UsePAM no
            PermitRootLogin yes
            Subsystem sftp internal-sftp
            MaxStartups 200
        """)
        program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
        if not program:
            package = ASIDE / "openssh-server"
            program = package / "usr/sbin/sshd"
            self._use_unpacked(machine, directory, package, config)
        os.makedirs("/run/sshd", exist_ok=True)
        self._process = machine.start(program, "-D", "-e", "-f", config, stderr=subprocess.PIPE)
        while b"listening on" not in (line := self._process.stderr.readline()):
            assert line, "sshd ended"
        self._reader = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._reader.start()

    @staticmethod
    def _use_unpacked(machine, directory, package, config):
        """Makes the unpacked package usable on this machine only: adds the user sshd, and the paths of its programs."""
        for part in ("session", "auth"):
            path = package / f"usr/lib/openssh/sshd-{part}"
            if path.exists():
                config.write_text(f"{config.read_text()}Sshd{part.capitalize()}Path {path}\n")
        try:
            pwd.getpwnam("sshd")
        except KeyError:
            accounts = directory / "passwd"
            accounts.write_text(f"{Path('/etc/passwd').read_text()}sshd:x:64999:65534::/run/sshd:/usr/sbin/nologin\n")
            machine.run("mount", "--bind", accounts, "/etc/passwd")

    def options(self, proxy_command):
        """The options with which ssh and scp reach the server."""
        return [*SSH_OPTIONS, "-i", str(self.key), "-o", f"ProxyCommand={proxy_command}"]

    def close(self):
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        self._process.stderr.close()


class Web:
    """An HTTP server on IPv4 and IPv6 that serves a directory."""

    def __init__(self, machine, directory, port):
        directory.mkdir()
        self.directory = directory

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            address_family, request_queue_size, daemon_threads = socket.AF_INET6, 1000, True

        with machine.inside():
            self._server = Server(("::", port), functools.partial(Quiet, directory=directory))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Plain:
    """A TCP service that runs `serve` for each connection, in a separate thread."""

    def __init__(self, machine, port, serve, address="::"):
        self._listener = machine.listen(port, address)
        self._serve = serve
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._run, args=[connection], daemon=True).start()

    def _run(self, connection):
        with connection:
            try:
                self._serve(connection)
            except OSError:
                pass

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def echo(connection):
    """Sends back all bytes until the connection ends."""
    while octets := connection.recv(1 << 16):
        connection.sendall(octets)


def wait_until(condition, timeout=5):
    """Waits until `condition` holds; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.01)

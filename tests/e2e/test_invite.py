"""invite and accept: one line hands a profile over, complete or not at all."""

import base64
import fcntl
import os
import pty
import re
import shutil
import stat
import struct
import subprocess
import termios
import time

import pytest

from stage import BINARY, SERVER, SERVER6
from test_genprofile import names, tree

LINE = re.compile(r"knockknock1:[!-~]+:[0-9a-f]{8}\n")
SECRET = re.compile(r"[A-Za-z0-9+/]{22}")


def run(*arguments, input="", **options):
    return subprocess.run([BINARY, *map(str, arguments)], input=input, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=10, **options)


def invite(directory, *arguments):
    """The line of an invitation."""
    done = run("invite", "--dir", directory, *arguments)
    assert done.returncode == 0, done.stderr
    assert LINE.fullmatch(done.stdout) and not SECRET.search(done.stderr)
    assert "it contains the keys" in done.stderr
    return done.stdout


def accept(directory, line, *arguments):
    return run("accept", "--dir", directory, *arguments, input=line)


def test_a_client_is_not_named_like_replaced_keys(tmp_path):
    """The first knock of its namesake would revoke it."""
    invite(tmp_path, "laptop", SERVER, "--ports", 22)
    before = tree(tmp_path)
    done = run("invite", "laptop.replaced", SERVER, "--ports", 22, "--dir", tmp_path)
    assert done.returncode == 2 and "replaced keys" in done.stderr
    assert tree(tmp_path) == before


@pytest.mark.parametrize("host", [".example", "server.off", "server.disabled", "server.replaced", "ser\x1bver", "x" * 241],
                         ids=lambda host: host[:16])
def test_a_host_that_accept_would_refuse_is_not_invited(tmp_path, host):
    invite(tmp_path, "laptop", SERVER, "--ports", 22)
    before = tree(tmp_path)
    for command in (("invite", "phone", host, "--ports", 22), ("invite", "laptop", host, "--again"), ("rotate", "laptop", host)):
        done = run(*command, "--dir", tmp_path)
        assert (done.returncode, done.stdout) == (2, "") and "cannot be the name of a profile" in done.stderr
        assert tree(tmp_path) == before
    assert "cannot be the name of a profile" in accept(tmp_path / "client", invite(tmp_path, "laptop", SERVER, "--again"), "--as", host).stderr


@pytest.mark.parametrize("host", [SERVER, SERVER6])
def test_two_commands_and_one_line_connect_a_new_client(stage, firewall, host):
    stage.configure(firewall=firewall, guard=stage.PORT)
    line = stage.server.run(BINARY, "invite", "laptop", host, "--ports", stage.PORT, "--dir", stage.server_dir).stdout
    stage.client.run(BINARY, "accept", "--dir", stage.client_dir, input=line)
    stage.start_daemon()
    assert stage.client.connect(stage.PORT, host) is None
    done = stage.client.run(BINARY, "connect", "--dir", stage.client_dir, host, stage.PORT, input="")
    assert done.stdout == "welcome\n"
    assert stage.client.connect(stage.PORT, host) is None


def test_the_clients_profile_is_the_servers(tmp_path):
    line = invite(tmp_path / "server", "laptop", "server.example.org", "--ports", "443,22")
    assert accept(tmp_path / "client", line).returncode == 0
    profile = tmp_path / "client/server.example.org"
    assert tree(profile).values() and [*tree(profile).values()] == [*tree(tmp_path / "server/profiles/laptop").values()]
    assert stat.S_IMODE(profile.parent.stat().st_mode) == stat.S_IMODE(profile.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in profile.iterdir()} == {0o600}
    assert int((profile / "counter").read_text()) == 1


def test_a_profile_of_0_8_is_handed_over_as_it_is(tmp_path):
    run("genprofile", "old", 666, "--dir", tmp_path)
    (tmp_path / "profiles/old/config").write_text("[main]\nknock_port=666\n")
    (tmp_path / "profiles/old/counter").write_text("17\n")
    line = invite(tmp_path, "old", "fd09::1", "--again")
    assert accept(tmp_path / "client", line).returncode == 0
    assert (tmp_path / "client/fd09::1/config").read_text() == "[main]\nknock_port = 666\n"
    assert int((tmp_path / "client/fd09::1/counter").read_text()) == 17


def test_an_invitation_is_given_once_unless_it_is_asked_for_again(tmp_path):
    run("genprofile", "laptop", 666, "--ports", 22, "--dir", tmp_path)
    line = invite(tmp_path, "laptop", "server.example.org")
    before = tree(tmp_path)
    done = run("invite", "laptop", "server.example.org", "--dir", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'profile "laptop" was handed out or used before' in done.stderr
    assert "knockknock invite laptop server.example.org --again\n" in done.stderr
    assert invite(tmp_path, "laptop", "server.example.org", "--again") == line
    assert tree(tmp_path) == before


def test_the_next_invitation_continues_with_the_counter(tmp_path):
    invite(tmp_path, "laptop", "server.example.org", "--ports", 22)
    (tmp_path / "profiles/laptop/counter").write_text("0000000123\n")
    assert accept(tmp_path / "client", invite(tmp_path, "laptop", "server.example.org", "--again")).returncode == 0
    assert int((tmp_path / "client/server.example.org/counter").read_text()) == 123


@pytest.mark.parametrize("arguments, status, named", [
    (("laptop", "server.example.org", "--ports", 22, "--again"), 1, "--ports applies only to a new one"),
    (("phone", "ann@server.example.org", "--ports", 22), 1, 'write "server.example.org"'),
    (("phone", "server.example.org:22", "--ports", 22), 1, 'write "server.example.org"'),
    (("phone", "", "--ports", 22), 2, "the host is empty"),
    (("../phone", "server.example.org", "--ports", 22), 2, "../phone"),
    (("phone.off", "server.example.org", "--ports", 22), 2, "phone.off"),
    (("phone", "server.example.org", "--ports", "22,x"), 2, '"x"'),
    (("phone",), 2, "host"),
])
def test_a_wrong_invitation_is_refused_with_nothing_changed(tmp_path, arguments, status, named):
    invite(tmp_path, "laptop", "server.example.org", "--ports", 22)
    before = tree(tmp_path)
    done = run("invite", "--dir", tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (status, "") and named in done.stderr
    assert tree(tmp_path) == before


DAMAGED = {
    "cut off": lambda line: line[:-2], "cut off in the keys": lambda line: line[:-12], "without its start": lambda line: line[1:],
    "twice": lambda line: line * 2, "twice in one line": lambda line: line[:-1] * 2, "with more behind it": lambda line: line + "exit\n",
    "with a prompt": lambda line: "# " + line, "broken by a mail program": lambda line: line[:70] + "\n" + line[70:],
    "another port": lambda line: line.replace("=22;", "=23;"), "in capitals": str.upper, "nothing": lambda line: "",
    "a newline": lambda line: "\n", "not UTF-8": lambda line: "\udcff" + line, "endless": lambda line: line[:-1] * 1000,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_line_is_refused_with_nothing_changed(tmp_path, damage):
    line = DAMAGED[damage](invite(tmp_path / "server", "laptop", "server.example.org", "--ports", 22))
    done = subprocess.run([BINARY, "accept", "--dir", tmp_path / "client"], input=line.encode(errors="surrogateescape"),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=10)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"damaged, truncated or doubled\n" in done.stderr and not SECRET.search(done.stderr.decode())
    assert not (tmp_path / "client").exists()


def test_spaces_around_the_line_do_no_harm(tmp_path):
    line = invite(tmp_path / "server", "laptop", "server.example.org", "--ports", 22)
    assert accept(tmp_path / "client", f"\n  {line.strip()} \r\n\n").returncode == 0


def test_the_line_is_never_an_argument_and_never_shown(tmp_path):
    line = invite(tmp_path / "server", "laptop", "server.example.org", "--ports", 22)
    done = accept(tmp_path / "client", "", line.strip())
    assert done.returncode == 2 and "standard input" in done.stderr and not SECRET.search(done.stderr)


def test_accept_does_not_overwrite(tmp_path):
    lines = [invite(tmp_path / "server", name, "server.example.org", "--ports", 22) for name in ("laptop", "phone")]
    client = tmp_path / "client"
    assert accept(client, lines[0]).returncode == 0
    before = tree(client)
    for line, *arguments in ((lines[1],), (lines[1], "--as", "SERVER.example.org.")):
        done = accept(client, line, *arguments)
        assert done.returncode == 1 and "has a profile already" in done.stderr
        assert tree(client) == before
    # The advice works: the old one is kept, and disabled.
    assert subprocess.run(["sh", "-c", done.stderr.splitlines()[1].split(": ")[-1]]).returncode == 0
    assert accept(client, lines[1]).returncode == 0
    assert names(client) == {"server.example.org", "server.example.org.off"}


@pytest.mark.parametrize("name", ["server.example.org", "server.example.org.off"])
def test_keys_that_another_profile_has_are_refused(tmp_path, name):
    """Both profiles would use the same counters."""
    line = invite(tmp_path / "server", "laptop", "server.example.org", "--ports", 22)
    client = tmp_path / "client"
    assert accept(client, line).returncode == 0
    (client / "server.example.org").rename(client / name)
    done = accept(client, line, "--as", SERVER)
    assert done.returncode == 1 and f'profile "{name}" has the keys of this invitation already' in done.stderr
    assert names(client) == {name}


def test_servers_may_have_the_same_knock_port(tmp_path):
    for server in ("one", "two"):
        run("genprofile", "laptop", 666, "--dir", tmp_path / server)
        assert accept(tmp_path / "client", invite(tmp_path / server, "laptop", server)).returncode == 0


@pytest.mark.parametrize("name, status", [("ann@host", 1), ("a/b", 1), (".hidden", 2), ("x.off", 2), ("", 2)])
def test_a_name_that_no_host_has_is_refused(tmp_path, name, status):
    line = invite(tmp_path / "server", "laptop", "server.example.org", "--ports", 22)
    assert accept(tmp_path / "client", line, "--as", name).returncode == status
    assert not (tmp_path / "client").exists()


def test_under_sudo_the_profile_is_the_callers(namespaces, public):
    line = invite(public / "server", "laptop", SERVER, "--ports", 22)
    (public / "ann").mkdir(mode=0o700)
    os.chown(public / "ann", 65431, 65431)
    env = {**os.environ, "SUDO_UID": "65431", "SUDO_GID": "65431"}
    done = run("accept", "--dir", public / "ann/.knockknock", input=line, env=env)
    assert done.returncode == 0, done.stderr
    for path in (public / "ann").rglob("*"):
        assert (path.stat().st_uid, path.stat().st_gid) == (65431, 65431)


class Terminal:
    """accept with a terminal as its standard input."""

    def __init__(self, directory):
        self.master, self.slave = pty.openpty()
        self.process = subprocess.Popen([BINARY, "accept", "--dir", directory], stdin=self.slave, stderr=subprocess.PIPE)
        assert b"paste the line" in self.process.stderr.readline()

    def paste(self, text):
        os.write(self.master, text.encode())

    def end(self):
        """The exit status, and how many bytes are left for the shell."""
        status = self.process.wait(5)
        left, = struct.unpack("i", fcntl.ioctl(self.slave, termios.FIONREAD, bytes(4)))
        self.process.stderr.close()
        os.close(self.master)
        os.close(self.slave)
        return status, left


def test_a_line_is_pasted_into_a_terminal(tmp_path):
    line = invite(tmp_path / "server", "laptop", "server.example.org", "--ports", 22)
    terminal = Terminal(tmp_path / "client")
    terminal.paste(line)
    assert terminal.end() == (0, 0)
    assert (tmp_path / "client/server.example.org/counter").exists()


def test_a_line_that_is_pasted_twice_does_not_reach_the_shell(tmp_path):
    """The shell would run it as a command, and keep the keys in its history."""
    line = invite(tmp_path / "server", "laptop", "server.example.org", "--ports", 22)
    terminal = Terminal(tmp_path / "client")
    terminal.paste(line)
    time.sleep(0.03)  # a slow connection
    terminal.paste(line)
    assert terminal.end() == (1, 0)
    assert not (tmp_path / "client").exists()


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("fault", ["error=ENOSPC", "signal=KILL"])
@pytest.mark.parametrize("call", ["write", "fsync", "/rename.*"])
def test_accepted_completely_or_not_at_all(tmp_path, call, fault):
    """Each system call that makes the profile fails once, or is the last before the process is killed."""
    line = invite(tmp_path / "server", "laptop", "host", "--ports", 22)
    client, faults = tmp_path / "client", 0
    client.mkdir()
    for number in range(1, 20):
        done = subprocess.run(["strace", "-f", "-qq", "-o", tmp_path / "trace", "-e", f"inject={call}:{fault}:when={number}",
                               BINARY, "accept", "--dir", client], input=line.encode(), stderr=subprocess.PIPE, timeout=20)
        trace = (tmp_path / "trace").read_text()
        if "INJECTED" not in trace and "SIGKILL" not in trace:
            assert done.returncode == 0
            break
        faults += 1
        if (client / "host").exists():  # the fault came after the profile was complete
            assert len(list((client / "host").iterdir())) == 4
            assert len(base64.b64decode((client / "host/mac.key").read_bytes())) == 16
            shutil.rmtree(client / "host")
        elif fault.startswith("error"):
            assert done.returncode == 1 and not names(client), "nothing left aside"
    assert faults > 0

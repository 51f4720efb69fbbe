"""Whose profiles a client uses, where they are, and how a host may be spelled: the same for knock, connect and proxy."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from stage import BINARY, SERVER, SERVER6, Capture, Profile, Service

ANN, BOB = 65431, 65432
PORT, PROXY = 4000, 1080
SUDO = (f"SUDO_UID={ANN}", f"SUDO_GID={ANN}")  # as ann
PROGRAMS = ("knock", "connect", "proxy")


class Town:
    """A client's machine with users, and a server that admits everybody and has nothing to do with knocks."""

    def __init__(self, stage, public):
        self.stage, self.client, self.public = stage, stage.client, public
        self.gate = Profile(stage, "gate", ports=[PORT])
        self.service = stage.keep(Service(stage.server, PORT))
        self.homes = {"ann": self.home("ann", ANN), "bob": self.home("bob", BOB), "root": self.home("root", 0)}
        self.accounts(f"ann:x:{ANN}:{ANN}::{public}/ann:/bin/sh", f"bob:x:{BOB}:{BOB}::{public}/bob:/bin/sh")

    def home(self, name, owner):
        path = self.public / name
        path.mkdir(mode=0o700)
        os.chown(path, owner, owner)
        return path

    def accounts(self, *rows):
        """The accounts of the client's machine: root and these."""
        passwd = self.stage.directory / "passwd"
        passwd.write_text(f"root:x:0:0::{self.public}/root:/bin/sh\n" + "".join(f"{row}\n" for row in rows))
        self.client.run("mount", "--bind", passwd, "/etc/passwd")

    def give(self, user, owner, host=SERVER):
        """A copy of the profile in a user's home, with what is below it owned by `owner`."""
        top = self.homes[user] / ".knockknock"
        shutil.copytree(self.gate.path, top / host)
        for path in (top, *top.rglob("*")):
            os.chown(path, owner, owner)
            path.chmod(0o700 if path.is_dir() else 0o600)
        return top / host

    def as_root(self, *variables):
        """A command's beginning: root's shell with no variables but these."""
        return ["env", "-i", f"PATH={os.environ['PATH']}", *variables]

    def run(self, start, program, host=SERVER, patience=0.3):
        """One program's attempt to reach the host: its outcome, and the knocks and SYNs that left meanwhile."""
        # Reading one port's packets passes over those of the other.
        captures = [self.stage.keep(Capture(self.client)) for _ in range(2)]
        if program == "knock":
            done = self.client.run(*start, BINARY, "-p", PORT, host, check=False)
        elif program == "connect":
            done = self.client.run(*start, BINARY, "connect", host, PORT, check=False)
        else:
            done = self._by_proxy(start, host, patience)
        sent = [len(capture.sent(port)) for capture, port in zip(captures, (self.gate.knock_port, PORT))]
        for capture in captures:
            capture.close()
        return done, *sent

    def _by_proxy(self, start, host, patience):
        proxy = self.client.start(*start, BINARY, "proxy", PROXY, stdout=-1, stderr=-1, text=True)
        output = []
        while (line := proxy.stderr.readline()) and ": ready" not in line:
            output.append(line)
        if line:
            self.client.run("curl", f"-sm{patience}", "-x", f"socks5h://127.0.0.1:{PROXY}", f"telnet://{host}:{PORT}", check=False)
            proxy.send_signal(signal.SIGTERM)
        rest = proxy.communicate(timeout=10)[1]
        return subprocess.CompletedProcess("proxy", 0 if line else proxy.returncode, "", "".join(output) + rest)


@pytest.fixture
def town(stage, public):
    return Town(stage, public)


def knocked(done, knocks, connections):
    assert knocks >= 1 and (connections >= 1) == ("-p" not in done.args), done.stderr
    return True


def refused(done, knocks, connections, *words):
    """It ended with an error, and nothing left the machine."""
    assert (knocks, connections) == (0, 0), "it went on without a knock"
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    return True


def command_of(done):
    """The command that the error's second line tells root to run."""
    return re.search(r"as root: (.*)", done.stderr)[1]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("who", ["sudo's caller", "HOME of another user, as root", "HOME of another user, as a user"])
def test_a_home_that_cannot_be_read_is_no_missing_profile(town, program, who):
    """It was reported as "no profile", and connect connected without a knock."""
    town.give("bob", BOB)
    start = {
        "sudo's caller": town.as_root(*SUDO),
        "HOME of another user, as root": town.as_root(f"HOME={town.homes['bob']}"),
        "HOME of another user, as a user": ["setpriv", f"--reuid={ANN}", f"--regid={ANN}", "--clear-groups",
                                            "--inh-caps=+net_raw", "--ambient-caps=+net_raw",
                                            *town.as_root(f"HOME={town.homes['bob']}")],
    }[who]
    if who == "sudo's caller":
        town.accounts(f"ann:x:{ANN}:{ANN}::{town.homes['bob']}:/bin/sh")
    done = town.run(start, program)
    assert refused(*done, "permission denied", f"belongs to user {BOB}", "run this as that user", "--dir")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("fault, reason", [
    ("root's directory of profiles", "permission denied"), ("root's profile", "permission denied"),
    ("root's files", "permission denied"), ("a file for a directory", "not a directory"), ("a link to itself", "too many"),
])
def test_profiles_that_cannot_be_read_are_not_missing(town, program, fault, reason):
    profile = town.give("ann", ANN)
    directory = profile.parent
    if fault == "root's directory of profiles":
        os.chown(directory, 0, 0)
    elif fault == "root's profile":
        os.chown(profile, 0, 0)
    elif fault == "root's files":
        for path in profile.iterdir():
            os.chown(path, 0, 0)
    elif fault == "a file for a directory":
        shutil.rmtree(directory)
        directory.touch()
    else:
        shutil.rmtree(profile)
        profile.symlink_to(profile.name)
    done, knocks, connections = town.run(town.as_root(*SUDO), program)
    assert (knocks, connections) == (0, 0), "it went on without a knock"
    assert reason in done.stderr, done.stderr
    if reason == "permission denied":
        assert done.stderr.splitlines()[-1].split(": as root: ")[1].startswith(f"chown -R {ANN}:{ANN} \"{town.homes['ann']}/.kn")
        town.client.run("sh", "-c", command_of(done))
        assert knocked(*town.run(town.as_root(*SUDO), program)), "the advice is right"


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("variables", [SUDO, (f"SUDO_UID={ANN}",), ("DOAS_USER=ann",),
                                       (f"PKEXEC_UID={ANN}",)], ids=str)
def test_sudo_doas_and_pkexec_use_the_callers_profiles(town, program, variables):
    profile = town.give("ann", ANN)
    assert knocked(*town.run(town.as_root(*variables, f"HOME={town.homes['root']}"), program))
    counter = profile / "counter"
    assert int(counter.read_text()) >= 1 and counter.stat().st_uid == ANN


@pytest.mark.parametrize("variables", [("SUDO_UID=ann",), ("DOAS_USER=nobody-at-all",), ("PKEXEC_UID=7777",), ("SUDO_UID=7777",)],
                         ids=str)
def test_a_caller_that_does_not_exist_is_not_root(town, variables):
    town.give("root", 0)
    for program in PROGRAMS:
        assert refused(*town.run(town.as_root(*variables), program), variables[0].split("=")[0], "there is no such user", "env -u")


@pytest.mark.parametrize("variables", [(), ("HOME=",), ("HOME=here",), ("SUDO_UID=0", "SUDO_GID=0"), ("DOAS_USER=root",),
                                       ("SUDO_UID=", "HOME="), ("PKEXEC_UID=0",)], ids=str)
def test_without_a_home_in_the_environment_it_is_the_accounts(town, variables):
    """`HOME=` meant the working directory."""
    town.give("root", 0)
    for program in PROGRAMS:
        assert knocked(*town.run(town.as_root(*variables), program)), program


@pytest.mark.parametrize("row, variables", [
    (f"ann:x:{ANN}:{ANN}:::/bin/sh", SUDO),
    ("", SUDO),
    (f"ann:x:{ANN}:{ANN}::relative:/bin/sh", ("DOAS_USER=ann",)),
], ids=["no home", "no account", "a relative home"])
def test_an_account_without_a_home_is_advised_to_use_dir(town, row, variables):
    """Root's own profiles were used instead."""
    town.give("root", 0)
    town.accounts(row)
    for program in PROGRAMS:
        assert refused(*town.run(town.as_root(*variables, f"HOME={town.homes['root']}"), program),
                       f"user {ANN} has no home directory", "--dir")


@pytest.mark.parametrize("program", ["knock", "connect"])
def test_profiles_that_sudo_left_with_root_are_reported(town, program):
    """knockknock 0.8 read those; the manual's advice made a second counter."""
    left = town.give("root", 0, host="Server.Example")
    town.stage.set_client_hosts(f"{SERVER} server.example\n")
    start = town.as_root(*SUDO, f"HOME={town.homes['root']}")
    done = town.run(start, program, "server.example")
    assert refused(*done, 'no profile for "server.example"', f'root has it in "{left}"')
    town.client.run("sh", "-c", command_of_move(done[0]))
    assert not left.exists()
    assert knocked(*town.run(start, program, "server.example"))
    assert (town.homes["ann"] / ".knockknock").stat().st_mode & 0o777 == 0o700


def command_of_move(done):
    return re.search(r"move it, as root: (.*)", done.stderr)[1]


def test_a_proxy_says_which_profiles_sudo_left_with_root(town):
    left = town.give("root", 0)
    done, knocks, _ = town.run(town.as_root(*SUDO), "proxy")
    assert knocks == 0
    assert f'profile "{SERVER}" is ignored: root has it in "{left}"; move it, as root: mkdir' in done.stderr
    assert "no profiles in" in done.stderr


def test_a_stranger_with_a_set_uid_binary_learns_nothing_of_roots_profiles(town):
    town.give("root", 0)
    binary = town.public / "knockknock"
    shutil.copy(BINARY, binary)
    binary.chmod(0o4755)
    done = town.client.run("setpriv", f"--reuid={ANN}", f"--regid={ANN}", "--clear-groups", binary, "-p", PORT, SERVER, check=False)
    assert done.returncode == 1 and f'no profile for "{SERVER}"' in done.stderr
    assert str(town.homes["root"]) not in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name, typed", [
    ("server.example", "server.example."), ("server.example.", "server.example"), ("Server.Example", "SERVER.example"),
    ("server.example", "Server.Example."), (SERVER6, SERVER6.replace("::", ":0:0::").upper()),
])
def test_every_program_finds_a_host_however_it_is_spelled(town, program, name, typed):
    """`knock host.example.` found no profile, and connect did."""
    town.stage.set_client_hosts(f"{SERVER} server.example server.example. Server.Example SERVER.example Server.Example.\n")
    if program == "proxy" and ":" in typed:
        typed = f"[{typed}]"
    town.give("ann", ANN, host=name)
    assert knocked(*town.run(town.as_root(*SUDO), program, typed))


@pytest.mark.parametrize("typed", ["HostsOnly.LAN", "HOSTSONLY2.LAN"])
def test_a_name_in_etc_hosts_is_found_as_typed_and_in_lower_case(town, typed):
    """musl compares the names in /etc/hosts byte by byte."""
    town.stage.set_client_hosts(f"{SERVER} HostsOnly.LAN\n{SERVER} hostsonly2.lan\n")
    town.give("ann", ANN, host=typed.lower())
    for program in PROGRAMS:
        # Where no name server answers, the name as it is typed takes its time.
        assert knocked(*town.run(town.as_root(*SUDO), program, typed, patience=12)), program


@pytest.mark.parametrize("host, write, more", [
    ("ann@server.example", "server.example", ""), ("[::1]", "::1", ""), ("server.example:22", "server.example", "port"),
    ("[fd09::1]:22", "fd09::1", "port"), ("ssh://ann@server.example:22/", "server.example", "port"),
    ("https://server.example/index.html", "server.example", ""), ("server.example/", "server.example", ""),
    ("server.example:", "server.example", ""),
])
def test_an_invalid_host_name_gets_useful_advice(town, host, write, more):
    """It was: scp -r root@ann@server.example:..."""
    for program in ("knock", "connect"):
        done, *sent = town.run(town.as_root(), program, host)
        assert (done.returncode, sent) == (1, [0, 0])
        what, advice = done.stderr.splitlines()
        assert what.endswith(f'"{host}" is not the name of a host')
        assert advice.endswith(f': write "{write}"' + (", and the port as an argument of its own" if more else ""))


@pytest.mark.parametrize("host, status", [("", 2), (".", 1), ("..", 1), ("../x", 1), ("a/b", 1), ("@", 1), ("ann@", 1), ("[]", 1),
                                          (":22", 1), ("://", 1)])
def test_a_string_without_a_host_name_is_refused(town, host, status):
    for program in ("knock", "connect"):
        done, *sent = town.run(town.as_root(), program, host)
        assert (done.returncode, sent) == (status, [0, 0]), done.stderr
        assert "invite" not in done.stderr
        assert "the name of the host is empty" in done.stderr if not host else f'"{host}" is not the name of a host' in done.stderr


def test_the_advice_for_a_host_without_a_profile_works(town):
    for host in ("server.example.", "fd09::7"):
        done, *_ = town.run(town.as_root(*SUDO), "knock", host)
        command = re.search(r"on the server, as root: (knockknock invite NAME .*); then", done.stderr)[1].split()
        line = town.stage.server.run(BINARY, *command[1:], "--ports", 22,
                                     "--dir", town.stage.server_dir / host).stdout
        town.client.run(*town.as_root(*SUDO), BINARY, "accept", input=line)
        assert (town.homes["ann"] / ".knockknock" / host / "counter").stat().st_uid == ANN
        shutil.rmtree(town.homes["ann"] / ".knockknock")


@pytest.mark.parametrize("end", [".off", ".disabled"])
def test_a_profile_is_disabled_by_its_name(town, end):
    """`mv laptop laptop.off` did not disable it."""
    profile = town.give("ann", ANN)
    disabled = profile.rename(profile.with_name(profile.name + end))
    start = town.as_root(*SUDO)
    done, *sent = town.run(start, "knock")
    assert (done.returncode, sent) == (1, [0, 0])
    enable = f'mv "{disabled}" "{profile}"'
    assert done.stderr.splitlines()[1].endswith(f"it is disabled by its name; to enable it: {enable}")
    done, knocks, _ = town.run(start, "proxy")
    assert knocks == 0 and f'profile "{SERVER}{end}" is disabled by its name' in done.stderr
    town.client.run("sh", "-c", enable)
    assert knocked(*town.run(start, "knock"))


def test_a_proxy_without_a_profile_says_so(town):
    """It printed "ready" and nothing else."""
    start = town.as_root(*SUDO)
    done, *_ = town.run(start, "proxy")
    assert f"no profiles in \"{town.homes['ann']}/.knockknock\": no connection will start with a knock" in done.stderr
    town.give("ann", ANN)
    assert "no profiles" not in town.run(start, "proxy")[0].stderr


def test_a_proxy_reports_profiles_with_invalid_names(town):
    profile = town.give("ann", ANN)
    for name in (b".hidden", b"x\xff", b".git", b".half.new"):
        copy = Path(os.fsdecode(os.path.join(os.fsencode(profile.parent), name)))
        shutil.copytree(profile, copy)
        if name == b".git":
            shutil.rmtree(copy)
            (copy / "objects").mkdir(parents=True)
        os.chown(copy, ANN, ANN)
    output = town.run(town.as_root(*SUDO), "proxy")[0].stderr
    assert 'profile ".hidden" is ignored: its name starts with "."' in output
    assert 'profile "x\ufffd" is ignored: its name is not UTF-8' in output
    assert ".git" not in output and ".half" not in output


@pytest.mark.parametrize("name", ["cipher.key", "mac.key"])
@pytest.mark.parametrize("more", ["a second line\n", "x" * 300, "\r\n", "\n\n# made by ann\n"], ids=ascii)
def test_a_key_file_with_a_second_line_is_accepted(town, name, more):
    """knockknock 0.8 read the first line only."""
    path = town.give("ann", ANN) / name
    path.write_text(path.read_text().rstrip("\n") + ("" if more == "\r\n" else "\n") + more)
    capture = town.stage.keep(Capture(town.client))
    town.client.run(*town.as_root(*SUDO), BINARY, "-p", PORT, SERVER)
    [knock] = capture.sent(town.gate.knock_port)
    assert knock.fields == town.gate.fields(0, PORT)


def test_a_profiles_config_with_a_byte_order_mark_is_accepted(town):
    path = town.give("ann", ANN) / "config"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert knocked(*town.run(town.as_root(*SUDO), "knock"))


def test_the_daemon_reports_profiles_with_invalid_names(stage):
    for name in ("gate", "old", "hidden", "odd"):
        Profile(stage, name)
    profiles = stage.server_dir / "profiles"
    (profiles / "old").rename(profiles / "old.off")
    (profiles / "hidden").rename(profiles / ".hidden")
    (profiles / "odd").rename(profiles / os.fsdecode(b"odd\xff"))
    stage.configure(firewall="nft", guard=22)
    checked = stage.server.run(BINARY, "daemon", "--check", "--dir", stage.server_dir, check=False)
    daemon = stage.start_daemon()
    for output in (checked.stdout + checked.stderr, "\n".join(daemon.lines)):
        assert len(re.findall('"old.off"(, by| is disabled by) its name', output)) == 1
        assert 'profile ".hidden" is ignored:' in output and 'its name starts with "."' in output
        assert 'profile "odd\ufffd" is ignored:' in output and "its name is not UTF-8" in output
        assert "rename its directory" in output
    assert checked.returncode == 1 and "2 profiles would be ignored" in checked.stderr
    assert re.findall(r"^profile +(.*?):", checked.stdout, re.M) == ['"gate"']
    assert daemon.lines[-1].endswith(", 1 profile")
    assert daemon.stop() == 0


def test_a_disabled_profile_alone_is_no_error(stage):
    gate, old = Profile(stage, "gate"), Profile(stage, "old")
    old.path.rename(old.path.with_name("old.disabled"))
    stage.configure(firewall="nft", guard=22)
    done = stage.server.run(BINARY, "daemon", "--check", "--dir", stage.server_dir)
    assert '"old.disabled", by its name' in done.stdout and f"knock port {gate.knock_port}" in done.stdout


def test_a_daemon_that_cannot_read_its_profiles_does_not_start_without_them(stage):
    stage.configure(firewall="nft", guard=22)
    (stage.server_dir / "profiles").touch()
    for arguments in (["--check"], []):
        done = stage.server.run(BINARY, "daemon", *arguments, "--dir", stage.server_dir, check=False)
        assert done.returncode == 1 and "not a directory" in done.stderr


@pytest.mark.parametrize("program", ["connect", "proxy"])
def test_a_profile_of_0_8_is_connected_to_by_ipv4_first(town, program):
    """Its first knock went to IPv6, which 0.8 cannot read."""
    town.stage.set_client_hosts(f"{SERVER6} both.example\n{SERVER} both.example\n")
    profile = town.give("ann", ANN, host="both.example")
    capture = town.stage.keep(Capture(town.client))
    for wire, version in (("", 4), ("wire = classic\n", 6)):
        (profile / "config").write_text(f"[main]\nknock_port = {town.gate.knock_port}\n{wire}")
        assert knocked(*town.run(town.as_root(*SUDO), program, "both.example"))
        assert capture.sent(town.gate.knock_port)[0].version == version


def test_a_connection_whose_output_cannot_be_written_is_an_error(town):
    done = town.client.run("sh", "-c", f'"{BINARY}" connect "{SERVER}" {PORT} </dev/null >/dev/full', check=False)
    assert done.returncode == 1 and "no space left on device\n" in done.stderr

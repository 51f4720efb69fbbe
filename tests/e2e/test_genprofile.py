"""genprofile: creates a profile completely or not at all, and never overwrites one."""

import base64
import os
import re
import shutil
import signal
import socket
import stat
import subprocess

import pytest

from stage import BINARY, CLIENT, SERVER, SERVER6, Service


def genprofile(directory, *arguments):
    return subprocess.run([BINARY, "genprofile", "--dir", directory, *map(str, arguments)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=10)


def names(directory):
    """The names in a directory, without the hidden file that is its lock."""
    return {path.name for path in directory.iterdir()} - {".lock"}


def tree(directory):
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


def test_a_profile_is_complete(tmp_path):
    assert genprofile(tmp_path, "gate", 666).returncode == 0
    profile = tmp_path / "profiles" / "gate"
    assert {path.name for path in profile.iterdir()} == {"cipher.key", "mac.key", "counter", "config"}
    assert stat.S_IMODE(profile.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in profile.iterdir()} == {0o600}
    keys = [(profile / name).read_bytes() for name in ("cipher.key", "mac.key")]
    for key in keys:
        assert key.endswith(b"\n") and len(base64.b64decode(key, validate=False)) == 16
        assert re.fullmatch(rb"[A-Za-z0-9+/]{22}==\n", key)
    assert keys[0] != keys[1]
    assert int((profile / "counter").read_text()) == 0
    config = (profile / "config").read_text()
    assert config.startswith("[main]\n") and "knock_port = 666\n" in config


def test_the_mode_does_not_depend_on_the_umask(tmp_path):
    for umask, name, port in ((0, "open", 666), (0o027, "closed", 667)):
        done = subprocess.run(["sh", "-c", f'umask {umask:o}; exec "$@"', "sh", BINARY, "genprofile", name, str(port),
                               "--dir", tmp_path], check=False)
        assert done.returncode == 0
        profile = tmp_path / "profiles" / name
        assert stat.S_IMODE(profile.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in profile.iterdir()} == {0o600}


def test_keys_differ_from_profile_to_profile(tmp_path):
    for port in range(1000, 1010):
        assert genprofile(tmp_path, f"p{port}", port).returncode == 0
    assert len({path.read_bytes() for path in (tmp_path / "profiles").glob("*/*.key")}) == 20


def test_ports_are_written(tmp_path):
    assert genprofile(tmp_path, "gate", 666, "--ports", "22,443").returncode == 0
    config = (tmp_path / "profiles/gate/config").read_text()
    assert re.search(r"^ports = 22, ?443$", config, re.MULTILINE)


def test_without_the_option_the_ports_are_the_guard(tmp_path):
    (tmp_path / "config").write_text("[main]\nguard = 22, 8443\n")
    assert genprofile(tmp_path, "gate", 666).returncode == 0
    assert re.search(r"^ports = 22, ?8443$", (tmp_path / "profiles/gate/config").read_text(), re.MULTILINE)


def test_without_a_guard_there_is_no_limit(tmp_path):
    assert genprofile(tmp_path, "gate", 666).returncode == 0
    assert "ports" not in (tmp_path / "profiles/gate/config").read_text()


@pytest.mark.parametrize("arguments, status, named", [
    (("gate", 667), 1, "gate"),
    (("other", 666), 1, "gate"),
    (("", 667), 2, "name"),
    (("a/b", 667), 2, "a/b"),
    (("../up", 667), 2, "../up"),
    ((".hidden", 667), 2, ".hidden"),
    (("..", 667), 2, ".."),
    (("new\nline", 667), 2, "new"),
    (("escape\x1b[31m", 667), 2, "escape"),
    (("laptop.off", 667), 2, "laptop.off"),
    (("laptop.disabled", 667), 2, "laptop.disabled"),
    (("gate.replaced", 667), 2, "gate.replaced"),
    (("other", 667, "--ports", "22,667"), 1, "it is one of the ports to open"),
    (("other", 0), 2, "0"),
    (("other", 65536), 2, "65536"),
    (("other", -1), 2, "-1"),
    (("other", "port"), 2, "port"),
    (("667", "other"), 2, "other"),
    (("other", 667, "--ports", "22,0"), 2, "0"),
    (("other", 667, "--ports", "22,x"), 2, "x"),
    (("other", 667, "--ports", ""), 2, "ports"),
    (("other", "--wire", "stealth"), 1, "--ports"),
    ((), 2, ""),
], ids=str)
def test_an_invalid_request_changes_nothing(tmp_path, arguments, status, named):
    assert genprofile(tmp_path, "gate", 666).returncode == 0
    before = tree(tmp_path)
    done = genprofile(tmp_path, *arguments)
    assert done.returncode == status
    assert named.encode() in done.stderr
    assert b"\x1b" not in done.stderr
    assert tree(tmp_path) == before


def test_a_guarded_port_is_no_knock_port(tmp_path):
    """The guard would drop its knocks' answers: the port would not look closed."""
    (tmp_path / "config").write_text("[main]\nguard = 22, 8443\n")
    done = genprofile(tmp_path, "gate", 8443)
    assert done.returncode == 1
    assert b"port 8443 cannot be a knock port: it is guarded\n" in done.stderr
    assert not (tmp_path / "profiles").exists()
    assert genprofile(tmp_path, "gate", 8444).returncode == 0


@pytest.mark.parametrize("address, refused", [("0.0.0.0", True), ("::", True), (SERVER, True), (SERVER6, True),
                                              ("127.0.0.1", False), ("::1", False), ("::ffff:127.0.0.2", False)])
def test_a_port_where_something_listens_is_no_knock_port(stage, address, refused):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with stage.server.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((address, 666))
        listener.listen()
        done = stage.server.run(BINARY, "genprofile", "--dir", stage.server_dir, "gate", 666, check=False)
    assert done.returncode == int(refused)
    assert ("port 666 cannot be a knock port: a program listens there\n" in done.stderr) == refused
    assert stage.server.run(BINARY, "genprofile", "--dir", stage.server_dir, "late", 666, check=False).returncode == int(not refused)


def test_a_port_that_is_only_connected_from_may_be_a_knock_port(stage):
    stage.keep(Service(stage.client, 5000))
    with stage.server.connect(5000, CLIENT, source_port=666) as connection:
        assert connection.recv(100) == Service.GREETING
        stage.server.run(BINARY, "genprofile", "--dir", stage.server_dir, "gate", 666)


def test_a_disabled_profile_keeps_its_knock_port(tmp_path):
    assert genprofile(tmp_path, "gate", 666).returncode == 0
    (tmp_path / "profiles/gate").rename(tmp_path / "profiles/gate.off")
    done = genprofile(tmp_path, "other", 666)
    assert done.returncode == 1 and b'profile "gate.off" has knock port 666 already' in done.stderr


def test_it_says_that_a_running_daemon_must_reload(stage):
    """The daemon continued without the new profile, and no message mentioned it."""
    hint = "systemctl reload knockknock-daemon, or send SIGHUP"

    def new(name):
        return stage.server.run(BINARY, "genprofile", "--dir", stage.server_dir, name, next(ports)).stderr
    ports = iter(range(600, 700))
    assert hint not in new("before")
    stage.set_up("nft")
    assert hint in new("meanwhile")
    stage.daemon.process.send_signal(signal.SIGHUP)
    stage.daemon.wait_for("4 profiles")
    assert stage.daemon.stop() == 0
    assert hint not in new("after")


def test_swapped_arguments_get_a_hint(tmp_path):
    done = genprofile(tmp_path, 667, "gate")
    assert done.returncode in (1, 2)
    assert b"gate 667" in done.stderr


def test_a_missing_directory_is_created(tmp_path):
    """It is created if its parent exists. Otherwise the error names the parent."""
    assert genprofile(tmp_path / "new", "gate", 666).returncode == 0
    assert (tmp_path / "new/profiles/gate/config").exists()


def strace(directory, injection, *arguments):
    trace = directory / "strace"
    done = subprocess.run(["strace", "-f", "-qq", "-o", trace, "-e", f"inject={injection}",
                           BINARY, "genprofile", "--dir", directory / "etc", *arguments],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20)
    return done, trace.read_text()


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("fault", ["error=ENOSPC", "signal=KILL"])
@pytest.mark.parametrize("call", ["write", "fsync", "/rename.*"])
def test_a_profile_is_created_completely_or_not_at_all(tmp_path, call, fault):
    """Each system call that creates the profile fails once, or is the last before the process is killed."""
    (tmp_path / "etc").mkdir()
    assert subprocess.run([BINARY, "genprofile", "--dir", tmp_path / "etc", "first", "665"], stdout=-3).returncode == 0
    profiles = tmp_path / "etc" / "profiles"
    faults = 0
    for number in range(1, 20):
        done, trace = strace(tmp_path, f"{call}:{fault}:when={number}", "gate", "666")
        if "INJECTED" not in trace and "SIGKILL" not in trace:
            assert done.returncode == 0
            break
        faults += 1
        if (profiles / "gate").exists():  # the fault came after the profile was complete
            assert len(list((profiles / "gate").iterdir())) == 4
            assert len(base64.b64decode((profiles / "gate/mac.key").read_bytes())) == 16
            shutil.rmtree(profiles / "gate")
        else:
            assert done.returncode != 0
        if fault.startswith("error"):
            assert names(profiles) == {"first"}, "nothing left aside"
    assert faults > 0


def knock_port(tmp_path, name):
    config = (tmp_path / "profiles" / name / "config").read_text()
    return int(re.search(r"^knock_port = (\d+)$", config, re.M)[1])


def test_without_a_knock_port_stealth_profiles_share_one_that_is_printed(tmp_path):
    done = genprofile(tmp_path, "one", "--ports", 22)
    port = knock_port(tmp_path, "one")
    assert done.returncode == 0 and f"knock port {port}, stealth wire".encode() in done.stderr
    assert port > 1024
    assert genprofile(tmp_path, "two", "--ports", "22,443").returncode == 0
    assert knock_port(tmp_path, "two") == port
    assert genprofile(tmp_path, "three", port, "--ports", 22).returncode == 0
    assert genprofile(tmp_path, "old", "--wire", "classic", "--ports", 22).returncode == 1, "0.8 needs one of its own"
    assert genprofile(tmp_path, "old", port + 1, "--wire", "classic").returncode == 0


def test_without_ports_or_a_guard_the_wire_is_classic_and_that_is_printed(tmp_path):
    done = genprofile(tmp_path, "old", 666)
    assert done.returncode == 0 and b"classic wire" in done.stderr
    (tmp_path / "config").write_text("[main]\nguard = 22\n")
    assert b"stealth wire" in genprofile(tmp_path, "new", 667).stderr

"""rotate: new keys beside the old ones, until the new ones have knocked."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess

import pytest

from stage import BINARY, SERVER
from test_genprofile import names, tree
from test_invite import LINE, invite, run


def rotate(directory, *arguments, **options):
    return run("rotate", "--dir", directory, *arguments, **options)


def reload(stage, profiles):
    stage.daemon.process.send_signal(signal.SIGHUP)
    stage.daemon.wait_for(f"{profiles} profile")


def test_the_old_client_knocks_until_the_new_one_has(stage, firewall, wire):
    stage.set_up(firewall, wire=wire)
    stage.open_port()
    assert stage.connects()
    done = stage.server.run(BINARY, "rotate", "gate", SERVER, "--dir", stage.server_dir)
    assert LINE.fullmatch(done.stdout) and "systemctl reload" in done.stderr
    for _ in range(2):  # before the reload, and after it
        stage.open_port()
        assert stage.connects()
        reload(stage, 3)
    new = stage.directory / "new"
    stage.client.run(BINARY, "accept", "--dir", new, input=done.stdout)
    stage.open_port()
    assert stage.connects(), "the old keys work until the new ones are used"
    for machine, directory in (stage.server, stage.server_dir), (stage.client, new):
        profiles = json.loads(machine.run(BINARY, "status", "--json", "--dir", directory).stdout)["profiles"]
        [found] = [profile for profile in profiles if profile.get("name", "gate") == "gate"]
        assert found["counter"] == 1 and found["last_knock"] is found.get("from") is None, "the new keys have not knocked"
    connected = stage.client.run(BINARY, "connect", "--dir", new, SERVER, stage.PORT, input="")
    assert connected.stdout == "welcome\n"
    stage.daemon.wait_for('profile "gate.replaced" is revoked: its new keys have knocked')
    stage.opened()
    for command in (BINARY, "daemon", "--check"), (BINARY, "doctor"):
        text = stage.server.run(*command, "--dir", stage.server_dir).stdout
        [described] = [line for line in text.splitlines() if '"gate.replaced"' in line]
        assert "opens nothing" in described
    for restart in (False, True):
        if restart:
            stage.daemon.stop()
            stage.start_daemon()
        stage.knock()
        assert stage.nothing_opened(), "the old keys open nothing any more"
    assert stage.client.run(BINARY, "connect", "--dir", new, SERVER, stage.PORT, input="").stdout == "welcome\n"


def test_a_second_rotation_waits_for_a_knock_and_removes_the_oldest_keys(tmp_path):
    invite(tmp_path, "laptop", "server.example.org", "--ports", 22)
    profiles = tmp_path / "profiles"
    keys = [(profiles / "laptop/mac.key").read_text()]
    line = rotate(tmp_path, "laptop", "server.example.org").stdout
    keys.append((profiles / "laptop/mac.key").read_text())
    assert (profiles / "laptop.replaced/mac.key").read_text() == keys[0] != keys[1]
    before = tree(tmp_path)
    done = rotate(tmp_path, "laptop", "server.example.org")
    assert done.returncode == 1 and "have not knocked yet" in done.stderr
    again = re.search(r"again: (.*)", done.stderr)[1].replace("HOST", "server.example.org").split()
    assert run(*again[1:], "--dir", tmp_path).stdout == line
    assert tree(tmp_path) == before
    (profiles / "laptop.replaced/counter").write_text("4294967296\n")  # as the daemon writes it
    assert rotate(tmp_path, "laptop", "server.example.org").returncode == 0
    assert (profiles / "laptop.replaced/mac.key").read_text() == keys[1]
    assert names(profiles) == {"laptop", "laptop.replaced"}


def test_everything_but_keys_and_counter_stays(tmp_path):
    run("genprofile", "old", 666, "--ports", "22,443", "--wire", "classic", "--dir", tmp_path)
    config = (tmp_path / "profiles/old/config").read_text()
    assert rotate(tmp_path, "old", SERVER).returncode == 0
    assert (tmp_path / "profiles/old/config").read_text() == config


@pytest.mark.parametrize("name, host, named", [("phone", SERVER, "there is no profile"), ("../x", SERVER, "there is no profile"),
                                               ("laptop", "ann@host", 'write "host"')])
def test_a_wrong_rotation_is_refused_with_nothing_changed(tmp_path, name, host, named):
    invite(tmp_path, "laptop", "server.example.org", "--ports", 22)
    before = tree(tmp_path)
    done = rotate(tmp_path, name, host)
    assert (done.returncode, done.stdout) == (1, "") and named in done.stderr
    assert tree(tmp_path) == before


def test_a_profile_that_is_revoked_during_its_rotation_has_no_keys_left(stage):
    stage.set_up()
    line = rotate(stage.server_dir, "gate", SERVER).stdout
    reload(stage, 3)
    new = stage.directory / "new"
    stage.client.run(BINARY, "accept", "--dir", new, input=line)
    stage.server.run(BINARY, "revoke", "gate", "--dir", stage.server_dir)
    assert names(stage.server_dir / "profiles") == {"fence"}
    stage.knock()
    stage.client.run(BINARY, "-p", stage.PORT, "--dir", new, SERVER)
    assert stage.nothing_opened()


@pytest.mark.parametrize("suffix", [".off", ".disabled"])
def test_a_profile_that_is_disabled_after_its_rotation_has_its_old_keys_disabled_too(stage, suffix):
    stage.set_up()
    rotate(stage.server_dir, "gate", SERVER)
    profiles = stage.server_dir / "profiles"
    (profiles / "gate").rename(profiles / f"gate{suffix}")
    reload(stage, 1)
    stage.knock()
    assert stage.nothing_opened()
    before = tree(stage.server_dir)
    assert "there is no profile" in rotate(stage.server_dir, "gate", SERVER).stderr
    assert tree(stage.server_dir) == before
    (profiles / f"gate{suffix}").rename(profiles / "gate")
    reload(stage, 3)
    stage.open_port()
    assert stage.connects()


def test_the_old_keys_of_an_enabled_profile_work_beside_a_disabled_one_of_the_same_name(stage):
    stage.set_up()
    shutil.copytree(stage.gate.path, stage.gate.path.with_name("gate.off"))
    rotate(stage.server_dir, "gate", SERVER)
    reload(stage, 3)
    stage.open_port()
    assert stage.connects()
    assert run("revoke", "gate.off", "--dir", stage.server_dir).returncode == 0
    assert names(stage.server_dir / "profiles") == {"fence", "gate", "gate.replaced"}


def test_the_old_keys_work_after_an_interrupted_rotation(stage):
    stage.set_up()
    stage.gate.path.rename(stage.gate.path.with_name("gate.replaced"))
    reload(stage, 2)
    stage.open_port()
    assert stage.connects()


@pytest.mark.parametrize("command", [("genprofile", "laptop", 667), ("invite", "laptop", SERVER)])
@pytest.mark.parametrize("disabled", [True, False])
def test_a_new_profile_does_not_adopt_the_old_keys_of_another(tmp_path, command, disabled):
    invite(tmp_path, "laptop", SERVER, "--ports", 22)
    assert rotate(tmp_path, "laptop", SERVER).returncode == 0
    profile = tmp_path / "profiles/laptop"
    profile.rename(profile.with_name("laptop.off")) if disabled else shutil.rmtree(profile)
    before = tree(tmp_path)
    done = run(*command, "--ports", 22, "--dir", tmp_path)
    assert done.returncode == 1 and "older keys" in done.stderr
    assert tree(tmp_path) == before
    assert run("revoke", "laptop.replaced", "--dir", tmp_path).returncode == 0
    assert run(*command, "--ports", 22, "--dir", tmp_path).returncode == 0


@pytest.mark.parametrize("name", ["gate", "gate.off"])
@pytest.mark.parametrize("replaced", ["gate.replaced", "gate.replaced.off"])
def test_a_profile_that_is_revoked_after_it_was_disabled_has_no_keys_left(stage, name, replaced):
    """The daemon has not read the profiles again, so it knows both keys."""
    stage.set_up()
    rotate(stage.server_dir, "gate", SERVER)
    reload(stage, 3)
    profiles = stage.server_dir / "profiles"
    (profiles / "gate").rename(profiles / "gate.off")
    (profiles / "gate.replaced").rename(profiles / replaced)
    assert run("revoke", name, "--dir", stage.server_dir).returncode == 0
    assert names(profiles) == {"fence"}
    stage.knock()
    assert stage.nothing_opened()


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("fault", ["error=ENOSPC", "signal=KILL"])
@pytest.mark.parametrize("call", ["write", "fsync", "/rename.*"])
def test_the_old_keys_survive_a_fault_at_any_step(tmp_path, call, fault):
    invite(tmp_path / "first", "laptop", "server.example.org", "--ports", 22)
    old = (tmp_path / "first/profiles/laptop/mac.key").read_text()
    for number in range(1, 20):
        directory = tmp_path / str(number)
        shutil.copytree(tmp_path / "first", directory)
        trace = tmp_path / "trace"
        subprocess.run(["strace", "-f", "-qq", "-o", trace, "-e", f"inject={call}:{fault}:when={number}",
                        BINARY, "rotate", "laptop", "server.example.org", "--dir", directory], stdout=-3, stderr=-3, timeout=20)
        kept = [path.name for path in (directory / "profiles").glob("l*") if (path / "mac.key").read_text() == old]
        assert kept in (["laptop"], ["laptop.replaced"])
        if "INJECTED" not in trace.read_text() and "SIGKILL" not in trace.read_text():
            break
        # The next attempt does what is left, unless nothing is.
        done = rotate(directory, "laptop", "server.example.org")
        assert done.returncode == 0 or "have not knocked yet" in done.stderr
        assert (directory / "profiles/laptop.replaced/mac.key").read_text() == old
        assert (directory / "profiles/laptop/mac.key").read_text() != old
    assert number > 1


@pytest.mark.parametrize("applet, left, message", [("rotate", set(), ""), ("revoke", set(), ""),
                                                ("invite", {"phone", "phone.replaced"}, ":9:")])
def test_a_profile_is_not_rotated_while_it_is_revoked_or_handed_out(tmp_path, applet, left, message):
    """The second command waits, and then looks which profiles exist."""
    run("genprofile", "phone", "--dir", tmp_path, "--ports", "22")
    profiles = tmp_path / "profiles"
    other = os.open(profiles / ".lock", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    arguments = {"rotate": [SERVER], "revoke": [], "invite": [SERVER, "--again"]}[applet]
    command = [BINARY, applet, "phone", *arguments, "--dir", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert names(profiles) == {"phone"}
        if applet == "rotate":
            shutil.rmtree(profiles / "phone")
        else:
            shutil.copytree(profiles / "phone", profiles / "phone.replaced")
            (profiles / "phone/counter").write_text("0000000009\n")
        os.close(other)
        printed, _ = process.communicate(timeout=10)
    assert names(profiles) == left and message in printed
    assert process.returncode == (1 if applet == "rotate" else 0)

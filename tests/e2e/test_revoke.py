"""revoke: the keys open nothing more, in the running daemon too, from the moment at which the command returns."""

import fcntl
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest

from stage import BINARY, CLIENT, Profile
from test_faults import process
from test_genprofile import names, tree


def revoke(stage, name, **options):
    return stage.server.run(BINARY, "revoke", name, "--dir", stage.server_dir, **options)


def openings(stage):
    """The addresses for which an opening exists."""
    return set(re.findall(r"(10\.9\.0\.\d+) \. 22 ", stage.server.run("nft", "list", "table", "inet", "knockknock").stdout))


def test_a_revoked_profile_opens_nothing_more_in_the_running_daemon(stage, firewall, log, wire):
    stage.set_up(firewall, log=log, wire=wire)
    path = stage.gate.path
    stage.open_port()
    assert stage.connects()
    done = revoke(stage, "gate")
    assert (done.stdout, done.stderr) == ("", 'knockknock-revoke: profile "gate" is revoked: the running daemon opens nothing to it\n')
    assert not path.exists()
    for _ in range(3):
        stage.knock()
    assert stage.nothing_opened()
    assert any(line.endswith(f"the profile was revoked; the port stays closed to {CLIENT}") for line in stage.daemon.lines)
    stage.daemon.process.send_signal(signal.SIGHUP)
    stage.daemon.wait_for("1 profile")
    stage.knock()
    assert stage.nothing_opened()


def test_a_daemon_that_cannot_read_its_configuration_opens_nothing_more_either(stage):
    stage.set_up()
    stage.configure(guard="none")
    stage.daemon.process.send_signal(signal.SIGHUP)
    stage.daemon.wait_for("keeping the previous configuration")
    assert revoke(stage, "gate").returncode == 0
    stage.knock()
    assert stage.nothing_opened()


def test_a_copy_of_the_directory_opens_nothing_more(stage):
    """Hard links to the files, as some backups make them, keep the counter file alive."""
    stage.set_up()
    subprocess.run(["cp", "-al", stage.gate.path, stage.directory / "backup"], check=True)
    revoke(stage, "gate")
    stage.knock()
    assert stage.nothing_opened()
    shutil.move(stage.directory / "backup", stage.gate.path)
    stage.daemon.process.send_signal(signal.SIGHUP)
    stage.daemon.wait_for("2 profiles")
    stage.knock()
    assert stage.nothing_opened()


def test_without_a_daemon_it_says_so(tmp_path):
    directory = tmp_path / "etc"
    subprocess.run([BINARY, "genprofile", "laptop", "666", "--dir", directory], check=True, stderr=subprocess.DEVNULL)
    done = subprocess.run([BINARY, "revoke", "laptop", "--dir", directory], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, 'knockknock-revoke: profile "laptop" is revoked: no daemon runs\n')
    assert names(directory / "profiles") == set()


@pytest.mark.parametrize("name, status", [("phone", 1), ("../etc", 1), ("", 1), (".", 1), ("LAPTOP", 1), ("laptop/", 1)])
def test_a_name_without_a_profile_is_refused_with_nothing_changed(tmp_path, name, status):
    subprocess.run([BINARY, "genprofile", "laptop", "666", "--dir", tmp_path], check=True, stderr=subprocess.DEVNULL)
    before = tree(tmp_path)
    done = subprocess.run([BINARY, "revoke", name, "--dir", tmp_path], stderr=subprocess.PIPE, text=True)
    assert done.returncode == status and "there is no profile" in done.stderr
    assert tree(tmp_path) == before


@pytest.mark.parametrize("damage", ["no counter", "damaged counter", "no key", "no config", "disabled"])
def test_a_damaged_or_disabled_profile_is_revoked_too(stage, damage):
    stage.set_up()
    path = stage.gate.path
    match damage:
        case "no counter": (path / "counter").unlink()
        case "damaged counter": (path / "counter").write_text("?")
        case "no key": (path / "mac.key").unlink()
        case "no config": (path / "config").unlink()
        case "disabled": path = path.rename(path.with_name("gate.off"))
    revoke(stage, path.name)
    assert not path.exists()
    stage.knock()
    assert stage.nothing_opened()


@pytest.mark.parametrize("step", ["watcher: stored", "watcher: asked", "opener: asked", "opener: opened"])
def test_it_waits_for_a_knock_that_is_being_admitted(stage, hooked, step):
    stage.set_up(daemon_options={"binary": hooked, "env": {**os.environ, "KNOCKKNOCK_STOP": step}})
    stage.client.send(stage.gate.packet(0))
    stage.daemon.wait_for(f'stops at "{step}"')
    revoking = stage.server.start(BINARY, "revoke", "gate", "--dir", stage.server_dir, stderr=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        revoking.wait(0.5)
    os.kill(process(stage.daemon, "opener"), signal.SIGKILL)
    assert stage.daemon.wait_for_end() != 0
    assert revoking.wait(3) == 0


def test_the_keys_are_worthless_even_while_another_command_holds_the_lock(stage):
    stage.set_up()
    shutil.copytree(stage.gate.path, replaced := stage.gate.path.with_name("gate.replaced"))
    holder = os.open(stage.gate.path.with_name(".lock"), os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    revoking = stage.server.start(BINARY, "revoke", "gate", "--dir", stage.server_dir, stderr=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        revoking.wait(0.5)
    assert {(path / "counter").read_text() for path in (stage.gate.path, replaced)} == {"4294967296\n"}
    stage.knock()
    assert stage.nothing_opened()
    os.close(holder)
    assert revoking.wait(3) == 0
    assert not stage.gate.path.exists() and not replaced.exists()


def test_it_does_not_wait_for_a_knock_whose_counter_is_not_stored_yet(stage, hooked):
    stage.set_up(daemon_options={"binary": hooked, "env": {**os.environ, "KNOCKKNOCK_STOP": "watcher: judged"}})
    stage.client.send(stage.gate.packet(0))
    stage.daemon.wait_for("stops at")
    assert revoke(stage, "gate").returncode == 0


def test_none_of_the_knocks_that_keep_arriving_opens_after_it_returned(stage):
    """The watcher is frozen at a random point, so that nothing can happen between the return and the look at the set."""
    stage.configure(firewall="nft", guard=stage.PORT, delay=900)
    profiles = [Profile(stage, f"p{number}") for number in range(12)]
    floods = [[profile.packet(counter, source=f"10.9.0.{10 + 20 * number + counter}") for counter in range(20)]
              for number, profile in enumerate(profiles)]
    stage.start_daemon()
    watcher = process(stage.daemon, "watcher")
    for profile, packets in zip(profiles, floods):
        sender = threading.Thread(target=lambda packets=packets: [stage.client.send(packet) for packet in packets])
        sender.start()
        time.sleep(random.uniform(0.001, 0.01))
        os.kill(watcher, signal.SIGSTOP)
        revoking = stage.server.start(BINARY, "revoke", profile.name, "--dir", stage.server_dir, stderr=subprocess.DEVNULL)
        try:
            revoking.wait(0.1)
        except subprocess.TimeoutExpired:  # a knock was being admitted
            os.kill(watcher, signal.SIGCONT)
            revoking.wait(10)
        at_return = openings(stage)
        os.kill(watcher, signal.SIGCONT)
        sender.join()
        time.sleep(0.2)
        assert openings(stage) == at_return, profile.name
    assert stage.daemon.process.poll() is None

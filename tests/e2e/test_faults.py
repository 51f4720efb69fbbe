"""Counters under faults: the daemon killed at every step, a full or broken disk, a counter file that was changed."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from stage import BINARY, Capture, Stage

STEPS = ["watcher: judged", "watcher: stored", "watcher: asked", "opener: asked", "opener: opened", "watcher: opened"]


def process(daemon, name):
    """Returns the pid of one of the daemon's three processes."""
    if name == "supervisor":
        return daemon.pid
    [pid] = [pid for pid in daemon.children() if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    return pid


@pytest.mark.parametrize("firewall, victim", [("nft", "watcher"), ("nft", "opener"), ("nft", "supervisor"), ("iptables", "opener")])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_leaves_no_opening_and_accepts_no_knock_twice(stage, hooked, firewall, step, victim):
    environment = {**os.environ, "KNOCKKNOCK_STOP": step}
    stage.set_up(firewall, delay=1, daemon_options={"binary": hooked, "env": environment})
    stage.client.send(stage.gate.packet(2))  # counter 2 is within the window
    stage.daemon.wait_for(f'stops at "{step}"')
    os.kill(process(stage.daemon, victim), signal.SIGKILL)
    assert stage.daemon.wait_for_end() != 0
    killed = time.monotonic()
    accepted = step != "watcher: judged"
    assert stage.gate.counter == (3 if accepted else 0)
    time.sleep(max(0, killed + 1.1 - time.monotonic()))
    assert not stage.connects(), "nothing stays open"

    stage.start_daemon()
    stage.client.send(stage.gate.packet(2))
    if accepted:
        assert stage.nothing_opened(), "a knock counts once"
    else:
        stage.opened()
    stage.client.send(stage.gate.packet(2))
    stage.client.send(stage.gate.packet(1))
    assert stage.nothing_opened()
    assert stage.gate.counter == 3
    stage.client.send(stage.gate.packet(3))
    stage.opened()
    assert stage.connects()
    assert not stage.connects()


class Disk:
    """A separate file system for a stage, which can be made full, broken or read-only."""

    def __init__(self, directory):
        self.store, self.path = directory / "store", directory / "disk"
        self._mounted = []
        self.store.mkdir()
        self.path.mkdir()
        self._mount("-t", "tmpfs", "-o", "size=8m", "none", self.store)
        self._image = self.store / "image"
        with open(self._image, "wb") as image:
            image.truncate(4 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0", self._image], check=True)
        self._mount("-o", "loop,errors=continue", self._image, self.path)
        self.device = Path(subprocess.check_output(["findmnt", "-no", "SOURCE", self.path], text=True).strip()).name

    def _mount(self, *arguments):
        subprocess.run(["mount", *map(str, arguments)], check=True)
        self._mounted.append(arguments[-1])

    def fill(self):
        with open(self.path / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"x" * 512)
            except OSError:
                pass
        subprocess.run(["sync", "-f", self.path], check=True)

    def break_down(self):
        """Makes every later write to the disk fail with EIO."""
        subprocess.run(["sync", "-f", self.path], check=True)
        subprocess.run(["fallocate", "--punch-hole", "--offset", "0", "--length", "4MiB", self._image], check=True)
        with open(self.store / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"x" * 4096)
            except OSError:
                pass

    def mend(self):
        (self.store / "filler").unlink()

    def turn_read_only(self):
        """Triggers a file system error, after which the kernel makes the file system read-only."""
        subprocess.run(["mount", "-o", "remount,errors=remount-ro", self.path], check=True)
        Path(f"/sys/fs/ext4/{self.device}/trigger_fs_error").write_text("1")

    def close(self):
        for path in reversed(self._mounted):
            subprocess.run(["umount", "--lazy", path], check=False)


@pytest.fixture
def disk(namespaces, tmp_path):
    if not shutil.which("mkfs.ext4") or not Path("/dev/loop-control").exists():
        pytest.skip("needs mkfs.ext4 and loop devices")
    disk = Disk(tmp_path)
    yield disk
    disk.close()


@pytest.fixture
def stage_on_disk(disk):
    stage = Stage(disk.path)
    yield stage.set_up()
    stage.close()


def test_a_full_disk_does_not_matter(disk, stage_on_disk):
    stage = stage_on_disk
    disk.fill()
    with pytest.raises(OSError):
        (disk.path / "one-more").write_bytes(b"x" * 100000)
    for counter in range(3):
        stage.client.send(stage.gate.packet(counter))
        stage.opened()
        assert stage.connects()
    assert stage.gate.counter == 3


def test_a_broken_disk_keeps_the_port_closed_until_it_works_again(disk, stage_on_disk):
    stage = stage_on_disk
    stage.client.send(stage.gate.packet(0))
    stage.opened()
    assert stage.connects()
    disk.break_down()
    stage.client.send(stage.gate.packet(1))
    output = stage.daemon.wait_for("stays closed")
    assert "cannot store the counter" in output and str(stage.gate.path / "counter") in output
    assert not stage.connects()
    stage.client.send(stage.gate.packet(1))
    disk.mend()
    stage.client.send(stage.gate.packet(1))
    stage.client.send(stage.gate.packet(2))
    stage.opened()
    assert stage.connects()
    assert not stage.connects()
    assert len([line for line in stage.daemon.lines if "opened port 22 " in line]) == 2, "1 was used up in vain"


def test_a_read_only_file_system_keeps_the_port_closed(disk, stage_on_disk):
    stage = stage_on_disk
    disk.turn_read_only()
    with pytest.raises(OSError):
        (disk.path / "one-more").write_bytes(b"x")
    stage.client.send(stage.gate.packet(0))
    assert "read-only file system" in stage.daemon.wait_for("stays closed")
    assert not stage.connects()
    stage.client.send(stage.gate.packet(0))
    time.sleep(0.2)
    assert not [line for line in stage.daemon.new_lines() if "opened" in line]
    assert len([line for line in stage.daemon.lines if "stays closed" in line]) == 1, "a replay is not worth a line"


def test_a_daemon_on_a_read_only_file_system_is_seen_to_run(disk, stage_on_disk):
    stage = stage_on_disk
    disk.turn_read_only()
    found = stage.server.run(BINARY, "status", "--json", "--dir", stage.server_dir)
    assert json.loads(found.stdout)["daemon"]["pid"] == stage.daemon.pid
    found = stage.server.run(BINARY, "doctor", "--dir", stage.server_dir, check=False).stdout
    assert "read-only file system" in found and f"it is running as process {stage.daemon.pid}" in found
    second = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, check=False)
    assert "another daemon is running" in second.stderr


@pytest.mark.parametrize("how", ["renamed over", "removed"])
def test_a_counter_file_that_was_replaced_keeps_the_port_closed(gate, how):
    counter = gate.gate.path / "counter"
    if how == "renamed over":
        other = counter.with_name("other")
        shutil.copy(counter, other)
        other.rename(counter)
    else:
        counter.unlink()
    gate.client.send(gate.gate.packet(0))
    line = gate.daemon.wait_for("the file was replaced")
    assert str(counter) in line
    assert not gate.connects()
    if how == "removed":
        counter.write_text("0000000001\n")
        counter.chmod(0o600)
    gate.daemon.process.send_signal(signal.SIGHUP)
    gate.daemon.wait_for(": ready")
    gate.client.send(gate.gate.packet(1))
    gate.opened()
    assert gate.connects()


@pytest.mark.parametrize("content", ["0000000000\n", "", "garbage\n", "\0" * 11], ids=["backwards", "empty", "garbage", "zeros"])
def test_a_changed_counter_file_never_lowers_the_counter(gate, content):
    for counter in range(3):
        gate.client.send(gate.gate.packet(counter))
        gate.opened()
    (gate.gate.path / "counter").write_text(content)
    gate.client.send(gate.gate.packet(1))
    assert gate.nothing_opened()
    gate.client.send(gate.gate.packet(3))
    gate.daemon.wait_for("was too low or damaged; stored the correct value")
    gate.opened()
    assert gate.gate.counter == 4


def test_a_raised_counter_file_is_adopted(gate):
    (gate.gate.path / "counter").write_text("0000000010\n")
    gate.client.send(gate.gate.packet(0))
    gate.opened()
    assert gate.gate.counter == 10


def test_a_client_far_ahead_opens_with_its_second_knock(gate):
    capture = gate.keep(Capture(gate.client))
    (gate.gate.client_path / "counter").write_text("0000009000\n")
    gate.knock()
    assert gate.nothing_opened()
    [first] = capture.sent(gate.gate.knock_port)
    capture.replay(first)
    assert gate.nothing_opened(), "a captured knock is worth nothing"
    assert gate.gate.counter == 0
    gate.knock()
    gate.daemon.wait_for('resynchronised with profile "gate"')
    gate.opened()
    assert gate.connects()
    assert not gate.connects()
    counter = gate.gate.counter
    assert counter >= 9002
    for packet in (first, *capture.sent(gate.gate.knock_port)):
        capture.replay(packet)
    assert gate.nothing_opened()
    assert gate.gate.counter == counter


def test_without_a_resync_window_a_client_far_ahead_stays_out(stage):
    stage.set_up(resync_window=0)
    for counter in (1000, 1001):
        stage.client.send(stage.gate.packet(counter))
    assert stage.nothing_opened()
    assert stage.gate.counter == 0

"""The three processes: their privileges, open files, behaviour when idle, and termination."""

import grp
import os
import pwd
import re
import signal
import time
from pathlib import Path

import pytest

import packets
from stage import CLIENT, SERVER, KernelLog, Stage, status

CAP_NET_ADMIN = 1 << 12
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def give_accounts(machine, directory):
    """Creates the accounts that a package would create, on this machine only."""
    for path, lines in (("/etc/passwd", "knockknock:x:64001:64001::/:/bin/false\nknockknock-fw:x:64002:64002::/:/bin/false\n"),
                        ("/etc/group", "knockknock:x:64001:\nknockknock-fw:x:64002:\n")):
        copy = directory / Path(path).name
        copy.write_text(Path(path).read_text() + lines)
        machine.run("mount", "--bind", copy, path)


def identities(state):
    """Returns user, group and supplementary groups of a process. Its real, effective and saved ids must be equal."""
    [user] = {int(number) for number in state["Uid"].split()}
    [group] = {int(number) for number in state["Gid"].split()}
    return user, group, {int(number) for number in state["Groups"].split()}


def capabilities(state):
    return {name: int(state[name], 16) for name in CAPABILITY_SETS}


@pytest.mark.parametrize("accounts", [True, False], ids=["accounts", "no accounts"])
def test_each_process_has_the_user_and_the_capabilities_it_needs(stage, firewall, log, accounts):
    if accounts:
        give_accounts(stage.server, stage.directory)
    stage.set_up(firewall, log)
    stage.open_port()
    states = [status(pid) for pid in stage.daemon.children()]
    assert len(states) == 2

    by_user = {identities(state)[0]: state for state in states}
    if accounts:
        assert set(by_user) == {64001, 64002}
        assert {identities(state)[1] for state in states} == {64001, 64002}
        watcher, opener = by_user[64001], by_user[64002]
    else:
        assert len(by_user) == 2, "a user each"
        for state in states:
            user, group, _ = identities(state)
            assert user not in {account.pw_uid for account in pwd.getpwall()}
            assert group not in {account.gr_gid for account in grp.getgrall()}
        opener, watcher = sorted(states, key=lambda state: int(state["CapEff"], 16), reverse=True)

    assert capabilities(watcher) == dict.fromkeys(CAPABILITY_SETS, 0)
    if firewall == "nft":
        held = capabilities(opener)
        assert held["CapEff"] == held["CapPrm"] == CAP_NET_ADMIN
        assert not any(held[name] & ~CAP_NET_ADMIN for name in CAPABILITY_SETS)
    else:
        assert capabilities(opener) == dict.fromkeys(CAPABILITY_SETS, 0)
    for state in (watcher, opener):
        assert state["NoNewPrivs"] == "1"
    log_group = {grp.getgrnam("adm").gr_gid} if log == "file" else set()
    if accounts:
        assert identities(watcher)[2] <= {64001} | log_group
        assert identities(opener)[2] <= {64002}
    else:
        assert set().union(*(identities(state)[2] for state in states)) <= log_group
    assert identities(status(stage.daemon.pid))[0] == 0


def test_nothing_of_roots_environment_reaches_the_others(stage, firewall):
    stage.set_up(firewall, daemon_options={"env": {**os.environ, "AWS_SECRET_ACCESS_KEY": "of root"}})
    assert b"of root" in Path(f"/proc/{stage.daemon.pid}/environ").read_bytes()
    for pid in stage.daemon.children():
        assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    stage.open_port()


def test_no_process_holds_a_network_socket(gate):
    gate.open_port()
    pids = [gate.daemon.pid, *gate.daemon.children()]
    listing = gate.server.run("ss", "-Hanp", "-t", "-u", "-w", "-0").stdout
    assert f"pid={os.getpid()}," in listing, "the service of this test is to be seen"
    assert not [line for line in listing.splitlines() for pid in pids if f"pid={pid}," in line]


def test_the_supervisor_has_no_keys_and_the_opener_no_log(gate):
    """Compares the open files of the processes: only the watcher has keys and the log."""
    def files(pid):
        return {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    holders = [pid for pid in [gate.daemon.pid, *gate.daemon.children()]
               if any("counter" in name for name in files(pid))]
    assert len(holders) == 1 and holders[0] != gate.daemon.pid
    [opener] = set(gate.daemon.children()) - set(holders)
    assert "/dev/kmsg" not in files(opener)


def test_no_working_directory_is_outside_the_empty_root(stage, firewall):
    """Otherwise `../../etc` would escape on kernels with neither Landlock nor seccomp."""
    stage.set_up(firewall)
    for pid in stage.daemon.children():
        cwd, root = (os.stat(f"/proc/{pid}/{link}") for link in ("cwd", "root"))
        assert (cwd.st_dev, cwd.st_ino) == (root.st_dev, root.st_ino)
        assert not os.listdir(f"/proc/{pid}/cwd")
    stage.open_port()
    assert stage.connects()


def test_idle_means_no_system_call(namespaces, tmp_path):
    """Traces all processes for 10 s, with each log source at the same time.

    Other programs write to the kernel log too. For each such record, a watcher that reads it may make three calls
    (wake up, read, find nothing more). No other process may make any."""
    stages, tracers = {}, {}
    try:
        for source in ("kmsg", "file", "-"):
            directory = tmp_path / source.strip("-").ljust(1, "_")
            directory.mkdir()
            stages[source] = stage = Stage(directory)
            stage.set_up(log=source, firewall="iptables" if source == "-" else "nft")
            stage.open_port()
            if source != "kmsg":
                stage.log.stop()  # nothing writes to the file from here on
        time.sleep(1)
        kmsg = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(kmsg, 0, os.SEEK_END)
        for source, stage in stages.items():
            for pid in (stage.daemon.pid, *stage.daemon.children()):
                tracers[source, pid] = stage.server.start(
                    "strace", "-qq", "-o", tmp_path / f"{pid}.strace", "-p", pid)
        time.sleep(10)
        for tracer in tracers.values():
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
        records = 0
        while True:
            try:
                os.read(kmsg, 8192)
                records += 1
            except BlockingIOError:
                break
            except BrokenPipeError:
                records += 1000
        for (source, pid), _ in tracers.items():
            trace = (tmp_path / f"{pid}.strace").read_text().splitlines()
            assert trace, "strace saw nothing at all"
            made = [line for line in trace if re.search(r"\) += ", line)]
            is_watcher = identities(status(pid))[0] != 0
            assert len(made) <= (3 * records if source == "kmsg" and is_watcher else 0), "\n".join(made)
    finally:
        for stage in stages.values():
            stage.close()


@pytest.mark.parametrize("victim", ["supervisor", "first child", "second child"])
def test_a_killed_daemon_leaves_no_process_and_no_opening(stage, firewall, victim):
    stage.set_up(firewall, delay=2)
    stage.open_port()
    opened = time.monotonic()
    os.kill({"supervisor": stage.daemon.pid,
             "first child": stage.daemon.children()[0],
             "second child": stage.daemon.children()[1]}[victim], signal.SIGKILL)
    assert stage.daemon.wait_for_end(timeout=1) != 0
    time.sleep(max(0, opened + 2.2 - time.monotonic()))
    assert not stage.connects()

    stage.start_daemon()
    stage.client.send(stage.gate.packet(0))
    assert stage.nothing_opened(), "the old knock is still dead"
    stage.open_port()
    assert stage.connects()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_shuts_it_down_in_order(gate, number):
    assert gate.daemon.stop(number) == 0


def test_the_watcher_dies_of_no_signal_of_its_own_user(gate):
    """The watcher's user cannot signal the supervisor, which runs as root."""
    watcher = min(gate.daemon.children(), key=lambda pid: int(status(pid)["CapEff"], 16))
    user = int(status(watcher)["Uid"].split()[0])
    done = gate.server.run("setpriv", "--reuid", user, "--clear-groups", "kill", "-TERM", gate.daemon.pid, check=False)
    assert done.returncode != 0
    gate.open_port()

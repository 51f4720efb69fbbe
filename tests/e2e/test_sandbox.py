"""The sandbox of the watcher and the opener: actions that fail in a compromised process."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from stage import BINARY, Profile, status

ATTEMPTS = ["execve", "socket", "open", "ptrace", "kill", "setuid", "setsockopt", "send elsewhere"]


def attempt(stage, hooked, firewall, process, what):
    """Starts the daemon, in which `process` tries `what` once it is in its sandbox."""
    environment = {**os.environ, "KNOCKKNOCK_ATTEMPT": f"{process}: {what}"}
    stage.set_up(firewall, daemon_options={"binary": hooked, "env": environment, "ready": False})
    return stage.daemon


@pytest.mark.parametrize("what", ATTEMPTS)
@pytest.mark.parametrize("process", ["watcher", "opener"])
def test_a_forbidden_action_kills_the_process(stage, hooked, firewall, process, what):
    daemon = attempt(stage, hooked, firewall, process, what)
    assert daemon.wait_for_end() == 1
    assert not [line for line in daemon.lines if "tried" in line]
    output = "\n".join(daemon.lines)
    assert f"the {process} (signal: {signal.SIGSYS.value} (SIGSYS))" in output, output
    assert not stage.connects(), "the guard stays"


@pytest.mark.parametrize("what", ATTEMPTS)
def test_the_same_actions_work_before_confinement(stage, hooked, what):
    """Shows that the sandbox makes the attempts of the test above fail: outside it they succeed."""
    daemon = attempt(stage, hooked, "nft", "unconfined watcher", what)
    if what == "execve":  # the process becomes /bin/true, which exits
        assert daemon.wait_for_end() == 1
        assert not [line for line in daemon.lines if "tried" in line]
    else:
        assert daemon.wait_for("tried").endswith("it worked")


@pytest.mark.parametrize("process", ["unconfined opener", "opener"])
def test_the_openers_sockets_change_no_address(stage, hooked, process):
    """They cannot even while the opener is root, because its rtnetlink socket was opened without capabilities."""
    daemon = attempt(stage, hooked, "nft", process, "add address")
    daemon.wait_for("tried add address")
    daemon.wait_for(": ready")
    assert "192.0.2.99" not in stage.server.run("ip", "address", "show", "dev", "lo").stdout


def test_both_run_confined(stage, firewall, log):
    stage.set_up(firewall, log)
    stage.open_port()
    for pid in stage.daemon.children():
        state = status(pid)
        assert state["NoNewPrivs"] == "1"
        assert state["Seccomp"] == "2"
        assert os.listdir(f"/proc/{pid}/root") == [], "its root is empty"
        assert os.readlink(f"/proc/{pid}/root").endswith(" (deleted)")
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert [line.split()[2:4] for line in limits.splitlines() if line.startswith("Max processes")] == [["0", "0"]]
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0, "not dumpable: its memory is not even its own user's"


def test_the_supervisor_keeps_what_restarting_needs(gate):
    state = status(gate.daemon.pid)
    assert state["NoNewPrivs"] == "1"
    kept = int(state["CapEff"], 16)
    assert kept == int(state["CapPrm"], 16) == int(state["CapBnd"], 16)
    dac_override, sys_ptrace, sys_module, sys_admin = 1, 19, 16, 21
    assert not any(kept >> number & 1 for number in (dac_override, sys_ptrace, sys_module, sys_admin))
    gate.daemon.process.send_signal(signal.SIGHUP)
    gate.daemon.wait_for(": ready")
    gate.open_port()
    assert gate.connects()


def test_check_and_log_describe_the_sandbox(stage):
    stage.set_up()
    line = next(line for line in stage.daemon.lines if "confined: " in line)
    words = line.split("confined: ")[1]
    checked = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check").stdout
    assert words in checked
    assert "empty root" in words and "Landlock" in words and "system calls" in words


def own_dev(machine, directory):
    """Mounts a /dev with a syslog socket, on this machine only. Returns the socket."""
    dev = directory / "dev"
    dev.mkdir()
    for name in ("null", "kmsg", "urandom"):
        (dev / name).touch()
        machine.run("mount", "--bind", f"/dev/{name}", dev / name)
    syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    syslog.bind(str(dev / "log"))
    syslog.settimeout(3)
    machine.run("mount", "--rbind", dev, "/dev")
    return syslog


def heard(syslog, text):
    """Returns the next message that contains `text`."""
    while True:
        message = syslog.recv(4096).decode()
        if text in message:
            return message


def test_in_the_background_all_three_processes_log_to_syslog(stage):
    stage.configure(guard="22, 7", firewall="nft", log="kmsg")
    stage.gate = Profile(stage, "gate")
    stage.gate.give_to_client()
    with own_dev(stage.server, stage.directory) as syslog:
        done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--background")
        hints = ("no profile has ever knocked", "--trial")
        assert done.stdout == "" and all(any(hint in line for hint in hints) for line in done.stderr.splitlines())
        supervisor = int(heard(syslog, ": ready").split("[")[1].split("]")[0])
        try:
            stage.knock()
            opened = heard(syslog, "opened port 22 ")
            assert opened.startswith("<29>knockknock-daemon[") and f"[{supervisor}]" not in opened
            os.kill(supervisor, signal.SIGHUP)
            heard(syslog, ": ready")
            stage.knock()
            heard(syslog, "opened port 22 ")
            for pid in [supervisor, *map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split())]:
                assert os.readlink(f"/proc/{pid}/fd/2") == "/dev/null", "the terminal is let go of"
        finally:
            os.kill(supervisor, signal.SIGTERM)
        heard(syslog, "stopped")


def test_a_missing_syslog_blocks_nothing(stage):
    stage.configure(guard="22, 7", firewall="nft", log="kmsg")
    stage.gate = Profile(stage, "gate")
    stage.gate.give_to_client()
    with own_dev(stage.server, stage.directory) as syslog:
        syslog.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--background")
        supervisor = int(heard(syslog, ": ready").split("[")[1].split("]")[0])
        try:
            for _ in range(15):  # more messages than the socket's queue holds
                stage.knock()
            deadline = time.monotonic() + 2
            while stage.gate.counter < 15 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert stage.gate.counter == 15
            assert stage.connects()
        finally:
            os.kill(supervisor, signal.SIGTERM)

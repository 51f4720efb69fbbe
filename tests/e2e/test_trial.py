"""A guard on trial: it is lifted unless a knock opens a port in time, whatever becomes of the daemon."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from services import wait_until
from stage import BINARY, CLIENT, SERVER, Profile
from test_firewall import older_connections_pass

HINT = "knockknock-daemon --trial 10m"


def begin(stage, firewall, length, **options):
    """A daemon whose guard is on trial; when the trial began."""
    stage.set_up(firewall)
    assert any(HINT in line for line in stage.daemon.lines)
    stage.daemon.stop()
    began = time.monotonic()
    stage.start_daemon("--trial", length, **options)
    assert not any(HINT in line for line in stage.daemon.lines)
    assert not stage.connects(timeout=0.2)
    return began


def trial(stage):
    """Returns what status prints about the trial."""
    done = stage.server.run(BINARY, "status", "--dir", stage.server_dir, "--json")
    return json.loads(done.stdout)["trial"]


def lifted_after(stage, began, at_most):
    """How many seconds after the beginning the port is open."""
    while not stage.connects(timeout=0.1):
        assert time.monotonic() < began + at_most, "the guard still holds"
    return time.monotonic() - began


def test_a_knock_in_time_keeps_the_guard(stage, firewall):
    began = begin(stage, firewall, "4s")
    running = trial(stage)
    assert running["state"] == "running" and 1 <= running["left"] <= 4
    stage.open_port()
    stage.daemon.wait_for("the trial is passed")
    assert stage.connects() and not stage.connects()
    time.sleep(began + 7 - time.monotonic())
    assert not stage.connects()
    assert trial(stage) == {"state": "passed", "left": None}
    assert stage.daemon.stop() == 0
    assert "stopped; the guard stays" in stage.daemon.lines[-1]
    assert not stage.connects()


@pytest.mark.parametrize("interfaces", ["eth0", "eth0, lo9"])
def test_the_knock_that_passes_the_trial_opens(stage, interfaces):
    """The table is replaced then, and a guard on several interfaces has a set without a name."""
    stage.set_up("nft", interfaces=interfaces)
    stage.daemon.stop()
    stage.start_daemon("--trial", "10m")
    stage.open_port()
    stage.daemon.wait_for("the trial is passed")
    assert stage.connects()
    assert not stage.connects()


def test_a_trial_that_is_passed_leaves_older_connections_their_minute(stage):
    Profile(stage, "gate").give_to_client()
    stage.configure(firewall="nft", guard="22", log="kmsg")
    stage.start_daemon("--trial", "10m")
    left = older_connections_pass(stage, "nft")
    assert 50 < left < 60
    time.sleep(1.1)
    stage.open_port()
    stage.daemon.wait_for("the trial is passed")
    assert left - 10 < older_connections_pass(stage, "nft") < left


def test_without_a_knock_the_guard_is_lifted(stage, firewall):
    began = begin(stage, firewall, "3s")
    assert 2.5 < lifted_after(stage, began, 4.5)
    stage.daemon.wait_for("the trial has failed: no knock has opened a port, and the guard is lifted")
    assert trial(stage) == {"state": "failed", "left": None}
    assert stage.connects() and stage.connects(address="fd09::1")
    stage.open_port()  # the daemon goes on
    stage.daemon.process.send_signal(signal.SIGHUP)
    stage.daemon.wait_for(": ready")
    assert stage.connects(), "a reload does not bring it back"
    stage.daemon.stop()
    stage.start_daemon()
    assert not stage.connects(), "a start does"


FAILING_NFT = """#!/bin/sh
if [ -e {broken} ]; then echo 'no such library' >&2; exit 127; fi
exec /usr/sbin/nft "$@"
"""


def test_a_trial_is_passed_when_nft_works_again(stage):
    """As while the package is upgraded. Nothing is to be restarted for rules that cannot be translated."""
    programs, broken = stage.directory / "programs", stage.directory / "broken"
    programs.mkdir()
    (programs / "nft").write_text(FAILING_NFT.format(broken=broken))
    (programs / "nft").chmod(0o755)
    begin(stage, "nft", "10m", env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"})
    children = stage.daemon.children()
    broken.touch()
    stage.open_port()
    time.sleep(1)
    assert stage.daemon.children() == children
    assert trial(stage)["state"] == "running"
    stage.daemon.new_lines()
    assert sum("translate the rules with nft" in line for line in stage.daemon.lines) == 1
    assert not any("the trial is passed" in line for line in stage.daemon.lines)
    broken.unlink()
    stage.daemon.wait_for("made the firewall rules, after the failure above")
    stage.daemon.wait_for("the trial is passed")
    assert not any("another program" in line for line in stage.daemon.lines)
    wait_until(lambda: trial(stage)["state"] == "passed")
    assert stage.connects() and not stage.connects()


def test_a_configuration_is_kept_when_its_trial_is_passed(stage, firewall):
    kept = stage.server_dir / "config.good"
    Profile(stage, "gate").give_to_client()
    stage.configure(firewall=firewall, guard="22", log="kmsg")
    stage.start_daemon("--trial", "10m")
    time.sleep(0.2)
    assert not kept.exists()
    stage.open_port()
    stage.daemon.wait_for("the trial is passed")
    wait_until(kept.exists)


def test_a_configuration_that_failed_its_trial_is_not_kept(stage):
    Profile(stage, "gate")
    stage.configure(firewall="nft", guard="22", log="kmsg")
    stage.start_daemon("--trial", "1s")
    stage.daemon.wait_for("the trial has failed")
    stage.daemon.process.send_signal(signal.SIGHUP)
    stage.daemon.wait_for(": ready")
    time.sleep(0.2)
    assert not (stage.server_dir / "config.good").exists()


def test_a_trial_that_cannot_begin_leaves_no_guard(stage):
    """Only a guard that is not on trial stands in for a daemon that cannot start."""
    stage.set_up("nft")
    stage.daemon.stop()
    stage.server.run("nft", "flush", "ruleset")
    stage.server.run("mount", "--bind", "/dev/null", "/dev/kmsg")
    done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--trial", "10m", check=False)
    assert done.returncode == 1
    assert stage.connects()


def test_a_wrong_code_does_not_keep_the_guard(stage):
    began = begin(stage, "nft", "2s")
    stage.client.send(stage.gate.packet(5000))
    assert lifted_after(stage, began, 3.5)


@pytest.mark.parametrize("address", [SERVER, "fd09::1"])
def test_a_daemon_that_is_killed_during_its_trial_leaves_no_guard(stage, firewall, address):
    # Since Linux 6.9 the table belongs to the daemon, and goes with it. Otherwise its time runs out.
    owned = firewall == "nft" and tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 9)
    began = begin(stage, firewall, "10m" if owned else "3s")
    for pid in [stage.daemon.pid, *stage.daemon.children()]:
        os.kill(pid, signal.SIGKILL)
    stage.daemon.wait_for_end()
    while not stage.connects(address=address, timeout=0.1):
        assert time.monotonic() < began + 3 + 2.5, "the guard still holds"


def test_a_daemon_that_is_killed_after_its_trial_leaves_the_guard(stage, firewall):
    began = begin(stage, firewall, "2s")
    stage.open_port()
    stage.daemon.wait_for("the trial is passed")
    assert stage.connects()
    os.kill(stage.daemon.pid, signal.SIGKILL)
    stage.daemon.wait_for_end()
    time.sleep(began + 5 - time.monotonic())
    assert not stage.connects()


def test_a_daemon_that_is_stopped_during_its_trial_lifts_the_guard(stage, firewall):
    begin(stage, firewall, "10m")
    stage.daemon.stop()
    assert "stopped; the guard is lifted, since no knock has opened a port" in stage.daemon.lines[-1]
    assert stage.connects()


@pytest.mark.parametrize("event", ["reload", "rules removed", "children killed"])
def test_nothing_prolongs_a_trial(stage, firewall, event):
    began = begin(stage, firewall, "4s")
    time.sleep(1.5)
    if event == "reload":
        stage.daemon.process.send_signal(signal.SIGHUP)
        stage.daemon.wait_for(": ready")
    elif event == "rules removed" and firewall == "nft":
        stage.server.run("nft", "delete", "table", "inet", "knockknock", check=False)
    elif event == "rules removed":
        stage.server.run("iptables", "-t", "mangle", "-F", "KNOCKKNOCK")
    time.sleep(0.5)
    assert not stage.connects(timeout=0.2)
    if event == "children killed":
        for pid in [stage.daemon.pid, *stage.daemon.children()]:
            os.kill(pid, signal.SIGKILL)
        stage.daemon.wait_for_end()
    lifted_after(stage, began, 4 + 2.5)


SETS_THE_CLOCK_BACK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    static long back;
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, time);
    if (clock == CLOCK_REALTIME) time->tv_sec -= back, back += 3600;
    return done;
}
"""


def test_a_clock_that_is_set_back_does_not_prolong_a_trial(stage, firewall):
    """The daemon sees the time go back an hour at each look. The kernel's timeouts count ticks."""
    library = stage.directory / "back.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=SETS_THE_CLOCK_BACK, text=True, check=True)
    began = begin(stage, firewall, "3s", env={**os.environ, "LD_PRELOAD": str(library)})
    lifted_after(stage, began, 4.5)


def test_the_hint_is_given_until_a_profile_has_knocked(stage):
    stage.set_up()
    stage.daemon.stop()
    stage.server.run(BINARY, "invite", "gate", SERVER, "--dir", stage.server_dir)  # which sets its counter to 1
    (stage.gate.client_path / "counter").write_text("1\n")
    stage.start_daemon()
    assert any("no profile has ever knocked" in line for line in stage.daemon.lines)
    stage.open_port()
    stage.daemon.stop()
    stage.start_daemon()
    assert not any("ever knocked" in line for line in stage.daemon.lines)


@pytest.mark.parametrize("length", ["0s", "10", "m", "-5m", "25h", "1.5h", "99999999999h"])
def test_an_invalid_time_is_refused(stage, length):
    done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, f"--trial={length}", check=False)
    assert done.returncode == 2
    assert f'option --trial: "{length}" is not a time up to 24h, such as 10m\n' in done.stderr


@pytest.mark.parametrize("other", ["--check", "--unguard"])
def test_check_and_unguard_exclude_a_trial(stage, other):
    done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--trial", "10m", other, check=False)
    assert done.returncode == 2 and "exclude other options" in done.stderr

"""knockknock status: what it prints about a server and about a client, and what it costs the daemon."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

import packets
from stage import BINARY, CLIENT, SERVER, Profile

COUNTS = ("received", "opened", "caught_up", "replayed", "wrong_codes", "not_allowed", "log_overruns")


def status(stage, *arguments, check=True, **options):
    return stage.server.run(BINARY, "status", "--dir", stage.server_dir, *arguments, check=check, **options)


def report(stage):
    """Returns the JSON that it prints."""
    return json.loads(status(stage, "--json").stdout)


def wait_for_report(stage, condition):
    """Returns the JSON that it prints once `condition` holds for it: the daemon writes its record at most once a second."""
    deadline = time.monotonic() + 3
    while not condition(output := report(stage)):
        assert time.monotonic() < deadline, output
        time.sleep(0.1)
    return output


def profile(output, name="gate"):
    [found] = [profile for profile in output["profiles"] if profile["name"] == name]
    return found


def test_a_running_daemon_is_described(gate, firewall):
    output = report(gate)
    daemon = output["daemon"]
    assert {key: daemon[key] for key in ("running", "pid", "replaced", "needs_reload", "log", "firewall", "guard")} == {
        "running": True, "pid": gate.daemon.pid, "replaced": False, "needs_reload": False, "log": "/dev/kmsg",
        "firewall": firewall, "guard": [7, 22]}
    assert abs(time.time() - daemon["since"]) < 10 and daemon["confined"].startswith("empty root")
    assert output["counts"] == dict.fromkeys(COUNTS, 0)
    assert output["problem"] is None and output["openings"] == []
    assert profile(output) == {"name": "gate", "knock_port": gate.gate.knock_port, "wire": "classic", "ports": [7, 22],
                             "counter": 0, "last_knock": None, "from": None}
    assert re.search(r"^  gate +\d+ +classic +7,22 +0 +never +-$", status(gate).stdout, re.M)


def test_an_opening_is_shown_until_it_is_used(gate, family):
    server, client = {"IPv4": (SERVER, CLIENT), "IPv6": ("fd09::1", "fd09::2")}[family]
    if family == "IPv6":
        shutil.copytree(gate.gate.path, gate.client_dir / server)
    gate.knock(22, host=server)
    gate.opened(22, client)
    output = wait_for_report(gate, lambda output: output["openings"] and output["counts"]["opened"])
    [opening] = output["openings"]
    assert (opening["port"], opening["address"]) == (22, client) and 10 <= opening["left"] <= 15
    assert output["counts"] == {**dict.fromkeys(COUNTS, 0), "received": 1, "opened": 1}
    found = profile(output)
    assert (found["counter"], found["from"]) == (1, client) and abs(time.time() - found["last_knock"]) < 5
    assert gate.connects(address=server)
    assert report(gate)["openings"] == []


def test_an_opening_that_has_expired_is_not_shown(stage, firewall):
    stage.set_up(firewall, delay=1)
    stage.open_port()
    time.sleep(2.1)
    assert report(stage)["openings"] == []


def test_knocks_that_opened_nothing_are_counted(stage):
    stage.set_up()
    limited = Profile(stage, "limited", ports=[443])
    stage.daemon.process.send_signal(1)
    stage.daemon.wait_for(": ready")
    stage.knock()
    stage.opened()
    stage.client.send(limited.packet(0, 22))
    stage.daemon.wait_for("stays closed")
    stage.client.send(packets.tcp(CLIENT, SERVER, 40000, stage.gate.knock_port, limited.fields(5)))
    output = wait_for_report(stage, lambda output: output["counts"]["wrong_codes"])
    assert output["counts"] == {**dict.fromkeys(COUNTS, 0), "received": 3, "opened": 1, "not_allowed": 1, "wrong_codes": 1}
    assert f"port 22 stays closed to {CLIENT}: the profile may not open it" in output["problem"]["text"]
    assert abs(time.time() - output["problem"]["time"]) < 5
    assert profile(output, "limited")["from"] == CLIENT and profile(output, "limited")["ports"] == [443]


def test_counts_survive_a_reload_and_start_from_0_with_the_daemon(gate):
    gate.open_port()
    wait_for_report(gate, lambda output: output["counts"]["opened"] == 1)
    before = report(gate)["daemon"]["since"]
    gate.daemon.process.send_signal(1)
    gate.daemon.wait_for(": ready")
    output = report(gate)
    assert output["counts"]["opened"] == 1 and profile(output)["from"] == CLIENT
    assert abs(output["daemon"]["since"] - before) <= 1
    gate.daemon.stop()
    output = report(gate)
    assert not output["daemon"]["running"] and output["daemon"]["pid"] is None
    gate.start_daemon()
    output = report(gate)
    assert output["daemon"]["running"] and output["counts"]["opened"] == 0
    assert profile(output)["counter"] == 1 and profile(output)["last_knock"], "known from the disk"


@pytest.mark.parametrize("change", ["config", "a new profile", "a profile's ports", "new keys", "an earlier time"])
def test_a_change_that_needs_a_reload_is_seen_at_once(stage, change):
    stage.set_up()
    assert not report(stage)["daemon"]["needs_reload"]
    config = stage.gate.path / "config"
    if change == "config":
        stage.configure(firewall="nft", guard="22")
    elif change == "a new profile":
        Profile(stage, "new")
    elif change == "new keys":
        key = (stage.gate.path / "mac.key").read_bytes()
        (stage.gate.path / "mac.key").write_bytes(key)
    else:
        with open(config, "a") as file:
            file.write("# changed\n")
        if change == "an earlier time":
            os.utime(config, (0, 0))
    assert report(stage)["daemon"]["needs_reload"]
    stage.daemon.process.send_signal(1)
    stage.daemon.wait_for(": ready")
    assert not report(stage)["daemon"]["needs_reload"]


def test_a_profile_that_is_written_as_it_was_needs_no_reload(gate):
    config = gate.gate.path / "config"
    config.write_bytes(config.read_bytes())
    gate.open_port()  # which writes the counter
    assert not report(gate)["daemon"]["needs_reload"]


@pytest.mark.parametrize("what", ["a wrong value", "unreadable"])
def test_a_broken_configuration_hides_nothing(gate, firewall, what):
    gate.knock()
    gate.opened()
    wait_for_report(gate, lambda output: output["counts"]["opened"])
    config = gate.server_dir / "config"
    text = config.read_text()
    if what == "unreadable":
        config.unlink()
        config.mkdir()
    else:
        config.write_text(text + "delay = x\n")
    output = report(gate)
    assert ("it is not a regular file" if what == "unreadable" else 'line 5: delay = "x"') in output["configuration"]["error"]
    daemon = output["daemon"]
    assert daemon["running"] and daemon["needs_reload"] and daemon["firewall"] == firewall and daemon["guard"] == [7, 22]
    assert output["counts"]["opened"] == 1 and len(output["openings"]) == 1
    assert re.search(r"^configuration\n  error +\S.*config", status(gate).stdout, re.M)
    if what == "unreadable":
        config.rmdir()
    config.write_text(text)
    assert report(gate)["configuration"] is None and "configuration" not in status(gate).stdout


def test_a_replaced_binary_is_seen(stage):
    binary = stage.directory / "knockknock"
    shutil.copy(BINARY, binary)
    stage.set_up(daemon_options={"binary": binary})
    assert not report(stage)["daemon"]["replaced"]
    shutil.copy(BINARY, stage.directory / "new")
    os.rename(stage.directory / "new", binary)
    assert report(stage)["daemon"]["replaced"]


def test_only_root_can_read_the_record(gate):
    found = gate.record.stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_size) == (0o600, 0, 4096)


def test_a_record_that_is_a_fifo_blocks_nothing(stage):
    stage.record.parent.mkdir(mode=0o700, exist_ok=True)
    os.mkfifo(stage.record)
    stage.set_up()
    assert any("cannot write the status" in line for line in stage.daemon.lines)
    stage.open_port()
    assert not report(stage)["daemon"]["running"]


def watcher_of(daemon):
    """The pid of the process that has a counter open."""
    [found] = [pid for pid in daemon.children()
               if any("counter" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))]
    return found


def test_a_flood_is_written_once_a_second(stage):
    """That an idle daemon writes nothing is shown in test_privileges.py, where it makes no system call."""
    stage.set_up()
    trace = stage.directory / "strace"
    tracer = stage.server.start("strace", "-o", trace, "-p", watcher_of(stage.daemon), stderr=subprocess.PIPE, text=True)
    assert "attached" in tracer.stderr.readline()
    wrong = stage.gate.fields(1)
    for number in range(300):
        stage.client.send(packets.tcp(CLIENT, SERVER, 40000, stage.gate.knock_port, wrong._replace(sequence=number)))
        time.sleep(0.01)
    assert wait_for_report(stage, lambda output: output["counts"]["wrong_codes"] == 300)
    tracer.send_signal(signal.SIGINT)
    tracer.communicate()
    writes = [line for line in trace.read_text().splitlines() if line.startswith("pwrite64(")]
    assert 3 <= len(writes) <= 7 and all(line.endswith(", 4096, 0) = 4096") for line in writes), writes


def test_no_torn_record_is_read(stage):
    """Both at once, as fast as they can: knocks, and a reader who finds each record whole."""
    stage.set_up()
    until, seen = time.monotonic() + 3, set()
    number = stage.gate.counter
    while time.monotonic() < until:
        stage.client.send(stage.gate.packet(number))
        number += 1
        output = report(stage)
        assert output["daemon"]["pid"] == stage.daemon.pid, stage.record.read_text()
        seen.add(output["counts"]["opened"])
    assert len(seen) > 1


def test_a_client_sees_its_profiles(gate):
    done = gate.client.run("setpriv", "--reuid", "0", BINARY, "status", "--dir", gate.client_dir, "--json")
    [found] = json.loads(done.stdout)["profiles"]
    assert found == {"host": SERVER, "knock_port": gate.gate.knock_port, "wire": "classic", "ports": [7, 22], "counter": 0,
                     "last_knock": None}
    gate.open_port()
    done = gate.client.run(BINARY, "status", "--dir", gate.client_dir)
    assert re.search(rf"^  {re.escape(SERVER)} +{gate.gate.knock_port} +classic +7,22 +1 +\d s ago$", done.stdout, re.M)


def test_a_client_without_profiles_gets_a_message(stage):
    done = stage.client.run(BINARY, "status", "--dir", stage.client_dir)
    assert done.stdout == "profiles\n  none\n" and "no profiles in" in done.stderr


def test_a_directory_that_does_not_exist_is_an_error(tmp_path):
    """It printed an empty list, and exited with 0."""
    for arguments in ([], ["--json"]):
        done = subprocess.run([BINARY, "status", "--dir", tmp_path / "nope", *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        first, advice = done.stderr.splitlines()
        assert first == f'knockknock-status: cannot read "{tmp_path}/nope": no such file or directory'
        assert advice.startswith("knockknock-status: --dir needs the directory of")
    done = subprocess.run([BINARY, "status", "--dir", tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "profiles\n  none\n")


def in_a_terminal(stage, *arguments, columns=60, **environment):
    """What is written to a terminal of that width."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = stage.server.start(BINARY, "status", "--dir", stage.server_dir, *arguments, stdout=follower,
                                 env={**os.environ, **environment})
    os.close(follower)
    output = b""
    try:
        while octets := os.read(leader, 4096):
            output += octets
            if "--watch" in arguments and output.count(b"\x1b[H") > 1:
                process.terminate()
    except OSError:  # the other end is closed
        pass
    process.wait()
    os.close(leader)
    return output.decode()


def test_a_terminal_gets_colours_and_lines_of_its_width(gate):
    output = in_a_terminal(gate, columns=40, NO_COLOR="")
    assert "\x1b[1mdaemon\x1b[0m" in output
    plain = re.sub(r"\x1b\[\d*m", "", output).replace("\r", "").splitlines()
    assert max(map(len, plain)) == 40
    assert "\x1b" not in in_a_terminal(gate, NO_COLOR="1") and "\x1b" not in status(gate).stdout


def test_watch_repeats_the_output(gate):
    output = in_a_terminal(gate, "--watch")
    assert output.count("\x1b[H\x1b[2J") >= 2
    process = gate.server.start(BINARY, "status", "--dir", gate.server_dir, "--json", "--watch", stdout=subprocess.PIPE, text=True)
    assert all(json.loads(process.stdout.readline())["daemon"]["running"] for _ in range(2))
    process.kill()
    process.communicate()


def test_only_root_sees_the_servers_status(gate):
    done = gate.server.run("setpriv", "--reuid", "65432", "--regid", "65432", "--clear-groups", BINARY, "status", check=False,
                           env={"HOME": "/nonexistent"})
    assert done.stdout == "profiles\n  none\n"


MANUAL = (Path(__file__).parents[2] / "man/knockknock-status.1").read_text()
# The keys whose values may be null.
NULLABLE = set(re.findall(r"^\.Va (\w+)", MANUAL[MANUAL.index(".Va configuration ,"):].split("if the profile", 1)[0], re.M))


def documented(start):
    """Returns the example in the manual that begins like this."""
    return json.loads(MANUAL[MANUAL.index(start):].split("\n.Ed", 1)[0])


def fits(value, example):
    """Returns whether a value has the keys and types of an example, in the same order."""
    if isinstance(example, dict):
        return isinstance(value, dict) and list(value) == list(example) and all(
            fits(value[key], example[key]) or value[key] is None and key in NULLABLE for key in value)
    if isinstance(example, list):
        return isinstance(value, list) and all(fits(entry, example[0]) for entry in value)
    return type(value) is type(example)


@pytest.mark.parametrize("state", ["no daemon", "on trial", "with an opening and a problem", "with a broken configuration"])
def test_the_json_is_as_the_manual_says(stage, state):
    stage.set_up()
    if state != "with an opening and a problem":
        assert stage.daemon.stop() == 0
    if state == "on trial":
        stage.start_daemon("--trial", "10m")
    elif state == "with a broken configuration":
        (stage.server_dir / "config").write_text("[main]\nguard = x\n")
    elif state == "with an opening and a problem":
        stage.client.send(stage.gate.packet(0, 443))
        stage.daemon.wait_for("stays closed")
        stage.client.send(stage.gate.packet(1))
        stage.opened()
        wait_for_report(stage, lambda output: output["problem"] and output["openings"])
    output = report(stage)
    assert fits(output, {**documented('{"daemon"'), "configuration": documented('{"error"')}), output
    assert bool(output["trial"]) == (state == "on trial")
    assert bool(output["configuration"]) == (state == "with a broken configuration")
    client = stage.client.run(BINARY, "status", "--dir", stage.client_dir, "--json")
    assert fits(json.loads(client.stdout), documented('{"profiles"')), client.stdout

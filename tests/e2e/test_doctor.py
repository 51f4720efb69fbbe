"""doctor: each step of a knock's way is broken in turn; doctor names it, and what it prints fixes it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from stage import BINARY, CLIENT, CLIENT6, SERVER, SERVER6, Profile


MANUAL = (Path(__file__).parents[2] / "man/knockknock-doctor.1").read_text()
STEPS, JSON = MANUAL.split(".Ss JSON")
STEPS = [step for line in re.findall(r"^\.It ([a-z ,]+)$", STEPS, re.M) for step in line.split(" , ")]
MEMBERS = re.findall(r"^\.It Va (\w+)$", JSON, re.M)
FINDINGS = re.findall(r"^\.Dq (ok|wrong|note)\b", JSON, re.M)


def findings(done):
    """What was found, as {step: [(finding, what, fix)]}."""
    found = {}
    for line in done.stdout.splitlines():
        entry = json.loads(line)
        assert list(entry) == MEMBERS and entry["step"] in STEPS and entry["finding"] in FINDINGS
        assert isinstance(entry["what"], str) and (entry["fix"] is None or entry["finding"] == "wrong")
        found.setdefault(entry["step"], []).append((entry["finding"], entry["what"], entry["fix"]))
    wrong = [entry for entries in found.values() for entry in entries if entry[0] == "wrong"]
    assert done.returncode == (1 if wrong else 0) and done.stderr == "", done
    return found


def on_server(stage):
    return findings(stage.server.run(BINARY, "doctor", "--json", "--dir", stage.server_dir, check=False))


def on_client(stage, *arguments, host=SERVER):
    return findings(stage.client.run(BINARY, "doctor", "--json", "--dir", stage.client_dir, *arguments, host, check=False))


def command(verb):
    return f"systemctl {verb} knockknock-daemon # on OpenWrt: /etc/init.d/knockknock {verb}"


def wrong(found):
    return [(step, what, fix) for step, entries in found.items() for finding, what, fix in entries if finding == "wrong"]


def test_doctor_finds_nothing_wrong_on_a_sound_server(gate):
    found = on_server(gate)
    assert wrong(found) == []
    assert {finding for entries in found.values() for finding, *_ in entries} == {"ok"} | {"note"} & {
        finding for finding, *_ in found["guarded port"]}
    assert found["daemon"] == [("ok", f"it is running as process {gate.daemon.pid} for 0 min", None)]
    text = gate.server.run(BINARY, "doctor", "--dir", gate.server_dir).stdout
    assert "ok     rules          the guard and the log rule are in place\n" in text
    assert all(line.startswith(("ok ", "note ")) for line in text.splitlines())


@pytest.mark.parametrize("backend, opens", [("nft", "any port"), ("iptables", "ports 7,22")])
def test_what_a_profile_without_ports_opens_depends_on_the_firewall(stage, backend, opens):
    stage.set_up(backend)
    config = stage.gate.path / "config"
    config.write_text(f"[main]\nknock_port = {stage.gate.knock_port}\n")
    [gate] = [what for _, what, _ in on_server(stage)["profile"] if what.startswith('"gate"')]
    assert f", opens {opens}, " in gate


def test_without_root_it_says_so(gate):
    done = gate.server.run("setpriv", "--reuid=12345", "--clear-groups", BINARY, "doctor", "--dir", gate.server_dir, check=False)
    assert done.returncode == 1 and "needs root" in done.stderr
    assert "to check this client: knockknock doctor HOST" in done.stderr


def break_server(stage, what):
    """Breaks one step; returns the step, words of the finding, and what fixes it."""
    config, profile = stage.server_dir / "config", stage.gate.path
    text = config.read_text()
    if what == "a wrong value":
        config.write_text(text + "delay = x\n")
        return "configuration", 'delay = "x', lambda: config.write_text(text)
    if what == "a missing interface":
        config.write_text(text + "interfaces = eth0, wan9\n")
        return "configuration", 'interface "wan9" does not exist', lambda: config.write_text(text)
    if what == "a guard without a key":
        texts = {path: path.read_text() for path in (config, profile / "config", stage.fence.path / "config")}
        for path, port in zip(list(texts)[1:], (22, 7)):
            path.write_text(texts[path] + f"ports = {port}\n")
        config.write_text(text.replace("guard = ", "guard = 2222, "))
        return "configuration", "no profile may open guarded port 2222", lambda: [
            path.write_text(text) for path, text in texts.items()]
    if what == "a readable key":
        (profile / "mac.key").chmod(0o644)
        return "profile", "mac.key", lambda: (profile / "mac.key").chmod(0o600)
    if what == "a doubled key":
        copy = profile.with_name("copy")
        shutil.copytree(profile, copy)
        return "profile", "same keys", lambda: shutil.rmtree(copy)
    if what == "a damaged counter":
        counter = (profile / "counter").read_text()
        (profile / "counter").write_text("many\n")
        return "profile", "counter", lambda: (profile / "counter").write_text(counter)
    if what == "a missing key":
        (profile / "mac.key").rename(profile.parent / "key")
        return "profile", "mac.key", lambda: (profile.parent / "key").rename(profile / "mac.key")
    if what == "a counter that is spent":
        counter = (profile / "counter").read_text()
        (profile / "counter").write_text("4294967296\n")
        return "profile", "it was revoked, or its counter is spent", lambda: (profile / "counter").write_text(counter)
    if what == "an empty guard":
        config.write_text(text.replace("guard = 22, 7", "guard ="))
        return "configuration", '"guard" is empty', lambda: config.write_text(text)
    if what == "a disk that is read-only":
        stage.server.run("mount", "--bind", profile, profile)
        stage.server.run("mount", "-o", "remount,ro,bind", profile)
        return "profile", "read-only file system", lambda: stage.server.run("umount", profile)
    if what == "a daemon that does not run":
        assert stage.daemon.stop() == 0
        return "daemon", "it is not running", stage.start_daemon
    if what == "a log that is nowhere":
        config.write_text(text.replace("log = kmsg", "log = /nowhere/kern.log"))
        return "configuration", "/nowhere", lambda: config.write_text(text)
    if what == "a knock port with a listener":
        listener = stage.server.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind(("", stage.gate.knock_port))
        listener.listen()
        return "knock port", str(stage.gate.knock_port), listener.close
    raise AssertionError(what)


@pytest.mark.parametrize("what", [
    "a wrong value", "a missing interface", "a guard without a key", "a readable key", "a doubled key", "a damaged counter",
    "a missing key", "a counter that is spent", "an empty guard", "a disk that is read-only", "a daemon that does not run", "a log that is nowhere", "a knock port with a listener",
])
def test_doctor_names_what_is_broken_on_the_server(stage, what):
    stage.set_up()
    assert wrong(on_server(stage)) == []
    step, words, fix = break_server(stage, what)
    broken = wrong(on_server(stage))
    assert any(at == step and words in found and fix for at, found, fix in broken), broken
    fix()
    # On a slow machine the repair is seconds later than the daemon's start, so doctor asks for a reload.
    assert [at for at, found, _ in wrong(on_server(stage)) if at != "rules" and "since the daemon read it" not in found] == []


@pytest.mark.parametrize("what", ["mode", "owner"])
def test_the_command_against_a_wrong_mode_or_owner_works_as_it_is_printed(stage, what):
    stage.set_up()
    key = stage.gate.path / "mac.key"
    key.chmod(0o644) if what == "mode" else os.chown(key, 12345, -1)
    [fix] = [fix for step, _, fix in wrong(on_server(stage)) if step == "profile"]
    stage.server.run("sh", "-ec", fix)
    assert [step for step, *_ in wrong(on_server(stage)) if step == "profile"] == []


def test_a_log_rule_without_its_flags_is_detected(stage):
    stage.set_up("iptables")
    assert stage.daemon.stop() == 0
    stage.server.run("sh", "-ec", "iptables-save | sed 's/ --log-tcp-sequence//' | iptables-restore")
    assert {step for step, *_ in wrong(on_server(stage))} == {"rules", "daemon"}
    stage.start_daemon()
    assert wrong(on_server(stage)) == []


def test_removed_rules_are_detected(stage):
    stage.set_up()
    assert stage.daemon.stop() == 0
    stage.server.run("nft", "flush", "ruleset")
    assert {"rules", "daemon"} <= {step for step, *_ in wrong(on_server(stage))}
    stage.start_daemon()
    assert wrong(on_server(stage)) == []


def test_a_changed_config_is_detected(gate):
    config = gate.server_dir / "config"
    config.write_text(config.read_text() + "delay = 7\n")
    [(step, what, fix)] = wrong(on_server(gate))
    assert step == "daemon" and fix == f"kill -HUP {gate.daemon.pid}" and "the configuration was changed" in what
    gate.server.run("sh", "-c", fix)
    gate.daemon.wait_for(": ready")
    assert wrong(on_server(gate)) == []


@pytest.mark.parametrize("change", ["made", "changed", "removed"])
def test_an_unread_profile_is_detected(stage, change):
    stage.set_up()
    assert wrong(on_server(stage)) == []
    if change == "made":
        Profile(stage, "new")
    elif change == "changed":
        with open(stage.gate.path / "config", "a") as config:
            config.write("# changed\n")
    else:
        stage.fence.path.rename(stage.fence.path.with_name("fence.off"))
    [(step, what, fix)] = [entry for entry in wrong(on_server(stage)) if entry[0] == "daemon"]
    assert fix == f"kill -HUP {stage.daemon.pid}" and "a profile was made, removed or changed" in what
    stage.server.run("sh", "-c", fix)
    stage.daemon.wait_for(": ready")
    assert [entry for entry in wrong(on_server(stage)) if entry[0] == "daemon"] == []


def test_a_replaced_program_is_detected(stage):
    program = stage.directory / "knockknock"
    shutil.copy(BINARY, program)
    stage.set_up(daemon_options={"binary": program})
    assert wrong(on_server(stage)) == []
    shutil.copy(BINARY, stage.directory / "new")
    (stage.directory / "new").rename(program)
    [(step, what, fix)] = wrong(on_server(stage))
    assert step == "daemon" and fix == command("restart") and "was replaced" in what


def test_a_blocking_rule_is_named_with_its_fix(gate):
    gate.server.run("nft", "-f", "-", input="""
        table inet other { chain input { type filter hook input priority 0;
            ct state established accept
            tcp dport 22 drop
        }
        }""")
    [(step, what, fix)] = wrong(on_server(gate))
    assert step == "other rules" and "inet other" in what
    gate.server.run("sh", "-c", fix)
    assert wrong(on_server(gate)) == []
    gate.open_port()
    assert gate.client.connect(22) is not None


def test_a_guarded_port_without_a_listener_is_noted(stage):
    stage.set_up()
    stage.service.close()
    found = on_server(stage)
    assert ("note", "22: no program listens here; ignore this if the port is forwarded", None) in found["guarded port"]


def test_doctor_finds_nothing_wrong_on_a_client_whose_knock_works(gate, wire):
    found = on_client(gate)
    assert wrong(found) == []
    assert list(found) == ["profile", "privileges", "name", "route", "guard", "knock"]
    [(_, route, _)] = found["route"]
    assert route.startswith(f"to {SERVER} from {CLIENT}, MTU 1500, with timestamps")
    assert found["knock"] == [("ok", f"opened port 22: connected to {SERVER}:22", None)]


def test_an_opening_of_an_earlier_knock_is_not_taken_for_a_missing_guard(gate):
    gate.open_port()
    found = on_client(gate)
    assert wrong(found) == [] and found["guard"] == [("ok", "without a knock port 22 does not answer", None)]


def test_an_address_without_a_route_is_skipped(gate):
    gate.set_client_hosts(f"203.0.113.1 both.example\n{SERVER6} both.example\n")
    gate.gate.client_path.rename(gate.client_dir / "both.example")
    gate.gate.use_classic_wire()  # a profile of 0.8 tries IPv4 first
    found = gate.client.run(BINARY, "doctor", "--dir", gate.client_dir, "both.example").stdout
    assert f'"both.example" is 203.0.113.1, then {SERVER6}' in found and f"to {SERVER6} from {CLIENT6}" in found, found
    assert f"connected to [{SERVER6}]:22" in found, found


def break_client(stage, what):
    """Breaks one step of the client's; returns the step and words of the finding."""
    path = stage.gate.client_path
    if what == "no profile":
        shutil.rmtree(path)
        return "profile", "no profile for"
    if what == "a readable key":
        (path / "mac.key").chmod(0o644)
        return "profile", "mac.key"
    if what == "no route":
        stage.client.run("ip", "route", "add", "unreachable", SERVER)
        stage.client.run("ip", "route", "flush", "cache")
        return "route", "find a route"
    if what == "a host that is down":
        for address in (stage.client, stage.server):
            address.run("ip", "neigh", "flush", "dev", "eth0", "nud", "permanent")
        stage.client.run("sysctl", "-qw", "net.ipv4.neigh.eth0.retrans_time_ms=50")
        stage.server.run("ip", "link", "set", "eth0", "arp", "off")
        return "knock", "no route to host"
    if what == "a server that does not run":
        assert stage.daemon.stop() == 0
        return "knock", "timed out"
    if what == "another key":
        key = path / "mac.key"
        key.write_bytes((stage.fence.path / "mac.key").read_bytes())
        return "knock", "timed out"
    if what == "no guard":
        assert stage.daemon.stop() == 0
        stage.server.run("nft", "flush", "ruleset")
        return "guard", "answers without a knock"
    if what == "no service":
        stage.service.close()
        return "knock", "refused"
    raise AssertionError(what)


@pytest.mark.parametrize("what", [
    "no profile", "a readable key", "no route", "a host that is down", "a server that does not run", "another key", "no guard", "no service"])
def test_doctor_names_what_is_broken_on_the_client(stage, what):
    stage.set_up()
    step, words = break_client(stage, what)
    [(at, found, fix)] = wrong(on_client(stage))
    assert at == step and words in found and fix, (at, found, fix)
    if what == "no service":
        assert "the knock worked" in fix
    if what == "a host that is down":
        assert "see whether the server is up" in fix
    if words == "timed out":
        assert f"tcpdump 'tcp dst port {stage.gate.knock_port}'" in fix and "knockknock doctor" in fix


def test_without_the_capability_it_says_how_to_get_it(stage, public):
    stage.set_up()
    home = public / "profiles"
    shutil.copytree(stage.client_dir, home)
    for path in (home, *home.rglob("*")):
        os.chown(path, 12345, 12345)
    done = stage.client.run("setpriv", "--reuid=12345", "--clear-groups", BINARY, "doctor", "--json", "--dir", home, SERVER,
                            check=False)
    [(step, what, fix)] = wrong(findings(done))
    assert step == "privileges" and "raw socket" in what and "setcap cap_net_raw+ep" in fix


def test_nothing_is_wrong_with_the_rules_of_a_trial(stage, firewall):
    stage.set_up(firewall, daemon_options={})
    assert stage.daemon.stop() == 0
    stage.start_daemon("--trial", "10m")
    found = on_server(stage)
    assert wrong(found) == []
    assert ("note", "on trial: lifted in 10 min unless a knock opens a port", None) in found["rules"]


def test_a_trial_that_failed_is_named_not_a_missing_reload(stage, firewall):
    stage.set_up(firewall)
    assert stage.daemon.stop() == 0
    stage.start_daemon("--trial", "2s").wait_for("the trial has failed")
    [(step, what, fix)] = wrong(on_server(stage))
    assert step == "rules" and "the trial has failed" in what and fix.startswith("systemctl restart knockknock-trial # ")
    assert stage.daemon.stop() == 0
    stage.start_daemon()
    assert wrong(on_server(stage)) == []


PROVED = "a knock opens port 7 for its own address only, and one connection enters (in a network namespace, with {})"


def begin_doctor(stage):
    """A doctor whose processes are those of its session."""
    return stage.server.start(BINARY, "doctor", "--json", "--dir", stage.server_dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, start_new_session=True)


def processes_of(doctor):
    """The arguments of each process that the doctor has started and that still runs."""
    def words(path):
        try:
            session = int((path / "stat").read_text().rsplit(")", 1)[1].split()[3])
            # Empty once it has ended.
            return (path / "cmdline").read_text().split("\0")[:-1] if session == doctor.pid else []
        except OSError:  # it has just ended
            return []
    return [found for path in Path("/proc").glob("[0-9]*") if (found := words(path)) and int(path.name) != doctor.pid]


def vanish(doctor):
    """Whether they all end soon after it."""
    deadline = time.monotonic() + 5
    while processes_of(doctor) and time.monotonic() < deadline:
        time.sleep(0.02)
    return processes_of(doctor) == []


def traces(stage):
    """What a proof could leave behind: devices, rules, a mount, files, and a trace in the running daemon's record."""
    found = {" ".join(command): stage.server.run(*command).stdout for command in (
        ["ls", "/sys/class/net"], ["nft", "list", "tables"], ["iptables", "-t", "mangle", "-S"])}
    found["mounts"] = stage.server.run("grep", "-c", "knockknock", "/proc/mounts", check=False).stdout
    found["directory"] = os.path.exists("/run/knockknock/proof")
    return {**found, "record": stage.record.read_bytes().rstrip()}


@pytest.mark.parametrize("backend, log, read", [
    ("nft", "kmsg", "/dev/kmsg"), ("iptables", "kmsg", "/dev/kmsg"), ("nft", "file", "{}/kern.log"), ("iptables", "nflog:7", "NFLOG group 7"),
    ("nft", "-", "NFLOG group 1")])
def test_a_knock_is_proved_and_leaves_nothing_behind(stage, backend, log, read):
    stage.set_up(backend, log, interfaces="eth0")
    before = traces(stage)
    doctor = begin_doctor(stage)
    output, errors = doctor.communicate()
    found = findings(subprocess.CompletedProcess([], doctor.returncode, output, errors))
    assert found["proof"] == [("ok", PROVED.format(read.format(stage.log_dir)), None)] and wrong(found) == []
    assert vanish(doctor) and traces(stage) == before
    assert stage.daemon.new_lines() == []
    stage.open_port()
    assert stage.connects()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_proof_that_is_killed_leaves_nothing_behind(stage, number):
    stage.set_up()
    before = traces(stage)
    for applet in ("proof", "watcher"):
        doctor = begin_doctor(stage)
        while not any(applet in words for words in processes_of(doctor)):
            assert doctor.poll() is None, doctor.stdout.read()
        os.kill(doctor.pid, number)
        doctor.communicate()
        assert vanish(doctor) and traces(stage) == before


def test_a_proof_that_is_impossible_is_not_a_fault(stage):
    stage.set_up()
    done = stage.server.run("setpriv", "--bounding-set", "-sys_admin", BINARY, "doctor", "--json", "--dir", stage.server_dir, check=False)
    [(finding, what, fix)] = findings(done)["proof"]
    assert (finding, fix) == ("note", None)
    assert what == "not tried: cannot use network namespaces and veth devices: operation not permitted"


def test_a_daemon_that_cannot_start_again_is_found_by_the_proof(stage):
    stage.set_up()
    done = stage.server.run("setpriv", "--bounding-set", "-setuid", BINARY, "doctor", "--json", "--dir", stage.server_dir, check=False)
    [(step, what, fix)] = wrong(findings(done))
    assert step == "proof" and "does not start" in what and "cannot drop root's privileges: operation not permitted" in what


def test_a_log_that_syslogd_does_not_write_is_found_by_the_proof(stage):
    stage.set_up(log="file")
    stage.log.stop()
    [(step, what, fix)] = wrong(on_server(stage))
    assert step == "proof" and "a knock opens nothing" in what and f"the knock is missing in {stage.log_dir}/kern.log" in fix


def test_an_alternative_name_is_guarded_and_named_with_the_real_one(stage, firewall):
    stage.server.run("ip", "link", "property", "add", "dev", "eth0", "altname", "wan0")
    stage.set_up(firewall, interfaces="wan0")
    words = 'interface "wan0" is an alternative name of "eth0": the guard also applies to "eth0"'
    assert any(words in line for line in stage.daemon.lines)
    assert words in stage.server.run(BINARY, "daemon", "--check", "--dir", stage.server_dir).stderr
    assert wrong(on_server(stage)) == [("configuration", words, 'write eth0 in "interfaces" in the config')]
    assert not stage.connects()
    stage.open_port()
    assert stage.connects()


def test_an_alternative_name_that_comes_later_is_guarded_then(stage):
    stage.set_up(interfaces="wan0")
    assert stage.connects()
    stage.server.run("ip", "link", "property", "add", "dev", "eth0", "altname", "wan0")
    stage.daemon.wait_for("is an alternative name of")
    while "eth0" not in stage.server.run("nft", "list", "chain", "inet", "knockknock", "prerouting").stdout:
        pass
    assert not stage.connects()
    stage.open_port()
    assert stage.connects()


def packets(found):
    """Returns the packets that the log rule has logged, that the daemon has read, and that the guard has dropped."""
    whats = [what for step in ("log", "rules") for _, what, _ in found[step] if what.startswith(("SYNs to", "packets that"))]
    return [int(number) for what in whats for number in re.findall(r": (\d+)", what)]


def test_the_packets_that_the_rules_have_matched_are_counted(gate):
    assert packets(on_server(gate)) == [0, 0, 0]
    gate.open_port()
    assert gate.connects() and not gate.connects()
    found = on_server(gate)
    assert wrong(found) == [] and packets(found)[:2] == [1, 1] and packets(found)[2] >= 1
    gate.daemon.process.send_signal(signal.SIGHUP)
    gate.daemon.wait_for(": ready")
    assert packets(on_server(gate)) == [0, 0, 0], "the rules are new"


def test_a_log_that_delivers_nothing_is_detected_by_the_log_rule(stage, firewall):
    stage.set_up(firewall, log="file")
    stage.open_port()
    stage.daemon.process.send_signal(signal.SIGHUP)  # the daemon goes on counting, and the new rules begin with 0
    stage.daemon.wait_for(": ready")
    stage.log.stop()
    for number in range(1, 4):
        stage.client.send(stage.gate.packet(number))
    found = on_server(stage)
    [(_, what, fix)] = [entry for entry in wrong(found) if entry[0] == "log"]
    assert packets(found)[:2] == [3, 0] and f"arrive in {stage.log_dir}/kern.log" in fix

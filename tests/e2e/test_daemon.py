"""The daemon's configuration, profiles, signals and messages."""

import os
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest

import classic
import packets
from services import wait_until
from stage import BINARY, CLIENT, SERVER, Daemon, Profile, Service, status
from test_faults import process


def check(stage, config):
    """Runs `daemon --check` with this config file."""
    (stage.server_dir / "config").write_bytes(config.encode())
    return stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check", check=False)


def test_check_prints_what_the_daemon_would_do(stage):
    profile = Profile(stage, "gate")
    done = check(stage, "[main]\nguard = 22, 443\nlog = kmsg\nfirewall = nft\nerror_window = 31\nresync_window = 77\nuser = nobody\n")
    assert done.returncode == 0
    output = done.stdout + done.stderr
    for word in ("22", "443", str(profile.knock_port), "kmsg", "nft", "error_window   31\n", "resync_window  77\n",
                 "watcher's user  uid 65534\n"):
        assert word in output
    assert "knockknock" not in stage.server.run("nft", "list", "ruleset").stdout


def test_configs_of_version_0_8_are_accepted(stage):
    Profile(stage, "gate")
    done = check(stage, "# of old\n; and\n[main]\nDELAY: 7 ; seconds\nError_Window=30\nlog = kmsg\nguard = 22,\n   443\n")
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    assert "443" in output and "7" in output


def damage(stage, what):
    """Breaks one thing of a set-up that was good."""
    config, profiles = stage.server_dir / "config", stage.server_dir / "profiles"
    gate = profiles / "gate"
    if what.startswith("config: "):
        config.write_text("[main]\n" + what.removeprefix("config: ").replace("; ", "\n") + "\n")
    elif what.startswith("mode "):
        _, mode, file = what.split()
        (stage.server_dir / file).chmod(int(mode, 8))
    elif what.startswith("no "):
        shutil.rmtree(profiles) if what == "no profiles" else (gate / what.split()[1]).unlink()
    elif what == "config is a FIFO":
        config.unlink()
        os.mkfifo(config)
    elif what == "a broken nft":
        stage.server.run("mount", "--bind", "/bin/false", shutil.which("nft"))
    elif what == "an account that is gone":
        stage.server.run("mount", "--bind", "/dev/null", "/etc/passwd")
        config.write_text("[main]\nfirewall = nft\nguard = 22\nlog = kmsg\nuser = daemon\n")
    elif what == "an owner":
        os.chown(profiles, 12345, 12345)


BROKEN = [
    "config: delay = x", "config: guard = 22; gaurd = 22", "config: mark = 3", "config: firewall = pf", "config: user = root",
    "config: user = no-such-user", "config: log = /nowhere/kern.log", "config: log = /", "config: interfaces = a/b",
    "config: delay = 5; delay = 9", "config is a FIFO", "mode 777 .", "mode 777 profiles", "mode 644 profiles/gate/mac.key",
    "mode 777 profiles/gate", "no profiles", "no config", "no cipher.key", "no counter", "a broken nft",
    "an account that is gone", "an owner",
]


@pytest.mark.parametrize("what", ["nothing", *BROKEN])
def test_check_and_start_agree(stage, what):
    """What makes the start fail, or do without a profile or the config, makes --check fail with the same words."""
    stage.configure(firewall="nft", guard="22", log="kmsg")
    Profile(stage, "gate")
    damage(stage, what)
    checked = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check", check=False)
    daemon = stage.start_daemon(ready=False)
    try:
        daemon.wait_for(": ready")
        started = True
    except AssertionError:
        started = False
        assert daemon.wait_for_end() == 1
    if started and checked.returncode and "is ignored" not in checked.stderr:
        daemon.wait_for("see above: guarding every port that a profile lists")
    instead = any("see above" in line for line in daemon.lines)
    complains = not started or instead or any("is ignored" in line for line in daemon.lines)
    assert (checked.returncode == 1) == complains == (what != "nothing"), (checked, daemon.lines)
    for line in daemon.lines if complains else []:
        ours = ["confined: ", "turnstile: ", ": ready", "no profile has ever knocked", "--trial", "see above"]
        assert any(word in line for word in ours) or line in checked.stderr.splitlines(), line


@pytest.mark.parametrize("config", ["[main] # the daemon\nguard = 22\n", "\ufeff[main]\nguard = 22\n", "[main]\r\nguard = 22\r\n"])
def test_a_guard_after_an_odd_first_line_is_read(stage, config):
    Profile(stage, "gate")
    done = check(stage, config)
    assert done.returncode == 0, done.stderr
    assert "guarded ports  22\n" in done.stdout


@pytest.mark.parametrize("config", ["[main]\rguard = 22\r", "# a comment\r[main]\rguard = 22\r", "[main] guard = 22\n"])
def test_a_guard_that_would_not_be_read_is_an_error_with_its_line(stage, config):
    Profile(stage, "gate")
    (stage.server_dir / "config").write_bytes(config.encode())
    done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check", check=False)
    assert done.returncode == 1
    assert f'"{stage.server_dir}/config", line 1: ' in done.stderr


def test_check_warns_of_a_udp_socket_on_a_guarded_port(stage):
    Profile(stage, "gate")
    with stage.server.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, stage.server.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp6:
        udp.bind(("", 51820))
        udp6.bind(("::", 443))
        done = check(stage, "[main]\nguard = 22, 443, 51820\nlog = kmsg\n")
    assert done.returncode == 0
    for port in (443, 51820):
        assert f"a UDP socket listens on guarded port {port}, which stays reachable: the guard covers TCP only" in done.stderr
    assert "port 22:" not in done.stderr


@pytest.mark.parametrize("firewall, guard, opens", [
    ("nft", "", "any port"), ("nft", "guard = 22", "any port"),
    ("iptables", "", "no port"), ("iptables", "guard = 22, 443", "ports 22,443")])
def test_check_says_what_a_profile_without_ports_opens(stage, firewall, guard, opens):
    profile = Profile(stage, "gate")
    (profile.path / "config").write_text(f"[main]\nknock_port = {profile.knock_port}\n")
    done = check(stage, f"[main]\nlog = kmsg\nfirewall = {firewall}\n{guard}\n")
    assert f'"gate": knock port {profile.knock_port}, opens {opens}\n' in done.stdout
    assert ('"guard" is empty: knocks open nothing' in done.stderr) == (opens == "no port")


def test_a_missing_config_means_the_defaults(stage):
    Profile(stage, "gate")
    done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check", check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("config, line, why", [
    ("[main]\ngaurd = 22\n", 2, 'unknown key "gaurd"'),
    ("[main]\ndelay = 5\nguard = 22\ndelay = 9\n", 4, '"delay" is already set on line 2'),
    ("[Main]\nguard = 22\n", 1, 'section "Main" is not read: write "[main]"'),
])
def test_nothing_is_ignored_silently(stage, config, line, why):
    Profile(stage, "gate")
    done = check(stage, config)
    assert done.returncode == 1
    assert f'"{stage.server_dir}/config", line {line}: {why}' in done.stderr


def test_a_duplicate_list_is_joined(stage):
    Profile(stage, "gate")
    done = check(stage, "[main]\nguard = 22\nguard = 443\n")
    assert done.returncode == 0
    assert "guarded ports  22,443\n" in done.stdout


def test_a_guard_outside_main_is_not_ignored_silently(stage):
    Profile(stage, "gate")
    done = check(stage, "guard = 22\n")
    assert done.returncode == 1
    assert f'"{stage.server_dir}/config", line 1: is before "[main]"' in done.stderr
    done = check(stage, "[other]\nguard = 22\n")
    assert 'line 1: section "other" is ignored; only [main] is read' in done.stderr
    assert '"guard" is empty' in done.stderr


@pytest.mark.parametrize("bad", [
    "delay = soon", "delay = 0", "delay = -1", "delay = 99999999999", "error_window = 0", "error_window = x",
    "guard = 0", "guard = 22, 70000", "guard = ssh!", "firewall = pf", "mark = 0", "mark = 0x1ffffffff", "log = nflog:x",
])
def test_a_bad_value_is_an_error_with_file_and_line(stage, bad):
    Profile(stage, "gate")
    done = check(stage, f"[main]\n# a comment\n{bad}\n")
    assert done.returncode == 1
    assert f"{stage.server_dir}/config" in done.stderr
    assert "3" in done.stderr.replace(str(stage.server_dir), "")
    assert bad.split()[0] in done.stderr


def test_a_user_that_does_not_exist_is_an_error(stage):
    Profile(stage, "gate")
    done = check(stage, "[main]\nuser = no-such-user-here\n")
    assert done.returncode == 1
    assert '"no-such-user-here"' in done.stderr


def test_it_starts_only_as_root(stage, public):
    (public / "profiles").mkdir()
    done = stage.server.run("setpriv", "--reuid", "65432", "--clear-groups", BINARY, "daemon", "--dir", public, check=False)
    assert done.returncode == 1
    assert "root" in done.stderr


def test_without_any_profile_nothing_is_guarded_and_that_is_an_error(stage):
    stage.configure(guard="22", firewall="nft", log="kmsg")
    (stage.server_dir / "profiles").mkdir()
    for arguments in ([], ["--check"]):
        done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, *arguments, check=False)
        assert done.returncode == 1
        assert f'there is no profile in "{stage.server_dir}/profiles": nobody could knock' in done.stderr
    assert stage.connects()


def test_with_only_damaged_profiles_the_guard_stays_with_a_warning(stage):
    stage.configure(guard="22", firewall="nft", log="kmsg")
    (Profile(stage, "gate").path / "config").unlink()
    stage.start_daemon()
    assert any('profile "gate" is ignored' in line for line in stage.daemon.lines)
    assert any("no profile may open guarded port 22" in line for line in stage.daemon.lines)
    assert not stage.connects()


def test_a_reload_without_profiles_revokes_the_last_key(gate):
    shutil.move(gate.server_dir / "profiles", gate.directory / "away")
    gate.daemon.process.send_signal(signal.SIGHUP)
    gate.daemon.wait_for("no profile may open guarded port")
    gate.daemon.wait_for(": ready")
    gate.knock()
    time.sleep(0.3)
    assert not gate.connects()


def test_a_guarded_port_that_no_profile_opens_gives_a_warning(stage):
    Profile(stage, "web", ports=[443])
    done = check(stage, "[main]\nguard = 22, 443\n")
    assert done.returncode == 0
    assert "no profile may open guarded port 22: it stays closed" in done.stderr


@pytest.mark.parametrize("file, content", [
    ("cipher.key", b"AAAA\n"), ("cipher.key", b"not base64 at all!!!!!!!\n"), ("mac.key", b""),
    ("counter", b"\n"), ("counter", b"many\n"), ("counter", b"4294967297\n"), ("counter", b"-1\n"),
    ("config", b"[main]\nknock_port = 0\n"), ("config", b"[main]\n"), ("config", b"[main]\nknock_port = 70000\n"),
    ("config", None), ("mac.key", None), ("counter", None),
])
def test_a_profile_that_cannot_be_read_is_reported_and_ignored(stage, file, content):
    broken = Profile(stage, "broken")
    if content is None:
        (broken.path / file).unlink()
    else:
        (broken.path / file).write_bytes(content)
    stage.set_up()
    assert [line for line in stage.daemon.lines if "broken" in line]
    stage.open_port()
    assert stage.connects()


@pytest.mark.parametrize("wire", ["classic", "stealth"])
@pytest.mark.parametrize("copy_port", ["the same port", "another port"])
def test_a_copy_of_a_profile_is_reported_and_ignored(stage, wire, copy_port):
    """On one port a knock for both would open nothing; on two, a recorded knock would open a second time."""
    stage.configure(firewall="nft", guard="22", log="kmsg")
    stage.gate = Profile(stage, "gate", ports=[22], wire=wire)
    stage.gate.give_to_client()
    copy = shutil.copytree(stage.gate.path, stage.gate.path.with_name("gate.bak"))
    if copy_port == "another port":
        config = copy / "config"
        config.write_text(config.read_text().replace(str(stage.gate.knock_port), "65000"))
    checked = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check", check=False)
    assert checked.returncode == 1
    stage.start_daemon()
    for output in (checked.stderr.splitlines(), stage.daemon.lines):
        assert any(line.endswith('profile "gate.bak" is ignored: it has the same keys as profile "gate"') for line in output)
    stage.open_port()
    assert stage.connects()


def test_a_profile_with_a_key_that_does_not_exist_opens_nothing(stage):
    """Without "ports" its key would open every port."""
    broken = Profile(stage, "broken")
    with (broken.path / "config").open("a") as config:
        config.write("prots = 443\n")
    stage.set_up()
    assert any('unknown key "prots"' in line for line in stage.daemon.lines)
    stage.client.send(broken.packet(0))
    assert stage.nothing_opened()


@pytest.mark.parametrize("line", ["delay = 0", "delay = 3600", "error_window = 0"])
def test_a_value_that_0_8_accepted_is_refused_with_a_hint(stage, line):
    Profile(stage, "gate")
    done = check(stage, f"[main]\n{line}\n")
    assert done.returncode == 1 and "; knockknock 0.8 accepted others" in done.stderr


def test_sighup_reads_profiles_and_config_again_and_loses_no_opening(gate, firewall):
    gate.open_port()
    gate.configure(firewall=firewall, guard="22, 23, 7", log="kmsg", delay=9)
    gate.keep(Service(gate.server, 23))
    assert gate.connects(23)
    late = Profile(gate, "late")
    gate.daemon.process.send_signal(signal.SIGHUP)
    gate.daemon.wait_for(": ready")
    assert not gate.connects(23)
    assert gate.connects(), "the opening from before"
    assert not gate.connects()
    gate.client.send(late.packet(0, port=23))
    assert "for 9 s" in gate.opened(23)
    assert gate.connects(23)
    gate.open_port()
    assert gate.connects()


def test_sighup_with_a_bad_config_keeps_the_guard(gate):
    (gate.server_dir / "config").write_text("[main]\nguard = many\n")
    gate.daemon.process.send_signal(signal.SIGHUP)
    gate.daemon.wait_for("guard")
    assert not gate.connects()


@pytest.fixture
def worked(stage):
    """A daemon with a guard was ready once, and the machine has restarted: no daemon and no rules."""
    stage.set_up("nft")
    assert stage.daemon.stop() == 0
    stage.server.run("nft", "flush", "ruleset")
    assert stage.connects()
    return stage


@pytest.mark.parametrize("what", [
    "config: guard = 22; gaurd = 22", "config: guard = 22,", "config: guard = 22; log = /nowhere/kern.log",
    "config: guard = 22; user = nobody-knows", "config is a FIFO", "an emptied config", "a missing config",
])
def test_a_start_with_a_wrong_config_uses_the_last_one_that_worked(worked, what):
    if what == "config: guard = 22,":
        (worked.server_dir / "config").write_text("[main]\nguard = 22, ssh\n")
    elif what == "an emptied config":
        (worked.server_dir / "config").write_text("\n")
    elif what == "a missing config":
        (worked.server_dir / "config").unlink()
    else:
        damage(worked, what)
    checked = worked.server.run(BINARY, "daemon", "--dir", worked.server_dir, "--check", check=False)
    assert checked.returncode == 1
    worked.start_daemon()
    assert checked.stderr.splitlines()[0] in worked.daemon.lines
    worked.daemon.wait_for("the configuration is unusable, see above: using the last one that worked")
    assert not worked.connects()
    worked.open_port()
    assert worked.connects()
    kept = (worked.server_dir / "config.good").read_text()
    assert "guard = 22, 7" in kept, "what is used instead is not kept as what worked"


def test_a_start_with_a_wrong_config_that_never_worked_guards_what_profiles_list(stage):
    Profile(stage, "gate", ports=[22])
    stage.configure(guard="22", delay="soon")
    stage.start_daemon()
    stage.daemon.wait_for("the configuration is unusable, see above: guarding every port that a profile lists")
    assert 'delay = "soon"' in "".join(stage.daemon.lines)
    assert not stage.connects()
    assert not (stage.server_dir / "config.good").exists()
    stage.daemon.stop()
    stage.configure(guard="22")
    assert stage.start_daemon() and not any("see above" in line for line in stage.daemon.lines)


@pytest.mark.parametrize("kept", [b"", b"delay = x\n", b"\0" * 70000], ids=["empty", "a wrong value", "too long"])
def test_a_damaged_copy_of_the_configuration_that_worked_is_ignored(stage, kept):
    Profile(stage, "gate", ports=[22])
    stage.configure(delay="soon")
    (stage.server_dir / "config.good").write_bytes(kept)
    stage.start_daemon()
    fallback = "using the last one that worked" if kept == b"" else "guarding every port that a profile lists"
    stage.daemon.wait_for(f"see above: {fallback}")
    assert stage.connects() == (kept == b"")


@pytest.mark.parametrize("what", ["a symbolic link", "a hard link", "a FIFO"])
def test_a_link_or_fifo_where_the_configuration_is_kept_is_replaced(stage, what):
    new, other = stage.server_dir / "config.new", stage.directory / "other"
    other.write_text("precious")
    {"a symbolic link": lambda: new.symlink_to(other), "a hard link": lambda: os.link(other, new),
     "a FIFO": lambda: os.mkfifo(new)}[what]()
    stage.set_up()
    wait_until((stage.server_dir / "config.good").exists)
    assert not os.path.lexists(new)
    assert other.read_text() == "precious"
    assert stage.daemon.stop() == 0


@pytest.mark.parametrize("what", ["mode 777 profiles", "no log"])
def test_a_start_that_fails_on_a_machine_where_it_worked_leaves_the_guard(worked, what):
    if what == "no log":
        worked.server.run("mount", "--bind", "/dev/null", "/dev/kmsg")
    else:
        damage(worked, what)
    for _ in range(2):
        done = worked.server.run(BINARY, "daemon", "--dir", worked.server_dir, check=False)
        assert done.returncode == 1
        assert "the guard of the last configuration that worked is active, and knocks open nothing" in done.stderr
        assert not worked.connects()


@pytest.mark.parametrize("what", ["no profile", "no profiles"])
def test_a_restart_after_the_last_profile_was_removed_leaves_the_guard(worked, what):
    shutil.rmtree(worked.server_dir / "profiles")
    if what == "no profile":
        (worked.server_dir / "profiles").mkdir()
    worked.start_daemon()
    assert any("no profile may open guarded port" in line for line in worked.daemon.lines)
    assert not worked.connects()


def test_the_configuration_that_worked_is_for_root_alone_and_of_the_last_reload(gate):
    kept = gate.server_dir / "config.good"
    wait_until(kept.exists)
    assert (kept.stat().st_mode & 0o777, kept.stat().st_uid) == (0o600, 0)
    assert kept.read_text() == (gate.server_dir / "config").read_text()
    before = kept.stat().st_ino
    gate.daemon.process.send_signal(signal.SIGHUP)
    gate.daemon.wait_for(": ready")
    time.sleep(0.1)
    assert kept.stat().st_ino == before, "the same is not written again"
    gate.configure(guard="22, 23")
    gate.daemon.process.send_signal(signal.SIGHUP)
    gate.daemon.wait_for(": ready")
    wait_until(lambda: kept.read_text() == "[main]\nguard = 22, 23\n")
    assert [path.name for path in gate.server_dir.iterdir() if "new" in path.name] == []


def test_it_runs_in_the_background(stage):
    """The command returns once the daemon is ready. The daemon keeps no descriptor of its caller; SIGTERM stops it."""
    stage.configure(guard="22, 7", firewall="nft", log="kmsg")
    stage.gate = Profile(stage, "gate")
    stage.gate.give_to_client()
    before = stage.server.processes()
    done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--background", timeout=5)
    assert done.stdout == ""
    started = set(stage.server.processes()) - set(before)
    assert len(started) == 3
    assert not stage.connects()
    stage.knock()
    wait_until(lambda: stage.connects())
    [supervisor] = [pid for pid in started if status(pid)["Uid"].startswith("0\t")]
    os.kill(supervisor, signal.SIGTERM)
    wait_until(lambda: stage.server.processes() == before)


def test_replays_and_wrong_tags_are_summarised(gate):
    gate.open_port()
    for counter in range(50):
        gate.client.send(gate.gate.packet(0))
    for fields in classic.knocks(os.urandom(16), os.urandom(16), range(50), 22):
        gate.client.send(packets.tcp(CLIENT, SERVER, 40000, gate.gate.knock_port, fields))
    assert gate.nothing_opened()
    gate.daemon.wait_for("ignored in the last minute: 50 replayed knocks, 50 wrong codes", timeout=65)
    assert [line for line in gate.daemon.lines if "wrong code" in line or "old counter" in line][1:] == gate.daemon.lines[-1:], \
        "the first at once, and one line for all of them"


def refusals(stage):
    """The lines on refused knocks so far, without their advice."""
    assert stage.nothing_opened()
    return [line.removeprefix("knockknock-daemon: ") for line in stage.daemon.lines if ": knock from" in line]


def wrong(stage, number, source=CLIENT):
    """Knocks with a wrong code."""
    for fields in classic.knocks(os.urandom(16), os.urandom(16), range(number), 22):
        stage.client.send(packets.tcp(source, SERVER, 40000, stage.gate.knock_port, fields))


def test_a_wrong_code_from_a_source_that_knocked_before_is_logged_at_once_and_once(stage, firewall, wire):
    stage.set_up(firewall, wire=wire)
    stage.open_port()
    wrong(stage, 5)
    assert refusals(stage) == [f'knock from {CLIENT} for profile "gate" with a wrong code, after valid ones']
    assert "if it is from your client, its profile differs from the server's" in "".join(stage.daemon.lines)
    stage.open_port()
    wrong(stage, 5)
    assert len(refusals(stage)) == 1


def test_the_first_wrong_codes_for_a_profile_are_logged_at_once_and_a_flood_is_not(stage, wire):
    stage.set_up(wire=wire)
    for last in range(3, 200):
        wrong(stage, 1, source=f"10.9.0.{last}")
    assert refusals(stage) == [f'knock from 10.9.0.{last} for profile "gate" with a wrong code' for last in (3, 4, 5)]


def test_wrong_codes_at_a_knock_port_of_several_profiles_name_the_port(stage):
    stage.set_up(wire="stealth")
    Profile(stage, "other", knock_port=stage.gate.knock_port, wire="stealth")
    stage.daemon.process.send_signal(signal.SIGHUP)
    stage.daemon.wait_for(": ready")
    wrong(stage, 1)
    assert refusals(stage) == [f"knock from {CLIENT} at knock port {stage.gate.knock_port} with a wrong code"]


@pytest.mark.parametrize("wire, ports", [("classic", None), ("classic", [22]), ("stealth", [22])])
def test_a_client_with_an_old_copy_of_its_profile_is_named_at_once(stage, wire, ports):
    """Its counters are older than the replay cache is long, so they look like wrong codes."""
    stage.configure(firewall="nft", guard="22, 7", log="kmsg", error_window=200)
    stage.gate = Profile(stage, "gate", ports=ports, wire=wire)
    (stage.gate.path / "counter").write_text("300\n")
    stage.gate.give_to_client()
    stage.fence = Profile(stage, "fence", ports=[7])
    stage.start_daemon()
    (stage.gate.client_path / "counter").write_text("187\n")
    stage.knock()
    assert refusals(stage) == [f'knock from {CLIENT} for profile "gate" with an old counter, 113 behind']
    assert "its profile is an old copy: knockknock rotate gives it new keys" in "".join(stage.daemon.lines)


def test_no_secret_is_logged(gate):
    gate.open_port()
    gate.client.send(gate.gate.packet(0))
    gate.client.send(gate.gate.packet(9))
    gate.opened()
    output = "\n".join(gate.daemon.lines)
    for name in ("cipher.key", "mac.key"):
        assert (gate.gate.path / name).read_text().strip() not in output
    for key in gate.gate.keys:
        assert key.hex() not in output.lower()


def test_the_counter_is_on_disk_before_the_port_opens(stage):
    """The watcher's system calls show the order: the counter is stored before the opening is requested."""
    stage.set_up()
    trace = stage.directory / "strace"
    holders = [pid for pid in stage.daemon.children()
               if any("counter" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))]
    [watcher] = holders
    tracer = stage.server.start("strace", "-o", trace, "-p", watcher, stderr=subprocess.PIPE, text=True)
    assert "attached" in tracer.stderr.readline()
    stage.open_port()
    tracer.send_signal(signal.SIGINT)
    tracer.communicate()
    calls = trace.read_text().splitlines()
    stored = next(at for at, call in enumerate(calls) if "0000000001" in call and "write" in call)
    synced = next(at for at, call in enumerate(calls) if call.startswith(("fdatasync", "fsync")))
    asked = next(at for at, call in enumerate(calls) if call.startswith("send") or call.startswith("write") and at > synced)
    assert stored < synced < asked


def test_a_counter_of_version_0_8_is_accepted_and_rewritten(stage):
    stage.configure(guard="22, 7", firewall="nft", log="kmsg")
    old = Profile(stage, "old")
    (old.path / "counter").write_text("7\n999\n")
    stage.set_up()
    stage.client.send(old.packet(7))
    stage.opened()
    assert (old.path / "counter").read_text().split("\n")[0] == "0000000008"


@pytest.mark.parametrize("log", ["/nowhere/kern.log", "nflog:93"])
def test_a_reload_with_an_unreadable_log_keeps_the_daemon_running(stage, log):
    stage.set_up("nft")
    # Another program has bound the group: NFULNL_CFG_CMD_BIND of linux/netfilter/nfnetlink_log.h.
    with stage.server.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as taken:
        taken.send(struct.pack("=IHHII", 28, 4 << 8 | 1, 5, 1, 0) + struct.pack(">BBH", 0, 0, 93) + struct.pack("=HHB3x", 5, 1, 1))
        assert struct.unpack_from("=i", taken.recv(100), 16) == (0,)
        stage.configure(firewall="nft", guard="22, 7", log=log)
        os.kill(stage.daemon.pid, signal.SIGHUP)
        stage.daemon.wait_for("keeping the previous configuration")
    stage.open_port()


def test_a_config_takes_effect_only_after_a_reload(stage, unowned):
    """The supervisor restores the rules and restarts its children with the configuration that it last loaded."""
    stage.set_up("nft", daemon_options=unowned)
    (stage.server_dir / "config").write_text("[main]\ndelay = half a")
    stage.server.run("nft", "flush", "ruleset")
    stage.daemon.wait_for("restored them", timeout=3)
    stage.open_port()


def test_a_failed_reload_keeps_the_guard_and_the_daemon(stage):
    stage.set_up("iptables")
    broken = stage.directory / "nft"
    broken.write_text("#!/bin/sh\necho no nft today >&2\nexit 1\n")
    broken.chmod(0o755)
    stage.server.run("mount", "--bind", broken, shutil.which("nft"))
    stage.configure(firewall="nft", guard="22")
    os.kill(stage.daemon.pid, signal.SIGHUP)
    stage.daemon.wait_for("keeping the previous configuration")
    assert not stage.connects()
    stage.open_port()
    assert stage.connects()


def hang_accounts(stage):
    """Makes every account lookup on the server hang: /etc/passwd becomes a FIFO."""
    os.mkfifo(stage.directory / "passwd")
    stage.server.run("mount", "--bind", stage.directory / "passwd", "/etc/passwd")


@pytest.mark.parametrize("moment", ["at the start", "after a reload"])
def test_sigterm_works_while_a_child_hangs_at_its_start(stage, moment):
    stage.configure(guard="22", log="kmsg", firewall="nft")
    Profile(stage, "gate")
    if moment == "at the start":
        hang_accounts(stage)
        stage.start_daemon(ready=False)
    else:
        stage.start_daemon()
        hang_accounts(stage)
        stage.daemon.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert not any(": ready" in line for line in stage.daemon.new_lines()), "it hangs"
    assert stage.daemon.stop() == (0 if moment == "after a reload" else -signal.SIGTERM)


def test_a_failed_repair_does_not_hide_why_a_child_ended(gate, firewall):
    broken = gate.directory / "broken"
    broken.write_text("#!/bin/sh\necho no rules today >&2\nexit 1\n")
    broken.chmod(0o755)
    gate.server.run("mount", "--bind", broken, shutil.which({"nft": "nft", "iptables": "iptables-restore"}[firewall]))
    os.kill(process(gate.daemon, "opener"), signal.SIGKILL)
    assert gate.daemon.wait_for_end() == 1
    output = "\n".join(gate.daemon.lines)
    assert "the opener ended (signal: 9 (SIGKILL))" in output
    # The nftables table is made again by the supervisor itself.
    assert ("no rules today" in output) == (firewall == "iptables")
    assert ("guard stays" in output) == (firewall == "nft")


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_notified_once_the_guard_is_active(stage, firewall, abstract):
    stage.configure(guard="22", log="kmsg", firewall=firewall)
    Profile(stage, "gate")
    name = f"{stage.directory}/notify"
    with stage.server.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else name)
        manager.settimeout(5)
        stage.start_daemon(ready=False, env={**os.environ, "NOTIFY_SOCKET": f"@{name}" if abstract else name})
        assert manager.recv(100) == b"READY=1"
        assert not stage.connects()
        stage.daemon.wait_for(": ready")
        stage.daemon.process.send_signal(signal.SIGHUP)
        stage.daemon.wait_for(": ready")
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_log_lines_to_a_file_continue_beyond_four_kilobytes(stage):
    """The limit on the size of files that the watcher writes does not apply to standard error."""
    stage.configure(guard="22", log="kmsg", firewall="nft")
    stage.gate = Profile(stage, "gate")
    stage.gate.give_to_client()
    output = stage.directory / "output"
    with output.open("wb") as file:
        daemon = stage.server.start(BINARY, "daemon", "--dir", stage.server_dir, stderr=file)
    try:
        deadline = time.monotonic() + 10
        while b": ready" not in output.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for _ in range(70):
            stage.knock()
        while output.read_bytes().count(b"opened port 22 ") < 70:
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.01)
        assert output.stat().st_size > 4096
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()


def test_no_inherited_descriptor_reaches_the_children(stage):
    stage.configure(guard="22", log="kmsg", firewall="nft")
    Profile(stage, "gate")
    with open("/etc/shadow") as secret:
        os.set_inheritable(secret.fileno(), True)
        stage.start_daemon(pass_fds=[secret.fileno()])
    for pid in (stage.daemon.pid, *stage.daemon.children()):
        open_files = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert "/etc/shadow" not in open_files


def test_it_starts_under_a_parent_that_ignores_sigchld(stage):
    stage.configure(guard="22", log="kmsg", firewall="nft")
    Profile(stage, "gate")
    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        stage.start_daemon(restore_signals=False)
    finally:
        signal.signal(signal.SIGCHLD, previous)


@pytest.mark.parametrize("first", ["is ready", "starts too"])
def test_of_two_daemons_on_one_nflog_group_one_ends_and_the_other_continues(stage, firewall, first):
    stage.configure(firewall=firewall, guard="22", log="nflog:93")
    stage.gate = Profile(stage, "gate", ports=[22])
    stage.gate.give_to_client()
    other = shutil.copytree(stage.server_dir, stage.directory / "other")
    daemons = [stage.start_daemon(ready=first == "is ready"), stage.keep(Daemon(stage.server, other, ready=False))]

    def ended(daemon):
        daemon.new_lines()
        return daemon._rest is None

    wait_until(lambda: any([ended(daemon) for daemon in daemons]), timeout=5)
    [first_to_end] = [daemon for daemon in daemons if ended(daemon)]
    assert first_to_end.wait_for_end() == 1
    why = ["(knock-watcher) uses it: stop that process, or choose another group",
           "it belongs to another daemon in this network namespace: stop that one"]
    assert any(reason in line for line in first_to_end.lines for reason in why), first_to_end.lines
    [stage.daemon] = [daemon for daemon in daemons if daemon is not first_to_end]
    wait_until(lambda: any(": ready" in line for line in stage.daemon.lines + stage.daemon.new_lines()))
    stage.open_port()
    assert stage.connects()

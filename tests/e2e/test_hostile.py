"""Hostile environments: rules flushed under the daemon, misbehaving logs, floods, damaged directories."""

import base64
import fcntl
import ipaddress
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import time
from pathlib import Path

import pytest

import classic
import packets
from services import wait_until
from stage import BINARY, CLIENT, SERVER, Daemon, Profile, status
from test_faults import process


def memory(daemon):
    """Returns the resident memory of all three processes, in KB."""
    return sum(int(status(pid)["VmRSS"].split()[0]) for pid in [daemon.pid, *daemon.children()])


def handle(machine, chain):
    """Returns the handle of a chain's first rule."""
    listing = machine.run("nft", "-a", "list", "chain", "inet", "knockknock", chain).stdout
    return re.search(r" # handle (\d+)\n(?!.*type filter)", listing.split("{", 1)[1])[1]


def repaired(stage):
    """Checks that the guard is restored within a second and that a knock opens."""
    damaged = time.monotonic()
    while stage.connects(timeout=0.1):
        assert time.monotonic() - damaged < 1, "still open"
    knock_until_connected(stage)


def knock_until_connected(stage):
    """Knocks until the port opens, and uses up all openings. Knocks are lost while the watcher and the opener restart."""
    began = time.monotonic()
    while not stage.connects(timeout=0.1):
        assert time.monotonic() - began < 3, "no knock opens; the daemon's log:\n" + "\n".join(stage.daemon.lines)
        stage.knock()
        time.sleep(0.05)
    while stage.connects(timeout=0.1):  # earlier attempts may have opened the port too
        time.sleep(0.05)


@pytest.mark.parametrize("what", [
    "delete rule inet knockknock prerouting handle {rule}",
    "delete element inet knockknock knock_ports {{ {knock_port} }}",
    "delete element inet knockknock guarded {{ 22 }}",
    "flush set inet knockknock knock_ports",
    "flush chain inet knockknock input",
    "delete chain inet knockknock input",
])
def test_removed_parts_of_our_table_are_restored(stage, unowned, what):
    stage.set_up("nft", daemon_options=unowned)
    stage.open_port()
    what = what.format(rule=handle(stage.server, "prerouting"), knock_port=stage.gate.knock_port)
    stage.server.run("nft", what)
    stage.daemon.wait_for("restored them", timeout=1)
    assert stage.connects(), "the opening is still there"
    repaired(stage)


@pytest.mark.parametrize("what", ["-F", "-F KNOCKKNOCK", "-D PREROUTING -j KNOCKKNOCK"])
def test_removed_parts_of_our_iptables_chains_are_restored(stage, what):
    stage.set_up("iptables")
    stage.server.run("iptables", "-t", "mangle", *what.split())
    repaired(stage)
    stage.daemon.wait_for("restored them")


def test_iptables_legacy_sends_no_notification_and_sighup_repairs(stage):
    programs = stage.directory / "bin"
    programs.mkdir()
    for name in ("iptables", "iptables-restore", "ip6tables", "ip6tables-restore"):
        (programs / name).symlink_to("/usr/sbin/" + name.replace("tables", "tables-legacy"))
    stage.set_up("iptables", daemon_options={"env": {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}})
    stage.server.run("iptables-legacy", "-t", "mangle", "-F")
    time.sleep(1)
    assert stage.connects(), "nobody has noticed"
    stage.daemon.process.send_signal(signal.SIGHUP)
    stage.daemon.wait_for(": ready")
    assert not stage.connects()
    stage.open_port()
    assert stage.connects()


def test_a_set_of_another_type_is_replaced(stage, unowned):
    """A table of our name with other contents is deleted, and ours is restored."""
    stage.set_up("nft", daemon_options=unowned)
    stage.server.run("nft", "-f", "-", input="delete table inet knockknock\nadd table inet knockknock\n"
                     "add set inet knockknock guarded { type ipv4_addr; }\n")
    repaired(stage)
    stage.daemon.wait_for("restored them")


def test_repeated_removals_are_repaired_each_time_and_logged_once(stage, unowned):
    stage.set_up("nft", daemon_options=unowned)
    for _ in range(6):
        stage.server.run("nft", "flush", "ruleset")
        repaired(stage)
    stage.daemon.new_lines()
    assert len([line for line in stage.daemon.lines if "restored them" in line]) == 1


FLUSH = {"nft": "nft flush ruleset", "iptables": "printf '*mangle\\nCOMMIT\\n' | iptables-restore"}


def open_for(stage, seconds):
    """Tries to connect every millisecond for `seconds`. Returns the longest time without a refusal, in seconds, and the
    share of the time in which connections were accepted."""
    began = last = time.monotonic()
    total = longest = row = 0
    while last < began + seconds:
        connection = stage.client.connect(22, timeout=0.0008)
        now = time.monotonic()
        row = row + now - last if connection else 0
        total += now - last if connection else 0
        longest, last = max(longest, row), now
        if connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        time.sleep(0.001)
    return longest, total / seconds


def test_the_second_removal_is_repaired_as_soon_as_the_first(stage, unowned, firewall):
    stage.set_up(firewall, daemon_options=unowned)
    for _ in range(3):
        stage.server.run("sh", "-c", FLUSH[firewall])
        longest, _ = open_for(stage, 1)
        assert longest < 0.2
    repaired(stage)


@pytest.mark.parametrize("pause, seconds", [(0.3, 4), (0, 12)])
def test_removing_the_rules_in_a_loop_does_not_stop_the_daemon(stage, unowned, firewall, pause, seconds):
    stage.set_up(firewall, daemon_options=unowned)
    loop = stage.server.start("sh", "-c", f"while :; do {FLUSH[firewall]}; sleep {pause}; done", stderr=subprocess.DEVNULL)
    try:
        _, share = open_for(stage, seconds)
        if pause:
            assert share < 0.5
    finally:
        loop.kill()
        loop.wait()
    repaired(stage)
    stage.daemon.wait_for("restored them")
    assert not [line for line in stage.daemon.new_lines() if "restored them" in line], "once in a minute"
    assert stage.daemon.stop() == 0
    assert not stage.connects()


@pytest.mark.parametrize("firewall, flush, look", [
    ("nft", "nft flush ruleset", "nft list table inet knockknock"),
    ("iptables", "printf '*mangle\\nCOMMIT\\n' | iptables-restore", "iptables -t mangle -S KNOCKKNOCK"),
])
def test_rules_removed_before_the_opener_is_ready_are_restored(stage, unowned, firewall, flush, look):
    """A restart of nftables.service flushes the rules twice like this."""
    stage.set_up(firewall, daemon_options=unowned)
    for _ in range(8):
        stage.server.run("sh", "-c", f"{flush}; until {look} >/dev/null 2>&1; do :; done; {flush}")
        deadline = time.monotonic() + 3
        while stage.server.run(*look.split(), check=False).returncode != 0:
            assert time.monotonic() < deadline, "the rules stay deleted; the daemon's log:\n" + "\n".join(stage.daemon.lines)
            time.sleep(0.02)
    repaired(stage)


def test_the_kernel_log_buffer_overflows(stage):
    stage.set_up()
    watcher = process(stage.daemon, "watcher")
    os.kill(watcher, signal.SIGSTOP)
    with open("/dev/kmsg", "wb", buffering=0) as kmsg:
        for _ in range(3000):
            kmsg.write(b"<7>knockknock-test: " + b"x" * 900)
    stage.client.send(stage.gate.packet(0))
    os.kill(watcher, signal.SIGCONT)
    stage.opened()
    assert stage.connects()


@pytest.mark.parametrize("becomes", ["a directory", "a FIFO", "a link to nowhere"])
def test_the_daemon_waits_for_a_log_file_that_was_replaced_by_something_else(stage, becomes):
    stage.set_up(log="file")
    path = stage.log.path
    path.rename(path.with_suffix(".old"))
    if becomes == "a directory":
        path.mkdir()
    elif becomes == "a FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    if becomes != "a link to nowhere":
        assert "waiting for it" in stage.daemon.wait_for("the log cannot be read")
    time.sleep(0.2)
    path.rmdir() if becomes == "a directory" else path.unlink()
    stage.log.reopen()
    stage.open_port()
    assert stage.connects()


def test_a_log_file_that_is_a_link_is_followed_through_rotation_where_it_points(stage):
    (stage.log_dir / "elsewhere").mkdir()
    (stage.log_dir / "kern.log").symlink_to("elsewhere/kern.log")
    (stage.log_dir / "elsewhere/kern.log").touch()
    stage.set_up(log="file")
    for number in (1, 2):
        stage.open_port()
        (stage.log_dir / "elsewhere/kern.log").rename(stage.log_dir / f"elsewhere/kern.log.{number}")
        stage.log.reopen()
    stage.open_port()
    assert stage.connects()


@pytest.mark.parametrize("kind", ["a directory", "a FIFO", "a device"])
def test_a_log_that_is_not_a_file_is_an_error_at_start(stage, kind):
    path = stage.log_dir / "kern.log"
    {"a directory": path.mkdir, "a FIFO": lambda: os.mkfifo(path), "a device": lambda: path.symlink_to("/dev/zero")}[kind]()
    Profile(stage, "gate")
    stage.configure(firewall="nft", guard="22", log=path)
    for arguments in ([], ["--check"]):
        done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, *arguments, check=False)
        assert done.returncode == 1
        assert str(path) in done.stderr and "regular file" in done.stderr


def test_standard_input_that_ends_ends_the_daemon_and_leaves_the_guard(stage, firewall):
    stage.set_up(firewall, log="-")
    stage.log.close()
    stage.log.close = lambda: None
    assert stage.daemon.wait_for_end() == 1
    assert any("standard input has ended" in line for line in stage.daemon.lines)
    assert not stage.connects()


def test_a_flood_of_wrong_tags_costs_neither_memory_nor_lines_nor_the_owners_knock(stage):
    """One source sends as fast as it can to the owner's knock port."""
    stage.set_up("nft")
    stage.open_port()
    assert stage.connects()
    before, lines = memory(stage.daemon), len(stage.daemon.lines)
    flood = stage.client.start("hping3", "--syn", "--flood", "--spoof", "10.9.0.77",
                               "--setack", 7, "--destport", stage.gate.knock_port, SERVER,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(5):
            time.sleep(0.4)
            stage.open_port()
            assert stage.connects()
        assert flood.poll() is None, "it still floods"
    finally:
        flood.kill()
        flood.wait()
    assert len(stage.daemon.lines) - lines <= 12, "five openings, the first three refusals, and at most one sum"
    assert memory(stage.daemon) - before <= 512


def test_a_flood_in_the_log_costs_no_memory(stage):
    """200,000 lines with wrong tags, each from another source, as a log rule without a rate limit would let through."""
    path = stage.log_dir / "messages"
    path.write_bytes(b"")
    path.chmod(0o644)
    stage.set_up(log=path)
    template = ("Nov 22 10:01:42 host kernel: [  836.6] knockknock IN=eth0 OUT= MAC= SRC={source} DST=10.9.0.1 LEN=40 "
                "TOS=0x00 PREC=0x00 TTL=64 ID={id} DF PROTO=TCP SPT=4000 DPT={port} SEQ={seq} ACK=77 WINDOW=9 RES=0x00 "
                "SYN URGP=0 \n")
    port = stage.gate.knock_port
    lines = "".join(template.format(source=f"11.{n >> 16}.{n >> 8 & 255}.{n & 255}", id=n % 65535 + 1, seq=n * 7, port=port)
                    for n in range(20000)).encode()
    with open(path, "ab", buffering=0) as log:
        log.write(lines)
    before = None
    for _ in range(9):
        with open(path, "ab", buffering=0) as log:
            log.write(lines)
        time.sleep(0.5)
        before = before or memory(stage.daemon)
    fields = stage.gate.fields(0)
    with open(path, "ab", buffering=0) as log:
        log.write(template.format(source=CLIENT, id=fields.identification, seq=fields.sequence, port=port).replace(
            "ACK=77", f"ACK={fields.acknowledgment}").replace("WINDOW=9", f"WINDOW={fields.window}").encode())
    stage.daemon.wait_for(f"opened port 22 to {CLIENT} ", timeout=60)
    assert memory(stage.daemon) - before <= 512
    usual = ("ready", "confined", "no profile has ever knocked", "--trial")
    # Three wrong codes with what to do, the sum, and the opening.
    assert len([line for line in stage.daemon.lines if not any(word in line for word in usual)]) <= 8


def test_a_burst_of_wrong_tags_from_one_source_does_not_get_a_search_each(stage):
    """Of 64 queued resynchronisation searches, those that exceed their source's budget are dropped."""
    path = stage.log_dir / "messages"
    path.write_bytes(b"")
    path.chmod(0o644)
    stage.set_up(log=path, resync_window=1000000)
    watcher = process(stage.daemon, "watcher")

    def worked():
        user, system = Path(f"/proc/{watcher}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def costs(count, source):
        start = before = worked()
        with open(path, "ab", buffering=0) as log:
            log.write("".join(
                f"Nov 22 10:01:42 host kernel: [  836.6] knockknock IN=eth0 OUT= MAC= SRC={source} DST=10.9.0.1 LEN=40 "
                f"TOS=0x00 PREC=0x00 TTL=64 ID={number + 1} DF PROTO=TCP SPT=4000 DPT={stage.gate.knock_port} SEQ={number} "
                f"ACK=77 WINDOW=9 RES=0x00 SYN URGP=0 \n" for number in range(count)).encode())
        time.sleep(0.1)
        while worked() != before:
            before = worked()
            time.sleep(0.3)
        return before - start

    one = costs(1, "11.0.0.1")
    assert one > 0, "a search is to be seen"
    assert costs(64, "11.0.0.2") < 4 * one + 0.2


def test_a_full_set_of_openings_is_reported_and_ends_nothing(stage, unowned):
    """At most 4,096 openings exist at a time. The next is refused until one of them has been used."""
    stage.set_up("nft", delay=900, daemon_options=unowned)
    fields = classic.knocks(*stage.gate.keys, range(4100), 22)
    port = stage.gate.knock_port
    with stage.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(4096):
            source = f"10.99.{number >> 8}.{number & 255 or 1}" if number & 255 else f"10.98.{number >> 8}.1"
            raw.sendto(packets.tcp(source, SERVER, 40000, port, fields[number]), (SERVER, 0))
            if number % 200 == 199:
                stage.daemon.wait_for(f"opened port 22 to {source} ")
        stage.daemon.wait_for(f"opened port 22 to {source} ")
        raw.sendto(packets.tcp("10.97.0.1", SERVER, 40000, port, fields[4096]), (SERVER, 0))
    stage.daemon.wait_for("port 22 stays closed to 10.97.0.1: the set of openings is full")
    stage.server.run("nft", "delete", "element", "inet", "knockknock", "open4", "{ 10.99.0.1 . 22 }")
    stage.client.send(packets.tcp(CLIENT, SERVER, 40000, port, fields[4097]))
    stage.opened()
    assert stage.connects()
    assert not stage.connects()


def test_a_set_that_counts_elements_which_are_gone_is_replaced(stage, unowned):
    """Kernels without commit c92db3030492 go on counting used openings: after 4,096 of them, every opening was refused. Here the
    set is full of expired elements, which the kernel counts until it collects them, once a second."""
    stage.set_up("nft", daemon_options=unowned)
    stage.server.run("nft", "add element inet knockknock open4 { 10.99.0.1 . 22 timeout 1h }")
    expired = ", ".join(f"10.98.{number >> 8}.{number & 255} . 22 timeout 1ms" for number in range(4095))
    for _ in range(50):
        # Fails if elements of the last time have not been collected yet.
        stage.server.run("nft", "-f", "-", input=f"add element inet knockknock open4 {{ {expired} }}\n", check=False)
        stage.knock()
        answer = stage.daemon.wait_for("port 22 ")
        if "opened" not in answer:
            break
        assert stage.connects()
    assert answer.endswith(f"port 22 stays closed to {CLIENT}: the kernel still counts used openings")
    stage.daemon.wait_for("replacing the sets of openings; knock again")
    knock_until_connected(stage)
    assert not any("restored them" in line for line in stage.daemon.lines), "nobody changed the rules"
    assert "10.99.0.1 . 22" in stage.server.run("nft", "list set inet knockknock open4").stdout, "an opening is lost"


def test_ten_thousand_profiles(stage):
    """The test writes the profiles itself, because genprofile would need one process for each."""
    for number in range(10000):
        path = stage.server_dir / "profiles" / f"p{number:05}"
        path.mkdir(parents=True)
        for name, content in (("config", f"[main]\nknock_port = {20000 + number}\nports = 22\n"), ("counter", "0000000000\n"),
                              ("cipher.key", base64.b64encode(os.urandom(16)).decode() + "\n"),
                              ("mac.key", base64.b64encode(os.urandom(16)).decode() + "\n")):
            file = path / name
            file.write_text(content)
            file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    stage.configure(firewall="nft", guard="22", log="kmsg")
    began = time.monotonic()
    stage.daemon = stage.keep(Daemon(stage.server, stage.server_dir, ready=False))
    stage.daemon.wait_for(": ready", timeout=20)
    took = time.monotonic() - began
    used = memory(stage.daemon)
    print(f"10,000 profiles: ready after {took:.2f} s, {used} KB resident in all three processes")
    assert took < 10 and used < 64 << 10
    last = stage.server_dir / "profiles/p09999"
    profile = Profile.__new__(Profile)
    profile.path, profile.knock_port = last, 29999
    stage.client.send(profile.packet(0))
    stage.opened()
    assert stage.connects()


def test_keys_that_others_can_read_are_refused_with_advice(stage):
    stage.gate = Profile(stage, "gate")
    Profile(stage, "other")
    stage.configure(firewall="nft", guard="22", log="kmsg")
    key = stage.gate.path / "cipher.key"
    key.chmod(0o644)
    daemon = stage.start_daemon()
    output = "\n".join(daemon.lines)
    assert f'"{key}"' in output and f'chmod 600 "{key}"' in output
    stage.client.send(stage.gate.packet(0))
    time.sleep(0.3)
    assert stage.gate.counter == 0 and not stage.connects()


@pytest.mark.parametrize("whose", ["files", "directory"])
def test_keys_of_another_user_are_refused(stage, whose):
    stage.gate = Profile(stage, "gate")
    stage.configure(firewall="nft", guard="22", log="kmsg")
    for name in ("cipher.key", "mac.key", "counter") if whose == "files" else ("",):
        os.chown(stage.gate.path / name, 12345, 12345)
    done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check", check=False)
    assert done.returncode == 1
    assert "belongs to user 12345" in done.stderr and "chown 0 " in done.stderr


@pytest.mark.parametrize("damage", ["config is a directory", "config is no config", "profiles is a file", "no directory"])
def test_a_damaged_directory_is_a_clear_error(stage, damage):
    Profile(stage, "gate")
    stage.configure(firewall="nft", guard="22", log="kmsg")
    directory, config = stage.server_dir, stage.server_dir / "config"
    if damage == "config is a directory":
        config.unlink()
        config.mkdir()
    elif damage == "config is no config":
        config.write_bytes(b"\xff\xfe\0\0" * 100)
    elif damage == "profiles is a file":
        (directory / "profiles").rename(directory / "away")
        (directory / "profiles").write_text("")
    else:
        directory = stage.directory / "nowhere"
    for arguments in ([], ["--check"]):
        done = stage.server.run(BINARY, "daemon", "--dir", directory, *arguments, check=False, timeout=5)
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith("knockknock-daemon: ") and str(directory) in done.stderr
        assert len(done.stderr.splitlines()) <= 3, done.stderr


@pytest.mark.parametrize("file", ["config", "profiles/gate/config", "profiles/gate/cipher.key", "profiles/gate/counter"])
@pytest.mark.parametrize("becomes", ["a FIFO", "a device that never ends", "a long file"])
def test_a_blocking_or_endless_file_is_refused(stage, unowned, file, becomes):
    stage.set_up("nft", daemon_options=unowned)
    path = stage.server_dir / file
    path.unlink()
    {"a FIFO": lambda: os.mkfifo(path, 0o600), "a device that never ends": lambda: path.symlink_to("/dev/zero"),
     "a long file": lambda: path.write_bytes(b"#" * 70000)}[becomes]()
    if becomes == "a long file":
        path.chmod(0o600)
    done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check", check=False, timeout=5)
    assert done.returncode == 1 and str(path) in done.stderr
    stage.daemon.process.send_signal(signal.SIGHUP)
    stage.daemon.wait_for(str(path))
    if file == "config":
        stage.open_port()
    else:
        stage.daemon.wait_for(": ready")
    stage.server.run("nft", "flush", "ruleset")
    stage.daemon.wait_for("restored them")
    assert not stage.connects()
    assert stage.daemon.stop() == 0


@pytest.mark.parametrize("which", [".", "profiles"])
def test_a_directory_that_others_can_change_is_refused_with_advice(stage, which):
    """Otherwise another user could replace a profile by an old copy of it, and a used knock would open again."""
    stage.set_up("nft")
    path = (stage.server_dir / which).resolve()
    path.chmod(0o777)
    done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check", check=False)
    assert done.returncode == 1
    assert f'"{path}": others can change it (mode 0777)' in done.stderr and f'chmod 755 "{path}"' in done.stderr
    stage.daemon.process.send_signal(signal.SIGHUP)
    stage.daemon.wait_for("keeping the previous configuration")
    stage.daemon.stop()
    stage.start_daemon(ready=False)
    assert stage.daemon.wait_for_end() == 1
    assert not stage.connects()


def test_a_directory_below_one_that_everybody_can_write_to_is_refused(stage, public):
    public.chmod(0o777)
    (public / "profiles").mkdir()
    done = stage.server.run(BINARY, "daemon", "--dir", public, "--check", check=False)
    assert f'chmod 755 "{public}"' in done.stderr
    (public / "config.d/profiles").mkdir(parents=True)
    done = stage.server.run(BINARY, "daemon", "--dir", public / "config.d", "--check", check=False)
    assert done.returncode == 1
    assert f'"{public}": others can change it (mode 0777)' in done.stderr and f'chmod 755 "{public}"' in done.stderr


@pytest.mark.parametrize("which", ["", "a", "a/b", "a/b/config", "a/b/profiles", "a/b/profiles/gate"])
def test_whoever_can_replace_a_part_of_the_path_is_named(stage, public, which):
    """As sshd with StrictModes: the owner or the group of any directory up to the root."""
    directory, part = public / "a/b", public / which
    stage.server_dir = directory
    directory.mkdir(parents=True)
    stage.gate = Profile(stage, "gate")
    stage.configure(firewall="nft", guard="22", log="kmsg")
    before = part.stat().st_mode & 0o777

    def check(refused):
        done = stage.server.run(BINARY, "daemon", "--dir", directory, "--check", check=False)
        assert done.returncode == (1 if refused else 0) and refused in done.stderr, done.stderr

    check("")
    os.chown(part, 12345, -1)
    check(f'"{part}": belongs to user 12345')
    os.chown(part, 0, 12345)
    part.chmod(before | 0o020)
    check(f'"{part}": others can change it (mode 0{before | 0o020:o})')
    if which in ("", "a"):
        part.chmod(0o1777)
        check("")


def test_a_profile_that_is_a_link_to_another_users_directory_is_refused(stage, public):
    stage.gate = Profile(stage, "gate")
    stage.configure(firewall="nft", guard="22", log="kmsg")
    (public / "home").mkdir()
    stage.gate.path.rename(public / "home/gate")
    stage.gate.path.symlink_to(public / "home/gate")
    assert stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check").returncode == 0
    os.chown(public / "home", 12345, -1)
    done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check", check=False)
    assert done.returncode == 1 and f'"{public}/home": belongs to user 12345' in done.stderr


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_a_daemon_starts_while_another_program_looks_whether_one_runs(stage):
    stage.gate = Profile(stage, "gate")
    stage.configure(firewall="nft", guard="22", log="kmsg")
    lock = os.open(stage.server_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    trace = stage.directory / "trace"
    stage.start_daemon(enter=("strace", "-D", "-qq", "-o", trace, "-e", "trace=flock"), ready=False)
    wait_until(lambda: trace.exists() and "EAGAIN" in trace.read_text(), timeout=20)
    os.close(lock)
    stage.daemon.wait_for(": ready", timeout=20)


def test_a_user_who_locks_the_directories_blocks_nothing(stage):
    """Every user can lock a directory that they can read."""
    stage.gate = Profile(stage, "gate")
    stage.configure(firewall="nft", guard="22", log="kmsg")
    for path in (stage.server_dir, stage.server_dir / "profiles"):
        path.chmod(0o755)
        holder = os.open(path, os.O_RDONLY)
        fcntl.flock(holder, fcntl.LOCK_EX)
        stage._closing.callback(os.close, holder)
    stage.start_daemon()
    for command in (["genprofile", "laptop", "666"], ["rotate", "laptop", SERVER], ["revoke", "laptop"]):
        assert stage.server.run(BINARY, *command, "--dir", stage.server_dir).stderr
    second = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, check=False)
    assert second.returncode == 1 and "another daemon is running" in second.stderr
    for path in (stage.server_dir / ".lock", stage.server_dir / "profiles/.lock"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_counter_that_is_a_link_is_refused(stage):
    stage.gate = Profile(stage, "gate")
    stage.configure(firewall="nft", guard="22", log="kmsg")
    backup = stage.directory / "backup"
    (stage.gate.path / "counter").rename(backup)
    (stage.gate.path / "counter").symlink_to(backup)
    done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check", check=False)
    assert done.returncode == 1 and "a counter must be a file, not a link" in done.stderr


def test_an_invalid_request_from_the_watcher_ends_the_daemon(stage, hooked):
    """Only the watcher writes to the opener's socket, so a message that no intact watcher sends is an attack."""
    environment = {**os.environ, "KNOCKKNOCK_ATTEMPT": "watcher: stored: nonsense"}
    stage.set_up("nft", daemon_options={"binary": hooked, "env": environment})
    stage.knock()
    assert stage.daemon.wait_for_end() == 1
    assert any("the watcher sent an invalid request; the daemon ends" in line for line in stage.daemon.lines)
    assert not stage.connects()


def request(port, source, seconds=15):
    """Returns a watcher's message to the opener (src/applet/daemon/ipc.rs)."""
    address = ipaddress.ip_address(source)
    return struct.pack(">BBHHH16s", 1, address.version, port, seconds, 0, address.packed)


@pytest.mark.parametrize("firewall", ["nft", "iptables"])
def test_the_opener_checks_requests_itself(stage, unowned, firewall):
    """The test acts as the watcher, with a second opener next to the daemon."""
    stage.set_up(firewall, daemon_options=unowned)

    def asked(message):
        """Returns the opener's answer to a watcher's message, and its exit code if it has exited."""
        watcher, openers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        supervisor, output = socket.socketpair()
        allowed, guarded = bytearray(8192), bytearray(8192)
        for ports, port in ((allowed, 22), (guarded, 22), (guarded, 7)):
            ports[port // 8] |= 1 << port % 8
        with watcher, openers, supervisor, output:
            supervisor.sendall(allowed + guarded)
            watcher.send(b"+")
            watcher.send(message)
            with stage.server.start(BINARY, "opener", os.getpid(), "stderr", firewall, stdin=openers, stdout=output,
                                    stderr=subprocess.DEVNULL) as opener:
                openers.close()
                try:
                    answer = watcher.recv(100)
                except ConnectionResetError:  # it has exited without taking the message
                    answer = b""
                watcher.close()
                return answer, opener.wait(5)

    assert asked(request(7, CLIENT)) == (b"p", 1), "a guarded port that no profile may open"
    assert asked(request(22, SERVER)) == (b"o", 1), "one of its own addresses"
    for nonsense in (request(22, "127.0.0.1"), request(22, "224.0.0.1"), request(22, "::1"), request(0, CLIENT),
                     request(22, CLIENT, 901), request(22, CLIENT, 0), request(22, CLIENT)[:-1], request(22, CLIENT) + b"\0", b"+"):
        assert asked(nonsense) == (b"", 1), nonsense
    assert not stage.connects()
    assert asked(request(22, CLIENT)) == (b"y", 1)
    assert stage.connects()
    assert not stage.connects()

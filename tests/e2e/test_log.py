"""The log sources: /dev/kmsg, a followed file, standard input; and log lines that are not knocks."""

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

import packets
from stage import BINARY, CLIENT, SERVER, KernelLog, Profile
from test_doctor import on_server, wrong
from test_doctor import packets as packet_counts


def line(profile, counter=0, port=22, source=CLIENT, stamp=None):
    """A kernel line that carries a knock, as a syslog daemon writes it now, or behind another time."""
    fields = profile.fields(counter, port)
    stamp = stamp or f"Nov 22 10:01:42 host kernel: [{time.monotonic():12.6f}]"
    return (f"{stamp} knockknock IN=eth0 OUT= "
            f"MAC=92:ff:53:75:fb:6e:66:93:0a:16:21:fb:08:00 SRC={source} DST={SERVER} LEN=40 TOS=0x00 PREC=0x00 "
            f"TTL=64 ID={fields.identification} DF PROTO=TCP SPT=40000 DPT={profile.knock_port} "
            f"SEQ={fields.sequence} ACK={fields.acknowledgment} WINDOW={fields.window} RES=0x00 SYN URGP=0 \n").encode()


class Lines:
    """A log file that only the test writes."""

    def __init__(self, path):
        self.path = path

    def append(self, octets):
        with open(self.path, "ab") as file:
            file.write(octets)
        os.chmod(self.path, 0o644)


@pytest.fixture
def lines(stage):
    """A log file that only the test writes, and that the daemon follows."""
    lines = Lines(stage.log_dir / "messages")
    lines.append(b"")
    stage.set_up(log=lines.path)
    return lines


def opened_once(stage):
    """Waits for the opening, which must be the first and only one."""
    stage.opened()
    time.sleep(0.05)
    stage.daemon.new_lines()
    return len([text for text in stage.daemon.lines if "opened port 22 " in text]) == 1


FORGERIES = {
    "UDP": lambda text: text.replace(b"PROTO=TCP", b"PROTO=UDP"),
    "ICMP": lambda text: text.replace(b"PROTO=TCP", b"PROTO=ICMP"),
    "no protocol": lambda text: text.replace(b"PROTO=TCP ", b""),
    "in an ICMP error": lambda text: text.replace(b" SRC=", b" PROTO=ICMP TYPE=3 CODE=3 [SRC=").replace(b" \n", b"] \n"),
    "behind a bracket": lambda text: text.replace(b" PROTO=", b" [ PROTO="),
    "ACK flag": lambda text: text.replace(b" SYN ", b" ACK SYN "),
    "no SYN flag": lambda text: text.replace(b" SYN ", b" "),
    "no incoming interface": lambda text: text.replace(b"IN=eth0", b"IN="),
    "outgoing": lambda text: text.replace(b"OUT=", b"OUT=eth1"),
    "a network for a source": lambda text: text.replace(b"SRC=10.9.0.2", b"SRC=0.0.0.0/0"),
    "a name for a source": lambda text: text.replace(b"SRC=10.9.0.2", b"SRC=localhost"),
    "a short source": lambda text: text.replace(b"SRC=10.9.0.2", b"SRC=10.9.2"),
    "an octal source": lambda text: text.replace(b"SRC=10.9.0.2", b"SRC=10.9.0.02"),
    "ID=70000": lambda text: _replace_value(text, b"ID", b"70000"),
    "negative ID": lambda text: text.replace(b" ID=", b" ID=-"),
    "signed ID": lambda text: text.replace(b" ID=", b" ID=+"),
    "hexadecimal ID": lambda text: _replace_value(text, b"ID", b"0x10"),
    "empty ID": lambda text: _replace_value(text, b"ID", b""),
    "doubled ID": lambda text: text.replace(b" DF ", b" ID=1 DF "),
    "doubled SRC": lambda text: text.replace(b" DST=", b" SRC=10.9.0.9 DST="),
    "doubled SEQ": lambda text: text.replace(b" RES=", b" SEQ=1 RES="),
    "doubled DPT": lambda text: text.replace(b" RES=", b" DPT=1 RES="),
    "SEQ beyond 32 bits": lambda text: _replace_value(text, b"SEQ", b"4294967296"),
    "no SEQ": lambda text: _replace_value(text, b" SEQ", None),
    "no WINDOW": lambda text: _replace_value(text, b" WINDOW", None),
    "cut short": lambda text: text[:text.index(b"WINDOW=")] + b"\n",
    "invalid UTF-8 in a number": lambda text: text.replace(b" SEQ=", b" SEQ=\xff"),
    "NUL in a number": lambda text: text.replace(b" SEQ=", b" SEQ=\0"),
}


def _replace_value(text, key, value):
    start = text.index(key + b"=")
    end = text.index(b" ", start + len(key) + 1)
    return text[:start] + (b"" if value is None else key + b"=" + value) + text[end:]


def test_forged_lines_do_nothing_and_are_not_logged(stage, lines):
    genuine = line(stage.gate)
    for forge in FORGERIES.values():
        forged = forge(genuine)
        assert forged != genuine
        lines.append(forged)
    lines.append(b"\xff\xfe\x80 SRC= DST= \n" * 100)
    lines.append(b"A" * (1 << 20) + b"\n")
    lines.append(b"IN=eth0 OUT= " * (1 << 16) + b"\n")
    quiet = len(stage.daemon.lines)
    lines.append(line(stage.gate, counter=1))
    assert opened_once(stage)
    assert stage.daemon.lines[quiet:] == [f'knockknock-daemon: opened port 22 to {CLIENT} for 15 s (profile "gate")']
    assert stage.gate.counter == 2


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_line_leaves_the_counter(stage, forgery, lines):
    """Each forgery is tested alone and carries the expected counter."""
    lines.append(FORGERIES[forgery](line(stage.gate)))
    lines.append(line(stage.fence, port=7))
    stage.opened(7)
    assert stage.gate.counter == 0
    lines.append(line(stage.gate))
    assert opened_once(stage)


def test_the_text_before_the_first_field_does_not_matter(stage, lines):
    genuine = line(stage.gate)
    lines.append(b"2026-11-22T10:01:42.123456+00:00 my-host kernel: REJECT " + genuine[genuine.index(b"IN="):])
    assert opened_once(stage)


def test_a_line_in_several_reads(stage, lines):
    whole = line(stage.gate)
    for start in range(0, len(whole), 7):
        lines.append(whole[start:start + 7])
    assert opened_once(stage)


def test_half_a_line_waits_for_the_other_half(stage, lines):
    whole = line(stage.gate)
    lines.append(whole[:100])
    time.sleep(0.1)
    assert not [text for text in stage.daemon.new_lines() if "opened" in text]
    lines.append(whole[100:])
    assert opened_once(stage)


def test_a_knock_after_a_line_of_a_megabyte(stage, lines):
    lines.append(b"x" * (1 << 20))
    lines.append(b"y" * (1 << 20) + b"\n" + line(stage.gate))
    assert opened_once(stage)


def test_old_lines_are_not_read_at_the_start(stage, lines):
    stage.daemon.stop()
    lines.append(line(stage.gate))
    stage.start_daemon()
    lines.append(line(stage.gate, counter=1))
    assert opened_once(stage)
    assert stage.gate.counter == 2


def test_real_udp_and_icmp_lines_that_carry_a_knock_do_nothing(stage, firewall):
    stage.set_up(firewall, log="file")
    if firewall == "nft":
        stage.server.run("nft", "-f", "-", input="""table ip witness { chain prerouting {
            type filter hook prerouting priority -300;
            meta l4proto { udp, icmp } log prefix "REJECT " level debug flags all
        }
        }
        """)
    else:
        for protocol in ("udp", "icmp"):
            stage.server.run("iptables", "-t", "raw", "-A", "PREROUTING", "-p", protocol, "-j", "LOG", "--log-prefix",
                             "REJECT ", "--log-level", "debug", "--log-tcp-sequence", "--log-tcp-options")
    profile = stage.gate
    knock, fields = profile.packet(0), profile.fields(0)
    udp = struct.pack("!HHHH", 40000, profile.knock_port, 8, 0)
    stage.client.send(packets.ipv4(CLIENT, SERVER, socket.IPPROTO_UDP, udp, fields.identification))
    unreachable = struct.pack("!BBHI", 3, 3, packets.checksum(b"\3\3\0\0\0\0\0\0" + knock), 0) + knock
    stage.client.send(packets.ipv4(CLIENT, SERVER, socket.IPPROTO_ICMP, unreachable, fields.identification))
    assert stage.nothing_opened()
    written = stage.log.path.read_text()
    assert f"ID={fields.identification} DF PROTO=UDP SPT=40000 DPT={profile.knock_port} " in written
    assert f"[SRC={CLIENT} " in written and f"SEQ={fields.sequence} ACK={fields.acknowledgment} " in written
    assert profile.counter == 0
    stage.client.send(knock)
    stage.opened()


def test_a_line_that_user_space_writes_to_kmsg_does_nothing(gate):
    text = line(gate.gate).split(b"] ", 1)[1]
    with open("/dev/kmsg", "wb", buffering=0) as kmsg:
        for level in (b"", b"<7>", b"<0>", b"<15>"):
            kmsg.write(level + text)
    assert gate.nothing_opened()
    assert gate.gate.counter == 0


def test_two_log_rules_open_once_and_log_it_once(stage):
    stage.set_up()
    stage.server.run("nft", "-f", "-", input="""table inet witness { chain prerouting {
        type filter hook prerouting priority -300;
        tcp flags syn log prefix "REJECT " level debug flags tcp sequence,options
    }
    }
    """)
    stage.open_port()
    assert stage.connects()
    assert stage.nothing_opened()
    assert not stage.connects()
    assert len([text for text in stage.daemon.lines if "gate" in text and "opened" in text]) == 1


def test_knocks_are_read_from_standard_input(stage, firewall):
    stage.set_up(firewall, log="-")
    for _ in range(2):
        stage.open_port()
        assert stage.connects()
        assert not stage.connects()


def test_rotation_by_rename_loses_no_knock(stage, firewall):
    stage.set_up(firewall, log="file")
    path = stage.log.path
    for number in (1, 2):
        stage.open_port()
        path.rename(path.with_suffix(f".log.{number}"))
        stage.open_port()  # the syslog daemon still writes to the old file
        stage.log.reopen()
        stage.open_port()
    assert stage.connects()
    assert stage.gate.counter == 6


def test_rotation_before_syslog_reopens_the_log_loses_no_knock(stage):
    """logrotate's `create`, as in Debian: the new file has the name while syslog still writes to the old one."""
    stage.set_up(log="file")
    path = stage.log.path
    for number in (1, 2):
        path.rename(path.with_suffix(f".log.{number}"))
        path.touch()
        for _ in range(2):
            stage.open_port()
        if number == 2:
            path.with_suffix(".log.2").unlink()
            stage.open_port()
        stage.log.reopen()
        for _ in range(2):
            stage.open_port()
    assert stage.connects()
    assert stage.gate.counter == 9


def test_a_file_that_is_rotated_while_it_is_empty_loses_no_knock(stage):
    stage.set_up(log="file")
    path = stage.log.path
    for number in (1, 2, 3):
        path.rename(path.with_suffix(f".log.{number}"))
        path.touch()
        time.sleep(0.1)
        if number < 3:
            stage.log.reopen()
    stage.open_port()
    stage.log.reopen()
    stage.open_port()
    assert stage.gate.counter == 2


def test_a_file_that_gets_its_name_back_is_still_followed(stage):
    stage.set_up(log="file")
    path, aside = stage.log.path, stage.log.path.with_suffix(".log.1")
    path.rename(aside)
    path.touch()
    stage.open_port()
    aside.rename(path)
    stage.open_port()
    os.truncate(path, 0)
    stage.open_port()
    assert stage.gate.counter == 3


def test_rotation_by_truncation_loses_no_knock(stage, firewall):
    stage.set_up(firewall, log="file")
    for _ in range(3):
        stage.open_port()
        os.truncate(stage.log.path, 0)
        stage.open_port()
    assert stage.connects()
    assert stage.gate.counter == 6


def test_the_unread_rest_of_the_old_file_is_read(stage, lines):
    for pid in stage.daemon.children():
        os.kill(pid, signal.SIGSTOP)
    lines.append(line(stage.gate))
    lines.path.rename(lines.path.with_suffix(".1"))
    lines.append(line(stage.gate, counter=1))
    for pid in stage.daemon.children():
        os.kill(pid, signal.SIGCONT)
    stage.opened()
    stage.opened()
    assert stage.gate.counter == 2


def test_a_missing_file_may_appear_later(stage, firewall):
    path = stage.log_dir / "kern.log"
    stage.set_up(firewall, log=path)
    for _ in range(2):
        log = KernelLog(path)
        stage.open_port()
        log.close()
        path.unlink()
    assert stage.connects()


def test_auto_reads_kmsg(stage):
    stage.set_up(log="auto")
    stage.open_port()
    assert stage.connects()


def logged(stage, text):
    """A line with `text` in it, which may come before the daemon is ready."""
    found = [line for line in stage.daemon.lines if text in line]
    return found[0] if found else stage.daemon.wait_for(text)


# A log that cannot deliver is refused, or waited for aloud.

def own_kmsg(machine, directory, kind):
    """/dev/kmsg on this machine only: something else than the kernel's log."""
    dev = directory / "dev"
    dev.mkdir()
    for name in ("null", "urandom", "console"):
        (dev / name).touch()
        machine.run("mount", "--bind", "/dev/null" if name == "console" else f"/dev/{name}", dev / name)
    if kind.startswith("link"):
        (dev / "kmsg").symlink_to(kind.split()[-1])
    elif kind == "file":
        (dev / "kmsg").write_text("")
    elif kind == "fifo":
        os.mkfifo(dev / "kmsg")
    machine.run("mount", "--rbind", dev, "/dev")


def missing_directory(stage):
    return stage.log_dir / "nowhere" / "kern.log"


def something_else(make):
    def log(stage):
        path = stage.log_dir / "kern.log"
        make(path)
        return path
    return log


def without_kmsg(kind, log="kmsg"):
    def prepare(stage):
        own_kmsg(stage.server, stage.directory, kind)
        return log
    return prepare


def without_inotify(stage):
    (stage.log_dir / "kern.log").touch()
    return stage.log_dir / "kern.log"


def listen_to_group(stage):
    """Returns a socket that has the group: NFULNL_CFG_CMD_BIND, in linux/netfilter/nfnetlink_log.h."""
    holder = stage.server.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    holder.send(struct.pack("=IHHII", 28, 4 << 8 | 1, 5, 1, 0) + struct.pack(">BBH", 0, 0, 93) + struct.pack("=HHB3x", 5, 1, 1))
    assert struct.unpack_from("=i", holder.recv(100), 16) == (0,)
    return holder


def taken_group(stage):
    stage.keep(listen_to_group(stage))
    return "nflog:93"


def test_a_group_that_another_process_only_checks_is_waited_for(stage):
    stage.configure(firewall="nft", guard="22", log="nflog:93")
    Profile(stage, "gate")
    with listen_to_group(stage) as holder:
        release = threading.Timer(0.05, holder.close)
        release.start()
        done = stage.server.run(BINARY, "daemon", "--check", "--dir", stage.server_dir, check=False)
        release.join()
    assert done.returncode == 0, done.stderr


BROKEN = {
    "kmsg is a link to null": (without_kmsg("link /dev/null"), 'a link to "/dev/null"'),
    "kmsg is a link to the console": (without_kmsg("link console"), 'a link to "console"'),
    "kmsg is a plain file": (without_kmsg("file"), "not the kernel log"),
    "kmsg is a FIFO": (without_kmsg("fifo"), "not the kernel log"),
    "no kmsg": (without_kmsg("none"), 'cannot open "/dev/kmsg"'),
    "auto without kmsg and kern.log": (without_kmsg("none", "auto"), "there is no kernel log to read"),
    "auto where kmsg is null": (without_kmsg("link /dev/null", "auto"), "there is no kernel log to read"),
    "no such directory": (missing_directory, "no such file"),
    "a directory": (something_else(lambda path: path.mkdir()), "regular file"),
    "a FIFO": (something_else(os.mkfifo), "regular file"),
    "a device": (something_else(lambda path: path.symlink_to("/dev/zero")), "regular file"),
    "a link to itself": (something_else(lambda path: path.symlink_to(path.name)), "cannot follow"),
    "below a file": (something_else(lambda path: None), "cannot follow"),
    "a group that another process has": (taken_group, "uses it"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_unusable_log_is_refused_by_check_and_at_the_start(stage, name):
    prepare, why = BROKEN[name]
    log = prepare(stage)
    if name == "below a file":
        log.write_text("")
        log = log / "kern.log"
    if "auto" in name:
        stage.server.run("mount", "-t", "tmpfs", "tmpfs", "/var/log")
    Profile(stage, "gate")
    stage.configure(firewall="nft", guard="22", log=log)
    start, check = [stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, *arguments, check=False)
                    for arguments in ([], ["--check"])]
    assert (start.returncode, check.returncode) == (1, 1)
    assert why in start.stderr and start.stderr == check.stderr


def test_inotify_instances_that_are_used_up_are_named_with_their_sysctl(stage):
    stage.configure(firewall="nft", guard="22", log=stage.log_dir / "kern.log")
    Profile(stage, "gate")
    limit, sysctl = stage.keep(Restored("/proc/sys/fs/inotify/max_user_instances", "0")), "fs.inotify.max_user_instances"
    assert limit
    done = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check", check=False)
    assert done.returncode == 1 and sysctl in done.stderr
    daemon = stage.start_daemon()
    assert any(sysctl in line for line in daemon.lines), daemon.lines
    daemon.wait_for("guarding every port that a profile lists")


class Restored:
    """A setting under /proc/sys that is put back."""

    def __init__(self, path, value):
        self._path = path
        with open(path) as file:
            self._before = file.read()
        self._write(value)

    def _write(self, value):
        with open(self._path, "w") as file:
            file.write(value)

    def close(self):
        self._write(self._before)


def test_a_missing_log_is_reported_at_start_and_when_it_appears(stage):
    path = stage.log_dir / "kren.log"
    stage.set_up(log=path)
    assert str(path) in logged(stage, "does not exist yet; the daemon waits for it") and logged(stage, "syslogd")
    assert "which does not exist yet" in stage.daemon.lines[-1]
    checked = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check")
    assert "does not exist yet" in checked.stdout and "does not exist yet" in checked.stderr
    stage.log = stage.keep(KernelLog(path))
    stage.open_port()
    assert any("the log can be read now" in line for line in stage.daemon.lines)


def opens_again(stage, path):
    """The daemon finds the log that is at `path` by now, and a knock in it opens."""
    stage.daemon.wait_for("reopening it", timeout=5)
    time.sleep(0.5)
    stage.keep(KernelLog(path))
    time.sleep(0.5)
    stage.open_port()


def test_a_log_is_found_after_its_directory_was_renamed_and_recreated(stage):
    stage.set_up(log="file")
    stage.open_port()
    stage.log_dir.rename(stage.directory / "old")
    stage.log_dir.mkdir(mode=0o755)
    opens_again(stage, stage.log.path)


def test_a_log_is_found_after_its_directory_was_removed_and_recreated(stage):
    stage.set_up(log="file")
    stage.open_port()
    shutil.rmtree(stage.log_dir)
    time.sleep(0.3)
    stage.log_dir.mkdir(mode=0o755)
    opens_again(stage, stage.log.path)


def test_a_log_is_found_after_a_directory_above_it_was_renamed(stage):
    deep = stage.log_dir / "a/b"
    deep.mkdir(parents=True)
    stage.log = stage.keep(KernelLog(deep / "kern.log"))
    stage.set_up(log=deep / "kern.log")
    stage.open_port()
    (stage.log_dir / "a").rename(stage.log_dir / "z")
    deep.mkdir(parents=True)
    opens_again(stage, stage.log.path)


def test_a_log_is_found_after_it_was_mounted_over(stage):
    stage.set_up(log="file")
    stage.open_port()
    covered = stage.directory / "covered"
    covered.mkdir()
    (covered / "kern.log").touch()
    stage.server.run("mount", "--bind", covered, stage.log_dir)
    opens_again(stage, covered / "kern.log")


def test_mounts_elsewhere_do_not_matter(stage):
    stage.set_up(log="file")
    (stage.directory / "elsewhere").mkdir()
    stage.server.run("mount", "-t", "tmpfs", "tmpfs", stage.directory / "elsewhere")
    stage.open_port()
    assert not [line for line in stage.daemon.lines if "reopening it" in line]


def test_a_log_is_found_after_its_link_was_changed(stage):
    for name in ("monday", "tuesday"):
        (stage.log_dir / name).mkdir()
    (stage.log_dir / "current").symlink_to("monday")
    stage.log = stage.keep(KernelLog(stage.log_dir / "monday/kern.log"))
    stage.set_up(log=stage.log_dir / "current/kern.log")
    stage.open_port()
    (stage.log_dir / "new").symlink_to("tuesday")
    (stage.log_dir / "new").rename(stage.log_dir / "current")
    opens_again(stage, stage.log_dir / "tuesday/kern.log")


def test_a_log_that_only_root_can_read_is_followed_through_rotation(stage):
    """As RHEL has it: mode 0600, and logrotate makes the next one."""
    path = stage.log_dir / "messages"
    stage.log = stage.keep(KernelLog(path))
    os.chown(path, 0, 0)
    os.chmod(path, 0o600)
    stage.set_up(log=path)
    stage.open_port()
    path.rename(path.with_suffix(".1"))
    os.close(os.open(path, os.O_CREAT, 0o600))
    stage.open_port()  # the syslog daemon still writes to the old file
    stage.log.reopen()
    os.chown(path, 0, 0)
    os.chmod(path, 0o600)
    stage.daemon.wait_for("reopening it", timeout=5)
    time.sleep(0.5)
    found = on_server(stage)
    assert packet_counts(found)[:2] == [2, 2] and not wrong(found), "the new watcher continues to count"
    stage.open_port()


def test_log_rules_for_a_file_use_a_level_that_syslog_daemons_keep(stage, firewall):
    """RHEL's /var/log/messages is `*.info`: lines of level debug are not in it."""
    def levels(log):
        stage.configure(firewall=firewall, guard="22", log=log)
        daemon = stage.start_daemon()
        listing = stage.server.run(*["nft list table inet knockknock", "iptables-save -t mangle"][firewall == "iptables"].split()).stdout
        daemon.stop()
        return [line for line in listing.splitlines() if "knockknock " in line and ("LOG" in line or "log prefix" in line)]
    Profile(stage, "gate")
    (stage.log_dir / "messages").touch()
    assert ["level info", "--log-level 6"][firewall == "iptables"] in levels(stage.log_dir / "messages")[0]
    assert ["level debug", "--log-level 7"][firewall == "iptables"] in levels("kmsg")[0]


IN_A_USER_NAMESPACE = """if True:
    import ctypes, os, sys
    ctypes.CDLL(None).unshare(0x10000000 | 0x40000000 | 0x20000)  # CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS
    print("there", flush=True)
    sys.stdin.readline()
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.execvp("sh", ["sh", "-c", sys.argv[1]])
"""


@pytest.mark.parametrize("firewall, starts", [("nft", True), ("iptables", False)])
def test_in_a_user_namespace_nflog_works_with_nft_and_iptables_is_refused_in_favour_of_a_guard(namespaces, public, firewall, starts):
    """A container without the machine's root: 65,536 ids of its own."""
    binary, directory = public / "knockknock", public / "etc"
    shutil.copy(BINARY, binary)
    directory.mkdir()
    os.chown(directory, 100000, 100000)
    script = f"""ip link set lo up; {binary} genprofile --ports 22 gate 20222 --dir {directory} >/dev/null
        printf '[main]\\nguard = 22\\nlog = nflog:7\\nfirewall = {firewall}\\n' >{directory}/config
        {binary} daemon --dir {directory} --check; echo check $?; timeout 3 {binary} daemon --dir {directory}; echo start $?"""
    with subprocess.Popen([sys.executable, "-c", IN_A_USER_NAMESPACE, script], stdin=subprocess.PIPE, cwd="/",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout.readline() == "there\n"
        for kind in ("uid", "gid"):
            with open(f"/proc/{process.pid}/{kind}_map", "w") as map_:
                map_.write("0 100000 65536")
        output, _ = process.communicate("\n", 20)
    if starts:
        assert "check 0" in output and "ready: reads NFLOG group 7" in output and "start 124" in output, output
    else:
        assert "check 1" in output and "xt_recent" in output and "guards port 22 with nft" in output and "start 124" in output, output


# Lines that are not complete.

CUT = ("Nov 22 07:58:30 host kernel: [ 1287.881436] REJECT IN=kks OUT= MAC=82:bb:85:6a:15:66:ea:fb:11:81:2e:84:08:00 "
       "SRC=10.77.0.2 DST=10.77.0.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=4660 PROTO=TCP SPT=1083 DPT={port} SEQ=305419896 "
       "ACK=2271560481 WINDOW=777 RES=0x00 SYN URGP=0 OPT (020405B40402080A)")


def test_truncated_lines_are_reported(stage, lines):
    for end in (" SYN", " RES", " DPT"):
        for _ in range(3):
            lines.append(CUT.format(port=stage.gate.knock_port).split(end)[0].encode() + b" \n")
            time.sleep(0.02)
    stage.daemon.wait_for("are truncated")
    assert "kmsg" in stage.daemon.wait_for("truncates long lines")
    lines.append(line(stage.gate))
    assert opened_once(stage)
    assert len([text for text in stage.daemon.lines if "are truncated" in text]) == 1


def test_one_truncated_line_does_not_hide_a_missing_flag(stage, lines):
    whole = CUT.format(port=stage.gate.knock_port)
    lines.append((whole.split(" URGP")[0] + "\n").encode())
    for _ in range(3):
        lines.append((re.sub(" SEQ=.* WIN", " WIN", whole) + "\n").encode())
    stage.daemon.wait_for("without sequence numbers")
    assert "--log-tcp-sequence" in stage.daemon.wait_for("tcp sequence")


def test_truncated_options_do_not_matter(stage, lines):
    genuine = line(stage.gate).decode().rstrip()
    lines.append((genuine + " OPT\n").encode())
    stage.opened()
    lines.append((line(stage.gate, 1).decode().rstrip() + " OPT (0204\n").encode())
    stage.opened()


# Lines from before the start.

def stamps(age):
    """The same moment, `age` seconds ago, as programs write it."""
    now = time.time() - age
    utc = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    boot = time.monotonic() - age
    return {
        "the kernel's seconds": f"Nov 22 10:01:42 host kernel: [{boot:12.6f}]",
        "RFC 3339": f"{utc}.{int(now % 1 * 1e6):06}+00:00 host kernel:",
        "short-iso": f"{utc}+0000 host kernel:",
    }


FORMATS = list(stamps(0))


@pytest.mark.parametrize("stamp", FORMATS)
def test_an_old_knock_on_standard_input_opens_nothing(stage, stamp):
    stage.set_up(log="kmsg")
    stage.daemon.stop()
    stage.configure(firewall="nft", guard="22, 7", log="-")
    read_end, write_end = os.pipe()
    os.write(write_end, line(stage.gate, 0, stamp=stamps(60)[stamp]))
    stage.start_daemon(stdin=read_end)
    os.close(read_end)
    assert "-n 0" in logged(stage, "journalctl")
    assert logged(stage, "before the daemon started")
    os.write(write_end, line(stage.gate, 1, stamp=stamps(-2)[stamp]))
    stage.opened()
    assert stage.gate.counter == 2
    os.close(write_end)


def test_lines_without_a_timestamp_give_a_warning(stage):
    """journalctl's usual format has no time that can be read."""
    stage.configure(firewall="nft", guard="22, 7", log="-")
    stage.gate = Profile(stage, "gate")
    read_end, write_end = os.pipe()
    stage.start_daemon(stdin=read_end)
    for counter in (0, 1):
        os.write(write_end, line(stage.gate, counter, stamp="Nov 22 10:01:42 host kernel:"))
        stage.opened()
    assert len([text for text in stage.daemon.lines if "no readable timestamp" in text]) == 1
    assert logged(stage, "journalctl -kf -n 0")
    os.close(write_end)


@pytest.mark.parametrize("stamp", FORMATS)
def test_an_old_knock_in_a_new_file_opens_nothing(stage, stamp):
    path = stage.log_dir / "messages"
    stage.set_up(log=path)
    aside = Lines(stage.log_dir / "aside")
    aside.append(line(stage.gate, 0, stamp=stamps(60)[stamp]))
    aside.path.rename(path)
    stage.daemon.wait_for("before the daemon started")
    Lines(path).append(line(stage.gate, 1))
    assert opened_once(stage)
    assert stage.gate.counter == 2

"""The log sources: /dev/kmsg, a followed file, standard input; and log lines that are not knocks."""

import os
import signal
import socket
import struct
import time

import pytest

import packets
from stage import CLIENT, SERVER, KernelLog


def line(profile, counter=0, port=22, source=CLIENT):
    """Returns the kernel log line of a knock, as a syslog daemon writes it."""
    fields = profile.fields(counter, port)
    return (f"Nov 22 10:01:42 host kernel: [  836.678514] knockknock IN=eth0 OUT= "
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
    stage.open_up(log=lines.path)
    return lines


def opened_once(stage):
    """Waits for the opening, which must be the first and only one."""
    stage.opened()
    time.sleep(0.05)
    stage.daemon.unheard()
    return len([text for text in stage.daemon.said if "opened port 22 " in text]) == 1


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
    quiet = len(stage.daemon.said)
    lines.append(line(stage.gate, counter=1))
    assert opened_once(stage)
    assert stage.daemon.said[quiet:] == [f'knockknock-daemon: opened port 22 to {CLIENT} for 15 s (profile "gate")']
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


def test_what_stands_before_the_first_key_does_not_matter(stage, lines):
    genuine = line(stage.gate)
    lines.append(b"2026-11-22T10:01:42.123456+00:00 my-host kernel: REJECT " + genuine[genuine.index(b"IN="):])
    assert opened_once(stage)


def test_a_line_in_pieces(stage, lines):
    whole = line(stage.gate)
    for start in range(0, len(whole), 7):
        lines.append(whole[start:start + 7])
    assert opened_once(stage)


def test_half_a_line_waits_for_the_other_half(stage, lines):
    whole = line(stage.gate)
    lines.append(whole[:100])
    time.sleep(0.1)
    assert not [text for text in stage.daemon.unheard() if "opened" in text]
    lines.append(whole[100:])
    assert opened_once(stage)


def test_a_knock_behind_a_line_of_a_megabyte(stage, lines):
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
    stage.open_up(firewall, log="file")
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


def test_two_log_rules_open_once_and_say_so_once(stage):
    stage.open_up()
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
    assert len([text for text in stage.daemon.said if "gate" in text and "opened" in text]) == 1


def test_standard_input(stage, firewall):
    stage.open_up(firewall, log="-")
    for _ in range(2):
        stage.open_port()
        assert stage.connects()
        assert not stage.connects()


def test_rotation_by_rename_loses_no_knock(stage, firewall):
    stage.open_up(firewall, log="file")
    path = stage.log.path
    for number in (1, 2):
        stage.open_port()
        path.rename(path.with_suffix(f".log.{number}"))
        stage.open_port()  # the syslog daemon still writes to the old file
        stage.log.reopen()
        stage.open_port()
    assert stage.connects()
    assert stage.gate.counter == 6


def test_rotation_that_makes_the_new_file_before_syslog_turns_to_it_loses_no_knock(stage):
    """logrotate's `create`, as in Debian: the new file has the name while syslog still writes to the old one."""
    stage.open_up(log="file")
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
    stage.open_up(log="file")
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


def test_a_file_that_gets_its_name_back_is_followed_on(stage):
    stage.open_up(log="file")
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
    stage.open_up(firewall, log="file")
    for _ in range(3):
        stage.open_port()
        os.truncate(stage.log.path, 0)
        stage.open_port()
    assert stage.connects()
    assert stage.gate.counter == 6


def test_what_stood_unread_in_the_old_file_is_read(stage, lines):
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
    stage.open_up(firewall, log=path)
    for _ in range(2):
        log = KernelLog(path)
        stage.open_port()
        log.close()
        path.unlink()
    assert stage.connects()


def test_auto_reads_kmsg(stage):
    stage.open_up(log="auto")
    stage.open_port()
    assert stage.connects()

"""The init script under busybox and OpenWrt's uci, with stand-ins for rc.common and procd: its command line and the config it makes."""

import json
import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

import router

BINARY = Path(__file__).parents[2] / "dist/x86_64-unknown-linux-musl/knockknock"
INPUT = "usr/share/nftables.d/chain-pre/input/knockknock.nft"
FORWARD = "usr/share/nftables.d/chain-pre/forward/knockknock.nft"


class Router:
    def __init__(self, root):
        self.root = root
        router.build(root, BINARY)
        router.add_applets(root)
        (root / "tmp/procd").mkdir()
        (root / "tmp/procd/dry").touch()
        (root / "etc/knockknock.d/profiles/spare").mkdir(parents=True)

    def uci(self, text):
        self.write("etc/config/knockknock", textwrap.dedent(text))

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def read(self, path):
        return (self.root / path).read_text()

    def run(self, *command):
        return subprocess.run(
            ["unshare", "--net", "chroot", self.root, "/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def init(self, command):
        return self.run("/etc/init.d/knockknock", command)

    @property
    def config(self):
        return subprocess.run(["chroot", self.root, "/bin/cat", "/var/run/knockknock/config"],
                              capture_output=True, text=True, check=True).stdout

    @property
    def asked(self):
        return json.loads(self.read("tmp/procd/knockknock.asked"))

    @property
    def command(self):
        return self.asked["instances"].get("instance1", {}).get("command")


@pytest.fixture
def openwrt(tmp_path):
    return Router(tmp_path / "router")


def test_asks_procd_for_the_daemon_in_the_foreground(openwrt):
    assert openwrt.init("start").returncode == 0
    assert openwrt.asked == {
        "name": "knockknock",
        "instances": {"instance1": {
            "command": ["/usr/bin/knockknock-daemon", "--dir", "/var/run/knockknock"], "respawn": ["3600", "5", "0"], "stderr": "1"}},
        "reload_triggers": ["knockknock"],
    }


def test_before_there_is_a_profile_it_is_not_started_over_and_over(openwrt):
    (openwrt.root / "etc/knockknock.d/profiles/spare").rmdir()
    outcome = openwrt.init("start")
    assert "no profile" in outcome.stderr and "knockknock invite" in outcome.stderr
    assert openwrt.command is None
    openwrt.write("etc/knockknock.d/config.good", "[main]\nguard = 22\n")
    openwrt.init("start")
    assert openwrt.command, "the last profile of a daemon that has worked is gone: its guard stays"


def test_the_shipped_configuration(openwrt):
    openwrt.init("start")
    assert openwrt.config == "[main]\ndelay = 15\nmark = 0x08000000\nlog = kmsg\n"


def test_with_its_module_knocks_come_by_nflog_and_not_by_the_log_of_all(openwrt):
    openwrt.write("proc/net/netfilter/nfnetlink_log", "")
    openwrt.init("start")
    assert "log = nflog:662\n" in openwrt.config
    openwrt.uci("config knockknock 'main'\n\toption log 'kmsg'\n")
    openwrt.init("start")
    assert openwrt.config == "[main]\nlog = kmsg\n", "unless the owner wants it so"


GOOD = {
    "every option": (
        """
        config knockknock 'main'
            option delay '30'
            option guard '22'
            option interfaces 'eth1'
            option log '/tmp/kern.log'
            option mark '0x04000000'
            option error_window '5'
        """,
        "delay = 30\nguard = 22\ninterfaces = eth1\nlog = /tmp/kern.log\nmark = 0x04000000\nerror_window = 5\n"),
    "lists": (
        """
        config knockknock 'main'
            list guard '22'
            option delay '20'
            list guard '443'
            list interfaces 'eth1'
            list interfaces 'pppoe-wan'
            list interfaces 'eth0.2'
        """,
        "guard = 22, 443\ndelay = 20\ninterfaces = eth1, pppoe-wan, eth0.2\n"),
    "several in one option": ("config knockknock main\n\toption guard '22  443,80'\n", "guard = 22, 443, 80\n"),
    "double quotes": ('config knockknock "main"\n\toption delay "9"\n', "delay = 9\n"),
    "another section": (
        "config knockknock 'spare'\n\toption delay '1'\nconfig knockknock 'main'\n\toption delay '2'\n", "delay = 2\n"),
    "nothing in it": ("config knockknock 'main'\n", ""),
    "no section": ("", ""),
}


@pytest.mark.parametrize("uci, config", GOOD.values(), ids=GOOD)
def test_uci_options_become_the_daemons_config(openwrt, uci, config):
    openwrt.uci(uci)
    assert openwrt.init("start").returncode == 0
    assert openwrt.config == "[main]\n" + config + ("" if "log = " in config else "log = kmsg\n")


BAD = {
    "a key of its own after a line break": ("config knockknock 'main'\n\toption delay '15\nguard = 1'\n", '"delay"'),
    "a comment that swallows": ("config knockknock 'main'\n\toption guard '22 # 23'\n", '"guard"'),
    "a semicolon": ("config knockknock 'main'\n\tlist guard '22;23'\n", '"guard"'),
    "a shell's dollar": ("config knockknock 'main'\n\toption log '$HOME'\n", '"log"'),
    "a quote that never ends": ("config knockknock 'main'\n\toption delay '15\n", "cannot read /etc/config/knockknock"),
    "an interface without a name": ("config knockknock 'main'\n\tlist guard '22'\n\tlist interfaces ''\n", '"interfaces" is empty'),
    "blanks": ("config knockknock 'main'\n\toption interfaces ' , '\n", '"interfaces" is empty'),
}


@pytest.mark.parametrize("uci, complaint", BAD.values(), ids=BAD)
def test_an_unusable_uci_file_changes_no_config_and_the_daemon_starts(openwrt, uci, complaint):
    openwrt.init("start")
    before = openwrt.config
    openwrt.uci(uci)
    outcome = openwrt.init("start")
    assert complaint in outcome.stderr
    assert openwrt.config == before
    assert openwrt.command, "the daemon starts: without it nothing is guarded"


@pytest.mark.parametrize("uci", [*(uci for uci, _ in BAD.values()), None], ids=[*BAD, "no file"])
def test_after_a_reboot_with_a_bad_one_the_daemon_starts_and_cannot_read_its_config(openwrt, uci):
    openwrt.uci(uci or "")
    if uci is None:
        (openwrt.root / "etc/config/knockknock").unlink()
    assert "/etc/config/knockknock" in openwrt.init("boot").stderr
    assert openwrt.config == "/etc/config/knockknock cannot be used\n"
    assert openwrt.command
    checked = openwrt.run("/usr/bin/knockknock-daemon", "--dir", "/var/run/knockknock", "--check")
    assert checked.returncode == 1 and "line 1: is before" in checked.stderr


def test_a_config_file_of_the_owner_wins(openwrt):
    openwrt.write("etc/knockknock.d/config", "[main]\ndelay = 3\n")
    assert openwrt.init("start").returncode == 0
    assert openwrt.config == "[main]\ndelay = 3\n"
    (openwrt.root / "etc/knockknock.d/config").unlink()
    assert openwrt.init("start").returncode == 0
    assert "delay = 15" in openwrt.config


def test_profiles_are_reached_where_they_are_kept(openwrt):
    openwrt.write("etc/knockknock.d/profiles/gate/counter", "0000000007\n")
    openwrt.init("start")
    assert os.readlink(openwrt.root / "tmp/run/knockknock/profiles") == "/etc/knockknock.d/profiles"
    assert openwrt.read("etc/knockknock.d/profiles/gate/counter") == "0000000007\n"
    assert (openwrt.root / "etc/knockknock.d").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("where", ["uci", "file"])
def test_the_firewall_admits_the_mark_in_use(openwrt, where):
    openwrt.init("start")
    assert openwrt.read(INPUT) == 'ct mark and 0x08000000 != 0 accept comment "knocked"\n'
    if where == "uci":
        openwrt.uci("config knockknock 'main'\n\toption mark '0x00400000'\n")
    else:
        openwrt.write("etc/knockknock.d/config", "[main]\nMark: 0x00400000\n")
    openwrt.init("start")
    for path in (INPUT, FORWARD):
        assert openwrt.read(path) == 'ct mark and 0x00400000 != 0 accept comment "knocked"\n'


@pytest.mark.parametrize("line", [
    "mark = 0x00400000 ; mwan3 has the others", "mark = 0x00400000\t# a=b", "  mark = 0x00400000", "mark = 0x2\nMARK:0x00400000",
    "mark = 0x00400000\n[other]\nmark = 0x2",
])
def test_a_comment_after_the_mark_does_not_reach_the_firewall(openwrt, line):
    openwrt.write("etc/knockknock.d/config", f"[main]\n{line}\n")
    openwrt.init("start")
    assert openwrt.read(INPUT) == 'ct mark and 0x00400000 != 0 accept comment "knocked"\n'


@pytest.mark.parametrize("value", ["", "accept", "0x", "1 2", "0x1; drop"])
def test_a_mark_that_is_no_number_leaves_the_firewall_as_it_was(openwrt, value):
    openwrt.write("etc/knockknock.d/config", "[main]\nmark = 0x00400000\n")
    openwrt.init("start")
    openwrt.write("etc/knockknock.d/config", f"[main]\nmark = {value}\n")
    openwrt.init("start")
    assert openwrt.read(INPUT) == 'ct mark and 0x00400000 != 0 accept comment "knocked"\n'


def test_without_fw4_no_file_of_its_is_made(openwrt):
    (openwrt.root / INPUT).unlink()
    assert openwrt.init("start").returncode == 0
    assert not (openwrt.root / INPUT).exists()


def test_reload_hups_the_running_daemon(openwrt):
    openwrt.write("tmp/procd/knockknock.wanted", "")
    (openwrt.root / "etc/knockknock.d/profiles/spare").rmdir()
    openwrt.uci("config knockknock 'main'\n\toption delay '40'\n")
    assert openwrt.run("/usr/bin/knockknock-genprofile", "gate", "4000").returncode == 0
    assert openwrt.init("reload").returncode == 0
    assert openwrt.read("tmp/procd/knockknock.signals") == "signal HUP\n"
    assert openwrt.config == "[main]\ndelay = 40\nlog = kmsg\n"


def test_reload_starts_a_daemon_that_could_not_start(openwrt):
    openwrt.uci("config knockknock 'main'\n\toption delay '4;'\n")
    openwrt.init("start")
    openwrt.uci("config knockknock 'main'\n\toption delay '4'\n")
    openwrt.init("reload")
    assert openwrt.command[0] == "/usr/bin/knockknock-daemon"
    assert not (openwrt.root / "tmp/procd/knockknock.signals").exists()


@pytest.mark.parametrize("uci", ["delay 'soon'", "delay '1;2'"])
@pytest.mark.parametrize("command", ["reload", "restart"])
def test_a_wrong_value_is_reported_and_the_running_daemon_continues(openwrt, command, uci):
    openwrt.write("tmp/procd/knockknock.wanted", "")
    openwrt.write("tmp/procd/knockknock.pid", "999999999")
    openwrt.uci(f"config knockknock 'main'\n\toption {uci}\n")
    outcome = openwrt.init(command)
    assert outcome.returncode != 0 and "delay" in outcome.stderr
    assert (openwrt.root / "tmp/procd/knockknock.wanted").exists(), "it was not stopped"


def test_check_lets_the_daemon_judge(openwrt):
    (openwrt.root / "etc/knockknock.d/profiles/spare").rmdir()
    openwrt.uci("config knockknock 'main'\n\toption delay 'soon'\n")
    outcome = openwrt.init("check")
    assert outcome.returncode == 1 and '"soon"' in outcome.stderr
    openwrt.uci("config knockknock 'main'\n\toption delay '5'\n\tlist guard '22'\n")
    outcome = openwrt.init("check")
    assert outcome.returncode == 1 and "knockknock invite" in outcome.stderr, "a guard that no key opens"


def test_an_unusable_uci_is_not_written_through_a_link_to_a_config_that_is_gone(openwrt):
    own = openwrt.root / "etc/knockknock.d/config"
    own.write_text("[main]\nguard = 22\n")
    assert openwrt.init("start").returncode == 0
    own.unlink()
    openwrt.uci("config knockknock 'main'\n\tlist guard '22;23'\n")
    openwrt.init("start")
    assert not own.exists() and openwrt.config == "/etc/config/knockknock cannot be used\n"


def test_the_manual_s_commands_set_what_the_daemon_reads(openwrt):
    text = (Path(__file__).parents[2] / "docs/openwrt.md").read_text()
    commands = re.search(r"^network_get_device wan wan && (.*?uci commit knockknock)$", text, re.M | re.S)[1]
    done = openwrt.run("/bin/sh", "-c", f"wan=pppoe-wan; {commands}")
    assert done.returncode == 0, done.stderr
    openwrt.init("start")
    assert "interfaces = pppoe-wan\n" in openwrt.config and "guard = 22\n" in openwrt.config


@pytest.mark.parametrize("value, warned", [("0", True), ("1", False), (None, False)])
def test_check_warns_if_fw4_ignores_our_rules(openwrt, value, warned):
    option = f"\toption auto_includes '{value}'\n" if value else ""
    openwrt.write("etc/config/firewall", f"config defaults\n\toption input 'REJECT'\n{option}")
    text = openwrt.init("check").stderr
    assert ("auto_includes" in text) == warned
    if warned:
        fix = re.search("(uci set .*)/etc/init.d/firewall", text)[1]
        assert openwrt.run("/bin/sh", "-c", fix.rstrip("; ")).returncode == 0
        assert "auto_includes" not in openwrt.init("check").stderr

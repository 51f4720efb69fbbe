"""The advice of docs/firewalls.md for each firewall, followed under a real systemd, and the firewall reloaded and restarted."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_readme import quoted
from test_unit import DRIVER_ALONE, HERE, PROJECT, play, root, set_up, system  # noqa: F401 (fixtures)

MANUAL = (PROJECT / "docs/firewalls.md").read_text()
ASIDE = Path(os.environ.get("KNOCKKNOCK_TOOLS") or
             Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knockknock") / "aside"
# How each firewall loads its files again.
LOAD = {
    "Plain nftables": ["systemctl reload nftables.service", "systemctl restart nftables.service"],
    "iptables and iptables-persistent": ["netfilter-persistent reload", "systemctl restart netfilter-persistent.service"],
    "ufw": ["ufw reload", "systemctl restart ufw.service"],
    "firewalld": ["firewall-cmd --reload", "systemctl restart firewalld.service"],
}
# Packages that scripts/setup.sh unpacks unless they are installed.
PACKAGES = {"Plain nftables": [], "iptables and iptables-persistent": ["netfilter-persistent", "iptables-persistent"],
            "ufw": ["ufw"], "firewalld": ["firewalld"]}
HOLDS = """
    soon guarded
    check "the guarded port is closed" not connects
    check "a knock opens it" knocks
    check "for one connection" connects
    check "and not for a second" not connects
"""
CLEAN = """
check "nothing stands in the way" not sh -c 'knockknock-daemon --check 2>&1 | grep "to fix it"'
echo "$passed passed, $failed failed"
"""


def done(what, command):
    """The check that a command succeeds."""
    return f"check {quoted(what + ': ' + command)} sh -c {quoted(command)}\n"


def holds(title):
    """The guard and a knock work after each way to load the firewall's files again."""
    return "".join(done("the firewall loads its files", load) + HOLDS for load in LOAD[title])


def block(title):
    """The first code block of a section."""
    return re.search(rf"^## {title}$.*?^```\n(.*?)^```$", MANUAL, re.M | re.S)[1]


def command(title):
    """The first command of a section."""
    return re.search(rf"^## {title}$.*?`((?:ufw|firewall-cmd) [^`]*)`", MANUAL, re.M | re.S)[1]


def unpack(root, title):
    """Adds the files of the firewall's packages."""
    for package in PACKAGES[title]:
        if (ASIDE / package).exists():  # else it is installed
            archive = subprocess.run(["tar", "-C", ASIDE / package, "-c", "."], check=True, capture_output=True).stdout
            subprocess.run(["tar", "-C", root, "-x", "--keep-directory-symlink"], input=archive, check=True)


def without_polkit(root):
    """Unpacked, firewalld's actions are not registered with polkit. Without polkit, it allows root everything."""
    (root / "etc/systemd/system/polkit.service").symlink_to("/dev/null")


def scenario(root, firewall, checks):
    """Runs the checks in a container whose daemon guards port 22."""
    Path("/proc/sys/net/netfilter/nf_log_all_netns").write_text("1")  # log rules speak from a namespace
    set_up(root, f"guard = 22\ndelay = 3\nlog = kmsg\nfirewall = {firewall}\n")
    machines = (HERE / "scenario.sh").read_text().split("\ncheck ")[0]
    guarded = {"nft": "nft list table inet knockknock", "iptables": "iptables -t mangle -S KNOCKKNOCK"}[firewall]
    guards = f"guarded() {{ {guarded} >/dev/null; }}\nlost() {{ knocks && not connects && sleep 3; }}\n"
    play(root, f"{machines}\n{guards}{checks}{CLEAN}", DRIVER_ALONE)


START = """
check "the daemon starts" becomes_ready systemctl start knockknock-daemon.service
check "the knock is lost before anything is done" lost
"""


@pytest.mark.parametrize("title", ["Plain nftables", "iptables and iptables-persistent"])
def test_a_knock_opens_after_the_firewall_has_loaded_the_rule_of_the_manual(root, title):  # noqa: F811
    unpack(root, title)
    rule, firewall = block(title), "nft" if "nftables" in title else "iptables"
    if firewall == "nft":
        (root / "etc/nftables.conf").write_text(f"#!/usr/sbin/nft -f\nflush ruleset\n{rule}")
        closed = "nft add table inet filter && nft 'add chain inet filter input { type filter hook input priority 0; policy drop; }'"
    else:
        (root / "etc/iptables").mkdir(exist_ok=True)
        for version in (4, 6):
            (root / f"etc/iptables/rules.v{version}").write_text(
                f"*filter\n:INPUT DROP [0:0]\n{rule}-A INPUT -i lo -j ACCEPT\n"
                "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n")
        closed = "iptables -P INPUT DROP"
    start = LOAD[title][1].replace("restart", "start")
    scenario(root, firewall, f"{closed}\n{START}{done('the firewall starts', start)}{HOLDS}{holds(title)}")


# For each firewall: how it starts with port 22 blocked, and how an allowed port is taken back.
CLOSED = {
    "ufw": (["ufw --force enable", "systemctl start ufw.service"], "ufw delete allow 22/tcp"),
    "firewalld": (["firewall-offline-cmd --remove-service=ssh", "systemctl start firewalld.service"],
                  "firewall-cmd --permanent --remove-port=22/tcp && firewall-cmd --reload"),
}
ADVICE = """
knockknock-daemon --check 2>&1 | sed -n 's/.*to fix it: //p' >/advice
check "the daemon names one command" [ "$(sort -u /advice | wc -l)" = 1 ]
check "the command works: $(head -n 1 /advice)" sh -c "$(head -n 1 /advice)"
"""


@pytest.mark.parametrize("title", CLOSED)
def test_a_knock_opens_after_the_port_is_allowed_as_the_manual_and_the_daemon_say(root, title):  # noqa: F811
    unpack(root, title)
    if title == "firewalld":
        without_polkit(root)
    if title == "ufw":  # as its package's postinst script does
        for file in (root / "usr/share/ufw/iptables").iterdir():
            shutil.copy(file, root / "etc/ufw")
        for name in ("ufw.conf", "before.init", "after.init"):
            shutil.copy(root / "usr/share/ufw" / name, root / "etc/ufw")
    start, take_back = CLOSED[title]
    checks = "".join(done("the firewall starts", command) for command in start) + START
    checks += ADVICE + HOLDS + done("the port is blocked again", take_back) + 'check "the knock is lost" lost\n'
    checks += done("the manual's command", command(title)) + holds(title)
    if title == "ufw":
        section = re.search(r"^## ufw$(.*?)^## ", MANUAL, re.M | re.S)[1]
        rules = re.findall(r"`(/etc/ufw/\S+)`:\n\n```\n(.*?)\n```", section, re.S)
        assert len(rules) == 2
        checks += done("the port is blocked again", take_back)
        for file, rule in rules:
            checks += done("the manual's rule", f"sed -i 's|^COMMIT|{rule}\\n&|' {file}")
        checks += holds(title)
    scenario(root, "nft", checks)


def test_each_knock_after_a_reload_of_firewalld_opens_with_iptables(root):  # noqa: F811
    """firewalld flushes table mangle, and our lists with it."""
    unpack(root, "firewalld")
    without_polkit(root)
    reload = done("firewalld reloads", "firewall-cmd --reload") + """
        check "a knock opens the port" knocks
        check "for one connection" connects
    """
    daemon = 'check "the daemon starts" becomes_ready systemctl start knockknock-daemon.service\n'
    scenario(root, "iptables", done("firewalld starts", "systemctl start firewalld.service") + daemon + 4 * reload)

"""The rules that docs/firewalls.md says to keep in a firewall's own file, loaded by that firewall under a real systemd."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_unit import CONTAINER, DRIVER, HERE, PROJECT, root  # noqa: F401 (a fixture)

MANUAL = (PROJECT / "docs/firewalls.md").read_text()
# How each firewall loads its file: nftables.service, and the plugins of netfilter-persistent.
LOAD = {
    "Plain nftables": "systemctl restart nftables.service",
    "iptables and iptables-persistent": "iptables-restore </etc/iptables/rules.v4 && ip6tables-restore </etc/iptables/rules.v6",
}
CHECKS = """
check "the daemon is ready" soon more ': ready' 0
check "the knock is lost without the recipe" lost
for time in first second; do
    check "the firewall loads its file a $time time" sh -c "$LOAD"
    soon guarded
    check "the guarded port is closed" not connects
    check "a knock opens it" knocks
    check "for one connection" connects
    check "and not for a second" not connects
done
check "nothing stands in the way" not sh -c 'knockknock-daemon --check 2>&1 | grep "to fix it"'
echo "$passed passed, $failed failed"
"""


def block(title):
    """The first code block of a section."""
    return re.search(rf"^## {title}$.*?^```\n(.*?)^```$", MANUAL, re.M | re.S)[1]


@pytest.mark.parametrize("title", LOAD)
def test_a_knock_opens_after_the_firewall_has_loaded_the_rule_of_the_manual(root, title):  # noqa: F811
    Path("/proc/sys/net/netfilter/nf_log_all_netns").write_text("1")  # log rules speak from a namespace
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
    server = root / "etc/knockknock.d"
    shutil.rmtree(server, ignore_errors=True)
    subprocess.run([root / "usr/local/bin/knockknock-genprofile", "gate", str(30000 + os.getpid() % 10000), "--dir", server,
                    "--ports", "22"], check=True, capture_output=True)
    (server / "config").write_text(f"[main]\nguard = 22\ndelay = 3\nlog = kmsg\nfirewall = {firewall}\n")
    shutil.copytree(server / "profiles/gate", root / "root/.knockknock/10.9.0.1")
    shutil.copy(HERE / "checks.sh", root / "checks.sh")
    machines = (HERE / "scenario.sh").read_text().split("\ncheck ")[0]
    guarded = {"nft": "nft list table inet knockknock", "iptables": "iptables -t mangle -S KNOCKKNOCK"}[firewall]
    functions = f"LOAD='{LOAD[title]}'\nlost() {{ {closed} && knocks && not connects && sleep 3; }}\nguarded() {{ {guarded} >/dev/null; }}\n"
    (root / "scenario.sh").write_text(f"{machines}\n{functions}{CHECKS}")
    (root / "etc/systemd/system/driver.service").write_text(DRIVER)
    container = subprocess.run(
        [*CONTAINER, f"--directory={root}", "--private-network", "--capability=all", "--bind=/dev/kmsg", "--boot",
         "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
         "systemd.unit=driver.service", "systemd.show_status=no"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=120)
    said = container.stdout.replace("\r", "")
    print(said, container.stderr)
    assert re.search(r"^\d\d passed, 0 failed$", said, re.M)

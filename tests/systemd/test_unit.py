"""The unit file: checked by systemd-analyze, and run by a real systemd in a container over this machine's own files."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
UNIT = PROJECT / "scripts/systemd/knockknock-daemon.service"

CONTAINER = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--machine=knock{os.getpid()}", "--link-journal=no"]

# Runs the scenario once the daemon has started.
DRIVER = """
[Unit]
DefaultDependencies=no
Wants=systemd-journald.service knockknock-daemon.service
After=systemd-journald.service knockknock-daemon.service
[Service]
Type=oneshot
ExecStart=/bin/sh /scenario.sh
ExecStopPost=systemctl poweroff --force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
"""
# For scenarios that start the daemon themselves.
DRIVER_ALONE = DRIVER.replace(" knockknock-daemon.service", "")


# A system in a directory, such as a debootstrapped Debian 13, instead of this machine's.
SYSTEM = os.environ.get("KNOCKKNOCK_SYSTEM", "/")


@pytest.fixture
def system(tmp_path):
    """This machine's files, under a layer that goes away again."""
    layer, root = tmp_path / "layer", tmp_path / "root"
    layer.mkdir()
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", layer], check=True)
    try:
        for name in ("upper", "work"):
            (layer / name).mkdir()
        subprocess.run(["mount", "-t", "overlay", "overlay", root, "-o",
                        f"lowerdir={SYSTEM},upperdir={layer}/upper,workdir={layer}/work"], check=True)
        try:
            yield root
        finally:
            subprocess.run(["umount", root], check=True)
    finally:
        subprocess.run(["umount", layer], check=True)


@pytest.fixture
def root(system):
    """The same with ours installed."""
    subprocess.run(["make", "install", f"DESTDIR={system}"], cwd=PROJECT, check=True, capture_output=True)
    return system


def set_up(root, config):
    """A profile on the server and on the client, and the daemon's config."""
    server = root / "etc/knockknock.d"
    shutil.rmtree(server, ignore_errors=True)
    subprocess.run([root / "usr/local/bin/knockknock-genprofile", "gate", str(30000 + os.getpid() % 10000), "--dir", server,
                    "--ports", "22"], check=True, capture_output=True)
    (server / "config").write_text("[main]\n" + config)
    shutil.copytree(server / "profiles/gate", root / "root/.knockknock/10.9.0.1")


def play(root, scenario, driver):
    """Boots the container for a scenario whose checks all succeed."""
    shutil.copy(HERE / "checks.sh", root / "checks.sh")
    (root / "scenario.sh").write_text(scenario)
    (root / "etc/systemd/system/driver.service").write_text(driver)
    with open(root.parent / "output", "w+b") as file:  # no pipe, which a process left in there would hold open
        subprocess.run(
            [*CONTAINER, f"--directory={root}", "--private-network", "--capability=all", "--bind=/dev/kmsg", "--boot",
             "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
             "systemd.unit=driver.service", "systemd.show_status=no"],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=120)
        file.seek(0)
        output = file.read().decode(errors="replace").replace("\r", "")
    print(output)
    assert re.search(r"^\d\d passed, 0 failed$", output, re.M)


def test_systemd_analyze_verify_is_clean(root):
    installed = "/usr/local/lib/systemd/system/knockknock-daemon.service"
    outcome = subprocess.run([*CONTAINER, f"--directory={root}", "--pipe", "systemd-analyze", "verify", installed],
                             stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (outcome.returncode, [line for line in outcome.stderr.splitlines() if "knockknock" in line]) == (0, [])


def test_the_score_in_the_comment_is_right():
    output = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", UNIT],
                          capture_output=True, text=True).stdout
    score = re.search(r"Overall exposure level for .*: (\S+) ", output)[1]
    assert UNIT.read_text().startswith(f"# systemd-analyze security: {score}.")


@pytest.mark.parametrize("firewall", ["nft", "iptables", "iptables-legacy"])
def test_under_a_real_systemd(root, firewall):
    Path("/proc/sys/net/netfilter/nf_log_all_netns").write_text("1")  # log rules speak from a namespace
    set_up(root, f"guard = 22\nlog = kmsg\nfirewall = {firewall.removesuffix('-legacy')}\n")
    if firewall == "iptables-legacy":
        for program in ("iptables", "ip6tables"):
            for action in ("", "-restore", "-save"):
                alternative = root / f"etc/alternatives/{program}{action}"
                alternative.unlink()
                alternative.symlink_to(f"/usr/sbin/{program}-legacy{action}")
    play(root, (HERE / "scenario.sh").read_text(), DRIVER)

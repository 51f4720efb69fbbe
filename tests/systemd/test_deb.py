"""The Debian package: checked by lintian, and installed, upgraded under load, removed and purged by dpkg under a real systemd."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_unit import DRIVER_ALONE, HERE, PROJECT, play, system  # noqa: F401 (a fixture)

ARCHITECTURE = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()


def built(release):
    """The path of our package, newly built."""
    output = subprocess.run([PROJECT / "scripts/package.sh", "deb", ARCHITECTURE], check=True, capture_output=True, text=True,
                          env={**os.environ, "RELEASE": str(release)}).stdout
    return PROJECT / output.strip()


@pytest.fixture(scope="module")
def package():
    return built(1)


def test_lintian_finds_nothing(package):
    outcome = subprocess.run(["lintian", "--allow-root", "--pedantic", "--fail-on", "error,warning,info,pedantic", package],
                             capture_output=True, text=True)
    assert (outcome.returncode, outcome.stdout) == (0, ""), outcome.stderr


def test_it_installs_the_same_bytes_again(package):
    first = package.read_bytes()
    assert built(1).read_bytes() == first


def test_installed_upgraded_under_load_removed_and_purged(system, package):  # noqa: F811
    Path("/proc/sys/net/netfilter/nf_log_all_netns").write_text("1")  # log rules speak from a namespace
    machines = (HERE / "scenario.sh").read_text().split("\ncheck ")[0]
    (system / "usr/sbin/policy-rc.d").unlink(missing_ok=True)  # an image for containers may forbid that services are restarted
    shutil.copy(package, system / "first.deb")
    upgrade = built(2)
    shutil.move(upgrade, system / "second.deb")
    scenario = (HERE / "package.sh").read_text()
    play(system, f"{machines}\nPORT={30000 + os.getpid() % 10000}\n{scenario}", DRIVER_ALONE)


def test_its_unit_and_users_are_those_that_the_scripts_name(package):
    listed = subprocess.run(["dpkg-deb", "--contents", package], check=True, capture_output=True, text=True).stdout
    for script in ("postinst", "prerm", "postrm"):
        text = (PROJECT / "scripts/debian" / script).read_text()
        for unit in re.findall(r"[\w-]+\.service", text):
            assert f"./usr/lib/systemd/system/{unit}\n" in listed
        for users in re.findall(r"systemd-sysusers (\S+)", text):
            assert f"./usr/lib/sysusers.d/{users}\n" in listed

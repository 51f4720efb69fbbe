"""The package Makefile, in as much of OpenWrt's build tree as it needs: what it takes, what it puts where, what it asks for."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import router

PROJECT = Path(__file__).parents[2]
BUILDROOT = PROJECT / "scripts/openwrt/buildroot"


@pytest.fixture
def make(tmp_path):
    def run(*arguments):
        return subprocess.run(
            ["make", "--silent", "-C", PROJECT / "scripts/openwrt/knockknock", f"TOPDIR={BUILDROOT}", f"OUTPUT={tmp_path}", *arguments],
            capture_output=True, text=True, check=True).stdout
    return run


def test_its_version_is_ours(make):
    version = tomllib.loads((PROJECT / "Cargo.toml").read_text())["package"]["version"]
    assert make("show-version") == f"{version}\n"


def test_it_depends_on_the_packages_that_it_needs(make):
    assert make("show-depends").split() == ["nftables", "kmod-nft-core", "kmod-nft-fib", "kmod-nf-log", "kmod-nf-log6"]
    assert "kmod-nft-socket" in make("show-depends", "FORMAT=apk").split()
    assert re.search("^knockknock=.* knockknock-fw=", make("show-users"))
    assert make("show-conffiles") == "/etc/config/knockknock\n/etc/knockknock.d/\n"


def test_it_takes_what_cargo_needs(make, tmp_path):
    make("prepare")
    taken = tmp_path / "build"
    assert (taken / "Cargo.lock").exists() and (taken / "src/main.rs").exists() and (taken / "build.rs").exists()
    metadata = subprocess.run(["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version=1"],
                              cwd=taken, capture_output=True, text=True)
    assert metadata.returncode == 0, metadata.stderr


def test_it_installs_what_the_installer_does(make, tmp_path):
    (tmp_path / "install/bin").mkdir(parents=True)
    (tmp_path / "install/bin/knockknock").write_text("a program")
    make("install")
    root = tmp_path / "root"
    installed = {path.relative_to(root) for path in root.rglob("*") if not path.is_dir()}
    shipped = {path.relative_to(router.SERVICE_FILES) for path in router.SERVICE_FILES.rglob("*") if path.is_file()}
    links = {Path("usr/bin", f"knockknock-{applet}") for applet in router.APPLETS}
    assert installed == shipped | links | {Path("usr/bin/knockknock")}
    assert all(os.readlink(root / link) == "knockknock" for link in links)
    assert os.access(root / "etc/init.d/knockknock", os.X_OK)


@pytest.mark.parametrize("environment, asked", [
    ({}, ["stop", "unguard", "unguard"]), ({"PKG_UPGRADE": "1"}, []), ({"IPKG_INSTROOT": "/build"}, []),
], ids=["removed", "upgraded", "in an image"])
def test_removing_it_lifts_the_guard_and_upgrading_does_not(make, tmp_path, environment, asked):
    init, log = tmp_path / "init", tmp_path / "asked"
    log.touch()
    # The first time the daemon has not ended yet.
    init.write_text(f'#!/bin/sh\necho "$1" >>{log}\n[ "$(wc -l <{log})" -ne 2 ]\n')
    init.chmod(0o755)
    script = make("show-prerm").replace("/etc/init.d/knockknock", str(init))
    assert script.startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-c", script], env={"PATH": os.environ["PATH"], **environment}).returncode == 0
    assert log.read_text().split() == asked

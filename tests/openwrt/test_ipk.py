"""The package for opkg: its structure, which is that of OpenWrt's ipkg-build, and its files, which are the installer's."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

import router


@pytest.fixture(scope="module")
def package():
    return router.built("ipk")


def members(archive):
    """The members of a compressed archive by name, with the contents of files."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        return {member.name: (member, opened.extractfile(member).read() if member.isfile() else None) for member in opened}


@pytest.fixture(scope="module")
def control(package):
    found = members(members(package.read_bytes())["./control.tar.gz"][1])
    return {name.removeprefix("./"): (member, (content or b"").decode()) for name, (member, content) in found.items()}


@pytest.fixture(scope="module")
def data(package):
    found = members(members(package.read_bytes())["./data.tar.gz"][1])
    return {Path(name): member for name, (member, _) in found.items()}


def test_it_has_three_parts(package):
    parts = members(package.read_bytes())
    assert list(parts) == ["./debian-binary", "./data.tar.gz", "./control.tar.gz"]
    assert parts["./debian-binary"][1] == b"2.0\n"


def test_it_installs_what_the_installer_copies_and_root_owns_it(data, package):
    shipped = {path.relative_to(router.SERVICE_FILES) for path in router.SERVICE_FILES.rglob("*") if path.is_file()}
    programs = {Path("usr/bin", f"knockknock{end}") for end in ("", *(f"-{applet}" for applet in router.APPLETS))}
    assert {path for path, member in data.items() if not member.isdir()} == shipped | programs | {Path("lib/upgrade/keep.d/knockknock")}
    assert {(member.uid, member.gid) for member in data.values()} == {(0, 0)}
    assert data[Path("etc/init.d/knockknock")].mode == 0o755 and data[Path("etc/config/knockknock")].mode == 0o644
    assert {member.mtime for member in data.values()} == {int(subprocess.run(
        ["git", "-C", router.PROJECT, "log", "-1", "--format=%ct"], check=True, capture_output=True, text=True).stdout)}
    inside = members(members(package.read_bytes())["./data.tar.gz"][1])
    assert inside["./usr/bin/knockknock"][1] == router.BINARY.read_bytes()


def test_opkg_keeps_the_configuration_and_sysupgrade_the_keys(control, package):
    inside = members(members(package.read_bytes())["./data.tar.gz"][1])
    assert control["conffiles"][1] == "/etc/config/knockknock\n"
    assert inside["./lib/upgrade/keep.d/knockknock"][1] == b"/etc/knockknock.d/\n", "the program is installed again, not kept"


def test_opkg_is_told_what_it_needs(control):
    fields = dict(line.split(": ", 1) for line in control["control"][1].splitlines() if not line.startswith(" "))
    assert fields["Package"] == "knockknock" and fields["Architecture"] == "x86_64"
    assert fields["Version"].endswith("-r1")
    assert fields["Depends"].split(", ") == ["nftables", "kmod-nft-core", "kmod-nft-fib", "kmod-nf-log", "kmod-nf-log6"]
    assert fields["Require-User"] == "knockknock=662:knockknock=662 knockknock-fw=663:knockknock-fw=663"


def test_its_scripts_are_shell_and_call_openwrts_functions(control):
    scripts = {name: text for name, (member, text) in control.items() if member.mode & 0o111 and not member.isdir()}
    assert set(scripts) == {"postinst", "prerm", "postinst-pkg", "prerm-pkg"}
    for text in scripts.values():
        assert subprocess.run(["sh", "-n"], input=text, text=True).returncode == 0
    assert scripts["postinst"].endswith("\ndefault_postinst $0 $@\n") and scripts["prerm"].endswith("\ndefault_prerm $0 $@\n")


def test_the_same_commit_gives_the_same_bytes(package):
    first = package.read_bytes()
    assert router.built("ipk").read_bytes() == first

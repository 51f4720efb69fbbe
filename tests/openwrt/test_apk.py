"""The package for apk, read as apk-v3(5) describes its format: the fields, the files with their hashes, the scripts."""

import hashlib
import stat
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

import router


@pytest.fixture(scope="module")
def package():
    return router.built("apk")


class Values:
    """The values of a database: an object or array is a list, whose place 0 is its length, a blob is bytes, nothing is None."""

    def __init__(self, content):
        self._bytes = content
        self.root = self._value(struct.unpack_from("<I", content, 4)[0])

    def _value(self, word):
        kind, value = word >> 28, word & 0xfffffff
        if kind == 0:
            return None
        if kind == 1:
            return value
        if kind == 2:
            return struct.unpack_from("<I", self._bytes, value)[0]
        if kind in (8, 9, 10):
            size = 1 << kind - 8
            assert value % size == 0, "aligned"
            length = int.from_bytes(self._bytes[value:value + size], "little")
            return self._bytes[value + size:value + size + length]
        assert kind in (13, 14) and value % 4 == 0
        count = struct.unpack_from("<I", self._bytes, value)[0]
        return [count, *(self._value(one) for one in struct.unpack_from(f"<{count - 1}I", self._bytes, value + 4))]


@pytest.fixture(scope="module")
def parts(package):
    """The database's bytes, and the contents of files by the numbers of their directory and of themselves."""
    content = package.read_bytes()
    assert content.startswith(b"ADBd")
    unpacked = zlib.decompress(content[4:], -15)
    assert unpacked.startswith(b"ADB.pckg")
    at, database, files = 8, None, {}
    while at < len(unpacked):
        word = struct.unpack_from("<I", unpacked, at)[0]
        kind, size = word >> 30, word & 0x3fffffff
        payload = unpacked[at + 4:at + size]
        if database is None:
            assert kind == 0
            database = payload
        else:
            assert kind == 2
            files[struct.unpack_from("<II", payload)] = payload[8:]
        at += -(-size // 8) * 8
    return database, files


@pytest.fixture(scope="module")
def fields(parts):
    _, info, paths, scripts = Values(parts[0]).root
    return info, paths, scripts


def test_its_fields(fields, parts):
    info = fields[0]
    assert (info[1], info[5], info[6]) == (b"knockknock", b"x86_64", b"MIT")
    assert info[2].endswith(b"-r1")
    assert [depends[1].decode() for depends in info[15][1:]] == sorted(
        ["nftables", "kmod-nft-core", "kmod-nft-fib", "kmod-nf-log", "kmod-nf-log6", "kmod-nft-socket"])
    identity = info[3]
    assert hashlib.sha256(parts[0].replace(identity, bytes(20))).digest()[:20] == identity


def test_it_installs_what_the_installer_copies_and_root_owns_it(fields, parts):
    found, kinds = {}, {}
    for place, (_, name, access, *files) in enumerate(fields[1][1:], 1):
        assert access[1:] == [0o755, b"root", b"root"]
        for number, file in enumerate(files[0][1:] if files else [], 1):
            path = Path((name or b"").decode(), file[1].decode())
            assert file[2][2:] == [b"root", b"root"]
            kinds[path] = file[2][1]
            if len(file) > 6:
                found[path] = file[6]
            else:
                content = parts[1][place, number]
                assert file[3] == len(content) and file[5] == hashlib.sha256(content).digest()
                found[path] = content
    shipped = {path.relative_to(router.SERVICE_FILES) for path in router.SERVICE_FILES.rglob("*") if path.is_file()}
    links = {Path("usr/bin", f"knockknock-{applet}") for applet in router.APPLETS}
    database = {Path("lib/apk/packages", f"knockknock.{name}") for name in ("list", "rusers", "conffiles", "conffiles_static")}
    assert set(found) == shipped | links | database | {Path("usr/bin/knockknock"), Path("lib/upgrade/keep.d/knockknock")}
    assert found[Path("usr/bin/knockknock")] == router.BINARY.read_bytes() and kinds[Path("etc/init.d/knockknock")] == 0o755
    assert {found[link] for link in links} == {struct.pack("<H", stat.S_IFLNK) + b"knockknock"}
    assert found[Path("lib/upgrade/keep.d/knockknock")] == b"/etc/knockknock.d/\n"
    config = found[Path("etc/config/knockknock")]
    assert found[Path("lib/apk/packages/knockknock.conffiles_static")].decode() == (
        f"/etc/config/knockknock {hashlib.sha256(config).hexdigest()}\n")


def test_its_scripts_call_openwrts_functions(fields):
    _, _, _, after, before, *_, upgraded = fields[2]
    for script in (after, before, upgraded):
        assert subprocess.run(["sh", "-n"], input=script).returncode == 0
    assert b"\nadd_group_and_user\ndefault_postinst\n" in after and b"\ndefault_prerm\n" in before
    assert upgraded.startswith(b"#!/bin/sh\nexport PKG_UPGRADE=1\n") and upgraded.endswith(after.split(b"\n", 1)[1])


def test_the_same_commit_gives_the_same_bytes(package):
    first = package.read_bytes()
    assert router.built("apk").read_bytes() == first

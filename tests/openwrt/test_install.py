"""The installer, by ssh to a Dropbear in a router's root on this machine."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import router

SCRIPT = Path(__file__).parents[2] / "scripts/openwrt/install-openwrt.sh"
BINARY = Path(__file__).parents[2] / "dist/x86_64-unknown-linux-musl/knockknock"
SHIPPED = sorted(path.relative_to(router.SERVICE_FILES) for path in router.SERVICE_FILES.rglob("*") if path.is_file())


KEEP = Path("lib/upgrade/keep.d/knockknock")


started = []


@pytest.fixture(autouse=True)
def stop():
    """Stops the routers' Dropbears."""
    yield
    while started:
        started[-1].kill()
        started.pop().wait()


class Router:
    """One as it comes: busybox and rc.common, nothing of ours."""

    def __init__(self, directory, release="DISTRIB_ARCH='x86_64'\n"):
        self.root = directory / "router"
        router.build(self.root, BINARY)
        router.add_applets(self.root)
        for path in [*SHIPPED, *(Path("usr/bin", f"knockknock{end}") for end in ("", "-daemon", "-genprofile", "-proxy"))]:
            (self.root / path).unlink()
        if release:
            (self.root / "etc/openwrt_release").write_text(release)
        self._bin = directory / "bin"
        self._bin.mkdir()
        key, server_key = directory / "key", self.root / "etc/dropbear/key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        (self.root / "root/.ssh").mkdir(mode=0o700)
        shutil.copy(f"{key}.pub", self.root / "root/.ssh/authorized_keys")
        server_key.parent.mkdir()
        subprocess.run(["dropbearkey", "-t", "ed25519", "-f", server_key], check=True, capture_output=True)
        self._dropbear = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec chroot "$1" /usr/sbin/dropbear -F -r /etc/dropbear/key', "sh",
             self.root], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started.append(self._dropbear)
        listening = Path(f"/proc/{self._dropbear.pid}/net/tcp")
        deadline = time.monotonic() + 20
        while ":0016 00000000:0000 0A" not in listening.read_text() or listening.read_text() == Path("/proc/net/tcp").read_text():
            assert time.monotonic() < deadline, "Dropbear does not listen"
            time.sleep(0.02)
        enter = f"nsenter --net=/proc/{self._dropbear.pid}/ns/net {self.root}/bin/busybox nc 127.0.0.1 22"
        ssh = self._bin / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F none -i {key} -o BatchMode=yes -o StrictHostKeyChecking=no '
                       f'-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o "ProxyCommand={enter}" "$@"\n')
        ssh.chmod(0o755)

    def install(self, *options):
        return subprocess.run([SCRIPT, *options, "root@router"], capture_output=True, text=True,
                              env={"PATH": f"{self._bin}:{os.environ['PATH']}"})

    def files(self):
        return sorted(path.relative_to(self.root) for path in self.root.rglob("*") if not path.is_dir())


def test_installs_everything(tmp_path):
    there = Router(tmp_path)
    before = there.files()
    outcome = there.install()
    assert outcome.returncode == 0, outcome.stderr
    for path in SHIPPED:
        assert (there.root / path).read_bytes() == (router.SERVICE_FILES / path).read_bytes()
    kept = (there.root / KEEP).read_text().splitlines()
    assert {f"/{path}" for path in SHIPPED} | {f"/{KEEP}", "/usr/bin/knockknock", "/etc/knockknock.d/"} <= set(kept)
    assert (there.root / "usr/bin/knockknock").read_bytes() == BINARY.read_bytes()
    new = set(there.files()) - set(before)
    assert new == {*SHIPPED, KEEP, Path("etc/rc.d/S18knockknock"),
                   *(Path("usr/bin", f"knockknock{end}") for end in ("", "-daemon", "-genprofile", "-proxy"))}
    version = subprocess.run(["chroot", there.root, "/usr/bin/knockknock-daemon", "--help"], capture_output=True, text=True)
    assert version.returncode == 0 and "knockknock-daemon" in version.stdout
    assert (there.root / "etc/init.d/knockknock").stat().st_mode & 0o777 == 0o755
    assert (there.root / "etc").stat().st_uid == 0


def test_the_hint_creates_a_profile_first_and_guards_only_the_wan(tmp_path):
    output = Router(tmp_path).install().stdout
    steps = ["knockknock invite NAME HOST", "network_get_device wan wan && ", 'knockknock.main.interfaces="$wan" &&\n',
             "knockknock.main.guard=22 && ", "knockknock accept", "/etc/init.d/knockknock start",
             "A sysupgrade keeps all of it"]
    places = [output.index(step) for step in steps]
    assert places == sorted(places)


def test_installing_again_keeps_what_is_configured(tmp_path):
    there = Router(tmp_path)
    there.install()
    config = there.root / "etc/config/knockknock"
    config.write_text("config knockknock 'main'\n\tlist guard '22'\n")
    counter = there.root / "etc/knockknock.d/profiles/gate/counter"
    counter.parent.mkdir(parents=True)
    counter.write_text("0000000041\n")
    (there.root / "usr/bin/knockknock").write_text("an old one")
    assert there.install().returncode == 0
    assert config.read_text() == "config knockknock 'main'\n\tlist guard '22'\n"
    assert counter.read_text() == "0000000041\n"
    assert (there.root / "usr/bin/knockknock").read_bytes() == BINARY.read_bytes()


def sysupgrade(old, directory):
    """A new system with what sysupgrade keeps of an old one: what the files in keep.d name, found as
    add_conffiles in OpenWrt's /sbin/sysupgrade does, by way of an archive."""
    directory.mkdir()
    new = Router(directory)
    archive = subprocess.run(
        ["sh", "-c", """cd "$1" && find $(sed -ne '/^[[:space:]]*$/d; /^#/d; s,^/,,p' lib/upgrade/keep.d/*) \\( -type f -o -type l \\) |
            tar -cf - -T -""", "sh", old.root], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-xf", "-", "-C", new.root], input=archive, check=True)
    return new


def test_a_sysupgrade_keeps_program_guard_and_keys_and_so_does_the_next(tmp_path):
    there = Router(tmp_path)
    there.install()
    (there.root / "etc/config/knockknock").write_text("config knockknock 'main'\n\tlist guard '22'\n")
    key = there.root / "etc/knockknock.d/profiles/gate/mac.key"
    key.parent.mkdir(parents=True)
    key.write_text("a key\n")
    ours = {path for path in there.files() if "knockknock" in str(path) and path.parts[0] not in ("proc", "tmp")}
    for count in (1, 2):
        there = sysupgrade(there, tmp_path / f"system {count}")
        assert ours <= set(there.files()), ours - set(there.files())
        assert (there.root / "etc/knockknock.d/profiles/gate/mac.key").read_text() == "a key\n"
        assert os.readlink(there.root / "etc/rc.d/S18knockknock").endswith("init.d/knockknock")
        assert os.access(there.root / "usr/bin/knockknock-daemon", os.X_OK)


def test_a_daemon_that_runs_is_restarted_after_an_upgrade(tmp_path):
    there = Router(tmp_path)
    (there.root / "etc/knockknock.d/profiles/gate").mkdir(parents=True)
    (there.root / "proc/77").mkdir()
    (there.root / "proc/77/comm").write_text("procd\n")
    assert "Restarted" not in there.install().stdout, "nothing of ours runs"
    asked = there.root / "tmp/procd/knockknock.asked"
    assert not asked.exists()
    (there.root / "proc/77/comm").write_text("knock-watcher\n")
    outcome = there.install()
    assert "Restarted the daemon.\n" in outcome.stdout, outcome.stderr
    assert json.loads(asked.read_text())["instances"]["instance1"]["command"][0] == "/usr/bin/knockknock-daemon"


def test_a_dry_run_copies_nothing(tmp_path):
    there = Router(tmp_path)
    before = there.files()
    outcome = there.install("-n")
    assert outcome.returncode == 0
    assert "/usr/bin/knockknock-daemon\n" in outcome.stdout and "/etc/init.d/knockknock\n" in outcome.stdout
    assert there.files() == before


@pytest.mark.parametrize("release, complaint", [
    (None, '"root@router" does not run OpenWrt'),
    ("DISTRIB_ARCH='powerpc_464fp'\n", 'no static build runs on "powerpc_464fp"'),
], ids=["no OpenWrt", "PowerPC"])
def test_refuses_unsupported_processors(tmp_path, release, complaint):
    there = Router(tmp_path, release)
    before = there.files()
    outcome = there.install()
    assert outcome.returncode == 1 and complaint in outcome.stderr
    assert there.files() == before


# All architectures of OpenWrt's packages, in releases from 22.03 and in the development branch.
BUILDS = {
    "x86_64-unknown-linux-musl": "x86_64",
    "aarch64-unknown-linux-musl": "aarch64_cortex-a53 aarch64_cortex-a72 aarch64_cortex-a76 aarch64_generic",
    "armv7-unknown-linux-musleabihf": "arm_cortex-a5_vfpv4 arm_cortex-a7_neon-vfpv4 arm_cortex-a7_vfpv4 arm_cortex-a8_vfpv3 "
                                      "arm_cortex-a9_neon arm_cortex-a9_vfpv3-d16 arm_cortex-a15_neon-vfpv4",
    "armv7-unknown-linux-musleabi": "arm_cortex-a7 arm_cortex-a9",
    "arm-unknown-linux-musleabihf": "arm_arm1176jzf-s_vfp",
    "armv5te-unknown-linux-musleabi": "arm_arm926ej-s arm_xscale",
    "mips-unknown-linux-musl": "mips_24kc mips_4kec",
    "mipsel-unknown-linux-musl": "mipsel_24kc mipsel_24kc_24kf mipsel_74kc",
    "i586-unknown-linux-musl": "i386_pentium-mmx i386_pentium4",
    "riscv64gc-unknown-linux-musl": "riscv64_generic riscv64_riscv64",
    # ARMv4, big-endian ARM, MIPS32 before Release 2, and what Rust or Zig cannot build (docs/platforms.md).
    None: "arm_fa526 armeb_xscale mips_mips32 mipsel_mips32 mips64_mips64r2 mips64_octeonplus mips64el_mips64r2 "
          "powerpc_464fp powerpc_8540 powerpc_8548 powerpc64_e5500 loongarch64_generic",
}


def test_picks_the_build_for_each_architecture_of_openwrt(tmp_path):
    there = Router(tmp_path)
    for target, names in BUILDS.items():
        for name in names.split():
            (there.root / "etc/openwrt_release").write_text(f"DISTRIB_ARCH='{name}'\n")
            outcome = there.install("-n")
            if target is None:
                assert outcome.stderr.startswith(f'install-openwrt.sh: no static build runs on "{name}"\n'), name
            else:
                assert f"dist/{target}/knockknock" in outcome.stderr or f"with {target}:" in outcome.stdout, name


def test_it_takes_exactly_one_router():
    assert subprocess.run([SCRIPT], capture_output=True).returncode == 2

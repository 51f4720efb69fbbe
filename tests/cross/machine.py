"""A MIPS machine (little-endian, no FPU needed) under qemu: Debian's kernel, the router of tests/openwrt as its only file system."""

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import router

PACKAGES = router.TOOLS / "mipsel"
ROOT = PACKAGES / "root"

WANTED = ("busybox-static nftables libnftables1 libnftnl11 libmnl0 libedit2 libbsd0 libmd0 libtinfo6 libgmp10 "
          "libjansson4 libxtables12 libc6 musl").split()
# crc32c_generic first: nf_tables needs the algorithm, and no dependency says so.
MODULES = ("crc32c_generic libcrc32c nf_tables nft_log nft_ct nft_limit nft_hash nft_fib_inet nf_log_syslog "
           "nfnetlink_log veth").split()

INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
depmod
for module in %s; do modprobe "$module"; done
sh /scenario.sh
dmesg | grep type=1326 # system calls that a filter refused
reboot -f
"""


def fetch():
    """Unpacks Debian 12's mipsel packages, once: those named above and the kernel that linux-image-4kc-malta is."""
    done = PACKAGES / "complete"
    if done.exists():
        return
    shutil.rmtree(PACKAGES, ignore_errors=True)
    for path in ("root", "packages", "state/lists/partial", "cache/archives/partial"):
        (PACKAGES / path).mkdir(parents=True)
    (PACKAGES / "state/status").touch()
    config = PACKAGES / "apt.conf"
    config.write_text(f"""
        APT::Architecture "mipsel";
        APT::Architectures {{ "mipsel"; }};
        APT::Sandbox::User "root";
        Dir::State "{PACKAGES}/state";
        Dir::State::status "{PACKAGES}/state/status";
        Dir::Cache "{PACKAGES}/cache";
    """)

    def apt(*arguments):
        return subprocess.run(arguments, env={**os.environ, "APT_CONFIG": str(config)}, cwd=PACKAGES / "packages",
                              check=True, capture_output=True, text=True).stdout

    apt("apt-get", "-q", "update")
    depends = apt("apt-cache", "depends", "--important", "linux-image-4kc-malta")
    kernel = next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image" in line)
    apt("apt-get", "-q", "download", kernel, *WANTED)
    for package in (PACKAGES / "packages").iterdir():
        subprocess.run(["dpkg", "-x", package, ROOT], check=True)
    shutil.rmtree(PACKAGES / "packages")
    done.touch()


def initramfs(directory, binary):
    """The router's root with the kernel's modules that it needs; the path of the archive."""
    root = directory / "root"
    router.build(root, binary, packages=ROOT)
    router.add_applets(root, ["qemu-mipsel-static"])
    (root / "init").write_text(INIT % " ".join(MODULES))
    (root / "init").chmod(0o755)
    _copy_modules(root)
    archive = directory / "initramfs.gz"
    with gzip.open(archive, "wb", compresslevel=1) as packed:
        names = subprocess.run(["find", ".", "-print0"], cwd=root, check=True, capture_output=True).stdout
        cpio = subprocess.run(["cpio", "--quiet", "--null", "--create", "--format=newc", "--owner=0:0"],
                              cwd=root, input=names, check=True, capture_output=True)
        packed.write(cpio.stdout)
    return archive


def _copy_modules(root):
    all_modules = {path.stem.replace("-", "_"): path for path in (ROOT / "lib/modules").rglob("*.ko")}
    wanted = list(MODULES)
    copied = set()
    while wanted:
        name = wanted.pop()
        if name in copied:
            continue
        copied.add(name)
        path = all_modules[name]
        place = root / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
        depends = path.read_bytes().split(b"\0depends=")[1].split(b"\0")[0].decode()
        wanted += [other.replace("-", "_") for other in depends.split(",") if other]


def boot(archive, timeout):
    """Runs the machine until it reboots; what its console said."""
    kernel = next((ROOT / "boot").glob("vmlinu?-*"))
    machine = subprocess.run(
        ["qemu-system-mipsel", "-M", "malta", "-cpu", "24Kf", "-m", "512", "-nic", "none", "-vga", "none", "-nographic",
         "-no-reboot", "-kernel", kernel, "-initrd", archive, "-append", "console=ttyS0 rdinit=/init loglevel=4 panic=1"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout)
    return machine.stdout.replace("\r", "")

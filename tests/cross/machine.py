"""A MIPS machine (little-endian, no FPU needed) under qemu: Debian's kernel, the router of tests/openwrt as its only file system."""

import subprocess

import debian
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
    """Unpacks the packages named above and the kernel, once."""
    debian.unpack("mipsel", "linux-image-4kc-malta", WANTED)


def initramfs(directory, binary):
    """The router's root with the kernel's modules that it needs; the path of the archive."""
    root = directory / "root"
    router.build(root, binary, packages=ROOT)
    router.add_applets(root, ["qemu-mipsel-static"])
    (root / "init").write_text(INIT % " ".join(MODULES))
    (root / "init").chmod(0o755)
    debian.copy_modules(ROOT, MODULES, root)
    return debian.pack(root, directory / "initramfs.gz")


def boot(archive, timeout):
    """Runs the machine until it reboots; what its console said."""
    kernel = next((ROOT / "boot").glob("vmlinu?-*"))
    machine = subprocess.run(
        ["qemu-system-mipsel", "-M", "malta", "-cpu", "24Kf", "-m", "512", "-nic", "none", "-vga", "none", "-nographic",
         "-no-reboot", "-kernel", kernel, "-initrd", archive, "-append", "console=ttyS0 rdinit=/init loglevel=4 panic=1"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout)
    return machine.stdout.replace("\r", "")

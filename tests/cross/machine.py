"""Machines of other architectures under qemu: Debian's kernels, and the router of tests/openwrt as the only file system."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import debian
import router

DIST = Path(__file__).parents[2] / "dist"
WANTED = ("busybox-static nftables libnftables1 libnftnl11 libmnl0 libedit2 libbsd0 libmd0 libtinfo6 libgmp10 "
          "libjansson4 libxtables12 libc6").split()
# crc32c_generic first: nf_tables needs the algorithm, and no dependency names it.
MODULES = ("crc32c_generic libcrc32c nf_tables nft_log nft_ct nft_limit nft_objref nft_hash nft_fib_inet nft_reject_inet "
           "nft_socket nf_log_syslog nfnetlink_log veth").split()

INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
depmod
for module in %s; do modprobe "$module"; done
uname -srm
sh /scenario.sh
dmesg | grep type=1326 # system calls that a filter refused
reboot -f
"""


@dataclass
class Machine:
    """A kind of machine: how rustc, Debian and qemu name it."""
    target: str
    architecture: str  # None: Debian has no packages for it
    kernel: str
    qemu: str
    console: str = "ttyAMA0"
    emulator: str = ""  # qemu-user's, to run its busybox here
    release: str = None

    def fetch(self):
        """The directory with the machine's packages and kernel, which it unpacks once."""
        if not self.architecture:
            return router.TOOLS / self.kernel
        return debian.unpack(self.architecture, self.kernel, WANTED, self.release)

    def initramfs(self, directory):
        """The router's root with the kernel's modules that it needs; the path of the archive."""
        root, packages = directory / "root", self.fetch()
        assert (packages / "usr/sbin/nft").exists(), f"{packages} needs static bin/busybox and usr/sbin/nft, built by hand"
        router.build(root, DIST / self.target / "knockknock", packages=packages)
        router.add_applets(root, [self.emulator])
        (root / "init").write_text(INIT % " ".join(MODULES))
        (root / "init").chmod(0o755)
        debian.copy_modules(packages, MODULES, root)
        return debian.pack(root, directory / "initramfs.gz")

    def boot(self, archive, timeout):
        """Runs the machine until it reboots. Returns the text of its console."""
        kernel = next((self.fetch() / "boot").glob("vmlinu?-*"))
        machine = subprocess.run(
            [*self.qemu.split(), "-m", "512", "-nic", "none", "-vga", "none", "-nographic", "-no-reboot",
             "-kernel", kernel, "-initrd", archive,
             "-append", f"console={self.console} rdinit=/init loglevel=4 panic=1"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout)
        return machine.stdout.replace("\r", "") + machine.stderr


MACHINES = {
    "mips": Machine("mips-unknown-linux-musl", None, "mips/root",
                    "qemu-system-mips -M malta -cpu 24Kf", "ttyS0", "qemu-mips-static"),
    "mipsel": Machine("mipsel-unknown-linux-musl", "mipsel", "linux-image-4kc-malta",
                      "qemu-system-mipsel -M malta -cpu 24Kf", "ttyS0", "qemu-mipsel-static"),
    "aarch64": Machine("aarch64-unknown-linux-musl", "arm64", "linux-image-arm64",
                       "qemu-system-aarch64 -M virt -cpu cortex-a53", emulator="qemu-aarch64-static"),
    "armv7": Machine("armv7-unknown-linux-musleabihf", "armhf", "linux-image-armmp",
                     "qemu-system-arm -M virt -cpu cortex-a7", emulator="qemu-arm-static", release="bookworm"),
    "riscv64": Machine("riscv64gc-unknown-linux-musl", "riscv64", "linux-image-riscv64",
                       "qemu-system-riscv64 -M virt", "ttyS0", "qemu-riscv64-static", release="trixie"),
}

"""The observer of tests/e2e, on an older kernel: there one clock for each pair of hosts shows in the TCP timestamps.

The client is a machine under qemu-system with Debian 12's kernel; qemu writes down what leaves its network card."""

import os
import random
import struct
import subprocess
from pathlib import Path

import pytest

import debian
import observer
import packets

BINARY = os.environ.get("KNOCKKNOCK") or Path(__file__).parents[2] / "dist/x86_64-unknown-linux-musl/knockknock"
HOSTS = {"IPv4": "10.9.0.1", "IPv6": "fd09::1"}
KNOCK_PORT = 4017
MODULES = ["virtio_pci", "virtio_net"]
INIT = """#!/bin/sh
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
depmod
for module in {modules}; do modprobe "$module"; done
echo {timestamps} >/proc/sys/net/ipv4/tcp_timestamps
echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad
ip link set lo up
ip link set eth0 arp off up
ip address add 10.9.0.2/24 dev eth0
ip address add fd09::2/64 dev eth0
sleep 1
uname -r
{commands}
echo done
poweroff -f
"""


def captured(path):
    """The SYNs to the knock port in a pcap file (libpcap's format, microseconds), with their times."""
    octets, found, at = path.read_bytes(), [], 24
    while at < len(octets):
        seconds, microseconds, length, _ = struct.unpack_from("<IIII", octets, at)
        frame = octets[at + 16:at + 16 + length]
        at += 16 + length
        protocol = {b"\x08\x00": frame[23:24], b"\x86\xdd": frame[20:21]}.get(frame[12:14])
        if protocol == b"\x06":
            packet = packets.Packet(frame)
            packet.at = seconds + microseconds / 1e6
            if packet.port == KNOCK_PORT and packet.flags == packets.SYN:
                found.append(packet)
    return found


def boot(directory, timestamps, commands):
    """Returns the SYNs that a machine sends while it runs `commands`, and the text of its console."""
    root = directory / "root"
    for path in ("bin", "proc", "sys", "dev", "sbin"):
        (root / path).mkdir(parents=True, exist_ok=True)
    packages = debian.unpack("amd64", "linux-image-amd64", ["busybox-static"])
    subprocess.run(["cp", packages / "bin/busybox", root / "bin"], check=True)
    for name in ("sh", "mount", "depmod", "modprobe", "ip", "sleep", "uname", "poweroff", "usleep"):
        (root / "bin" / name).symlink_to("busybox")
    subprocess.run(["cp", BINARY, root / "bin/knockknock"], check=True)
    subprocess.run(["gcc", "-O2", "-static", "-o", root / "bin/syn", Path(__file__).with_name("syn.c")], check=True)
    subprocess.run([BINARY, "genprofile", "--dir", directory / "server", "--ports", "22", "client", str(KNOCK_PORT)],
                   check=True)
    (root / ".knockknock").mkdir(mode=0o700)
    for host in HOSTS.values():
        subprocess.run(["cp", "-a", directory / "server/profiles/client", root / ".knockknock" / host], check=True)
    debian.copy_modules(packages, MODULES, root)
    (root / "init").write_text(INIT.format(modules=" ".join(MODULES), timestamps=timestamps, commands="\n".join(commands)))
    (root / "init").chmod(0o755)
    kernel = next((packages / "boot").glob("vmlinuz-*"))
    dump = directory / "network.pcap"
    output = subprocess.run(
        ["qemu-system-x86_64", "-M", "pc", "-m", "512", "-vga", "none", "-nographic", "-no-reboot",
         "-netdev", "user,id=cable,restrict=on", "-device", "virtio-net-pci,netdev=cable",
         "-object", f"filter-dump,id=dump,netdev=cable,file={dump}",
         "-kernel", kernel, "-initrd", debian.pack(root, directory / "initramfs.gz"),
         "-append", "console=ttyS0 rdinit=/init loglevel=4 panic=1"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=280).stdout
    assert "done" in output, output
    return captured(dump), output


@pytest.mark.parametrize("timestamps", [1, 2])
@pytest.mark.parametrize("family", HOSTS)
def test_an_observer_of_one_pair_of_hosts_on_an_older_kernel(tmp_path, family, timestamps):
    for attempt in range(observer.TRIES):
        if watch(tmp_path / str(attempt), family, timestamps) > 0.01:
            return
    assert False, "the observer knew the knocks"


def watch(directory, family, timestamps):
    """The share of random guesses that are as good as the observer's."""
    host = HOSTS[family]
    is_knock = [True] * 100 + [False] * 100
    random.shuffle(is_knock)
    connect, knock = f"syn {host} {KNOCK_PORT}", f"knockknock -p 22 {host}"
    programs = [connect] * 1000 + [knock if is_one else connect for is_one in is_knock]
    # At any time: each would otherwise start a fixed time after a tick of the kernel's, when the one before has ended.
    sent, output = boot(directory, timestamps, [f"usleep {random.randrange(8000)}; {program}" for program in programs])
    assert len(sent) == 1200, output
    best, deviation, p = observer.permutation_test(observer.features(sent[:1000], sent[1000:]), is_knock)
    kernel = next(line for line in output.splitlines() if "amd64" in line).strip()
    print(f"{kernel}, {family}, tcp_timestamps={timestamps}: best is {best!r}, {deviation:.1f} standard deviations, p = {p:.4f}")
    return p

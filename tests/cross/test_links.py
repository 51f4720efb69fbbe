"""Interfaces that the kernel of the other tests does not have, VRFs and bonds: on Debian's kernel under qemu-system, which uses
this machine's files."""

import os
import re
import subprocess
from pathlib import Path

import debian

BINARY = Path(os.environ.get("KNOCKKNOCK") or Path(__file__).parents[2] / "dist/x86_64-unknown-linux-musl/knockknock")
MODULES = ("virtio_pci 9pnet_virtio 9p overlay crc32c_generic libcrc32c nf_tables nft_log nft_ct nft_limit nft_objref nft_hash "
           "nft_fib_inet nft_socket nft_reject_inet nf_log_syslog veth vrf bonding").split()
PROGRAMS = "sh mount depmod modprobe mkdir poweroff chroot cp".split()
INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
depmod
for module in {modules}; do modprobe "$module"; done
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose host /low
mount -t tmpfs tmpfs /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/low,upperdir=/layer/upper,workdir=/layer/work overlay /host
mount -t proc proc /host/proc
mount -t sysfs sysfs /host/sys
mount --bind /dev /host/dev
mount -t tmpfs tmpfs /host/run
mount -t tmpfs tmpfs /host/tmp
cp /scenario.sh /knockknock /host/tmp
chroot /host /bin/sh /tmp/scenario.sh
poweroff -f
"""
SCENARIO = """
PATH=$PATH:/tmp passed=0 failed=0
check() {
    what=$1
    shift
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $what"; fi
}
not() { ! "$@"; }
client() { nsenter --target "$client" --net "$@"; }
connects() { [ "$(client busybox nc -w 1 "$address" 22 </dev/null 2>/dev/null)" = welcome ]; }
soon() { # TEXT: the daemon says it
    left=200
    until grep -q "$1" /tmp/said; do
        left=$((left - 1))
        [ $left -gt 0 ] || { cat /tmp/said; return 1; }
        sleep 0.1
    done
}
starts() {
    knockknock daemon --dir /tmp/server 2>/tmp/said &
    daemon=$!
    soon ": ready"
}
knocks() {
    client knockknock -p 22 --dir /tmp/client "$address" && soon "opened port 22 to ${address%1}2 "
}
opens_once() {
    check "the guarded port $address is closed" not connects
    check "a knock opens it" knocks
    check "for one connection" connects
    check "and not for a second" not connects
}
ends() {
    kill $daemon
    wait $daemon
    knockknock daemon --dir /tmp/server --unguard
}

unshare --net sleep 1000 &
client=$!
until [ "$(readlink "/proc/$client/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do :; done
ip link set lo up
ip link add eth0 type veth peer name veth0 netns "$client"
client ip address add 10.9.0.2/24 dev veth0
client ip address add fd09::2/64 dev veth0 nodad
client ip link set veth0 up
ip link set eth0 up
ip address add 10.9.0.1/24 dev eth0
knockknock genprofile gate 20022 --ports 22 --dir /tmp/server
mkdir /tmp/client
cp -r /tmp/server/profiles/gate /tmp/client/10.9.0.1
ln -s 10.9.0.1 /tmp/client/fd09::1
busybox nc -ll -p 22 -e echo welcome &
address=10.9.0.1

printf '[main]\\nguard = 22\\ninterfaces = eth0\\nlog = kmsg\\nfirewall = nft\\n' >/tmp/server/config
check "the daemon starts" starts
ip link add bond0 type bond mode active-backup
ip link set eth0 down
ip link set eth0 master bond0
ip address flush dev eth0
ip link set bond0 up
check "the daemon says that the interface is in a bond" soon 'is a port of "bond0"'
ip address add 10.9.0.1/24 dev bond0
opens_once
ends
check "nothing else closes the port" connects
ip link delete bond0

ip link add mgmt type vrf table 10
ip link set mgmt up
ip link set eth0 master mgmt up
ip address add 10.9.0.1/24 dev eth0
ip address add fd09::1/64 dev eth0 nodad
sysctl -qw net.ipv4.tcp_l3mdev_accept=1
for interfaces in "" "interfaces = eth0"; do
    printf '[main]\\nguard = 22\\n%s\\nlog = kmsg\\nfirewall = nft\\n' "$interfaces" >/tmp/server/config
    check "the daemon starts with VRF" starts
    for address in 10.9.0.1 fd09::1; do
        opens_once
    done
    ends
done
echo "$passed passed, $failed failed"
"""


def test_a_knock_opens_a_port_of_an_interface_in_a_bond_or_a_vrf(tmp_path):
    root = tmp_path / "root"
    for path in ("bin", "sbin", "proc", "sys", "dev", "low", "layer", "host"):
        (root / path).mkdir(parents=True)
    packages = debian.unpack("amd64", "linux-image-amd64", ["busybox-static"])
    subprocess.run(["cp", packages / "bin/busybox", root / "bin"], check=True)
    for name in PROGRAMS:
        (root / "bin" / name).symlink_to("busybox")
    subprocess.run(["cp", BINARY, root / "knockknock"], check=True)
    debian.copy_modules(packages, MODULES, root)
    (root / "init").write_text(INIT.format(modules=" ".join(MODULES)))
    (root / "init").chmod(0o755)
    (root / "scenario.sh").write_text(SCENARIO)
    said = subprocess.run(
        ["qemu-system-x86_64", "-M", "pc", "-m", "768", "-vga", "none", "-nographic", "-nic", "none", "-no-reboot",
         "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
         "-kernel", next((packages / "boot").glob("vmlinuz-*")), "-initrd", debian.pack(root, tmp_path / "initramfs.gz"),
         "-append", "console=ttyS0 rdinit=/init loglevel=4 panic=1"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=280).stdout.replace("\r", "")
    print(said)
    assert re.search(r"^\d\d passed, 0 failed$", said, re.M)

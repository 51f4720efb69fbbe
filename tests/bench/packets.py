"""Knocks, packets and kernel log lines, made from the protocol's description, not by the program under test."""

import base64
import hashlib
import hmac
import os
import random
import socket
import struct
import subprocess


class Key:
    """The keys of a profile, and the classic knocks that they make."""

    def __init__(self):
        self.cipher, self.mac = os.urandom(16), os.urandom(16)

    def write(self, directory, knock_port, **config):
        """Writes a profile directory as genprofile does. Without a knock port it is one for links."""
        os.makedirs(directory, 0o700)
        config = {"knock_port": knock_port, **config} if knock_port else config
        lines = ["[main]", *(f"{k} = {v}" for k, v in config.items())]
        for name, text in (("cipher.key", base64.b64encode(self.cipher).decode()),
                           ("mac.key", base64.b64encode(self.mac).decode()),
                           ("counter", "0000000000"), ("config", "\n".join(lines))):
            fd = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT, 0o600)
            with open(fd, "w", encoding="ascii") as file:
                file.write(text + "\n")

    def fields(self, port, n):
        """Yields (identification, sequence number, acknowledgment number, window) for counters 0 to n - 1, without
        those whose identification is 0, which the kernel would replace."""
        blocks = b"".join(struct.pack(">12xI", counter) for counter in range(n))
        stream = subprocess.run(["openssl", "enc", "-aes-128-ecb", "-nopad", "-K", self.cipher.hex()],
                                input=blocks, capture_output=True, check=True).stdout
        request = struct.pack(">H", port)
        request += hmac.digest(self.mac, request, hashlib.sha1)[:10]
        clear = int.from_bytes(request, "big")
        for at in range(0, len(stream), 16):
            sealed = clear ^ int.from_bytes(stream[at:at + 12], "big")
            fields = struct.unpack(">HIIH", sealed.to_bytes(12, "big"))
            if fields[0]:
                yield fields


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def ipv4(source, destination, protocol, payload, identification):
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), identification, 0x4000, 64,
                       protocol, 0, socket.inet_aton(source), socket.inet_aton(destination))
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def syn(source, destination, port, fields=None):
    """A SYN with the options that Linux sends."""
    identification, sequence, acknowledgment, window = fields or (
        random.randint(1, 65535), random.getrandbits(32), 0, 64240)
    options = bytes.fromhex("020405b40402080a") + os.urandom(4) + bytes.fromhex("000000000103030a")
    tcp = struct.pack(">HHIIBBHHH", random.randint(32768, 60999), port, sequence, acknowledgment,
                      0xa0, 2, window, 0, 0) + options
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack(">HH", 6, len(tcp))
    tcp = tcp[:16] + struct.pack(">H", checksum(pseudo + tcp)) + tcp[18:]
    return ipv4(source, destination, socket.IPPROTO_TCP, tcp, identification)


def udp(source, destination, port, payload):
    head = struct.pack(">HHHH", random.randint(32768, 60999), port, 8 + len(payload), 0)
    return ipv4(source, destination, socket.IPPROTO_UDP, head + payload, random.randint(1, 65535))


# Log lines as Linux writes them, behind rsyslog's time stamp.

STAMP = "Nov 22 07:58:{:02} gate kernel: [ {:.6f}] "
# A knock from before the daemon's start opens nothing, so this is one of a time to come.
KNOCK_STAMP = "2099-11-22T07:58:30.000000+00:00 gate kernel: "
MAC = "MAC=82:bb:85:6a:15:66:ea:fb:11:81:2e:84:08:00"
OPTIONS = "OPT (020405B40402080A{:08X}0000000001030307)"


def stamp():
    return STAMP.format(random.randrange(60), random.uniform(1000, 90000))


def address():
    return ".".join(str(random.randint(1, 254)) for _ in range(4))


def knock_line(port, fields=None, source=None):
    """The line that the log rule writes for a SYN to a knock port; with random header fields if none are given."""
    identification, sequence, acknowledgment, window = fields or (
        random.randint(1, 65535), random.getrandbits(32), random.getrandbits(32), random.getrandbits(16))
    return (f"{KNOCK_STAMP}knockknock IN=eth0 OUT= {MAC} SRC={source or address()} DST=198.51.100.7 LEN=60 "
            f"TOS=0x00 PREC=0x00 TTL=53 ID={identification} DF PROTO=TCP SPT={random.randint(1024, 65535)} "
            f"DPT={port} SEQ={sequence} ACK={acknowledgment} WINDOW={window} RES=0x00 SYN URGP=0 "
            f"{OPTIONS.format(random.getrandbits(32))} \n")


def guess_line(port):
    """The line of a guess at a stealth code, whose acknowledgment number is 0."""
    return knock_line(port, (random.randint(1, 65535), random.getrandbits(32), 0, 64240))


def foreign_line():
    """A line of a busy machine's kern.log that is not a knock: mostly other packets, some other kernel messages."""
    kind, head = random.randrange(10), stamp()
    ip = (f"SRC={address()} DST=198.51.100.7 LEN={random.randint(40, 1500)} TOS=0x00 PREC=0x00 "
          f"TTL={random.randint(30, 250)} ID={random.getrandbits(16)}")
    if kind < 4:
        return (f"{head}[UFW BLOCK] IN=eth0 OUT= {MAC} {ip} DF PROTO=TCP SPT={random.randint(1024, 65535)} "
                f"DPT={random.choice((22, 23, 80, 443, 445, 3389, 5900, 8080))} WINDOW=1024 RES=0x00 SYN URGP=0 \n")
    if kind < 6:
        return (f"{head}REJECT IN=eth0 OUT= {MAC} {ip} PROTO=TCP SPT={random.randint(1024, 65535)} "
                f"DPT={random.choice((22, 25, 110, 6379, 8443))} SEQ={random.getrandbits(32)} ACK=0 "
                f"WINDOW=65535 RES=0x00 SYN URGP=0 {OPTIONS.format(random.getrandbits(32))} \n")
    if kind == 6:
        return f"{head}[UFW BLOCK] IN=eth0 OUT= {MAC} {ip} PROTO=UDP SPT=53 DPT={random.randint(1024, 65535)} LEN=60 \n"
    if kind == 7:
        return f"{head}REJECT IN=eth0 OUT= {MAC} {ip} PROTO=ICMP TYPE=8 CODE=0 ID={random.getrandbits(16)} SEQ=1 \n"
    if kind == 8:
        return (f"{head}REJECT IN=eth0 OUT= {MAC[:-5]}86:dd SRC=2001:0db8:0000:0000:0000:0000:0000:{random.getrandbits(16):04x} "
                f"DST=2001:0db8:0000:0000:0000:0000:0000:0001 LEN=80 TC=0 HOPLIMIT=55 FLOWLBL={random.getrandbits(20)} "
                f"PROTO=TCP SPT={random.randint(1024, 65535)} DPT=22 SEQ={random.getrandbits(32)} ACK=0 WINDOW=64800 RES=0x00 SYN URGP=0 \n")
    return random.choice((
        f"{head}usb 1-{random.randint(1, 9)}: new high-speed USB device number {random.randint(2, 99)} using xhci_hcd\n",
        f'{head}audit: type=1400 audit(1700000000.{random.randrange(1000):03}:{random.randrange(9999)}): apparmor="ALLOWED" '
        f'operation="open" profile="/usr/sbin/cupsd" name="/etc/passwd" pid={random.randrange(1, 32768)} comm="cupsd"\n',
        f"{head}EXT4-fs (sda1): re-mounted. Opts: errors=remount-ro. Quota mode: none.\n",
        f"{head}br-lan: port {random.randint(1, 9)}(lan1) entered forwarding state\n"))

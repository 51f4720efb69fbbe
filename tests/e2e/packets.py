"""IPv4 packets, built and taken apart by hand for the tests."""

import socket
import struct

SYN, RST, ACK = 0x02, 0x04, 0x10


def checksum(octets):
    octets += b"\0" * (len(octets) % 2)
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def ipv4(source, destination, protocol, payload, identification):
    """A packet with DF set, so that a raw socket leaves an identification of 0 alone."""
    def header(check):
        return struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), identification, 0x4000, 64, protocol, check,
            socket.inet_aton(source), socket.inet_aton(destination))
    return header(checksum(header(0))) + payload


def tcp(source, destination, source_port, port, fields, flags=SYN):
    """A TCP packet without options that carries `fields` (a classic.Fields)."""
    def header(check):
        return struct.pack("!HHIIBBHHH", source_port, port, fields.sequence, fields.acknowledgment,
                           5 << 4, flags, fields.window, check, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", 6, 20)
    segment = header(checksum(pseudo + header(0)))
    return ipv4(source, destination, socket.IPPROTO_TCP, segment, fields.identification)


class Packet:
    """What stands in an IPv4 TCP frame from the cable."""

    def __init__(self, frame):
        ip = frame[14:]
        self.frame = frame
        self.identification = int.from_bytes(ip[4:6], "big")
        self.source, self.destination = (socket.inet_ntoa(ip[at:at + 4]) for at in (12, 16))
        self.dont_fragment = bool(ip[6] & 0x40)
        self.ttl = ip[8]
        segment = ip[(ip[0] & 15) * 4:int.from_bytes(ip[2:4], "big")]
        self.source_port, self.port, self.sequence, self.acknowledgment = struct.unpack("!HHII", segment[:12])
        self.flags = segment[13]
        self.window = int.from_bytes(segment[14:16], "big")
        self.options = segment[20:(segment[12] >> 4) * 4]
        pseudo = ip[12:20] + struct.pack("!HH", ip[9], len(segment))
        self.checksums_right = checksum(ip[:(ip[0] & 15) * 4]) == 0 == checksum(pseudo + segment)

    @property
    def fields(self):
        return (self.identification, self.sequence, self.acknowledgment, self.window)

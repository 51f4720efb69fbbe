"""Builds and parses IPv4 and IPv6 packets for the tests."""

import socket
import struct

SYN, RST, ACK = 0x02, 0x04, 0x10


def checksum(octets):
    octets += b"\0" * (len(octets) % 2)
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def ipv4(source, destination, protocol, payload, identification):
    """Returns a packet with DF set, so that the kernel does not replace an identification of 0."""
    def header(check):
        return struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), identification, 0x4000, 64, protocol, check,
            socket.inet_aton(source), socket.inet_aton(destination))
    return header(checksum(header(0))) + payload


def tcp(source, destination, source_port, port, fields, flags=SYN):
    """Returns a TCP packet without options that carries `fields` (a classic.Fields)."""
    def header(check):
        return struct.pack("!HHIIBBHHH", source_port, port, fields.sequence, fields.acknowledgment,
                           5 << 4, flags, fields.window, check, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", 6, 20)
    segment = header(checksum(pseudo + header(0)))
    return ipv4(source, destination, socket.IPPROTO_TCP, segment, fields.identification)


OPTIONS = bytes.fromhex("020405b4 0402 080a 00000000 00000000 01 030307")  # in the order of Linux


def syn(source, destination, source_port, port, identification, sequence, acknowledgment=0, window=64240, timestamp=None,
        options=b""):
    """Returns an IPv4 or IPv6 SYN. With a `timestamp` it has the options that Linux sends."""
    if timestamp is not None:
        options = OPTIONS[:8] + timestamp.to_bytes(4, "big") + OPTIONS[12:]
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    addresses = socket.inet_pton(family, source) + socket.inet_pton(family, destination)

    def header(check):
        return struct.pack("!HHIIBBHHH", source_port, port, sequence, acknowledgment,
                           (20 + len(options)) << 2, SYN, window, check, 0) + options
    segment = header(checksum(addresses + struct.pack("!HH", socket.IPPROTO_TCP, 20 + len(options)) + header(0)))
    if family == socket.AF_INET:
        return ipv4(source, destination, socket.IPPROTO_TCP, segment, identification)
    return struct.pack("!IHBB", 6 << 28 | identification, len(segment), socket.IPPROTO_TCP, 64) + addresses + segment


class Packet:
    """The fields of a captured IPv4 or IPv6 frame with a TCP segment."""

    def __init__(self, frame):
        self.frame = frame
        self.version = frame[14] >> 4
        self._ip = 14
        ip = frame[14:]
        if self.version == 4:
            self._tcp = 14 + (ip[0] & 15) * 4
            end = 14 + int.from_bytes(ip[2:4], "big")
            self.identification = int.from_bytes(ip[4:6], "big")
            self.dont_fragment = bool(ip[6] & 0x40)
            self.ttl = ip[8]
            addresses, family = ip[12:20], socket.AF_INET
            header = checksum(ip[:self._tcp - 14])
        else:
            self._tcp = 14 + 40
            end = self._tcp + int.from_bytes(ip[4:6], "big")
            self.flow_label = int.from_bytes(ip[1:4], "big") & 0xFFFFF
            self.identification = self.flow_label & 0xFFFF
            self.ttl = ip[7]
            addresses, family = ip[8:40], socket.AF_INET6
            header = 0
        half = len(addresses) // 2
        self.source_octets = addresses[:half]
        self.source, self.destination = (socket.inet_ntop(family, part) for part in (addresses[:half], addresses[half:]))
        segment = frame[self._tcp:end]
        self._end = end
        self.source_port, self.port, self.sequence, self.acknowledgment = struct.unpack("!HHII", segment[:12])
        self.flags = segment[13]
        self.window = int.from_bytes(segment[14:16], "big")
        self.options = segment[20:(segment[12] >> 4) * 4]
        pseudo = addresses + struct.pack("!HH", socket.IPPROTO_TCP, len(segment))
        self.checksums_right = header == 0 == checksum(pseudo + segment)

    @property
    def fields(self):
        return (self.identification, self.sequence, self.acknowledgment, self.window)

    @property
    def _timestamp_at(self):
        """The offset of the timestamp value in the frame, or None."""
        at = self._tcp + 20
        end = at + len(self.options)
        while at < end and self.frame[at] != 0:
            if self.frame[at] == 8:
                return at + 2
            at += 1 if self.frame[at] == 1 else self.frame[at + 1]
        return None

    @property
    def timestamp(self):
        at = self._timestamp_at
        return None if at is None else int.from_bytes(self.frame[at:at + 4], "big")

    @property
    def options_layout(self):
        """The options without the timestamp's value, in hexadecimal."""
        options = bytearray(self.options)
        if self._timestamp_at is not None:
            at = self._timestamp_at - self._tcp - 20
            options[at:at + 4] = bytes(4)
        return options.hex()

    @property
    def shape(self):
        """The packet in hexadecimal, with the fields that differ from one SYN to the next set to 0: identification or
        flow label, source port, sequence number, timestamp, and the checksums over them."""
        octets = bytearray(self.frame[:self._end])
        blank = [(self._tcp, 2), (self._tcp + 4, 4), (self._tcp + 16, 2)]
        if self.version == 4:
            blank += [(self._ip + 4, 2), (self._ip + 10, 2)]
        else:
            octets[self._ip + 1] &= 0xF0
            blank += [(self._ip + 2, 2)]
        if self._timestamp_at is not None:
            blank += [(self._timestamp_at, 4)]
        for at, length in blank:
            octets[at:at + length] = bytes(length)
        return octets[self._ip:].hex()

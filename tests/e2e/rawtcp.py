"""A TCP client made of single packets, for what no kernel would send."""

import os
import select
import socket
import struct

import packets
from stage import CLIENT, ETH_P_ALL, PACKET_OUTGOING, SERVER

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


class RawClient:
    """One source port of a machine, whose kernel keeps still about it. SYN/ACK, RST and so on are returned, not answered."""

    def __init__(self, machine, source_port, port=22, source=CLIENT, destination=SERVER, interface="eth0"):
        self.ends = source, destination, source_port, port
        self._machine = machine
        self.sequence, self.acknowledgment = int.from_bytes(os.urandom(4), "big"), 0
        # Its own RSTs: the raw packets pass by, since they come by PF_PACKET or are not from a socket of this table.
        machine.run("nft", "-f", "-", input=f"""table inet quiet{source_port} {{ chain output {{
            type filter hook output priority filter
            tcp sport {source_port} meta mark != 0x77 drop
        }}
        }}""")
        self._raw = machine.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._raw.setsockopt(socket.SOL_SOCKET, 36, 0x77)  # SO_MARK
        self._wire = machine.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._wire.bind((interface, ETH_P_ALL))

    def send(self, flags, payload=b"", options=b"", sequence=None, acknowledgment=None):
        source, destination, source_port, port = self.ends
        sequence = self.sequence if sequence is None else sequence
        acknowledgment = self.acknowledgment if acknowledgment is None else acknowledgment
        length = 20 + len(options)

        def header(check):
            return struct.pack("!HHIIBBHHH", source_port, port, sequence & 0xFFFFFFFF, acknowledgment & 0xFFFFFFFF,
                               length << 2, flags, 64240, check, 0) + options + payload
        pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", 6, length + len(payload))
        segment = header(packets.checksum(pseudo + header(0)))
        self._raw.sendto(packets.ipv4(source, destination, socket.IPPROTO_TCP, segment, 1), (destination, 0))

    def receive(self, timeout=0.3):
        """The next packet to this port, or None."""
        while select.select([self._wire], [], [], timeout)[0]:
            frame, (_, ethertype, direction, *_) = self._wire.recvfrom(65535)
            if direction != PACKET_OUTGOING and ethertype == 0x0800 and frame[23] == socket.IPPROTO_TCP:
                packet = packets.Packet(frame)
                if (packet.source_port, packet.port) == (self.ends[3], self.ends[2]):
                    return packet
        return None

    def answers(self, flags, timeout=0.3):
        """Whether a packet with exactly these flags comes, which is then what is acknowledged."""
        while (packet := self.receive(timeout)) is not None:
            if packet.flags & ~PSH == flags:
                self.acknowledgment = packet.sequence + 1
                return True
        return False

    def handshake(self, timeout=0.3):
        """SYN, SYN/ACK, ACK: whether the second came."""
        self.send(SYN)
        if not self.answers(SYN | ACK, timeout):
            return False
        self.sequence += 1
        self.send(ACK)
        return True

    def close(self):
        self._raw.close()
        self._wire.close()

#!/usr/bin/env python3
"""The codes of the stealth wire, computed with Python's hmac and hashlib: no code of knockknock's.

Run as `tests/vectors/hotp.py > tests/vectors/hotp.tsv` it makes the vectors; the same bytes come out each time.
"""
import hashlib
import hmac
import struct
from typing import NamedTuple

COUNTERS = [0, 1, 19, 20, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
PORTS = [1, 22, 80, 443, 2222, 32768, 65535]
TCP = 6


class Fields(NamedTuple):
    """The header fields that carry the six bytes of a code."""

    identification: int  # IPv6: the low 16 bits of the flow label
    sequence: int


def code(mac_key, counter, port):
    """The fields of the knock that asks for `port` with this counter."""
    covered = b"knockknock stealth 2" + struct.pack("!IBH", counter, TCP, port)
    return Fields(*struct.unpack("!HI", hmac.digest(mac_key, covered, "sha1")[:6]))


def main():
    print("# Codes of the stealth wire: vectors computed by hotp.py")
    print("# mac_key\tcounter\tport\tid\ttcp_seq")
    for row in range(84):
        mac_key = hashlib.sha256(b"mac %d" % row).digest()[:16]
        counter = COUNTERS[row % len(COUNTERS)]
        port = PORTS[row % len(PORTS)]
        print(mac_key.hex(), counter, port, *code(mac_key, counter, port), sep="\t")
    # The first counter of this key whose identification is 0: the sender skips it, the receiver takes it.
    mac_key = hashlib.sha256(b"mac 0").digest()[:16]
    counter = next(n for n in range(2**32) if code(mac_key, n, 22).identification == 0)
    print(mac_key.hex(), counter, 22, *code(mac_key, counter, 22), sep="\t")


if __name__ == "__main__":
    main()

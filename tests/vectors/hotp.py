#!/usr/bin/env python3
"""The codes of the stealth wire and of links, computed with Python's hmac and hashlib: no code of knockknock's.

Run as `tests/vectors/hotp.py > tests/vectors/hotp.tsv` and `tests/vectors/hotp.py links > tests/vectors/links.tsv` it makes the
vectors; the same bytes come out each time.
"""
import hashlib
import hmac
import ipaddress
import struct
import sys
from typing import NamedTuple

COUNTERS = [0, 1, 19, 20, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
PORTS = [1, 22, 80, 443, 2222, 32768, 65535]
PREFIXES = ["2001:db8:0:ff::/64", "fd00:1:2::/48", "2001:db8:0:ff:1::/80", "2001:db8:8000::/49", "2001:db8:0:ff::/79"]
TCP = 6


class Fields(NamedTuple):
    """The header fields that carry the six bytes of a code."""

    identification: int  # IPv6: the low 16 bits of the flow label
    sequence: int


def code(mac_key, counter, port):
    """The fields of the knock that asks for `port` with this counter."""
    covered = b"knockknock stealth 2" + struct.pack("!IBH", counter, TCP, port)
    return Fields(*struct.unpack("!HI", hmac.digest(mac_key, covered, "sha1")[:6]))


def link(mac_key, prefix, counter, port):
    """The address of the link that asks for `port` with this counter."""
    covered = b"knockknock link 1" + struct.pack("!IBH", counter, TCP, port)
    network = ipaddress.IPv6Network(prefix)
    code = int.from_bytes(hmac.digest(mac_key, covered, "sha1"), "big") % network.num_addresses
    return network[code]


def links():
    print("# Addresses of links: vectors computed by hotp.py")
    print("# mac_key\tcounter\tport\tprefix\taddress")
    for row in range(84):
        mac_key = hashlib.sha256(b"mac %d" % row).digest()[:16]
        counter, port, prefix = COUNTERS[row % len(COUNTERS)], PORTS[row % len(PORTS)], PREFIXES[row % len(PREFIXES)]
        print(mac_key.hex(), counter, port, prefix, link(mac_key, prefix, counter, port), sep="\t")


def main():
    if sys.argv[1:] == ["links"]:
        return links()
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

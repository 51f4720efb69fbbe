#!/usr/bin/env python3
"""The stealth wire, computed with hmac from Python and the openssl command: no code of knockknock's.

Run as `tests/vectors/stealth.py > tests/vectors/stealth.tsv` it makes the vectors; the same bytes come out each time.
"""
import hashlib
import hmac
import struct
import subprocess
from typing import NamedTuple

COUNTERS = [0, 1, 19, 20, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
PORTS = [1, 22, 80, 443, 2222, 32768, 65535]
KNOCK_PORTS = [1, 666, 4000, 65535]


class Fields(NamedTuple):
    """The header fields that carry the ten bytes of a knock."""

    identification: int
    sequence: int
    timestamp: int


def knock(cipher_key, mac_key, counter, knock_port, port):
    """The fields of the knock for `port` at `knock_port` with this counter."""
    covered = b"knockknock stealth 1" + struct.pack("!IHH", counter, knock_port, port)
    message = struct.pack("!H", port) + hmac.digest(mac_key, covered, "sha1")[:8]
    keystream = subprocess.run(
        ["openssl", "enc", "-aes-128-ecb", "-nopad", "-K", cipher_key.hex()],
        input=b"\1" + bytes(11) + struct.pack("!I", counter), stdout=subprocess.PIPE, check=True).stdout
    return Fields(*struct.unpack("!HII", bytes(a ^ b for a, b in zip(message, keystream))))


def main():
    print("# Stealth wire format: vectors computed by stealth.py")
    print("# cipher_key\tmac_key\tcounter\tknock_port\tport\tid\ttcp_seq\tts_value")
    for row in range(84):
        cipher_key = hashlib.sha256(b"cipher %d" % row).digest()[:16]
        mac_key = hashlib.sha256(b"mac %d" % row).digest()[:16]
        counter = COUNTERS[row % len(COUNTERS)]
        port = PORTS[row % len(PORTS)]
        knock_port = KNOCK_PORTS[row % len(KNOCK_PORTS)]
        fields = knock(cipher_key, mac_key, counter, knock_port, port)
        print(cipher_key.hex(), mac_key.hex(), counter, knock_port, port, *fields, sep="\t")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Computes stealth.tsv with hashlib and the openssl command: no code of knockknock's.

Run it as `tests/vectors/stealth.py > tests/vectors/stealth.tsv`; the same bytes come out each time.
"""
import hashlib
import hmac
import struct
import subprocess

COUNTERS = [0, 1, 19, 20, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
PORTS = [1, 22, 80, 443, 2222, 32768, 65535]
KNOCK_PORTS = [1, 666, 4000, 65535]


def aes_block(key: bytes, block: bytes) -> bytes:
    command = ["openssl", "enc", "-aes-128-ecb", "-nopad", "-K", key.hex()]
    return subprocess.run(command, input=block, stdout=subprocess.PIPE, check=True).stdout


print("# Stealth wire format: vectors computed by stealth.py")
print("# cipher_key\tmac_key\tcounter\tknock_port\tport\tid\ttcp_seq\tts_value")
for row in range(84):
    cipher_key = hashlib.sha256(b"cipher %d" % row).digest()[:16]
    mac_key = hashlib.sha256(b"mac %d" % row).digest()[:16]
    counter = COUNTERS[row % len(COUNTERS)]
    port = PORTS[row % len(PORTS)]
    knock_port = KNOCK_PORTS[row % len(KNOCK_PORTS)]
    covered = b"knockknock stealth 1" + struct.pack(">IHH", counter, knock_port, port)
    message = struct.pack(">H", port) + hmac.new(mac_key, covered, hashlib.sha1).digest()[:8]
    keystream = aes_block(cipher_key, b"\x01" + bytes(11) + struct.pack(">I", counter))
    identification, seq, timestamp = struct.unpack(">HII", bytes(a ^ b for a, b in zip(message, keystream)))
    print(cipher_key.hex(), mac_key.hex(), counter, knock_port, port, identification, seq, timestamp, sep="\t")

"""The stealth wire, computed without any code of knockknock: hmac from Python, AES from openssl."""

import hmac
import struct
import subprocess
from typing import NamedTuple


class Fields(NamedTuple):
    """The header fields that carry the ten bytes of a knock."""

    identification: int
    sequence: int
    timestamp: int


def knock(cipher_key, mac_key, counter, knock_port, port):
    """The fields of the knock for `port` at `knock_port` with this counter."""
    covered = b"knockknock stealth 1" + struct.pack("!IHH", counter, knock_port, port)
    plain = port.to_bytes(2, "big") + hmac.digest(mac_key, covered, "sha1")[:8]
    stream = subprocess.run(
        ["openssl", "enc", "-aes-128-ecb", "-nopad", "-K", cipher_key.hex()],
        input=b"\1" + bytes(11) + struct.pack("!I", counter), stdout=subprocess.PIPE, check=True,
    ).stdout
    return Fields(*struct.unpack("!HII", bytes(a ^ b for a, b in zip(plain, stream))))

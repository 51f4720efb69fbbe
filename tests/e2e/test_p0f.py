"""p0f, which identifies operating systems by their SYNs, classifies a stealth knock like a connect() of its machine."""

import re
import struct

import pytest

from stage import FAMILIES, Capture, Profile

SETTINGS = {
    "as it comes": [],
    "a small buffer": ["net.ipv4.tcp_rmem=4096 20000 6291456"],
    "a large buffer": ["net.ipv4.tcp_rmem=4096 500000 16777216"],
    "no window scaling": ["net.ipv4.tcp_window_scaling=0"],
    "no sack": ["net.ipv4.tcp_sack=0"],
    "another ttl": ["net.ipv4.ip_default_ttl=128", "net.ipv6.conf.eth0.hop_limit=128"],
    "no timestamps": ["net.ipv4.tcp_timestamps=0"],
}


def p0f(stage, packets):
    """Returns p0f's label and raw signature of each packet."""
    pcap, log = stage.directory / "cable.pcap", stage.directory / "p0f.log"
    frames = (struct.pack("=4I", n, 0, len(packet.frame), len(packet.frame)) + packet.frame
              for n, packet in enumerate(packets))
    pcap.write_bytes(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(frames))
    stage.client.run("p0f", "-r", pcap, "-o", log)
    seen = {int(port): (label, signature) for port, label, signature in re.findall(
        r"mod=syn\|cli=[^|]*/(\d+)\|.*\|os=([^|]*)\|.*raw_sig=(\S+)", log.read_text())}
    return [seen[packet.source_port] for packet in packets]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("mtu", [1500, 1492, 1280])
def test_p0f_takes_a_stealth_knock_for_a_connect(stage, family, mtu, settings):
    host, _ = FAMILIES[family]
    profile = Profile(stage, "gate", wire="stealth")
    profile.give_to_client(host)
    stage.client.run("ip", "link", "set", "eth0", "mtu", mtu)
    for setting in SETTINGS[settings]:
        stage.client.run("sysctl", "-qw", setting)
    capture = stage.keep(Capture(stage.client))
    stage.client.start_connect(profile.knock_port, host)
    stage.knock(host=host)
    profile.use_classic_wire()
    stage.knock(host=host)
    packets = capture.sent(profile.knock_port)
    genuine, stealth, classic = signatures = p0f(stage, packets)
    # A classic knock has a random window, which is the kernel's once in 2^16 times.
    same_window = packets[0].window == packets[2].window
    for who, (label, signature) in zip(("connect()", "stealth", "classic"), signatures):
        print(f"{family} {mtu} {settings}: {who:9} {signature} ({label})")
    assert stealth == genuine
    assert (classic == genuine) <= same_window

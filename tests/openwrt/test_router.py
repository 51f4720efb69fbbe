"""The small router as a chroot of its own on this kernel: tests/openwrt/scenario.sh runs in it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

import router

BINARY = Path(__file__).parents[2] / "dist/x86_64-unknown-linux-musl/knockknock"


@pytest.mark.parametrize("firewall", ["nft", "iptables"])
def test_a_day_on_the_router(tmp_path, firewall):
    root = tmp_path / "router"
    router.build(root, BINARY, firewall=firewall)
    router.add_applets(root)
    Path("/proc/sys/net/netfilter/nf_log_all_netns").write_text("1")  # log rules speak from a namespace
    port = 40000 + os.getpid() % 20000
    day = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c",
         'mount -t proc proc "$1/proc" && exec chroot "$1" /bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin '
         'KNOCK_PORT="$2" /bin/sh /scenario.sh', "sh", root, str(port)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    print(day.stdout, day.stderr)
    assert re.search(r"^\d\d passed, 0 failed$", day.stdout, re.M)

"""The whole daemon on another architecture's kernel: tests/openwrt/scenario.sh on a MIPS machine."""

import re
from pathlib import Path

import machine

BINARY = Path(__file__).parents[2] / "dist/mipsel-unknown-linux-musl/knockknock"


def test_a_day_on_a_mips_router(tmp_path):
    machine.fetch()
    output = machine.boot(machine.initramfs(tmp_path, BINARY), timeout=300)
    print(output)
    assert re.search(r"^\d\d passed, 0 failed$", output, re.M)
    assert "type=1326" not in output

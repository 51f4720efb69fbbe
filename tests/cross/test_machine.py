"""The whole daemon on other architectures' kernels: tests/openwrt/scenario.sh on machines under qemu-system."""

import os
import re

import pytest

from machine import MACHINES


@pytest.mark.parametrize("name", os.environ.get("MACHINES", "mipsel").split())
def test_a_day_on_a_router(tmp_path, name):
    machine = MACHINES[name]
    output = machine.boot(machine.initramfs(tmp_path), timeout=900)
    print(output)
    assert re.search(r"^\d\d passed, 0 failed$", output, re.M)
    assert "type=1326" not in output

"""Makes the modules of the end-to-end and the router tests importable."""

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "e2e"), str(TESTS / "openwrt")]


def pytest_sessionstart():
    if os.geteuid() != 0:
        pytest.exit("these tests need root", 1)

"""The end-to-end stage and the router are used here too."""

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "e2e"), str(TESTS / "openwrt")]


def pytest_sessionstart():
    if os.geteuid() != 0:
        pytest.exit("these tests need root", 1)

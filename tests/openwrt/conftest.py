"""The router is a chroot with its own namespaces, which needs root."""

import os

import pytest


def pytest_sessionstart():
    if os.geteuid() != 0:
        pytest.exit("these tests need root", 1)

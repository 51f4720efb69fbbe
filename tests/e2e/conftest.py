"""Fixtures of the end-to-end tests. Tests that need root or namespaces are skipped without them; with CI=true a skip
is a failure."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import stage as stage_module


@pytest.fixture(scope="session")
def namespaces():
    """Skips the test if namespaces are unavailable; else makes the kernel log packets in network namespaces too."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "--net", "--mount", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs root and network namespaces")
    switch = Path("/proc/sys/net/netfilter/nf_log_all_netns")
    before = switch.read_text()
    switch.write_text("1")
    yield
    switch.write_text(before)


@pytest.fixture
def stage(namespaces, tmp_path):
    """A client and a server, joined by a veth pair."""
    stage = stage_module.Stage(tmp_path)
    yield stage
    stage.close()


@pytest.fixture
def public():
    """A directory that every user may enter, unlike tmp_path."""
    directory = Path(tempfile.mkdtemp(prefix="knockknock-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(params=["nft", "iptables"])
def firewall(request):
    return request.param


@pytest.fixture(params=["kmsg", "file"])
def log(request):
    return request.param


@pytest.fixture(params=["classic", "stealth"])
def wire(request):
    return request.param


@pytest.fixture(params=stage_module.FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def gate(stage, firewall):
    """The stage with a running daemon, once with each firewall."""
    return stage.set_up(firewall)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true forbids: {item.nodeid}: {call.excinfo.value}"


@pytest.fixture(scope="session")
def hooked():
    """The binary with test hooks, which stop a running daemon at a given step or make it try a forbidden action."""
    root = Path(__file__).parents[2]
    target = root / "target/hooks"
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--release", "--features", "hooks", "--target-dir", target],
                   cwd=root, check=True)
    return target / "release/knockknock"


@pytest.fixture
def unowned(hooked):
    """The options of a daemon that behaves as on kernels before 6.9, where other programs can change its table."""
    return {"binary": hooked, "env": {**os.environ, "KNOCKKNOCK_PLAIN_TABLE": "1"}}

"""Our client as another processor runs it, under qemu-user, knocks at this machine's daemon."""

import os
from pathlib import Path

import pytest
from stage import SERVER, Stage

DIST = Path(__file__).parents[2] / "dist"
RUN = {  # 24Kc: no FPU, like the routers
    "mips": ("mips-unknown-linux-musl", ["qemu-mips-static", "-cpu", "24Kc"]),
    "mipsel": ("mipsel-unknown-linux-musl", ["qemu-mipsel-static", "-cpu", "24Kc"]),
    "armv7": ("armv7-unknown-linux-musleabihf", ["qemu-arm-static"]),
    "aarch64": ("aarch64-unknown-linux-musl", ["qemu-aarch64-static"]),
}


@pytest.fixture
def stage(tmp_path):
    Path("/proc/sys/net/netfilter/nf_log_all_netns").write_text("1")  # log rules speak from a namespace
    stage = Stage(tmp_path)
    yield stage
    stage.close()


@pytest.mark.parametrize("processor", os.environ.get("PROCESSORS", "mips mipsel armv7 aarch64").split())
def test_a_knock_opens_the_port(stage, processor):
    target, emulator = RUN[processor]
    stage.set_up()
    assert not stage.connects()
    before = stage.gate.client_counter
    stage.client.run(*emulator, DIST / target / "knockknock", "-p", stage.PORT, "--dir", stage.client_dir, SERVER)
    stage.opened()
    assert stage.gate.client_counter == before + 1
    assert stage.connects()
    assert not stage.connects()

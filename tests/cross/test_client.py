"""Our client as another processor runs it, under qemu-user, knocks at this machine's daemon."""

import os
from pathlib import Path

import pytest
from stage import SERVER, Stage

ROOT = Path(__file__).parents[2]
# By the short name: rustc's target, and the emulator with a processor that has no FPU if the routers have none.
RUN = {row[0]: (row[1], row[4].split()) for row in
       (line.split("\t") for line in (ROOT / "scripts/targets.tsv").read_text().splitlines()) if row[4] != "-"}


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
    stage.client.run(*emulator, ROOT / "dist" / target / "knockknock", "-p", stage.PORT, "--dir", stage.client_dir, SERVER)
    stage.opened()
    assert stage.gate.client_counter == before + 1
    assert stage.connects()
    assert not stage.connects()

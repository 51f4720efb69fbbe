"""The Makefile: `make` installs nothing, `make install` no outdated binary, and `make uninstall` locks nobody out."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from stage import BINARY

ROOT = Path(__file__).parents[2]
PACKAGES = Path("/var/lib/dpkg/status")


def make(*arguments, directory=ROOT, **options):
    return subprocess.run(["make", "-C", directory, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, **options)


@pytest.fixture
def no_cargo(tmp_path):
    """An environment with all programs except those of Rust."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for directory in ("/usr/bin", "/bin", "/usr/local/bin"):
        for path in Path(directory).iterdir():
            if not path.name.startswith(("cargo", "rust")) and not (programs / path.name).exists():
                (programs / path.name).symlink_to(path)
    return {**os.environ, "PATH": str(programs)}


@pytest.fixture
def tree(tmp_path):
    """A copy of the sources with a binary built from them."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("src", "man", "scripts"):
        shutil.copytree(ROOT / name, tree / name)
    for name in ("Makefile", "build.rs", "Cargo.toml", "Cargo.lock"):
        shutil.copy(ROOT / name, tree / name)
    (tree / "target/release").mkdir(parents=True)
    shutil.copy(BINARY, tree / "target/release/knockknock")
    os.utime(tree / "target/release/knockknock")
    return tree


def pull(tree):
    """Updates the modification time of a source file, as git pull does."""
    later = time.time() + 10
    os.utime(tree / "src/main.rs", (later, later))


def installed(directory):
    return sorted(path.relative_to(directory) for path in directory.rglob("*") if not path.is_dir())


def test_make_without_rust_names_the_packages_and_installs_nothing(no_cargo):
    before = PACKAGES.read_bytes() if PACKAGES.exists() else None
    done = make(env=no_cargo)
    assert done.returncode != 0
    assert "missing: Rust 1.85 or newer" in done.stderr
    assert "apt-get" not in done.stdout
    assert (PACKAGES.read_bytes() if PACKAGES.exists() else None) == before


def test_install_needs_no_compiler_and_says_what_it_installs(tree, no_cargo, tmp_path):
    version = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout
    done = make("install", f"DESTDIR={tmp_path}/to", directory=tree, env=no_cargo)
    assert done.returncode == 0, done.stderr
    assert f"installing target/release/knockknock in {tmp_path}/to/usr/local/bin: {version}" in done.stdout
    assert (tmp_path / "to/usr/local/bin/knockknock").read_bytes() == Path(BINARY).read_bytes()


def test_install_after_a_pull_without_a_compiler_installs_nothing(tree, no_cargo, tmp_path):
    pull(tree)
    done = make("install", f"DESTDIR={tmp_path}/to", directory=tree, env=no_cargo)
    assert done.returncode != 0
    assert "target/release/knockknock is missing or older than its sources" in done.stderr
    assert "sudo make install" in done.stderr
    assert not (tmp_path / "to").exists()


def test_install_after_a_pull_builds_first(tree, tmp_path):
    assert "cargo build" not in make("--dry-run", "install", f"DESTDIR={tmp_path}/to", directory=tree).stdout
    pull(tree)
    steps = make("--dry-run", "install", f"DESTDIR={tmp_path}/to", directory=tree).stdout
    assert -1 < steps.find("cargo build --release --locked") < steps.find("install -D -m 755")


def test_install_takes_another_binary_as_it_is(tree, no_cargo, tmp_path):
    shutil.move(tree / "target/release/knockknock", tree / "other")
    pull(tree)
    done = make("install", "BINARY=other", f"DESTDIR={tmp_path}/to", directory=tree, env=no_cargo)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "to/usr/local/bin/knockknock").read_bytes() == Path(BINARY).read_bytes()


def test_uninstall_refuses_while_the_guard_is_active(gate, firewall, tmp_path):
    prefix = tmp_path / "prefix"
    assert make("install", f"PREFIX={prefix}", "--assume-old=target/release/knockknock").returncode == 0
    files = installed(prefix)
    gate.daemon.stop()
    refused = gate.server.run("make", "-C", ROOT, "uninstall", f"PREFIX={prefix}", check=False)
    assert refused.returncode != 0
    assert {"nft": 'table "inet knockknock"', "iptables": "chain KNOCKKNOCK"}[firewall] in refused.stderr
    steps = ["systemctl disable --now knockknock-daemon", "knockknock-daemon --unguard", "make uninstall"]
    places = [refused.stderr.index(step) for step in steps]
    assert places == sorted(places)
    assert installed(prefix) == files
    gate.server.run(BINARY, "daemon", "--dir", gate.server_dir, "--unguard")
    gate.server.run("make", "-C", ROOT, "uninstall", f"PREFIX={prefix}")
    assert installed(prefix) == []


def test_uninstall_from_a_package_directory_asks_nobody(gate, tmp_path):
    assert make("install", f"DESTDIR={tmp_path}/to", "--assume-old=target/release/knockknock").returncode == 0
    gate.server.run("make", "-C", ROOT, "uninstall", f"DESTDIR={tmp_path}/to")
    assert installed(tmp_path / "to") == []

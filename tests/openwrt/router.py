"""A small router's root: busybox, a firewall's program with its libraries, our static binary and service files."""

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
SERVICE_FILES = PROJECT / "scripts/openwrt/knockknock/root"
BINARY = PROJECT / "dist/x86_64-unknown-linux-musl/knockknock"
APPLETS = ("daemon", "genprofile", "proxy")

# The cache directory, where scripts/setup.sh unpacks packages that it does not install.
TOOLS = Path(os.environ.get("KNOCKKNOCK_TOOLS") or
             Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knockknock")

IPTABLES = ("iptables", "ip6tables", "iptables-restore", "ip6tables-restore")


# OpenWrt's programs with the files of their C sources, and what they are linked with.
UBOX = [f"libubox/{name}.c" for name in ("blob", "blobmsg", "utils", "avl", "avl-cmp", "vlist", "md5")]
PROGRAMS = {
    "sbin/uci": [*(f"uci/{name}.c" for name in ("cli", "delta", "file", "libuci", "util", "blob", "parse")), *UBOX],
    "usr/bin/jshn": ["libubox/jshn.c", "libubox/blobmsg_json.c", *UBOX, "-DJSONC", "-I/usr/include/json-c", "-ljson-c"],
}


def built(kind):
    """Builds the package of this kind, apk or ipk, for x86_64. Returns its path."""
    output = subprocess.run([PROJECT / "scripts/package.sh", kind, "x86_64"], check=True, capture_output=True, text=True).stdout
    return PROJECT / output.strip()


def build(root, binary, firewall="nft", packages=Path("/")):
    """Fills `root` with busybox and the program of the firewall, nft or iptables, from the Debian packages below `packages`. A
    router of this machine's architecture also has OpenWrt's uci and jshn, and Dropbear."""
    for path in ("proc", "sys", "dev", "tmp", "root", "usr/bin", "usr/sbin", "bin", "sbin", "run"):
        (root / path).mkdir(parents=True)
    shutil.copytree(SERVICE_FILES, root, dirs_exist_ok=True)
    shutil.copytree(HERE / "stand-in", root, dirs_exist_ok=True)
    for name, major, minor in (("null", 1, 3), ("urandom", 1, 9), ("kmsg", 1, 11)):
        os.mknod(root / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "var").mkdir()
    (root / "var/run").symlink_to("../tmp/run")  # in memory, as on OpenWrt
    (root / "tmp/run").mkdir()
    shutil.copy(_static_busybox(packages), root / "bin/busybox")
    shutil.copy(binary, root / "usr/bin/knockknock")
    for applet in APPLETS:
        (root / "usr/bin" / f"knockknock-{applet}").symlink_to("knockknock")
    if firewall == "nft":
        programs = [packages / "usr/sbin/nft"]
    else:
        programs = [packages / "usr/sbin/xtables-legacy-multi", *packages.glob("usr/lib/*/xtables/lib*.so")]
        for name in IPTABLES:
            (root / "usr/sbin" / name).symlink_to("xtables-legacy-multi")
    for program in programs:
        _copy(program, root / program.relative_to(packages))
        _copy_libraries(program, packages, root)
    if packages == Path("/"):
        _add_openwrts_programs(root)
        for name in ("usr/sbin/dropbear", "usr/bin/dbclient", "usr/bin/dropbearkey"):
            _copy(Path("/", name), root / name)
            _copy_libraries(Path("/", name), packages, root)
    shutil.copy(HERE / "scenario.sh", root / "scenario.sh")


def add_applets(root, run=()):
    """Links busybox's applets; `run` is what runs a program of that architecture here."""
    listed = subprocess.run([*run, root / "bin/busybox", "--list"], capture_output=True, text=True, check=True)
    for applet in listed.stdout.split():
        if not (root / "bin" / applet).exists() and applet != "nft":
            (root / "bin" / applet).symlink_to("busybox")


def _add_openwrts_programs(root):
    """Compiles them from the sources in the crate libuci-sys, unless the cache directory has them."""
    listed = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version=1", "--filter-platform=x86_64-unknown-linux-gnu",
         f"--manifest-path={HERE}/uci/Cargo.toml"], check=True, capture_output=True).stdout
    crate, = (package for package in json.loads(listed)["packages"] if package["name"] == "libuci-sys")
    sources, cache = Path(crate["manifest_path"]).parent, TOOLS / f"libuci-sys-{crate['version']}"
    (cache / "include").mkdir(parents=True, exist_ok=True)
    (cache / "include/uci_config.h").touch()
    if not (cache / "include/libubox").exists():
        (cache / "include/libubox").symlink_to(sources / "libubox")
    for program, files in PROGRAMS.items():
        built = cache / Path(program).name
        if not built.exists():
            part = built.with_suffix(f".{os.getpid()}")
            subprocess.run(["gcc", "-Os", "-static", "-w", "-D_GNU_SOURCE", f"-I{cache}/include", f"-I{sources}/uci", *files,
                            "-o", part], check=True, cwd=sources)
            part.rename(built)
        _copy(built, root / program)
    _copy(sources / "libubox/sh/jshn.sh", root / "usr/share/libubox/jshn.sh")


def _static_busybox(packages):
    """Installed, or unpacked by scripts/setup.sh: busybox-static cannot be installed beside busybox."""
    directory = next(directory for directory in (packages, TOOLS / "aside/busybox-static")
                     if (directory / "usr/share/doc/busybox-static").exists())
    return next(path for path in (directory / "usr/bin/busybox", directory / "bin/busybox") if path.exists())


def _copy_libraries(program, packages, root):
    searched = [directory for base in ("lib", "usr/lib")
                for directory in (packages / base, *(packages / base).glob("*-linux-gnu*"))]
    wanted, found = [program], set()
    while wanted:
        dynamic = subprocess.run(["readelf", "-ld", wanted.pop()], capture_output=True, text=True, check=True).stdout
        interpreter = re.search(r"interpreter: /(.*)]", dynamic)
        if interpreter:
            _copy(packages / interpreter[1], root / interpreter[1])
        for name in re.findall(r"\(NEEDED\).*\[(.*)]", dynamic):
            if name not in found:
                found.add(name)
                library = next(directory / name for directory in searched if (directory / name).exists())
                _copy(library, root / library.relative_to(packages))
                wanted.append(library)


def _copy(library, place):
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        shutil.copy(os.path.realpath(library), place)

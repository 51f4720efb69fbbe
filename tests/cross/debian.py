"""Debian's kernels and packages for machines under qemu, unpacked aside; a file system packed for such a machine."""

import gzip
import lzma
import os
import shutil
import subprocess
from pathlib import Path

import router

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def unpack(architecture, kernel, wanted=(), release=None):
    """The directory into which Debian's packages are unpacked, once: `wanted`, and the kernel that the metapackage
    `kernel` depends on. They are this machine's release, or another."""
    packages = router.TOOLS / (f"{architecture}-{release}" if release else architecture)
    root, done = packages / "root", packages / "complete"
    if done.exists():
        return root
    shutil.rmtree(packages, ignore_errors=True)
    for path in ("root", "packages", "state/lists/partial", "cache/archives/partial"):
        (packages / path).mkdir(parents=True)
    (packages / "state/status").touch()
    config = packages / "apt.conf"
    config.write_text(f"""
        APT::Architecture "{architecture}";
        APT::Architectures {{ "{architecture}"; }};
        APT::Sandbox::User "root";
        Dir::State "{packages}/state";
        Dir::State::status "{packages}/state/status";
        Dir::Cache "{packages}/cache";
    """)
    if release:
        with open(config, "a") as more:
            more.write(f'Dir::Etc::SourceList "{packages}/sources.list";\nDir::Etc::SourceParts "/nonexistent";\n')
        (packages / "sources.list").write_text(
            f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {release} main\n")

    def apt(*arguments):
        return subprocess.run(arguments, env={**os.environ, "APT_CONFIG": str(config)}, cwd=packages / "packages",
                              check=True, capture_output=True, text=True).stdout

    apt("apt-get", "-q", "update")
    depends = apt("apt-cache", "depends", "--important", kernel)
    kernel = next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image" in line)
    apt("apt-get", "-q", "download", kernel, *wanted)
    for package in (packages / "packages").iterdir():
        subprocess.run(["dpkg", "-x", package, root], check=True)
    if not (root / "lib").exists():  # since Debian 13 only in usr
        (root / "lib").symlink_to("usr/lib")
    shutil.rmtree(packages / "packages")
    done.touch()
    return root


def copy_modules(packages, modules, root):
    """Copies kernel modules, and those that they need, from the unpacked `packages` into `root`."""
    directory = packages / "lib/modules"
    if not directory.exists():
        return
    all_modules = {path.name.split(".")[0].replace("-", "_"): path for path in directory.rglob("*.ko*")}
    # Modules that this kernel has built in.
    built_in = next(directory.glob("*/modules.builtin")).read_text().split()
    built_in = {Path(name).stem.replace("-", "_") for name in built_in}
    wanted = list(modules)
    copied = set()
    while wanted:
        name = wanted.pop()
        # Newer kernels have some in another module, such as nft_objref in nf_tables since Linux 6.2.
        if name in copied or name in built_in or name not in all_modules:
            continue
        copied.add(name)
        path = all_modules[name]
        module = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        place = root / "lib/modules" / path.relative_to(directory)
        place = place.with_name(place.name.removesuffix(".xz"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(module)
        depends = module.split(b"\0depends=")[1].split(b"\0")[0].decode()
        wanted += [other.replace("-", "_") for other in depends.split(",") if other]


def pack(root, archive):
    """Packs `root` as a kernel's initial file system."""
    with gzip.open(archive, "wb", compresslevel=1) as packed:
        names = subprocess.run(["find", ".", "-print0"], cwd=root, check=True, capture_output=True).stdout
        cpio = subprocess.run(["cpio", "--quiet", "--null", "--create", "--format=newc", "--owner=0:0"],
                              cwd=root, input=names, check=True, capture_output=True)
        packed.write(cpio.stdout)
    return archive

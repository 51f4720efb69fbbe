"""Debian's kernels and packages for machines under qemu, unpacked aside; a file system packed for such a machine."""

import gzip
import os
import shutil
import subprocess

import router


def unpack(architecture, kernel, wanted=()):
    """The directory into which Debian 12's packages are unpacked, once: `wanted`, and the kernel that the metapackage
    `kernel` depends on."""
    packages = router.TOOLS / architecture
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

    def apt(*arguments):
        return subprocess.run(arguments, env={**os.environ, "APT_CONFIG": str(config)}, cwd=packages / "packages",
                              check=True, capture_output=True, text=True).stdout

    apt("apt-get", "-q", "update")
    depends = apt("apt-cache", "depends", "--important", kernel)
    kernel = next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image" in line)
    apt("apt-get", "-q", "download", kernel, *wanted)
    for package in (packages / "packages").iterdir():
        subprocess.run(["dpkg", "-x", package, root], check=True)
    shutil.rmtree(packages / "packages")
    done.touch()
    return root


def copy_modules(packages, modules, root):
    """Copies kernel modules, and those that they need, from the unpacked `packages` into `root`."""
    all_modules = {path.stem.replace("-", "_"): path for path in (packages / "lib/modules").rglob("*.ko")}
    wanted = list(modules)
    copied = set()
    while wanted:
        name = wanted.pop()
        if name in copied:
            continue
        copied.add(name)
        path = all_modules[name]
        place = root / path.relative_to(packages)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
        depends = path.read_bytes().split(b"\0depends=")[1].split(b"\0")[0].decode()
        wanted += [other.replace("-", "_") for other in depends.split(",") if other]


def pack(root, archive):
    """Packs `root` as a kernel's initial file system."""
    with gzip.open(archive, "wb", compresslevel=1) as packed:
        names = subprocess.run(["find", ".", "-print0"], cwd=root, check=True, capture_output=True).stdout
        cpio = subprocess.run(["cpio", "--quiet", "--null", "--create", "--format=newc", "--owner=0:0"],
                              cwd=root, input=names, check=True, capture_output=True)
        packed.write(cpio.stdout)
    return archive

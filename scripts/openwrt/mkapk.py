#!/usr/bin/env python3
"""mkapk.py ROOT OUTPUT FIELD=VALUE... [SCRIPT=@FILE...]: makes a package for apk-tools 3 of the files in ROOT, as `apk mkpkg` does.

The format is documented in apk-v3(5): an object of values in a schema of numbered fields, and then the contents of the files. All
files belong to root, and have the time in SOURCE_DATE_EPOCH. The package is not signed.
"""

import hashlib
import os
import stat
import struct
import sys
import zlib
from pathlib import Path

INT, INT32, BLOB8, BLOB16, BLOB32, ARRAY, OBJECT = (kind << 28 for kind in (1, 2, 8, 9, 10, 13, 14))
BLOCK_HEADER, BLOCK_DATA = 0, 2
# The fields of the schema, in order.
INFO = ("name", "version", "hashes", "description", "arch", "license", "origin", "maintainer", "url", "repo-commit", "build-time",
        "installed-size", "file-size", "provider-priority", "depends")
SCRIPTS = ("trigger", "pre-install", "post-install", "pre-deinstall", "post-deinstall", "pre-upgrade", "post-upgrade")


class Database:
    """The values. Each is stored once, and is then a word: its kind and its offset, or itself if it is a small number."""

    def __init__(self):
        self.bytes = bytearray(8)  # the version of the format, 0, and the root
        self._stored = {}

    def _store(self, content, alignment):
        offset = self._stored.get((content, alignment))
        if offset is None:
            self.bytes += bytes(-len(self.bytes) % alignment)
            offset = self._stored[content, alignment] = len(self.bytes)
            self.bytes += content
        return offset

    def number(self, value):
        return INT | value if value < 1 << 28 else INT32 | self._store(struct.pack("<I", value), 4)

    def blob(self, content):
        for kind, size, format_ in ((BLOB8, 1, "<B"), (BLOB16, 2, "<H"), (BLOB32, 4, "<I")):
            if len(content) < 1 << 8 * size:
                return kind | self._store(struct.pack(format_, len(content)) + content, size) if content else 0

    def text(self, value):
        return self.blob(value.encode())

    def _slots(self, kind, values):
        while values and not values[-1]:
            values = values[:-1]
        return kind | self._store(struct.pack(f"<{len(values) + 1}I", len(values) + 1, *values), 4) if values else 0

    def object(self, *values):
        return self._slots(OBJECT, values)

    def array(self, values):
        return self._slots(ARRAY, tuple(values))


def block(kind, content):
    return struct.pack("<I", kind << 30 | len(content) + 4) + content + bytes(-(len(content) + 4) % 8)


def main(root, output, *settings):
    settings = dict(setting.split("=", 1) for setting in settings)
    modified = int(os.environ["SOURCE_DATE_EPOCH"])
    database = Database()
    number, blob, text = database.number, database.blob, database.text

    def access(path):
        return database.object(number(stat.S_IMODE(path.lstat().st_mode)), text("root"), text("root"))

    def file(path):
        if path.is_symlink():
            target = struct.pack("<H", stat.S_IFLNK) + os.readlink(path).encode()
            return database.object(text(path.name), access(path), number(path.lstat().st_size), number(modified), 0, blob(target))
        content = path.read_bytes()
        return database.object(text(path.name), access(path), number(len(content)), number(modified),
                               blob(hashlib.sha256(content).digest()))

    directories, contents = [], b""
    for place, directory in enumerate(sorted((path for path in (root, *root.rglob("*")) if path.is_dir()),
                                             key=lambda path: b"" if path == root else os.fsencode(path.relative_to(root))), 1):
        name = "" if directory == root else str(directory.relative_to(root))
        files = sorted((path for path in directory.iterdir() if path.is_symlink() or path.is_file()), key=os.fsencode)
        directories.append(database.object(text(name), access(directory), database.array(map(file, files))))
        for number_of_file, path in enumerate(files, 1):
            if not path.is_symlink() and path.stat().st_size:
                contents += block(BLOCK_DATA, struct.pack("<II", place, number_of_file) + path.read_bytes())

    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    depends = database.array(database.object(text(name)) for name in sorted(settings.pop("depends", "").split()))
    scripts = [settings.pop(name, "") for name in SCRIPTS]
    values = {name: text(settings.pop(name)) for name in INFO if name in settings}
    if settings:
        sys.exit(f"mkapk.py: no such field: {', '.join(settings)}")
    # The hash is the package's identity, computed with zeros in its place, so no other value may share those.
    database.bytes += b"\x14"
    identity = len(database.bytes)
    database.bytes += bytes(20)
    values |= {"hashes": BLOB8 | identity - 1, "installed-size": number(size), "depends": depends}
    info = database.object(*(values.get(name, 0) for name in INFO))
    paths = database.array(directories)
    scripts = database.object(*(blob(Path(script[1:]).read_bytes()) if script else 0 for script in scripts))
    struct.pack_into("<I", database.bytes, 4, database.object(info, paths, scripts))
    database.bytes[identity:identity + 20] = hashlib.sha256(database.bytes).digest()[:20]

    package = b"ADB." + b"pckg" + block(BLOCK_HEADER, bytes(database.bytes)) + contents
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    Path(output).write_bytes(b"ADBd" + compressor.compress(package) + compressor.flush())


main(Path(sys.argv[1]), *sys.argv[2:])

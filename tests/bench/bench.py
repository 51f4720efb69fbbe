#!/usr/bin/env python3
"""Measures knockknock, its peers and the floor (a minimal opener, floor.c) in one run.

    bench.py [--quick] [SECTION...]

Needs root; works in its own network namespaces. Prints each figure when it is measured, stores all of them in
docs/benchmarks.json, and renders docs/benchmarks.md and .svg. With --quick it measures less and stores nothing.
SECTIONs are names from rows.py; the default is all. The file's figures of other sections are kept.
The binary is $KNOCKKNOCK, or else the static one in dist/, or else the one in target/release.
"""

import os
import signal
import subprocess
import sys

import document
import results
import rows
from contestants import BINARY
from world import BUILD, command


def prepare():
    """Exits if measuring is impossible, and prepares the machine for the measurements."""
    if os.geteuid():
        sys.exit("bench: cannot make network namespaces: not root\nrun it as root")
    if not BINARY:
        sys.exit("bench: there is no binary to measure\nrun: make, or: make static")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended by a signal"))    # so that the namespaces are removed
    os.makedirs(BUILD, exist_ok=True)
    command("sysctl", "-qw", "net.netfilter.nf_log_all_netns=1")    # else the kernel logs nothing from network namespaces


def publish(sections):
    """Writes the figures to docs/."""
    results.save(sections, results.this_run(BINARY))
    document.render()
    print(f"\nwritten: {results.PATH}, {document.PATH}, {document.CHART}")


def main(words):
    quick, names = "--quick" in words, [word for word in words if word != "--quick"]
    if unknown := [name for name in names if name not in rows.SECTIONS]:
        sys.exit(f"bench: no such section: \"{unknown[0]}\"\nsections are: {' '.join(rows.SECTIONS)}")
    prepare()
    for program in ("floor", "measure", "flood"):
        command("cc", "-O2", "-Wall", "-o", f"{BUILD}/{program}", f"{os.path.dirname(__file__)}/{program}.c")
    measured, failed = [], []
    for name in names or rows.SECTIONS:
        section = results.Section(name)
        try:
            rows.SECTIONS[name](section, quick)
            measured.append(section)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            failed.append(name)
            why = f"{error} {getattr(error, 'stderr', '')}"
            print(f"  failed: {' '.join(why.split())}")
    if not quick:
        publish(measured)
    if failed:
        sys.exit(f"bench: not measured: {' '.join(failed)}\nthe reasons are above")


if __name__ == "__main__":
    main(sys.argv[1:])

#!/usr/bin/env python3
"""How fast knockknock is, beside its peers and beside the floor, in one run.

    bench.py [--quick] [ROW...]

Needs root; works in network namespaces of its own. Prints one table and writes it to
target/bench/results.md. ROWs are names from rows.py; without any, all are run. The binary is
$KNOCKKNOCK, else the static one in dist/, else target/release's.
"""

import os
import signal
import subprocess
import sys

import rows
from contestants import BINARY
from table import Table
from world import BUILD, command

RESULTS = f"{BUILD}/results.md"


def main(words):
    quick, names = "--quick" in words, [word for word in words if word != "--quick"]
    if unknown := [name for name in names if name not in rows.ALL]:
        sys.exit(f"bench: no such row: \"{unknown[0]}\"\nrows are: {' '.join(rows.ALL)}")
    if os.geteuid():
        sys.exit("bench: needs network namespaces\nrun as root")
    if not BINARY:
        sys.exit("bench: no binary\nbuild it first: make, or make static")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended by a signal"))    # and the namespaces with it
    os.makedirs(BUILD, exist_ok=True)
    for program in ("floor", "measure", "flood"):
        command("cc", "-O2", "-Wall", "-o", f"{BUILD}/{program}", f"{os.path.dirname(__file__)}/{program}.c")
    command("sysctl", "-qw", "net.netfilter.nf_log_all_netns=1")    # the kernel logs for namespaces too
    table, failed = Table(RESULTS, BINARY), []
    for name in names or rows.ALL:
        try:
            rows.ALL[name](table, quick)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            failed.append(name)
            why = f"{error} {getattr(error, 'stderr', '')}"
            table.say(f"| {name}: **failed**: {' '.join(why.split())} |")
    print(f"written to {RESULTS}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(sys.argv[1:])

"""The table of results, in Markdown."""

import os
import re
import statistics
import subprocess
import time

HEAD = "what", "median", "p90", "n", "best peer", "to peer", "floor", "to floor", "goal", ""


class Table:
    """The rows as they come, on the screen and in the file."""

    def __init__(self, path, binary):
        self.path, self.lines = path, []
        version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
        self.say(f"{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} processors, "
                 f"Linux {os.uname().release}; {version}, {os.path.getsize(binary):,} bytes\n")
        self.say("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))

    def say(self, text):
        print(text, flush=True)
        self.lines.append(text)
        with open(self.path, "w", encoding="utf-8") as file:
            file.write("\n".join(self.lines) + "\n")

    def row(self, what, values, unit, tried=None, peers=None, floor=None, goal="", met=None):
        """One line. `values` are those that were had of `tried`; `peers` is {name: median}."""
        middle = median(values)
        best = min(peers, key=peers.get) if peers else None
        cells = [what, number(middle, unit), number(p90(values), unit) if len(values) > 1 else "",
                 f"{len(values)}/{tried}" if tried else str(len(values)),
                 f"{best} {number(peers[best], unit)}" if best else "", ratio(middle, peers[best]) if best else "",
                 number(floor, unit), ratio(middle, floor), goal, {True: "met", False: "**not met**", None: ""}[met]]
        self.say("| " + " | ".join(cells) + " |")
        return middle


def processor():
    with open("/proc/cpuinfo", encoding="ascii") as file:
        return re.search("model name\\s*: (.*)", file.read() + "model name : unknown")[1]


def median(values):
    return statistics.median(values) if values else None


def p90(values):
    return sorted(values)[int(len(values) * 0.9)] if values else None


def number(value, unit):
    """Counts as they are, the rest with two decimals while they say something."""
    digits = 0 if isinstance(value, int) or value and abs(value) >= 1000 else 2
    return "" if value is None else f"{value:,.{digits}f} {unit}".rstrip()


def ratio(a, b):
    return f"{a / b:.2f}" if a is not None and b else ""

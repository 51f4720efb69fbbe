"""The figures of a run, collected row by row and stored in docs/benchmarks.json."""

import json
import os
import re
import statistics
import subprocess
import time

PATH = "docs/benchmarks.json"


class Section:
    """The rows of one measurement, printed as they are added."""

    def __init__(self, name):
        self.name, self.rows, self.remarks, self._group = name, [], [], ""
        print(f"\n{name}", flush=True)

    def group(self, title):
        """Starts a new table for the following rows."""
        self._group = title
        print(f"  {title}:", flush=True)

    def row(self, program, what, values, unit, tried=None, peers=None, floor=None, goal="", met=None, more=None):
        """Adds a row and returns its median.

        `values` has one entry for each successful one of `tried` attempts. `peers` is {program: median}. `more` is
        {column: value}, for columns that only this section has.
        """
        middle = median(values)
        row = {"program": program, "what": what, "median": rounded(middle), "unit": unit, "n": len(values)}
        if self._group:
            row["group"] = self._group
        if len(values) > 1:
            row["p90"] = rounded(p90(values))
        if tried:
            row["tried"] = tried
        if peers:
            best = min(peers, key=peers.get)
            row["peer"] = [best, rounded(peers[best]), ratio(middle, peers[best])]
        if floor is not None:
            row["floor"] = [rounded(floor), ratio(middle, floor)]
        if goal:
            row["goal"], row["met"] = goal, met
        if more:
            row["more"] = more
        self.rows.append(row)
        print("  " + "  ".join(cell for cell in cells(row).values() if cell), flush=True)
        return middle

    def remark(self, text):
        """Adds a sentence about the figures of this run."""
        self.remarks.append(text)
        print(f"  {text}", flush=True)


def cells(row):
    """Returns a row's cells as plain text, by column; empty if the row lacks the figure."""
    unit, goal = row["unit"], row.get("goal", "")
    verdict = {True: "met", False: "not met", None: ""}[row.get("met")]
    return {
        "program": row["program"],
        "case": row["what"],
        "median": number(row["median"], unit),
        "90th percentile": number(row.get("p90"), unit),
        "runs": f"{row['n']:,} of {row['tried']:,}" if row.get("tried") else f"{row['n']:,}",
        **{column: value if isinstance(value, str) else f"{value:,}" for column, value in row.get("more", {}).items()},
        "to the best peer": f"{times(*row['peer'][1:], unit)} ({row['peer'][0]})" if row.get("peer") else "",
        "to the floor": times(*row["floor"], unit) if row.get("floor") else "",
        "goal": f"{goal}: {verdict}" if goal and verdict else goal,
    }


def times(base, factor, unit):
    return f"{factor:.2f} × {number(base, unit)}" if factor is not None else number(base, unit)


def this_run(binary):
    """Describes the conditions of a run: date, version and size of the program, machine."""
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return {"date": time.strftime("%Y-%m-%d"), "version": version, "bytes": os.path.getsize(binary),
            "machine": f"{processor()}, {os.cpu_count()} processors, Linux {os.uname().release}"}


def load():
    """{section: {"run": ..., "rows": [...], "remarks": [...]}}"""
    with open(PATH, encoding="utf-8") as file:
        return json.load(file)


def save(sections, run):
    """Replaces these sections in the file and keeps the others."""
    kept = load() if os.path.exists(PATH) else {}
    for section in sections:
        kept[section.name] = {"run": run, "rows": section.rows, "remarks": section.remarks}
    write(kept)


def write(sections):
    """Writes one row per line, so that diffs are readable."""
    def lines(values):
        return "[" + ",".join(f"\n   {json.dumps(value, ensure_ascii=False)}" for value in values) + "]"

    text = ",\n".join(
        f' "{name}": {{\n  "run": {json.dumps(section["run"], ensure_ascii=False)},\n  "rows": {lines(section["rows"])},\n'
        f'  "remarks": {lines(section["remarks"])}}}' for name, section in sections.items())
    with open(PATH, "w", encoding="utf-8") as file:
        file.write(f"{{\n{text}\n}}\n")


def processor():
    with open("/proc/cpuinfo", encoding="ascii") as file:
        return re.search("model name\\s*: (.*)", file.read() + "model name : unknown")[1]


def median(values):
    return statistics.median(values) if values else None


def p90(values):
    return sorted(values)[int(len(values) * 0.9)] if values else None


def rounded(value):
    return value if value is None or isinstance(value, int) else round(value, 4)


def number(value, unit):
    """Formats a value and its unit: integers exactly, other numbers with two decimals below 1,000 and none above."""
    digits = 0 if isinstance(value, int) or value and abs(value) >= 1000 else 2
    return "" if value is None else f"{value:,.{digits}f} {unit}".rstrip()


def ratio(a, b):
    return round(a / b, 2) if a is not None and b else None

#!/usr/bin/env python3
"""Renders docs/benchmarks.md and docs/benchmarks.svg from docs/benchmarks.json: document.py, without arguments."""

import itertools

import chart
import results

PATH, CHART = "docs/benchmarks.md", "docs/benchmarks.svg"

INTRODUCTION = """\
# Benchmarks

<!-- Written by `make bench`, `make bench-proxy` and `make bench-doc`; edit tests/bench/document.py instead. -->

![Time from knock to connection, memory at rest and size on disk of knockknock, its floor, fwknop and knockd](benchmarks.svg)

## How to read the tables

- **Peers** are fwknop (with its pcap reader, and with `-U`, its UDP server) and knockd, as Debian packages them.
- The **floor** is a C program of 160 lines (`tests/bench/floor.c`) that does the least a knock daemon of this design can do:
  it reads the same log, writes a counter with one `fdatasync`, and adds one element to an nftables set. It has no
  cryptography, hardly a parser, and no separation of privileges.
- All programs run in turn on one machine, in two network namespaces joined by a veth pair.
- "0.36 × 8.42 ms (fwknopd -U)" means that the row's median is 0.36 of that peer's 8.42 ms.
- A **goal** is set before the run. Goals that a run did not meet stay in the table.
- `kmsg` and `nflog` are the daemon's log sources (`log` in knockknock.conf(5)). With `kmsg` the kernel wakes its readers at
  its next timer tick, about 2 ms later; `nflog` does not wait.

## Where the time goes

- The watcher sleeps in the kernel until there is a line. It skips other programs' lines by one rare letter and the port.
- Keys are expanded once. All counters of a window share one AES key stream and one HMAC midstate, and a port outside the
  profile's `ports` never reaches the HMAC.
- The watcher first checks every line that waits in the log, and then stores each counter once, with one `fdatasync`.
- An opening is one netlink message from the opener, which keeps its socket open. No program is started.
"""

# {section: (title, how to read it)}. PARTS has the second-level headings before some of them.
SECTIONS = {
    "latency": ("Knock to connection", """\
The time from the knock's packet leaving the client to a `connect()` that the server accepts. The knocks are prepared
beforehand, so no client program is included."""),
    "client": ("The client", """\
The client's whole run, from `posix_spawn` to exit, beside `/bin/true` as the floor. The client stores its counter with
`fdatasync` before it sends; the tmpfs row shows the same without a disk."""),
    "footprint": ("Memory and size", """\
Memory is the sum of PSS over all processes, at rest. PSS divides a shared page by the number of processes that map it, so
the peers, which use shared libraries, come out smaller on a machine where many programs use the same ones. Size is that of
the program file and of the shared libraries that its processes have mapped; knockknock is static and has none."""),
    "idle": ("At rest", """\
System calls of all processes while nothing happens. Every line in the kernel log wakes a reader of `/dev/kmsg`."""),
    "memory": ("Memory over time", """\
Memory, as above, while the daemon reads many lines and opens for many knocks from different addresses."""),
    "flood": ("Knocks during a flood", """\
Valid knocks while SYNs arrive at a steady rate, from one address or from spoofed ones. A SYN to the knock port makes a log
line with a wrong tag, as does a SYN to a random address of links; a SYN to another port makes none. "Log" is the growth of
the kernel log. The time is that of the table "Knock to connection". knockd is flooded at another port, because it starts a
process for each packet that it takes for a knock. The sender has real-time priority, as packets from the network arrive
whatever the receiver's processes do."""),
    "crowd": ("Many knocks at once", """\
All knocks arrive within one second, each from its own address. The time is from a knock's packet to the kernel's
notification of the opening, because the connections follow at the end: one from each address, then a second one."""),
    "foreign": ("Lines without a knock", """\
A log file of a busy machine without a knock in it, read from start to end, beside grep."""),
    "wrong-tag": ("Lines with a wrong tag", """\
Log lines that look like a knock but fail authentication, which any host can cause. The rate is for one core. The last rows
are lines that also start a search 10,000 counters ahead, which happens only while the log is silent and within a budget."""),
    "growth": ("More profiles, a larger window", """\
The processor time of a line with a wrong tag, by the number of profiles and by `error_window`. The stealth rows are measured
in turns: two running daemons read the same lines one after the other, several times, and the goal is compared with the median
of the rounds' ratios."""),
    "proxy-latency": ("Request to first byte", """\
The time from the SOCKS request to the server's first byte, beside a direct connection. "Without a knock" is a host without a
profile. The link's round trip is 0 or 50 ms.

microsocks' 40 ms and more on a link without delay are an artefact of this measurement: it sends its reply and the server's
first byte as two small segments, and Nagle's algorithm holds the second one back until the client acknowledges the first,
which a delayed acknowledgment does after 40 ms. With `TCP_QUICKACK` on the client microsocks takes 0.1 ms. Compare
with the direct connection instead."""),
    "proxy-transfer": ("Throughput", "One download of 1 GiB at a time, from a server on a link without delay."),
    "proxy-memory": ("Idle connections", "Memory (PSS) with many open connections on which nothing is sent."),
}
PARTS = {"latency": "Daemon and client", "proxy-latency": "Proxy"}


def render():
    """Writes the document and the chart."""
    sections = results.load()
    runs = [section["run"] for section in sections.values()]
    usual = max(runs, key=runs.count)
    parts = [INTRODUCTION, f"Measured {described(usual)}, unless a section says otherwise.\n"]
    for name, (title, text) in SECTIONS.items():
        if name in PARTS:
            parts.append(f"## {PARTS[name]}\n")
        parts.append(f"### {title}\n\n{text}\n")
        if name not in sections:
            parts.append(f"Not measured yet: `make {'bench-proxy' if name.startswith('proxy') else 'bench'}`.\n")
            continue
        section = sections[name]
        if section["run"] != usual:
            parts.append(f"Measured {described(section['run'])}.\n")
        for group, rows in itertools.groupby(section["rows"], lambda row: row.get("group", "")):
            if group:
                parts.append(f"**{group}**\n")
            parts.append(table(list(rows), "memory" if name == "footprint" else "measured"))
        parts += [f"{remark}\n" for remark in section["remarks"]]
    write(PATH, "\n".join(parts))
    write(CHART, chart.draw(sections))


def described(run):
    return f"{run['date']} with {run['version']}, {run['bytes']:,} bytes, on {run['machine']}"


def table(rows, measured):
    """Returns a Markdown table without empty columns, with our rows in bold. `measured` is the heading of the column of
    medians if each of them is a single measurement."""
    lines = [results.cells(row) for row in rows]
    columns = list(dict.fromkeys(column for line in lines for column in line))
    columns.sort(key=list(results.cells(max(rows, key=lambda row: len(row.get("more", {}))))).index)
    once = all(row["n"] == 1 for row in rows)
    alone = len({row["program"] for row in rows}) == 1 and rows[0]["what"]    # every row is ours
    columns = [column for column in columns if any(line.get(column) for line in lines)
               and not (once and column == "runs") and not (alone and column == "program")]
    names = [measured if once and column == "median" else column for column in columns]
    text = [names, ["---" if column in ("program", "case", "goal") else "--:" for column in columns]]
    for row, line in zip(rows, lines):
        cells = [line.get(column, "") for column in columns]
        if row["program"].startswith("knockknock") and not alone:
            cells[0] = f"**{cells[0]}**"
        text.append([cell.replace("not met", "**not met**") for cell in cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in text)


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    render()

#!/usr/bin/env python3
"""Draws docs/knock.svg, the path of a knock: drawings.py, without arguments. docs/benchmarks.svg is drawn by tests/bench/chart.py."""

import os
from html import escape

PATH = os.path.join(os.path.dirname(__file__), "../docs/knock.svg")
WIDTH, HEIGHT = 860, 478

# The colours of light and dark pages; the background is part of the picture, so that it is legible on either.
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 14px }
.note { fill: #59636e; font-size: 12px }
.area { fill: #59636e; font-size: 12px; letter-spacing: 0.06em }
.page { fill: #ffffff; stroke: #d1d9e0 }
.machine { fill: #f6f8fa; stroke: #d1d9e0 }
.kernel { fill: #e9eef4; stroke: none }
.box { fill: #ffffff; stroke: #8c959f; stroke-width: 1.2 }
.opening { fill: #dafbe1; stroke: #2da44e; stroke-width: 1.5 }
.knock { stroke: #1f6feb } .knock-head { fill: #1f6feb }
.connection { stroke: #2da44e } .connection-head { fill: #2da44e }
.step { font-size: 12px; font-weight: 600; fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .note, .area { fill: #9198a1 }
  .page { fill: #0d1117; stroke: #3d444d }
  .machine { fill: #151b23; stroke: #3d444d }
  .kernel { fill: #212830 }
  .box { fill: #0d1117; stroke: #656c76 }
  .opening { fill: #12261e; stroke: #3fb950 }
  .knock { stroke: #4493f8 } .knock-head { fill: #4493f8 }
  .connection { stroke: #3fb950 } .connection-head { fill: #3fb950 }
  .step { fill: #0d1117 }
}
"""

STEPS = (
    ("knock", "One SYN: its header fields carry the request."),
    ("knock", "The log rule writes the fields to the kernel log."),
    ("knock", "The watcher checks them and stores the counter."),
    ("knock", "The watcher sends the opener a request."),
    ("knock", "The opener adds address and port to the set."),
    ("connection", "One SYN is admitted; the port is closed again."),
)


def draw():
    """Returns the picture as SVG text."""
    top, bottom, user = 236, 318, 96                                # the heights of both arrows, and of the processes
    log_rule, kernel_log, opening, service = 312, 446, 650, 780     # the centres of the boxes
    parts = [
        box("page", 0.5, 0.5, WIDTH - 1, HEIGHT - 1, 8),
        box("machine", 24, 182, 128, 184, 6), words("CLIENT", 40, 204, "area"),
        words("knockknock", 88, top + 5, "title", "middle"), words("ssh", 88, bottom + 5, "title", "middle"),
        box("machine", 236, 24, 600, 342, 6), words("SERVER", 252, 46, "area"),
        box("kernel", 252, 182, 482, 172, 4), words("KERNEL", 268, 204, "area"),
        labelled("box", kernel_log, user, 160, "watcher", "keys, no privileges"),
        labelled("box", opening, user, 140, "opener", "no keys"),
        labelled("box", log_rule, top, 84, "log rule"),
        labelled("box", kernel_log, top, 96, "kernel log"),
        labelled("opening", opening, bottom, 148, "set", "address, port, 15 s"),
        labelled("box", service, bottom, 76, "sshd", "port 22"),
        arrow("knock", (152, top), (log_rule - 42, top), 1, 205),
        arrow("knock", (log_rule + 42, top), (kernel_log - 48, top), 2),
        arrow("knock", (kernel_log, top - 22), (kernel_log, user + 26), 3),
        arrow("knock", (kernel_log + 80, user), (opening - 70, user), 4),
        arrow("knock", (opening, user + 26), (opening, bottom - 26), 5),
        arrow("connection", (152, bottom), (opening - 74, bottom), 6, 205),
        arrow("connection", (opening + 74, bottom), (service - 38, bottom)),
    ]
    for n, (kind, sentence) in enumerate(STEPS):
        x, y = 36 + 410 * (n // 3), 396 + 28 * (n % 3)
        parts += [number(kind, x, y, n + 1), words(sentence, x + 20, y + 4.5)]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">\n'
            f"<title>The path of a knock</title>\n<desc>{escape(' '.join(sentence for _, sentence in STEPS))}</desc>\n"
            f"<style>{STYLE}</style>\n{''.join(parts)}</svg>\n")


def box(kind, x, y, width, height, radius):
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}"/>\n'


def labelled(kind, x, y, width, title, note=""):
    """A box around (x, y) with a title, and a line below it."""
    half = 26 if note else 22
    out = box(kind, x - width / 2, y - half, width, 2 * half, 5)
    if not note:
        return out + words(title, x, y + 5, "title", "middle")
    return out + words(title, x, y - 3, "title", "middle") + words(note, x, y + 15, "note", "middle")


def arrow(kind, start, end, step=None, at=None):
    """A straight arrow with the number of its step in the middle, or `at` some x."""
    (x1, y1), (x2, y2) = start, end
    dx, dy = (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)
    back = (x2 - 9 * dx, y2 - 9 * dy)
    head = f"{x2},{y2} {back[0] + 5 * dy},{back[1] + 5 * dx} {back[0] - 5 * dy},{back[1] - 5 * dx}"
    out = (f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{back[0]}" y2="{back[1]}" stroke-width="2"/>\n'
           f'<polygon class="{kind}-head" points="{head}"/>\n')
    if step:
        out += number(kind, at or (x1 + back[0]) / 2, (y1 + back[1]) / 2, step)
    return out


def number(kind, x, y, n):
    return f'<circle class="{kind}-head" cx="{x}" cy="{y}" r="10"/>\n' + words(str(n), x, y + 4.5, "step", "middle")


def words(text, x, y, kind="", anchor="start"):
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>\n'


if __name__ == "__main__":
    with open(PATH, "w", encoding="utf-8") as file:
        file.write(draw())

"""Draws docs/benchmarks.svg: latency, memory and size of knockknock, its peers and the floor."""

import math
from html import escape

WIDTH, MARGIN, ROW = 820, 28, 26

# Colours for light and dark pages. The picture has its own background, so that it is legible on any page.
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328;
  paint-order: stroke; stroke: #ffffff; stroke-width: 4px }
.title { font-size: 15px; font-weight: 600 }
.note, .tick { fill: #59636e; font-size: 12px }
.ours { font-weight: 600 }
.page { fill: #ffffff; stroke: #d1d9e0 }
.grid { stroke: #e4e8ec }
.fill-ours { fill: #1f6feb } .fill-floor { fill: #8fa3b8 } .fill-peer { fill: #c98a2b }
.line-ours { stroke: #1f6feb } .line-floor { stroke: #8fa3b8 } .line-peer { stroke: #c98a2b }
.libraries { opacity: 0.35 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; stroke: #0d1117 }
  .note, .tick { fill: #9198a1 }
  .page { fill: #0d1117; stroke: #3d444d }
  .grid { stroke: #252b33 }
  .fill-ours { fill: #58a6ff } .fill-floor { fill: #7d8ea3 } .fill-peer { fill: #d9a04a }
  .line-ours { stroke: #58a6ff } .line-floor { stroke: #7d8ea3 } .line-peer { stroke: #d9a04a }
}
"""


def draw(sections):
    """Returns the picture as SVG text; omits panels without figures."""
    parts, top = [], MARGIN
    latencies = [row for row in rows(sections, "latency") if row["median"] and "tmpfs" not in row["what"]]
    if latencies:
        parts.append(latency(sorted(latencies, key=lambda row: row["median"]), top))
        top += 66 + ROW * len(latencies) + MARGIN
    footprints = rows(sections, "footprint")
    if footprints:
        half = (WIDTH - 3 * MARGIN) / 2
        memory = [(row, [row["median"]]) for row in footprints]
        parts.append(bars("Memory at rest", "all processes, PSS, in KB", memory, MARGIN, top, half))
        sizes = [(row, [row["more"]["program, bytes"] / 1000, row["more"]["libraries, bytes"] / 1000])
                 for row in footprints if "more" in row]
        parts.append(bars("Size on disk", "program and, paler, the libraries it loads, in KB", sizes, 2 * MARGIN + half, top, half))
        top += 52 + ROW * len(footprints) + MARGIN / 2
    height = math.ceil(top)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">\n'
            f"<title>knockknock beside its peers: latency, memory and size</title>\n<style>{STYLE}</style>\n"
            f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>\n{"".join(parts)}</svg>\n')


def rows(sections, name):
    return sections[name]["rows"] if name in sections else []


def latency(shown, top):
    """Draws one line per row on a logarithmic scale: a dot at the median, and a line to the 90th percentile."""
    left, right, below = MARGIN + 148, WIDTH - MARGIN - 84, top + 52
    low = min(row["median"] for row in shown) / 1.4
    high = max(row["p90"] for row in shown)

    def x(milliseconds):
        return left + (right - left) * math.log(milliseconds / low) / math.log(high / low)

    bottom = below + ROW * len(shown)
    out = heading("Knock to connection", "median, and a line to the 90th percentile; logarithmic scale; counter on disk", MARGIN, top)
    for exponent in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
        at = x(10 ** exponent)
        out += (f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{below}" y2="{bottom}"/>\n'
                + text(f"{10 ** exponent:g} ms", at, bottom + 15, "tick", "middle"))
    for n, row in enumerate(shown):
        kind, y = kind_of(row), below + ROW * (n + 0.5)
        label = f"{row['program']}, {row['what'].split(',')[0]}" if row["what"] else row["program"]
        out += text(label, left - 14, y + 4.5, kind, "end")
        out += (f'<line class="line-{kind}" x1="{x(row["median"]):.1f}" x2="{x(row["p90"]):.1f}" y1="{y}" y2="{y}" '
                f'stroke-width="4" stroke-linecap="round"/>\n'
                f'<circle class="fill-{kind}" cx="{x(row["median"]):.1f}" cy="{y}" r="6.5"/>\n')
        out += text(f"{row['median']:.2f} ms", x(row["p90"]) + 13, y + 4.5, kind)
    return out


def bars(title, note, shown, left, top, width):
    """Draws one bar per row, from zero, with its parts end to end and each paler than the part before."""
    start, below = left + 112, top + 48
    longest = width - 112 - 62
    most = max(sum(values) for _, values in shown)
    out = heading(title, note, left, top)
    for n, (row, values) in enumerate(shown):
        kind, y, at = kind_of(row), below + ROW * n, start
        out += text(row["program"], start - 10, y + ROW / 2 + 4.5, kind, "end")
        for part, value in enumerate(values):
            length = longest * value / most
            paler = " libraries" if part else ""
            out += f'<rect class="fill-{kind}{paler}" x="{at:.1f}" y="{y + 5}" width="{length:.1f}" height="{ROW - 10}"/>\n'
            at += length
        out += text(f"{sum(values):,.0f}", at + 7, y + ROW / 2 + 4.5, kind)
    return out


def kind_of(row):
    return {"knockknock": "ours", "floor": "floor"}.get(row["program"], "peer")


def heading(title, note, left, top):
    return text(title, left, top + 13, "title") + text(note, left, top + 32, "note")


def text(words, x, y, style, anchor="start"):
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>\n'

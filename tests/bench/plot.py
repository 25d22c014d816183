"""The plot of docs/performance.md, drawn from what `python -m tests.bench --json` and `... flat --json` have printed.

python -m tests.bench.plot BENCH.jsonl FLAT.jsonl > docs/performance.svg
"""

import json
import sys
from pathlib import Path
from typing import Any

WIDTH, LEFT, BAR, GAP = 760, 190, 14, 6
COLORS = {"broker": "#2a6fdb", "floor": "#8a8f98", "peer": "#d98032"}


def bars(title: str, rows: list[tuple[str, str, float]], top: int, unit: str) -> tuple[list[str], int]:
    """Return the elements of a chart whose rows are (label, series, value), and where it ends."""
    most = max(value for _, _, value in rows)
    parts = [f'<text x="8" y="{top + 16}" font-weight="bold">{title}</text>']
    y = top + 30
    last = ""
    for label, series, value in rows:
        if label != last:
            y += GAP
            parts.append(f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{label}</text>')
            last = label
        width = max(1.0, value / most * (WIDTH - LEFT - 130))
        parts.append(
            f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLORS[series]}"/>'
            f'<text x="{LEFT + width + 6:.1f}" y="{y + 11}">{value:.2f} {unit} {series}</text>'
        )
        y += BAR + 2
    return parts, y + 10


def draw(scenarios: list[dict[str, Any]], flat: list[dict[str, Any]]) -> str:
    """Return the whole picture as SVG."""
    compared = [
        (each["scenario"], name, each[name]["broker_us_per_delivery"])
        for each in scenarios
        for name in COLORS
        if name in each
    ]
    parts, y = bars("CPU per delivery beside floor and peer", compared, 0, "µs")
    grown = [
        (f"{each['clients']:,} clients, {each['channels']:,} channels", "broker", each["broker_us_per_delivery"])
        for each in flat
    ]
    more, y = bars("CPU per delivery as clients and channels grow", grown, y, "µs")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="12">'
    ground = f'<rect width="{WIDTH}" height="{y}" fill="white"/>'
    return "\n".join([head, ground, *parts, *more, "</svg>", ""])


def read(path: str) -> list[dict[str, Any]]:
    """Return the objects of a file, one a line."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


if __name__ == "__main__":
    sys.stdout.write(draw(read(sys.argv[1]), read(sys.argv[2])))

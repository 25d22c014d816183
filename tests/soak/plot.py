"""Samples as a picture: panels of lines over time, one below the other, in plain SVG."""

from collections.abc import Sequence
from html import escape

import attrs

from tests.soak.sampling import Sample

__all__ = ["PANELS", "Line", "Panel", "draw"]

WIDTH, HEIGHT = 860, 150
LEFT, RIGHT, TOP, GAP, BOTTOM = 64, 16, 34, 46, 34
COLOURS = ("#2266bb", "#cc6622", "#228855", "#8844aa")


@attrs.frozen
class Line:
    """One line: which field of a sample, times what, and its name."""

    field: str
    name: str
    factor: float = 1.0


@attrs.frozen
class Panel:
    """Lines with one scale, which begins at zero."""

    title: str
    lines: tuple[Line, ...]


PANELS = (
    Panel("Memory, MiB", (Line("rss_kib", "resident", 1 / 1024),)),
    Panel(
        "Descriptors and sockets",
        (Line("descriptors", "descriptors"), Line("viewers", "event sockets"), Line("agents", "control sockets")),
    ),
    Panel("Loop lag over 5 s, ms", (Line("lag_p99_ms", "99th percentile, by bucket"), Line("lag_mean_ms", "mean"))),
    Panel(
        "Percent of one core",
        (Line("cpu_percent", "used"), Line("runqueue_percent", "ready, but waiting for a core")),
    ),
    Panel("Deliveries a second", (Line("deliveries", "events"),)),
)


def draw(samples: Sequence[Sample], panels: Sequence[Panel] = PANELS) -> str:
    """Return an SVG document; minutes run to the right."""
    height = TOP + len(panels) * (HEIGHT + GAP) + BOTTOM - GAP
    end = max(sample.seconds for sample in samples) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        "<style>text { font: 12px sans-serif }</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(samples, panel, TOP + number * (HEIGHT + GAP), end)
    parts.append(_text(WIDTH / 2, height - 4, "minutes", "middle"))
    return "\n".join([*parts, "</svg>", ""])


def _panel(samples: Sequence[Sample], panel: Panel, top: float, end: float) -> list[str]:
    values = [[float(getattr(sample, line.field)) * line.factor for sample in samples] for line in panel.lines]
    step = _step(max(max(each) for each in values))
    high = step * max(1, -(-max(max(each) for each in values) // step))
    inner = WIDTH - LEFT - RIGHT

    def x(seconds: float) -> float:
        return LEFT + inner * seconds / end

    def y(value: float) -> float:
        return top + HEIGHT * (1 - value / high)

    parts = [_text(LEFT, top - 10, panel.title, "start", bold=True)]
    level = 0.0
    while level <= high * 1.001:
        parts.append(f'<path d="M{LEFT} {y(level):.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 6, y(level) + 4, f"{level:g}", "end"))
        level += step
    minute = max(1, round(end / 60 / 6))
    ticks = range(0, int(end / 60) + 1, minute)
    parts += [_text(x(tick * 60), top + HEIGHT + 15, str(tick), "middle") for tick in ticks]
    for number, (line, row) in enumerate(zip(panel.lines, values, strict=True)):
        colour = COLOURS[number]
        points = " ".join(f"{x(sample.seconds):.1f},{y(value):.1f}" for sample, value in zip(samples, row, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        parts.append(_text(WIDTH - RIGHT - 190 * number, top - 10, line.name, "end", colour=colour))
    return parts


def _step(high: float) -> float:
    """A round distance between grid lines, of which three to six fit."""
    step = 1e-3
    while True:
        for factor in (1, 2, 5):
            if high / (step * factor) <= 5:
                return step * factor
        step *= 10


def _text(x: float, y: float, words: str, anchor: str, *, bold: bool = False, colour: str = "#333333") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(words)}</text>'

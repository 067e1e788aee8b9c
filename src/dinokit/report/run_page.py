"""The page of a training run: its curves as one self-contained HTML file, drawn from `log.jsonl`.

Curves are inline SVG, so the page needs neither network nor scripts, and `curves_svg` alone makes the pictures kept
beside an experiment.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinokit.checkpoints.save import write_atomically
from dinokit.errors import UserError

PANELS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("kNN of the teacher, per cent", ("knn",), "on a held-out tenth of the labelled pictures"),
    ("loss", ("loss",), "what the optimiser sees"),
    ("agreement", ("distance", "patch_distance", "match_distance"), "1 - cosine of student and teacher"),
    (
        "coding rate",
        ("expansion", "patch_expansion", "match_expansion"),
        "per dimension: how far pictures are held apart",
    ),
    ("spread", ("spread",), "coding rate as a share of the greatest: how far pictures are held apart"),
    ("prototype losses", ("dino_global", "dino_local", "ibot"), "cross entropy with the teacher's targets"),
    ("entropy", ("target_entropy", "student_entropy"), "share of the greatest"),
    ("rank", ("rank",), "directions that the features fill"),
    ("variance", ("variance",), "how far apart pictures are, 0 to 1"),
    ("pictures a second", ("images_per_second",), "data and saving included"),
)
COLOURS = ("#c2410c", "#1d4ed8", "#15803d")
WIDTH, HEIGHT, MARGIN = 400, 232, 44
BOTTOM = 46  # below a chart: its steps and its legend
MOST_POINTS = 300
"""Points a curve; more are averaged in groups."""

Log = Sequence[dict[str, float]]


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / ((self.high - self.low) or 1) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Three to six round values within the range."""
        raw = ((self.high - self.low) or 1) / 4
        unit = 10 ** math.floor(math.log10(raw))
        step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw)
        first = math.ceil(self.low / step)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def read_log(path: Path) -> Log:
    """The lines of a run's log; a step that was done twice counts as it was done last."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as problem:
        raise UserError(f"{path} cannot be read ({problem})", "give the log.jsonl of a run") from None
    by_step = {line["step"]: line for line in lines}
    return [by_step[step] for step in sorted(by_step)]


def curves_svg(log: Log) -> str:
    """All panels that the log has numbers for, two in a row, as one SVG."""
    panels = [panel for panel in PANELS if any(name in line for line in log for name in panel[1])]
    rows = -(-len(panels) // 2)
    drawn = []
    for number, (title, names, remark) in enumerate(panels):
        place = f"translate({number % 2 * WIDTH},{number // 2 * HEIGHT})"
        drawn.append(f'<g transform="{place}">{_panel(log, title, names, remark)}</g>')
    size = f'viewBox="0 0 {2 * WIDTH} {max(rows, 1) * HEIGHT}"'
    style = 'font-family="system-ui, sans-serif" font-size="11" fill="#44403c"'
    background = '<rect width="100%" height="100%" fill="#fafaf7"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{background}{"".join(drawn)}</svg>'


def _panel(log: Log, title: str, names: Sequence[str], remark: str) -> str:
    curves = [(name, _thin([(line["step"], line[name]) for line in log if name in line])) for name in names]
    curves = [(name, points) for name, points in curves if points]
    values = [value for _, points in curves for _, value in points]
    steps = [step for _, points in curves for step, _ in points]
    across = Axis(0, max(steps), MARGIN, WIDTH - 16)
    room = 0 if max(values) > min(values) else abs(max(values)) / 4 or 1.0
    up = Axis(min(values) - room, max(values) + room, HEIGHT - BOTTOM, 40)
    parts = [f'<text x="{MARGIN}" y="18" font-weight="600" font-size="13">{title}</text>']
    parts.append(f'<text x="{MARGIN}" y="31" fill="#78716c">{remark}</text>')
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(f'<path d="M{MARGIN} {y:.1f}H{WIDTH - 16}" stroke="#e7e5e4"/>')
        parts.append(f'<text x="{MARGIN - 5}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in across.ticks():
        parts.append(f'<text x="{across.at(tick):.1f}" y="{HEIGHT - 30}" text-anchor="middle">{tick:,.0f}</text>')
    for (_, points), colour in zip(curves, COLOURS, strict=False):
        parts.append(_curve([(across.at(step), up.at(value)) for step, value in points], colour))
    if len(curves) > 1:
        parts.append(_legend([name for name, _ in curves]))
    return "".join(parts)


def _curve(points: Sequence[tuple[float, float]], colour: str) -> str:
    """A line through points in pixels; a dot where there is only one."""
    if len(points) == 1:
        [(x, y)] = points
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>'


def _legend(names: Sequence[str]) -> str:
    """One line of text under the chart, each name in the colour of its curve."""
    words = [
        f'<tspan dx="{12 if number else 0}" fill="{colour}">● {name.replace("_", " ")}</tspan>'
        for number, (name, colour) in enumerate(zip(names, COLOURS, strict=False))
    ]
    return f'<text x="{MARGIN}" y="{HEIGHT - 12}">{"".join(words)}</text>'


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbouring points, at most `MOST_POINTS`; numbers that are not finite are left out."""
    points = [point for point in points if math.isfinite(point[1])]
    group = -(-len(points) // MOST_POINTS) or 1
    chunks = [points[i : i + group] for i in range(0, len(points), group)]
    return [(chunk[-1][0], sum(value for _, value in chunk) / len(chunk)) for chunk in chunks]


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{name}</title>
<style>body{{font-family:system-ui,sans-serif;background:#fafaf7;color:#1c1917;max-width:860px;margin:2rem auto;
padding:0 1rem}}svg{{width:100%}}pre{{background:#efeee9;padding:1rem;overflow:auto;font-size:12px}}</style>
<h1>{name}</h1><p>{summary}</p>{curves}<h2>Recipe</h2><pre>{recipe}</pre></html>
"""


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:,.0f} minutes"


def write_run_page(run: Path) -> Path:
    """Write `report.html` of a run folder from its log and its recipe."""
    log = read_log(run / "log.jsonl")
    if not log:
        raise UserError(f"{run / 'log.jsonl'} is empty", "let the run go on for some steps")
    last = log[-1]
    best = max((line["knn"] for line in log if "knn" in line), default=None)
    summary = f"logged up to step {last['step']:,.0f}, after {_duration(last['seconds'])}"
    summary += f"; best kNN {best:.1f} %" if best is not None else ""
    recipe = html.escape((run / "recipe.toml").read_text(encoding="utf-8"))
    page = PAGE.format(name=html.escape(run.name), summary=summary, curves=curves_svg(log), recipe=recipe)
    write_atomically(run / "report.html", page.encode())
    return run / "report.html"

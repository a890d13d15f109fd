"""The HTML report of a run: one file that needs nothing else, for whoever reads the result.

No script, no external resource, readable without colour. Whatever a model, a file name or a
reason says is escaped (Jinja's autoescape, always on) after everything invisible in it was made
visible; model text stands in ``<pre>`` only. A content security policy in the file forbids
scripts and requests, should an escape ever be forgotten.

Not covered: the report is a view. What counts is in the ledger, and ``stairlock show`` reads that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from guards.durable import write_whole
from guards.gates.verdict import Verdict, explain
from loop.console import duration_text
from loop.flips import change_text, find_flips
from loop.terminal_text import printable, short
from loop.verdict_table import MARKS, figure_text

if TYPE_CHECKING:
    from loop.drift.report import DriftReport
    from loop.run import RunReport

REPORTS_DIR = "reports"
TEMPLATE = "report.html.j2"
MAX_FLIPS_PER_SUITE = 12
_MAX_TEXT_CHARS = 1500
_FIGURE_WIDTH = 160.0
_FIGURE_INSET = 8.0


@dataclass(frozen=True)
class Figure:
    """Where a verdict's numbers lie on a small axis, in the drawing's own unit; ``zero`` is None if outside."""

    observed: float
    bound: float
    required: float
    zero: float | None

    @property
    def left(self) -> float:
        """Left end of the line from the bound to the estimate."""
        return min(self.observed, self.bound)

    @property
    def right(self) -> float:
        """Its right end."""
        return max(self.observed, self.bound)


def write_report(
    report: RunReport,
    home: Path,
    *,
    now: datetime | None = None,
    drift: Mapping[str, Sequence[DriftReport]] | None = None,
) -> Path:
    """Write ``HOME/reports/RUN.html``, whole or not at all, and return its path.

    ``drift`` has the drift reports of candidates by digest: they stand beside their verdicts.

    Raises:
        EvidenceError: the texts of a run are not those that its records name.
        OSError: the disk is full; an older report is untouched.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", report.run).strip("-") or "run"
    path = home / REPORTS_DIR / f"{name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, render_report(report, now=now or datetime.now(UTC), drift=drift).encode("utf-8"))
    return path


def render_report(report: RunReport, *, now: datetime, drift: Mapping[str, Sequence[DriftReport]] | None = None) -> str:
    """The report as HTML; ``drift`` as for :func:`write_report`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        shown=lambda text: printable(str(text)),
        text=lambda text: printable(text, keep_newlines=True, max_chars=_MAX_TEXT_CHARS),
        short=short,
        figure=figure_text,
        duration=duration_text,
        thousands=lambda number: f"{number:,}",
        explain=explain,
        change=change_text,
    )
    return environment.get_template(TEMPLATE).render(
        report=report,
        time=now.strftime("%Y-%m-%d %H:%M UTC"),
        marks=MARKS,
        flips=[find_flips(candidate.runs, candidate.verdicts) for candidate in report.candidates],
        figures=[_figures(candidate.verdicts) for candidate in report.candidates],
        drift=[_drift_bodies((drift or {}).get(candidate.digest, ())) for candidate in report.candidates],
        max_flips=MAX_FLIPS_PER_SUITE,
        figure_width=_FIGURE_WIDTH,
        model_share=f"{report.model_s / report.wall_s:.0%}" if 0 < report.model_s <= report.wall_s else "",
    )


def _drift_bodies(reports: Sequence[DriftReport]) -> list[tuple[str, Markup]]:
    """(the gate's name, the report's body, which is escaped already)."""
    if not reports:
        return []
    from loop.drift.report import report_body  # loads torch

    return [(one.levels.gate if one.levels else "", report_body(one)) for one in reports]


def _figures(verdicts: Sequence[Verdict]) -> list[Figure | None]:
    return [_figure(verdict) for verdict in verdicts]


def _figure(verdict: Verdict) -> Figure | None:
    """Positions on an axis that just holds the three numbers, and zero where it is near."""
    if verdict.kind != "eval" or verdict.observed is None or verdict.bound is None or verdict.margin is None:
        return None
    values = [verdict.observed, verdict.bound, verdict.margin]
    if verdict.details.get("against"):
        values.append(0.0)  # a difference is read against "no difference"
    low, high = min(values), max(values)
    scale = (_FIGURE_WIDTH - 2 * _FIGURE_INSET) / ((high - low) or 1.0)

    def place(value: float) -> float:
        return round(_FIGURE_INSET + (value - low) * scale, 1)

    return Figure(
        observed=place(verdict.observed),
        bound=place(verdict.bound),
        required=place(verdict.margin),
        zero=place(0.0) if low <= 0.0 <= high else None,
    )

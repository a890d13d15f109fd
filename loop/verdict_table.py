"""Candidates and what every gate said of them, as one table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.table import Table
from rich.text import Text

from guards.evidence import Cost
from guards.gates.verdict import Verdict
from loop.terminal_text import printable, short

MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
_STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}
_DECISION_STYLES = {"promote": "bold green", "reject": "bold red", "hold": "bold yellow"}
_MAX_NAME_CHARS = 20


@dataclass(frozen=True)
class Judged:
    """A candidate with its verdicts, decision and cost."""

    name: str
    digest: str
    outcome: str
    is_champion: bool
    verdicts: tuple[Verdict, ...]
    cost: Cost | None


def verdict_table(candidates: Sequence[Judged]) -> Table:
    """One section per candidate: name, decision and cost on the left, its gates on the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold underline")
    # On a narrow terminal names take two lines; figures and verdicts are never cut.
    table.add_column("candidate", overflow="fold")
    table.add_column("gate", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for heading in ("observed", "bound", "required", "n"):
        table.add_column(heading, no_wrap=True, justify="right")
    for candidate in candidates:
        if table.row_count:
            table.add_row()
        for about, verdict in zip_longest(_about(candidate), _gate_rows(candidate.verdicts)):
            table.add_row(about or "", *(verdict or ()))
    return table


def figure_text(value: float | None, kind: str = "eval") -> str:
    """A figure as tables show it: scores signed, with three decimals; counts and ratios plain; a dash for none."""
    if value is None:
        return "–"
    return f"{value:+.3f}" if kind == "eval" else f"{value:,.3f}".rstrip("0").rstrip(".")


def cost_texts(cost: Cost) -> tuple[str, str, str]:
    """Seconds, tokens trained, tokens generated."""
    return f"{cost.wall_ms / 1000:,.0f} s", f"{cost.tokens_trained:,} trained", f"{cost.tokens_out:,} generated"


def _about(candidate: Judged) -> Iterator[Text]:
    yield Text(printable(candidate.name, max_chars=_MAX_NAME_CHARS), style="bold")
    yield Text(short(candidate.digest))
    yield Text(candidate.outcome.upper(), style=_DECISION_STYLES.get(candidate.outcome, "bold"))
    if candidate.is_champion:
        yield Text("now champion")
    if candidate.cost is not None:
        seconds, trained, generated = cost_texts(candidate.cost)
        yield Text(seconds)
        yield Text("tokens:")
        yield Text(trained)
        yield Text(generated)


def _gate_rows(verdicts: Iterable[Verdict]) -> Iterator[tuple[Text, ...]]:
    for verdict in verdicts:
        waived = " (waived)" if verdict.waived else ""
        yield (
            Text(printable(verdict.gate_id)),
            Text(f"{MARKS[verdict.outcome]} {verdict.outcome}{waived}", style=_STYLES[verdict.outcome]),
            Text(figure_text(verdict.observed, verdict.kind)),
            Text(figure_text(verdict.bound, verdict.kind)),
            Text(figure_text(verdict.margin, verdict.kind)),
            Text(str(verdict.n) if verdict.n else "–"),
        )

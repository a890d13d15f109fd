"""Candidates and what every gate said of them, as one table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.table import Table
from rich.text import Text

from guards.evidence import Cost
from guards.gates.early_stop import DRAWN_DETAIL
from guards.gates.verdict import WAIVED_UNTIL_DETAIL, Verdict
from loop.terminal_text import printable, short

MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
_STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}
_DECISION_STYLES = {"promote": "bold green", "reject": "bold red", "hold": "bold yellow"}
_MAX_NAME_CHARS = 20
_DAY_CHARS = len("2030-01-31")


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


def has_drift(verdicts: Iterable[Verdict]) -> bool:
    """True if a drift gate is among them, or among the members of one."""
    return any(one.kind == "drift" for verdict in verdicts for one in (verdict, *verdict.all_members()))


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


def _n_text(verdict: Verdict) -> str:
    """How many items, or sources, it rests on; of how many where it was certain before the end."""
    drawn = verdict.details.get(DRAWN_DETAIL)
    return f"{verdict.n} of {printable(drawn)}" if drawn else str(verdict.n or "–")


def _gate_rows(verdicts: Iterable[Verdict]) -> Iterator[tuple[Text, ...]]:
    for verdict in verdicts:
        day = verdict.details.get(WAIVED_UNTIL_DETAIL, "")[:_DAY_CHARS]
        # On a line of its own: beside the outcome it would push figures off a narrow terminal.
        waived = "" if not verdict.waived else f"\nwaived until {day}" if day else " (waived)"
        yield (
            Text(printable(verdict.gate_id)),
            Text(f"{MARKS[verdict.outcome]} {verdict.outcome}{waived}", style=_STYLES[verdict.outcome]),
            Text(figure_text(verdict.observed, verdict.kind)),
            Text(figure_text(verdict.bound, verdict.kind)),
            Text(figure_text(verdict.margin, verdict.kind)),
            Text(_n_text(verdict)),
        )
        for member in verdict.all_members():
            mark = Text(f"  {MARKS[member.outcome]} {member.outcome}", style=_STYLES[member.outcome])
            yield (Text(f"· {printable(member.gate_id)}"), mark, Text(""), Text(""), Text(""), Text(""))

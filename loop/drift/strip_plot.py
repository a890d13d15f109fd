"""A strip plot as positions on one axis: the members of a bank as ticks, the candidate as a marked line.

The template draws it (``report_body.html.j2``); the words are its text alternative, for whoever does not see it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_INSET = 10.0


@dataclass(frozen=True)
class StripPlot:
    """Positions in the drawing's own unit, from the left; ticks that fall on one place are drawn once."""

    width: float
    ticks: tuple[float, ...]
    median: float
    candidate: float
    words: str


def strip_plot(value: float, members: Sequence[float], *, width: float) -> StripPlot:
    """Place the candidate's ``value`` and the members', of which there is at least one, on an axis that holds all."""
    low, high = min(*members, value), max(*members, value)
    scale = (width - 2 * _INSET) / ((high - low) or 1.0)

    def place(one: float) -> float:
        return round(_INSET + (one - low) * scale, 1)

    median = statistics.median(members)
    return StripPlot(
        width=width,
        ticks=tuple(sorted({place(one) for one in members})),
        median=place(median),
        candidate=place(value),
        words=strip_words(value, members),
    )


def strip_words(value: float, members: Sequence[float]) -> str:
    """The same in a sentence."""
    n, n_above = len(members), sum(one > value for one in members)
    n_below = sum(one < value for one in members)
    if n_below == n:
        where = "above all of them"
    elif n_above == n:
        where = "below all of them"
    else:
        where = f"{n_below} of them below it, {n_above} above"
    return (
        f"{n} harmless fine-tunes from {min(members):.4g} to {max(members):.4g}, median "
        f"{statistics.median(members):.4g}; this checkpoint {value:.4g}, {where}"
    )

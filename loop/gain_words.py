"""A gain as it is recorded, and as people read it. :mod:`loop.gain` measures it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from guards.evidence import Frozen

DRAWN, GAIN = "gain/drawn", "gain"
"""The names of the two ``measured`` entries: the seed, before the items are answered, and the figures."""

CONFIDENCE = 0.95
ON_FRESH_ITEMS = "measured on items that decided nothing"
STILL_THE_ROOT = "the champion is still the root, so there is no gain to measure"


class Interval(Frozen):
    """A 95% interval of a mean difference."""

    low: float
    high: float


class GainFigure(Frozen):
    """One claim's difference, champion minus root, in the metric's unit.

    ``n`` is the number of independent units (items, or sources where the gate groups them).
    ``n_left_out`` items were drawn that a decision had used, and do not count. ``tango`` is there for
    0/1 scores only.
    """

    gate: str
    suite: str
    metric: str
    clusters: tuple[str, ...] | None = None
    n: int
    n_left_out: int
    n_unscored: int
    difference: float
    betting: Interval
    tango: Interval | None = None

    @property
    def subject(self) -> str:
        """What was compared, in words."""
        where = "" if self.clusters is None else f" ({', '.join(self.clusters)})"
        return f"{self.metric} of {self.suite}{where}"


class Gain(Frozen):
    """What a run gained. Where ``figures`` is empty, ``notes`` say why nothing was measured."""

    root: str
    champion: str
    policy: str
    figures: tuple[GainFigure, ...] = ()
    notes: tuple[str, ...] = ()
    evidence: dict[str, str] = Field(default_factory=dict)

    def to_figures(self) -> dict[str, Any]:
        """As a ``measured`` entry holds it; floats become decimal text there."""
        return self.model_dump(mode="json")

    @classmethod
    def from_figures(cls, figures: Mapping[str, Any]) -> Gain:
        """Inverse of :meth:`to_figures`, also of what the ledger made of it."""
        return cls.model_validate(figures)


def gain_lines(gain: Gain) -> list[str]:
    """What a person is told, one line each; names in it are not yet safe to print."""
    lines = [
        f"{f.subject}: {f.difference:+.4f}, 95% interval {f.betting.low:+.4f} to {f.betting.high:+.4f} (betting)"
        + ("" if f.tango is None else f", {f.tango.low:+.4f} to {f.tango.high:+.4f} (Tango)")
        + f", n {f.n}"
        + (f"; {f.n_left_out} more were left out, because a decision had used them" if f.n_left_out else "")
        + (f"; {f.n_unscored} without a score, counted against the champion" if f.n_unscored else "")
        for f in gain.figures
    ]
    return [*lines, *gain.notes]

"""Paired outcomes of one metric as a histogram: all that an eval gate's decision depends on.

No test looks at the order of items, so a table decides what the items themselves would. That makes
the decision a pure function (:func:`guards.gates.table_verdict.judge_table`), and lets a policy be
simulated on stored tables.

Not covered: whether the evidence is about the right checkpoints, suite and draw
(:mod:`guards.gates.inputs`).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

from guards.errors import EvidenceError
from guards.evidence import EvidenceRun, Record, Scored

TAG = "tag:"


@dataclass(frozen=True)
class Cell:
    """Items that are alike: their cluster, what they share a source with, and both scores.

    ``source`` is None where items are not grouped. A score is finite, or None where the item was not
    scored; ``reference`` is also None in a table of the candidate alone.
    """

    cluster: str
    source: str | None
    candidate: float | None
    reference: float | None
    count: int


@dataclass(frozen=True)
class Pending:
    """Items that were drawn and that the candidate has not answered.

    ``reference`` counts where ``is_reference_known``: its score, or None where it was not scored.
    """

    cluster: str
    source: str | None
    count: int
    is_reference_known: bool = False
    reference: float | None = None


@dataclass(frozen=True)
class ScoreTable:
    """``n_items`` is the sum of the counts. Tables of the same items in another order are equal.

    ``pending`` are the items of a partial run that nobody has answered; they are in no cell.
    """

    cells: tuple[Cell, ...]
    n_items: int
    pending: tuple[Pending, ...] = ()

    @property
    def clusters(self) -> set[str]:
        return {cell.cluster for cell in self.cells}

    def of_clusters(self, clusters: tuple[str, ...] | None) -> ScoreTable:
        """Only the items of these clusters; all where it is None."""
        if clusters is None:
            return self
        chosen = tuple(cell for cell in self.cells if cell.cluster in clusters)
        pending = tuple(one for one in self.pending if one.cluster in clusters)
        return ScoreTable(chosen, sum(cell.count for cell in chosen), pending)

    def n_unscored(self, *, reference: bool = False) -> int:
        """Items that the candidate, or the reference, has no score on."""
        return sum(cell.count for cell in self.cells if (cell.reference if reference else cell.candidate) is None)


def make_table(cells: Counter[tuple[str, str | None, float | None, float | None]]) -> ScoreTable:
    """The table with these counts by (cluster, source, candidate, reference)."""
    ordered = sorted(cells.items(), key=lambda pair: _order(*pair[0]))
    return ScoreTable(tuple(Cell(*key, count) for key, count in ordered), sum(cells.values()))


def table_of(
    metric: str, group_by: str | None, candidate: EvidenceRun, reference: EvidenceRun | None = None
) -> ScoreTable:
    """The table of a run, or of two runs of the same items, paired by item id.

    ``group_by`` is None, ``cluster`` or ``tag:<name>``, as :class:`guards.policy.EvalGate` has it.

    Raises:
        EvidenceError: ``gate.no-metric``, ``gate.not-finite``; ``gate.no-source``: an item without the
            tag; ``gate.other-items``: two runs of different items, or of different sources;
            ``gate.partial-run``: unanswered items, of which no tag is known.
    """
    by_id = {} if reference is None else {record.item_id: record for record in reference.records}
    cells: Counter[tuple[str, str | None, float | None, float | None]] = Counter()
    if reference is not None and {record.item_id for record in candidate.records} != set(by_id):
        raise EvidenceError("gate.other-items", "candidate and reference did not answer the same items")
    for record in sorted(candidate.records, key=lambda record: record.item_id):
        other = by_id.get(record.item_id)
        source = _source(group_by, record)
        if other is not None and _source(group_by, other) != source:
            raise EvidenceError(
                "gate.other-items", f"item {record.item_id!r} has another source in the reference's evidence"
            )
        cells[record.cluster, source, _score(metric, record), None if other is None else _score(metric, other)] += 1
    return replace(make_table(cells), pending=_pending(group_by, candidate))


def _pending(group_by: str | None, run: EvidenceRun) -> tuple[Pending, ...]:
    unanswered = run.manifest.unanswered or {}
    if unanswered and group_by not in (None, "cluster"):
        raise EvidenceError("gate.partial-run", "what the unanswered items share a source with is not known")
    return tuple(
        Pending(cluster, None if group_by is None else cluster, count) for cluster, count in sorted(unanswered.items())
    )


def _source(group_by: str | None, record: Record) -> str | None:
    if group_by is None or group_by == "cluster":
        return None if group_by is None else record.cluster
    source = record.tags.get(group_by.removeprefix(TAG))
    if not source:
        raise EvidenceError(
            "gate.no-source",
            f"item {record.item_id!r} does not say what it shares a source with",
            got=", ".join(sorted(record.tags)) or "no tags",
            expected=group_by,
        )
    return source


def _score(metric: str, record: Record) -> float | None:
    """The record's value of the metric; None where it is unscored."""
    if not isinstance(record.outcome, Scored):
        return None
    value = record.outcome.scores.get(metric)
    if value is None:
        raise EvidenceError(
            "gate.no-metric",
            f"item {record.item_id!r} has no score {metric!r}",
            expected=", ".join(sorted(record.outcome.scores)),
        )
    if not math.isfinite(value):
        raise EvidenceError("gate.not-finite", f"item {record.item_id!r} has the score {value}")
    return value


def _order(
    cluster: str, source: str | None, candidate: float | None, reference: float | None
) -> tuple[str, str, bool, float, bool, float]:
    return cluster, source or "", candidate is None, candidate or 0.0, reference is None, reference or 0.0

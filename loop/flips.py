"""Flips: the items whose score changed between champion and candidate, worst first.

A gate's verdict is about a mean. What changed, and how it reads, is in the items behind it; a
reviewer looks here before signing. Suites come in the order of the worst verdict that rests on
them, and within a suite items that got worse come before items that got better.

Not covered: items that both got wrong in different ways; for them the score did not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guards.errors import EvidenceError
from guards.evidence import EvidenceRun, Record, Scored
from guards.gates.composite import reads_of
from guards.gates.verdict import Verdict
from guards.run_texts import RunText, read_texts

_BADNESS = {"fail": 0, "inconclusive": 1, "pass": 2}
_READ_BY_NO_GATE = 3


@dataclass(frozen=True)
class Change:
    """One metric of one item, before (the champion) and after (the candidate); None is unscored."""

    metric: str
    champion: float | None
    candidate: float | None
    gain: float
    """Above zero is better, whichever way the gate counts."""


@dataclass(frozen=True)
class Flip:
    """One item that changed. The texts are None where the evidence withholds them, or there is no output."""

    item_id: str
    cluster: str
    changes: tuple[Change, ...]
    prompt: str | None
    champion_output: str | None
    candidate_output: str | None
    unscored: str
    """Why the candidate's answer has no score; empty if it has one."""

    @property
    def is_loss(self) -> bool:
        """True if anything about the item got worse."""
        return any(change.gain < 0 for change in self.changes)


@dataclass(frozen=True)
class SuiteFlips:
    """A suite's flips. ``verdicts`` are those that rest on the suite, worst first."""

    suite: str
    verdicts: tuple[Verdict, ...]
    n_items: int
    flips: tuple[Flip, ...]
    texts_withheld: bool

    @property
    def n_losses(self) -> int:
        """How many items got worse in something."""
        return sum(flip.is_loss for flip in self.flips)


def find_flips(runs: Mapping[tuple[str, str], EvidenceRun], verdicts: Sequence[Verdict]) -> tuple[SuiteFlips, ...]:
    """Compare candidate and champion on every suite that both answered. ``runs`` is keyed by (role, suite).

    Raises:
        EvidenceError: the texts are not those that the records name (:mod:`guards.run_texts`).
    """
    suites = sorted({suite for role, suite in runs if role == "candidate" and ("champion", suite) in runs})
    found = [_suite_flips(suite, runs["candidate", suite], runs["champion", suite], verdicts) for suite in suites]
    return tuple(sorted(found, key=lambda one: (_badness(one.verdicts), one.suite)))


def _suite_flips(suite: str, candidate: EvidenceRun, champion: EvidenceRun, verdicts: Iterable[Verdict]) -> SuiteFlips:
    about = sorted(
        (verdict for verdict in verdicts if any(test[0] == suite for test in reads_of(verdict))),
        key=lambda verdict: _BADNESS[verdict.outcome],
    )
    before = {record.item_id: record for record in champion.records}
    changed = [
        (record, before[record.item_id], changes)
        for record in candidate.records
        if record.item_id in before and (changes := _changes(record, before[record.item_id], about))
    ]
    changed.sort(key=lambda one: (_severity(one[2], about), one[0].item_id))
    texts, champion_texts = (_texts(candidate), _texts(champion)) if changed else ({}, {})
    return SuiteFlips(
        suite=suite,
        verdicts=tuple(about),
        n_items=len(candidate.records),
        flips=tuple(_flip(record, changes, texts, champion_texts) for record, _, changes in changed),
        texts_withheld=texts is None or champion_texts is None,
    )


def _changes(candidate: Record, champion: Record, verdicts: Sequence[Verdict]) -> tuple[Change, ...]:
    after = candidate.outcome.scores if isinstance(candidate.outcome, Scored) else {}
    before = champion.outcome.scores if isinstance(champion.outcome, Scored) else {}
    return tuple(
        Change(metric, before.get(metric), after.get(metric), _gain(metric, before, after, verdicts))
        for metric in sorted(before.keys() | after.keys())
        if before.get(metric) != after.get(metric)
    )


def _gain(metric: str, before: Mapping[str, float], after: Mapping[str, float], verdicts: Sequence[Verdict]) -> float:
    if metric not in after:
        return float("-inf")  # unscored counts against the candidate
    if metric not in before:
        return float("inf")
    lower_is_better = any(test[1:] == (metric, "at_most") for verdict in verdicts for test in reads_of(verdict))
    return (before[metric] - after[metric]) if lower_is_better else (after[metric] - before[metric])


def _severity(changes: Iterable[Change], verdicts: Sequence[Verdict]) -> tuple[Any, ...]:
    """Losses first; among them those on the metric of the worst verdict, the largest first."""
    badness = {
        change.metric: _badness(v for v in verdicts if any(test[1] == change.metric for test in reads_of(v)))
        for change in changes
    }
    losses = [(badness[change.metric], change.gain) for change in changes if change.gain < 0]
    gains = [(badness[change.metric], -change.gain) for change in changes if change.gain >= 0]
    return (0, *min(losses)) if losses else (1, *min(gains))


def _badness(verdicts: Iterable[Verdict]) -> int:
    return min((_BADNESS[verdict.outcome] for verdict in verdicts), default=_READ_BY_NO_GATE)


def _texts(run: EvidenceRun) -> dict[str, RunText] | None:
    try:
        return read_texts(run)
    except EvidenceError as error:
        if error.rule != "evidence.texts-withheld":
            raise
        return None


def _flip(
    record: Record,
    changes: tuple[Change, ...],
    texts: Mapping[str, RunText] | None,
    champion_texts: Mapping[str, RunText] | None,
) -> Flip:
    mine = texts[record.item_id] if texts is not None else None
    other = champion_texts[record.item_id] if champion_texts is not None else None
    return Flip(
        item_id=record.item_id,
        cluster=record.cluster,
        changes=changes,
        prompt=mine.prompt if mine is not None else None,
        champion_output=other.output if other is not None else None,
        candidate_output=mine.output if mine is not None else None,
        unscored="" if isinstance(record.outcome, Scored) else record.outcome.reason,
    )


def change_text(change: Change) -> str:
    """``strict 1 -> 0``."""
    before, after = (("unscored" if v is None else f"{v:g}") for v in (change.champion, change.candidate))
    return f"{change.metric} {before} -> {after}"

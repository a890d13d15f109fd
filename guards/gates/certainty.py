"""Stopping an evaluation early: is the verdict certain already, whatever the remaining items score?

Two ways, which must not be mixed: a gate binds by one of them, declared beforehand.

**Curtailment** (:func:`certain_outcome`) changes nothing: the verdict is the one that the whole run
would have had. Every step of :mod:`guards.gates.table_verdict` gets no better when an item gets worse,
so what lies between the worst and the best completion is settled by these two.

**Stages** (:func:`staged_outcome`) let a clear candidate pass early. Items come in an order that the
seed draws. At declared stages k_1 < ... < k_J the same bets as ever give an e-value E_j of the first k_j
items, and the gate passes as soon as ``sum w_j E_j`` over the stages so far is at least 1/alpha, with
declared weights that sum to 1. The whole sum is an average of e-values, so its expectation is at most 1
under the null, and stopping only anticipates what the rest, which cannot be negative, would not change:
the size is at most alpha, for items of any kinds. (A random part of a fixed list has
``E[E_j] <= 1`` by Maclaurin's inequality, as in :func:`guards.statistics.betting_test`.)

**At any time** (:func:`wealth_crossed`): where every item, given all before it, has a mean of at most the
null's, wealth is a supermartingale and crosses 1/alpha at any time with probability at most alpha (Ville
1939). That is so for independent draws from *one* distribution. It is not shown for a list of fixed items,
or for a fixed number from each of several strata, in random order: after items that are worse than the
average come better ones, and the expected wealth at a stopping time can exceed 1 (with items of means +1
and -1 and one bet of 1/2, stopping at a first win, it is 9/8). Such suites take stages.

Not covered: whether the order was random, or chosen after outcomes were seen; items that the gate needs
and another gate's early stop left out (stop a suite when all of its gates are certain).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from guards.errors import EvidenceError
from guards.gates.score_table import Cell, Pending, ScoreTable
from guards.gates.table_verdict import Bets, bets_of, judge_table
from guards.gates.verdict import Outcome
from guards.policy import EvalGate, Judge
from guards.statistics import bet_fraction, log_e_value_of_counts, log_wealth_needed

# Of the design, and so the same for every completion.
_OF_THE_DESIGN = ("gate.no-such-cluster", "gate.too-few-items", "gate.no-source")


@dataclass(frozen=True)
class Stop:
    """A verdict before its time; ``items_saved`` were drawn and need no answer."""

    outcome: Outcome
    items_seen: int
    items_saved: int


# ---------------------------------------------------------------------------------------------
# Curtailment
# ---------------------------------------------------------------------------------------------


def certain_outcome(
    gate: EvalGate,
    seen: ScoreTable,
    pending: Sequence[Pending],
    alpha: float,
    *,
    judge: Judge | None = None,
    completions: Literal["any", "scored"] = "any",
    scores: Literal["any", "binary"] = "any",
) -> Stop | None:
    """The outcome of every completion, if they all have the same; None while it is open.

    A completion gives each pending item any score in the metric's range, or none. With ``scored`` it
    gives each a score: then a candidate that would have left too many items unscored is not noticed.
    ``binary`` says that the scorer gives 0 or 1 only; a judge's scores are.

    Conservative, never wrong: an outcome may be certain and not be recognised, as where unscored
    items could fall into one source or another.
    """
    pending = [one for one in pending if one.count > 0 and (gate.clusters is None or one.cluster in gate.clusters)]
    chosen = seen.of_clusters(gate.clusters)
    n_pending = sum(one.count for one in pending)
    allowed = math.floor(gate.max_unscored * (chosen.n_items + n_pending))
    may_be_unscored = n_pending if completions == "any" else 0
    possible: set[Outcome] = set()
    best = _completed(chosen, [_best(gate, one) for one in pending])
    try:
        judge_table(gate, best, alpha, judge=judge)
    except EvidenceError as error:
        if error.rule in _OF_THE_DESIGN:
            return Stop("inconclusive", chosen.n_items, n_pending)

    n_unscored = chosen.n_unscored()
    if n_unscored + may_be_unscored > allowed:
        possible.add("fail")
    if n_unscored <= allowed:
        possible |= _without_too_many_unscored(gate, chosen, pending, alpha, judge, scores, completions)
    return Stop(possible.pop(), chosen.n_items, n_pending) if len(possible) == 1 else None


def _without_too_many_unscored(
    gate: EvalGate,
    seen: ScoreTable,
    pending: Sequence[Pending],
    alpha: float,
    judge: Judge | None,
    scores: Literal["any", "binary"],
    completions: Literal["any", "scored"],
) -> set[Outcome]:
    """Outcomes of the completions in which the candidate leaves no more items unscored than allowed."""
    possible: set[Outcome] = set()
    n_items = seen.n_items + sum(one.count for one in pending)
    if gate.is_paired:
        allowed = gate.max_unscored * n_items
        known = seen.n_unscored(reference=True)
        known += sum(one.count for one in pending if one.is_reference_known and one.reference is None)
        open_ = sum(one.count for one in pending if not one.is_reference_known) if completions == "any" else 0
        if known + open_ > allowed:
            possible.add("inconclusive")
        if known > allowed:
            return possible
    worst = _completed(seen, [_worst(gate, one, may_be_unscored=completions == "any") for one in pending])
    best = _completed(seen, [_best(gate, one) for one in pending])
    # A score between 0 and 1 among the pending ones would have the betting test decide in place of an exact one.
    may_switch = bool(pending) and scores == "any" and gate.judge is None
    for table in (worst, best):
        possible.add(_outcome(gate, table, alpha, judge, betting_only=False))
        if may_switch:
            possible.add(_outcome(gate, table, alpha, judge, betting_only=True))
    return possible


def _outcome(gate: EvalGate, table: ScoreTable, alpha: float, judge: Judge | None, *, betting_only: bool) -> Outcome:
    try:
        return judge_table(gate, table, alpha, judge=judge, betting_only=betting_only).outcome
    except EvidenceError:
        return "inconclusive"


def _completed(seen: ScoreTable, cells: Sequence[Cell]) -> ScoreTable:
    return ScoreTable((*seen.cells, *cells), seen.n_items + sum(cell.count for cell in cells))


def _best(gate: EvalGate, pending: Pending) -> Cell:
    """The pending items with the best difference, or score, that they can have."""
    if not gate.is_paired:
        return _scored(pending, 0.0 if gate.claim == "at_most" else 1.0, None, pending.count)
    if pending.is_reference_known and pending.reference is None:
        return _scored(pending, 1.0, None, pending.count)
    if gate.scale is not None:
        return _scored(pending, gate.scale, 0.0, pending.count)
    return _scored(pending, 1.0, pending.reference if pending.is_reference_known else 0.0, pending.count)


def _worst(gate: EvalGate, pending: Pending, *, may_be_unscored: bool) -> Cell:
    """The pending items with the worst difference, or score, that they can have.

    An unscored item has the value of a total loss, so it is written as one: only values count here. All
    of them may be unscored: where that is more than allowed, a fail is possible whatever the worst is.
    """
    if not gate.is_paired:
        return _scored(pending, 1.0 if gate.claim == "at_most" else 0.0, None, pending.count)
    if gate.scale is not None:
        return _scored(pending, 0.0, gate.scale, pending.count)
    # A score of 0 loses what the reference had, and an unscored reference counts as a best one.
    is_partial = pending.is_reference_known and pending.reference is not None and not may_be_unscored
    return _scored(pending, 0.0, pending.reference if is_partial else 1.0, pending.count)


def _scored(pending: Pending, candidate: float, reference: float | None, count: int) -> Cell:
    return Cell(pending.cluster, pending.source, candidate, reference, count)


# ---------------------------------------------------------------------------------------------
# E-values on the way
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """After which share of the drawn items a stage is, and the weight of its e-value."""

    share: float
    weight: float


STAGES = (Stage(0.25, 0.125), Stage(0.5, 0.125), Stage(0.75, 0.25), Stage(1.0, 0.5))
"""Half of the weight stays at the end, so that the end needs no more than twice the wealth."""


def staged_outcome(
    gate: EvalGate,
    prefixes: Sequence[ScoreTable],
    n_planned: int,
    alpha: float,
    *,
    stages: Sequence[Stage] = STAGES,
    judge: Judge | None = None,
) -> Stop | None:
    """The outcome after the stages that ``prefixes`` are of; None while it is open.

    ``prefixes[j]`` is the table of the first ``share * n_planned`` items (rounded up), whole sources
    where items are grouped. Before the last stage only a pass can come. A prefix with fewer items than
    the gate asks for, or more unscored ones, does not stop anything.

    Raises:
        ValueError: stages that do not rise to 1, weights that do not sum to 1, or prefixes of other
            sizes than the stages have.
    """
    _check_stages(prefixes, n_planned, stages)
    log_terms: list[float] = []
    for number, (stage, prefix) in enumerate(zip(stages, prefixes, strict=False)):
        is_last = number == len(stages) - 1
        try:
            verdict = judge_table(gate, prefix, alpha, judge=judge)
        except EvidenceError:
            if is_last:
                return Stop("inconclusive", prefix.n_items, 0)
            verdict = None
        if verdict is not None and verdict.details.get("rule") != "gate.unscored":
            bets = bets_of(gate, prefix, alpha, judge=judge)
            log_terms.append(math.log(stage.weight) + _log_e(bets, bets.alpha * stage.weight))
            if _log_of_sum(log_terms) >= log_wealth_needed(bets.alpha):
                return Stop("pass", prefix.n_items, n_planned - prefix.n_items)
        if is_last:
            return Stop("fail" if verdict and verdict.outcome == "fail" else "inconclusive", prefix.n_items, 0)
    return None


def wealth_crossed(
    gate: EvalGate, prefixes: Sequence[ScoreTable], n_planned: int, alpha: float, *, judge: Judge | None = None
) -> Stop | None:
    """Stop at the first prefix at which the wealth is at least 1/alpha; None while there is none.

    ``prefixes`` are tables of the first items, in rising order, as many as wanted: each item of its
    own, or each source. One bet is staked throughout, sized for ``n_planned`` items.
    Only for items that are independent draws from one distribution; see the module's docstring.
    """
    for prefix in prefixes:
        try:
            verdict = judge_table(gate, prefix, alpha, judge=judge)
        except EvidenceError:
            continue
        bets = bets_of(gate, prefix, alpha, judge=judge)
        is_measured = verdict.details.get("rule") != "gate.unscored"
        if is_measured and _log_e(bets, bets.alpha, n_planned) >= log_wealth_needed(bets.alpha):
            return Stop("pass", prefix.n_items, n_planned - prefix.n_items)
    return None


def _log_e(bets: Bets, alpha: float, n_planned: int | None = None) -> float:
    """Log e-value of a bet that is sized for reaching 1/alpha with these items, or with ``n_planned``."""
    n = sum(count for _, count in bets.counts) if n_planned is None else n_planned
    return log_e_value_of_counts(bets.counts, bets.null_mean, bet_fraction(n, bets.null_mean, alpha))


def _log_of_sum(logs: Sequence[float]) -> float:
    most = max(logs)
    return most + math.log(math.fsum(math.exp(one - most) for one in logs))


def _check_stages(prefixes: Sequence[ScoreTable], n_planned: int, stages: Sequence[Stage]) -> None:
    shares = [stage.share for stage in stages]
    if not shares or shares != sorted(set(shares)) or shares[0] <= 0.0 or shares[-1] != 1.0:
        raise ValueError("the shares of the stages must rise from above 0 to 1")
    if min(stage.weight for stage in stages) <= 0.0 or abs(math.fsum(stage.weight for stage in stages) - 1.0) > 1e-12:
        raise ValueError("the weights of the stages must be positive and sum to 1")
    expected = [math.ceil(share * n_planned) for share in shares]
    got = [prefix.n_items for prefix in prefixes]
    if not prefixes or got != expected[: len(got)]:
        raise ValueError(f"the stages are after {expected} items, and the tables have {got}")

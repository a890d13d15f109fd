"""What a table of paired outcomes says about an eval gate's claim: the decision, as a pure function.

The steps (3) to (7) of :mod:`guards.gates.eval_gate`:

(3) every cluster that the gate names has items, and together they are enough, else inconclusive
(4) no more candidate items are unscored than the policy allows, else fail
(5) the reference's evidence is no more incomplete than that either, else inconclusive
(6) every score is in its range, else inconclusive
(7) the binding test: pass where it rejects the null; fail where the point estimate lies on the
    wrong side of the margin; else inconclusive

An unscored candidate item counts as the worst outcome there is (a difference of -1, or for a level
the worst score). An unscored reference item counts as if the reference had scored best.

**Sources.** With ``group_by`` the items of one source become one: their mean. The claim is about the
mean over sources, which weigh alike, and the test bets on them. Their means are bounded and
independent of one another whatever happens inside a source, so that the size is at most alpha at any
correlation and for sources of any sizes. The exact tests are for single 0/1 outcomes, so they are used
only where every source has one item.

Not covered: sources that depend on one another. A metric of which only some scores are 0 or 1: the
exact tests are chosen where all of them are, which is a property of the scorer, as the shipped ones have
it; where it were left to chance, both tests together could have twice the size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from guards.errors import EvidenceError
from guards.gates.judged_scores import JudgeBounds, judge_bounds
from guards.gates.score_table import Cell, ScoreTable
from guards.gates.verdict import MCNEMAR, Outcome, Verdict
from guards.policy import EvalGate, Judge
from guards.statistics import (
    Histogram,
    betting_test_of_counts,
    binomial_p_at_least,
    clopper_pearson_lower,
    clopper_pearson_upper,
    cluster_robust_interval,
    mcnemar_lower_bound,
    mcnemar_p_value,
    mean_of,
    tango_interval,
)

_MAX_CLUSTERS_SHOWN = 24


@dataclass(frozen=True)
class _Values:
    """What the test reads: one value per item, or per source; the worst stand for what is unscored."""

    counts: Histogram
    n: int
    is_single: bool
    by_cluster: Mapping[str, Histogram]


@dataclass(frozen=True)
class _Finding:
    """What the binding test found, in its own unit: ``bound`` clears the null exactly where it ``passes``."""

    passes: bool
    mean: float
    bound: float
    details: dict[str, str]


def judge_table(
    gate: EvalGate,
    table: ScoreTable,
    alpha: float,
    *,
    judge: Judge | None = None,
    betting_only: bool = False,
    policy_line: int = 0,
    details: Mapping[str, str] | None = None,
) -> Verdict:
    """The gate's verdict on a table, tested at ``alpha``. ``judge`` is the one that ``gate.judge`` names.

    ``betting_only`` leaves the exact tests out. ``details`` are added to the verdict's own.

    Raises:
        EvidenceError: ``gate.no-such-cluster``, ``gate.too-few-items``, ``gate.reference-unscored``,
            ``gate.out-of-range``, ``gate.judge-too-weak``, ``gate.not-binary``, ``gate.partial-run``
            (items that nobody answered, see :mod:`guards.gates.early_stop`). The caller turns it into
            an inconclusive verdict.
        ValueError: ``judge`` is missing, or not asked for.
    """
    if (judge is None) != (gate.judge is None):
        raise ValueError(f"gate {gate.id!r} names the judge {gate.judge!r}")
    chosen = _chosen(gate, table)  # (3)
    if chosen.pending:
        raise EvidenceError(
            "gate.partial-run",
            f"some of the items of suite {gate.suite!r} that were drawn were not answered",
            got=f"{chosen.n_items} items answered",
            expected=f"{chosen.n_items + sum(one.count for one in chosen.pending)} drawn",
        )
    values = _values(gate, chosen)
    if values.n < gate.min_items:
        raise EvidenceError(
            "gate.too-few-items",
            "there are too few items" if gate.group_by is None else "there are too few sources",
            got=str(values.n),
            expected=str(gate.min_items),
        )
    n_unscored = chosen.n_unscored()
    base = {
        "suite": gate.suite,
        "metric": gate.metric,
        "claim": gate.claim,
        "against": gate.against or "",
        "n_unscored": str(n_unscored),
        "confidence": f"{1.0 - alpha:.6g}",
        **(details or {}),
    }
    if gate.group_by is not None:
        base |= {"group_by": gate.group_by, "n_sources": str(values.n), "n_items": str(chosen.n_items)}
    verdict = Verdict(
        gate_id=gate.id,
        kind=gate.kind,
        outcome="fail",
        reason=f"{n_unscored} of {chosen.n_items} items of the candidate are unscored; the policy allows a share of "
        f"{gate.max_unscored:g}",
        n=values.n,
        alpha=alpha,
        policy_line=policy_line,
        details={**base, "rule": "gate.unscored"},
    )
    if n_unscored > gate.max_unscored * chosen.n_items:  # (4)
        return verdict
    if gate.is_paired:
        _check_reference_scored(gate, chosen)  # (5)
    _check_range(gate, chosen)  # (6)
    bounds = None if judge is None else judge_bounds(judge, alpha)
    test = _test_difference if gate.is_paired else _test_level  # (7)
    finding = test(gate, values, alpha, bounds, betting_only)
    mean, bound = finding.mean, finding.bound
    if bounds is not None:
        base |= {**bounds.details, "as_judged": f"{mean:+.4f}, bound {bound:+.4f}"}
        mean, bound = bounds.true_estimate(gate, mean), bounds.true_bound(gate, bound)
    outcome: Outcome = "pass" if finding.passes else "fail" if _contradicts(gate, mean) else "inconclusive"
    observed, bound = mean * _unit(gate), bound * _unit(gate)
    return verdict.model_copy(
        update={
            "outcome": outcome,
            "reason": _reason(gate, observed, bound, outcome, alpha),
            "observed": observed,
            "bound": bound,
            "margin": threshold(gate),
            "details": {**base, **finding.details, **_shown_by_cluster(values)},
        }
    )


def tested_values(gate: EvalGate, table: ScoreTable) -> tuple[Histogram, bool]:
    """What the gate's test reads of a table (in units of the scale), and whether these are single items.

    For showing an effect beside a verdict. Too few items, or unscored ones, are no obstacle here.

    Raises:
        EvidenceError: ``gate.no-such-cluster``, ``gate.out-of-range``, ``gate.not-finite``, ``gate.not-binary``.
    """
    chosen = _chosen(gate, table)
    _check_range(gate, chosen)
    values = _values(gate, chosen)
    return values.counts, values.is_single


def _chosen(gate: EvalGate, table: ScoreTable) -> ScoreTable:
    """The items in the gate's clusters."""
    present = table.clusters
    absent = [cluster for cluster in gate.clusters or () if cluster not in present]
    if absent:
        raise EvidenceError(
            "gate.no-such-cluster",
            f"suite {gate.suite!r} has no items in a cluster that the gate names",
            got=", ".join(absent),
            expected=", ".join(sorted(present)),
        )
    return table.of_clusters(gate.clusters)


def _check_reference_scored(gate: EvalGate, table: ScoreTable) -> None:
    n_unscored = table.n_unscored(reference=True)
    if n_unscored > gate.max_unscored * table.n_items:
        raise EvidenceError(
            "gate.reference-unscored",
            f"too many items of the {gate.against} are unscored to compare with it",
            got=f"{n_unscored} of {table.n_items}",
            expected=f"a share of at most {gate.max_unscored:.3g}",
            fix="evaluate it again",
        )


def _check_range(gate: EvalGate, table: ScoreTable) -> None:
    for cell in table.cells:
        for score in (cell.candidate, cell.reference):
            if score is None:
                continue
            if not math.isfinite(score):
                raise EvidenceError("gate.not-finite", f"an item of cluster {cell.cluster!r} has the score {score}")
            if gate.scale is None and not 0.0 <= score <= 1.0:
                raise EvidenceError(
                    "gate.out-of-range",
                    f"an item of cluster {cell.cluster!r} has a score outside [0, 1]",
                    got=str(score),
                    fix="declare 'scale' on a gate of an unbounded metric",
                )
            if gate.judge is not None and score not in (0.0, 1.0):
                raise EvidenceError(
                    "gate.not-binary",
                    f"an item of cluster {cell.cluster!r} has a score that is no yes or no of a judge",
                    got=str(score),
                    expected="0 or 1",
                )


# ---------------------------------------------------------------------------------------------
# From cells to the values that are tested
# ---------------------------------------------------------------------------------------------


def _values(gate: EvalGate, table: ScoreTable) -> _Values:
    by_cluster: dict[str, dict[float, int]] = {}
    by_source: dict[str, dict[float, int]] = {}
    counts: dict[float, int] = {}
    unit = _unit(gate)
    for cell in table.cells:
        value = _value(gate, cell)
        _add(by_cluster.setdefault(cell.cluster, {}), value * unit, cell.count)
        _add(counts, value, cell.count)
        if gate.group_by is not None:
            _add(by_source.setdefault(_source(cell), {}), value, cell.count)
    n = table.n_items
    if gate.group_by is not None:
        n = len(by_source)
        counts = {}
        for source in by_source.values():
            _add(counts, mean_of(sorted(source.items())), 1)
    shown = {name: sorted(group.items()) for name, group in by_cluster.items()}
    return _Values(sorted(counts.items()), n, n == table.n_items, shown)


def _source(cell: Cell) -> str:
    if cell.source is None:
        raise EvidenceError("gate.no-source", "an item does not say what it shares a source with")
    return cell.source


def _add(counts: dict[float, int], value: float, count: int) -> None:
    counts[value] = counts.get(value, 0) + count


def _value(gate: EvalGate, cell: Cell) -> float:
    """The score, or candidate minus reference in units of the scale, within [-1, 1]."""
    mine, other = cell.candidate, cell.reference
    if not gate.is_paired:
        return (0.0 if gate.claim == "at_least" else 1.0) if mine is None else mine
    if mine is None:
        return -1.0
    if other is None:
        # The best score of a bounded metric is 1; of an unbounded one nothing better than "worst" is known.
        return mine - 1.0 if gate.scale is None else -1.0
    return max(-1.0, min(1.0, (mine - other) / (gate.scale or 1.0)))


# ---------------------------------------------------------------------------------------------
# The tests
# ---------------------------------------------------------------------------------------------


def _test_level(
    gate: EvalGate, values: _Values, alpha: float, judge: JudgeBounds | None, betting_only: bool
) -> _Finding:
    """at_least and at_most: the exact binomial test for 0/1 scores, betting for others in [0, 1]."""
    level = gate.level if gate.level is not None else math.nan
    if judge is not None:
        level, alpha = judge.observed_null(gate), judge.alpha_of_test
    at_least = gate.claim == "at_least"
    n, mean = values.n, mean_of(values.counts)
    if values.is_single and not betting_only and all(score in (0.0, 1.0) for score, _ in values.counts):
        successes = dict(values.counts).get(1.0, 0)
        if at_least:
            p_value, bound = binomial_p_at_least(successes, n, level), clopper_pearson_lower(successes, n, alpha)
        else:
            p_value = binomial_p_at_least(n - successes, n, 1.0 - level)
            bound = clopper_pearson_upper(successes, n, alpha)
        details = {"test": "exact binomial", "p_value": f"{p_value:.6g}", "successes": str(successes)}
        return _Finding(p_value <= alpha, mean, bound, details)
    sign = 1.0 if at_least else -1.0
    result = betting_test_of_counts(_signed(gate, values.counts), sign * (2.0 * level - 1.0), alpha)
    bound = (1.0 + sign * result.lower_bound) / 2.0
    details = {"test": _betting_on(gate), "log_e_value": f"{result.log_e_value:.6g}"}
    return _Finding(result.rejects, mean, bound, details)


def _test_difference(
    gate: EvalGate, values: _Values, alpha: float, judge: JudgeBounds | None, betting_only: bool
) -> _Finding:
    """superior_by 0 on 0/1 scores: exact McNemar. Every other paired claim: betting."""
    null_mean = threshold(gate) / _unit(gate)
    if judge is not None:
        null_mean, alpha = judge.observed_null(gate), judge.alpha_of_test
    n, mean, details = values.n, mean_of(values.counts), dict[str, str]()
    count_of = dict(values.counts)
    gains, losses = count_of.get(1.0, 0), count_of.get(-1.0, 0)
    is_binary = values.is_single and gate.scale is None and gains + losses + count_of.get(0.0, 0) == n
    if is_binary:
        low, high = tango_interval(gains, losses, n)
        details |= {"gains": str(gains), "losses": str(losses), "tango_95_shown_only": f"{low:+.4f} to {high:+.4f}"}
    elif gate.group_by is not None and (interval := cluster_robust_interval(values.counts)) is not None:
        low, high = (end * _unit(gate) for end in interval)
        details["cluster_robust_95_shown_only"] = f"{low:+.4f} to {high:+.4f}"
    if is_binary and null_mean == 0.0 and not betting_only:
        p_value = mcnemar_p_value(gains, losses)
        bound = mcnemar_lower_bound(gains, losses, n, alpha)
        details |= {"test": MCNEMAR, "p_value": f"{p_value:.6g}"}
        return _Finding(p_value <= alpha, mean, bound, details)
    result = betting_test_of_counts(values.counts, null_mean, alpha)
    details |= {"test": _betting_on(gate), "log_e_value": f"{result.log_e_value:.6g}"}
    return _Finding(result.rejects, mean, result.lower_bound, details)


def _signed(gate: EvalGate, counts: Histogram) -> Histogram:
    """Scores of a level as differences: a mean m in [0, 1] is the mean 2m - 1; at_most mirrors them."""
    sign = -1.0 if gate.claim == "at_most" else 1.0
    return [(sign * (2.0 * score - 1.0), count) for score, count in counts]


@dataclass(frozen=True)
class Bets:
    """A claim as a bet: the mean of ``counts``, values in [-1, 1], is at most ``null_mean`` under the null."""

    counts: Histogram
    null_mean: float
    alpha: float


def bets_of(gate: EvalGate, table: ScoreTable, alpha: float, *, judge: Judge | None = None) -> Bets:
    """What the betting test of this gate bets on, at which alpha it does, for items or for sources.

    Raises:
        EvidenceError: as :func:`judge_table`, but for unscored items and their number.
    """
    chosen = _chosen(gate, table)
    _check_range(gate, chosen)
    counts = _values(gate, chosen).counts
    null = threshold(gate) / _unit(gate)
    if judge is not None:
        bounds = judge_bounds(judge, alpha)
        null, alpha = bounds.observed_null(gate), bounds.alpha_of_test
    if gate.is_paired:
        return Bets(counts, null, alpha)
    return Bets(_signed(gate, counts), 2.0 * null - 1.0 if gate.claim == "at_least" else 1.0 - 2.0 * null, alpha)


def _betting_on(gate: EvalGate) -> str:
    return "betting" if gate.group_by is None else "betting on source means"


# ---------------------------------------------------------------------------------------------
# In words
# ---------------------------------------------------------------------------------------------


def _shown_by_cluster(values: _Values) -> dict[str, str]:
    """Mean value and number of items in each cluster, for readers: ``cluster:addition`` -> ``+0.1000 (n 40)``."""
    shown = sorted(values.by_cluster.items())[:_MAX_CLUSTERS_SHOWN]
    return {
        f"cluster:{name}": f"{mean_of(counts):+.4f} (n {sum(count for _, count in counts)})" for name, counts in shown
    }


def _unit(gate: EvalGate) -> float:
    """What a difference of 1 in the test is in the metric."""
    return gate.scale or 1.0


def threshold(gate: EvalGate) -> float:
    """What the bound must clear, signed: the level, or the margin of the difference."""
    if gate.margin is None:
        return gate.level or 0.0  # the policy's model has one of the two
    return -gate.margin if gate.claim == "non_inferior_within" else gate.margin


def _contradicts(gate: EvalGate, mean: float) -> bool:
    """True if the estimate, in the test's unit, denies the claim."""
    limit = threshold(gate) / _unit(gate)
    match gate.claim:
        case "at_most":
            return mean > limit
        case "superior_by":
            # "More than" is claimed, so an estimate exactly at the margin denies it.
            return mean <= limit
        case _:
            return mean < limit


def _reason(gate: EvalGate, observed: float, bound: float, outcome: Outcome, alpha: float) -> str:
    """What was claimed and what the data say, in one clause."""
    limit = threshold(gate)
    if gate.is_paired:
        sign = "above" if gate.claim == "superior_by" else "no lower than"
        subject = f"{gate.metric} minus the {gate.against}'s must be {sign} {limit:+g}"
        side = "least"
    else:
        side = gate.claim.removeprefix("at_")
        subject = f"{gate.metric} must be at {side} {limit:g}"
    if outcome == "fail":
        return f"{subject}, and the estimate is {observed:+.4f}"
    shown = "it is" if outcome == "pass" else "it is only shown to be"
    return f"{subject}, and {shown} at {side} {bound:+.4f} at {100.0 * (1.0 - alpha):.4g}% confidence"

"""The eval gate: one claim about one metric of one suite, tested one-sided at this look's alpha.

Numbered in the order in which they are checked:

(1) some alpha is left for this look (:mod:`guards.gates.alpha`), else inconclusive
(2) the evidence is of the right checkpoints, suite, draw, items and engine, else inconclusive
(3) every cluster that the gate names has items, and together they are enough, else inconclusive
(4) no more candidate items are unscored than the policy allows, else fail
(5) the reference's evidence is no more incomplete than that either, else inconclusive
(6) every scored item has the metric, finite and in its range, else inconclusive
(7) the binding test: pass where it rejects the null; fail where the point estimate lies on the
    wrong side of the margin; else inconclusive

An unscored candidate item counts as the worst outcome there is (a difference of -1, or for a level
the worst score). An unscored reference item counts as if the reference had scored best.

Not covered: what the suite does not ask, and a machine that measures falsely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from guards.errors import EvidenceError
from guards.evidence import EvidenceRun, Record, Scored
from guards.gates.alpha import alpha_of_look
from guards.gates.inputs import GateInputs, comparable_runs, required_run
from guards.gates.verdict import Verdict
from guards.policy import EvalGate
from guards.statistics import (
    betting_test,
    binomial_p_at_least,
    clopper_pearson_lower,
    clopper_pearson_upper,
    mcnemar_lower_bound,
    mcnemar_p_value,
    tango_interval,
)

_MAX_CLUSTERS_SHOWN = 24


@dataclass(frozen=True)
class _Finding:
    """What the binding test found, in the metric's unit. ``contradicts``: the estimate denies the claim."""

    passes: bool
    contradicts: bool
    observed: float
    bound: float
    details: dict[str, str]


def evaluate_eval_gate(gate: EvalGate, inputs: GateInputs) -> Verdict:
    """Test the gate's claim; see the module's docstring.

    Raises:
        EvidenceError: evidence that cannot be read as what the gate asks for. The caller turns it
            into an inconclusive verdict.
    """
    alpha = _alpha(gate, inputs)  # (1)
    if gate.against is None:  # (2)
        candidate_run, reference_run = required_run(inputs, "candidate", gate.suite), None
    else:
        candidate_run, reference_run = comparable_runs(inputs, gate.against, gate.suite, gate_id=gate.id)
    candidate = _chosen(gate, candidate_run)
    reference = None if reference_run is None else _chosen(gate, reference_run)
    if len(candidate) < gate.min_items:  # (3)
        raise EvidenceError(
            "gate.too-few-items", "there are too few items", got=str(len(candidate)), expected=str(gate.min_items)
        )
    n_unscored = sum(not isinstance(record.outcome, Scored) for record in candidate)
    base = {
        "suite": gate.suite,
        "metric": gate.metric,
        "claim": gate.claim,
        "against": gate.against or "",
        "n_unscored": str(n_unscored),
        "confidence": f"{1.0 - alpha:.6g}",
    }
    verdict = Verdict(
        gate_id=gate.id,
        kind=gate.kind,
        outcome="fail",
        reason=f"{n_unscored} of {len(candidate)} items of the candidate are unscored; the policy allows a share of "
        f"{gate.max_unscored:g}",
        n=len(candidate),
        alpha=alpha,
        policy_line=inputs.policy.gate_lines.get(gate.id, 0),
        details={**base, "rule": "gate.unscored"},
    )
    if n_unscored > gate.max_unscored * len(candidate):  # (4)
        return verdict
    _check_reference_scored(gate, reference or ())  # (5)
    if reference is None:
        finding = _test_level(gate, candidate, alpha)  # (6) and (7)
    else:
        finding = _test_difference(gate, candidate, reference, alpha)
    outcome = "pass" if finding.passes else "fail" if finding.contradicts else "inconclusive"
    return verdict.model_copy(
        update={
            "outcome": outcome,
            "reason": _reason(gate, finding, outcome, alpha),
            "observed": finding.observed,
            "bound": finding.bound,
            "margin": _threshold(gate),
            "details": {**base, **finding.details},
        }
    )


def _alpha(gate: EvalGate, inputs: GateInputs) -> float:
    """This look's part of the gate's alpha, above 0."""
    planned, n_earlier = inputs.policy.policy.looks.planned, len(inputs.earlier_looks)
    if not 1 <= inputs.look <= planned:
        raise EvidenceError(
            "gate.alpha-spent",
            f"look {inputs.look} is beyond the {planned} that the policy planned, so no alpha is left",
            fix="where alpha is left, a policy of this name that plans more looks shares it out",
        )
    if n_earlier != inputs.look - 1:
        raise EvidenceError(
            "gate.earlier-looks",
            "what the looks before this one spent is not known",
            got=f"the plans of {n_earlier} looks",
            expected=str(inputs.look - 1),
        )
    alpha = alpha_of_look(gate, planned, inputs.earlier_looks)
    if alpha <= 0:
        raise EvidenceError(
            "gate.alpha-spent",
            f"the {n_earlier} looks before, under policies of this name, spent the whole alpha of {gate.alpha:g}",
            fix="only a larger alpha (a larger chance of a false pass over all looks) would leave some",
        )
    return float(alpha)


def _chosen(gate: EvalGate, run: EvidenceRun) -> list[Record]:
    """The run's records in the gate's clusters, by item id, so that two runs pair up."""
    present = {record.cluster for record in run.records}
    absent = [cluster for cluster in gate.clusters or () if cluster not in present]
    if absent:
        raise EvidenceError(
            "gate.no-such-cluster",
            f"suite {gate.suite!r} has no items in a cluster that the gate names",
            got=", ".join(absent),
            expected=", ".join(sorted(present)),
        )
    wanted = present if gate.clusters is None else set(gate.clusters)
    return sorted((record for record in run.records if record.cluster in wanted), key=lambda record: record.item_id)


def _check_reference_scored(gate: EvalGate, reference: Sequence[Record]) -> None:
    n_unscored = sum(not isinstance(record.outcome, Scored) for record in reference)
    if n_unscored > gate.max_unscored * len(reference):
        raise EvidenceError(
            "gate.reference-unscored",
            f"too many items of the {gate.against} are unscored to compare with it",
            got=f"{n_unscored} of {len(reference)}",
            expected=f"a share of at most {gate.max_unscored:.3g}",
            fix="evaluate it again",
        )


def _score(gate: EvalGate, record: Record) -> float | None:
    """The record's value of the metric; None where it is unscored."""
    if not isinstance(record.outcome, Scored):
        return None
    value = record.outcome.scores.get(gate.metric)
    if value is None:
        raise EvidenceError(
            "gate.no-metric",
            f"item {record.item_id!r} has no score {gate.metric!r}",
            expected=", ".join(sorted(record.outcome.scores)),
        )
    if not math.isfinite(value):
        raise EvidenceError("gate.not-finite", f"item {record.item_id!r} has the score {value}")
    if gate.scale is None and not 0.0 <= value <= 1.0:
        raise EvidenceError(
            "gate.out-of-range",
            f"item {record.item_id!r} has a score outside [0, 1]",
            got=str(value),
            fix="declare 'scale' on a gate of an unbounded metric",
        )
    return value


def _test_level(gate: EvalGate, candidate: Sequence[Record], alpha: float) -> _Finding:
    """at_least and at_most: the exact binomial test for 0/1 scores, betting for others in [0, 1]."""
    level = gate.level if gate.level is not None else math.nan
    at_least = gate.claim == "at_least"
    worst = 0.0 if at_least else 1.0
    scores = [worst if (score := _score(gate, record)) is None else score for record in candidate]
    n, mean = len(scores), math.fsum(scores) / len(scores)
    contradicts = mean < level if at_least else mean > level
    if all(score in (0.0, 1.0) for score in scores):
        successes = round(math.fsum(scores))
        if at_least:
            p_value, bound = binomial_p_at_least(successes, n, level), clopper_pearson_lower(successes, n, alpha)
        else:
            p_value = binomial_p_at_least(n - successes, n, 1.0 - level)
            bound = clopper_pearson_upper(successes, n, alpha)
        details = {"test": "exact binomial", "p_value": f"{p_value:.6g}", "successes": str(successes)}
        return _Finding(p_value <= alpha, contradicts, mean, bound, {**details, **_by_cluster(candidate, scores)})
    # A mean m in [0, 1] is the mean difference 2m - 1; at_most asks the same of the mirrored scores.
    signed = [2.0 * score - 1.0 if at_least else 1.0 - 2.0 * score for score in scores]
    null_mean = 2.0 * level - 1.0 if at_least else 1.0 - 2.0 * level
    result = betting_test(signed, null_mean, alpha)
    bound = (1.0 + result.lower_bound) / 2.0 if at_least else (1.0 - result.lower_bound) / 2.0
    details = {"test": "betting", "log_e_value": f"{result.log_e_value:.6g}"}
    return _Finding(result.rejects, contradicts, mean, bound, {**details, **_by_cluster(candidate, scores)})


def _test_difference(
    gate: EvalGate, candidate: Sequence[Record], reference: Sequence[Record], alpha: float
) -> _Finding:
    """superior_by 0 on 0/1 scores: exact McNemar. Every other paired claim: betting."""
    scale = gate.scale or 1.0
    margin = gate.margin if gate.margin is not None else math.nan
    null_mean = (margin if gate.claim == "superior_by" else -margin) / scale
    differences = [_difference(gate, mine, other) for mine, other in zip(candidate, reference, strict=True)]
    n, mean = len(differences), math.fsum(differences) / len(differences)
    gains, losses = differences.count(1.0), differences.count(-1.0)
    is_binary = gate.scale is None and gains + losses + differences.count(0.0) == n
    # A superiority claim says "more than", so an estimate exactly at its margin denies it.
    contradicts = mean <= null_mean if gate.claim == "superior_by" else mean < null_mean
    details = _by_cluster(candidate, [d * scale for d in differences])
    if is_binary:
        low, high = tango_interval(gains, losses, n)
        details |= {"gains": str(gains), "losses": str(losses), "tango_95_shown_only": f"{low:+.4f} to {high:+.4f}"}
    if is_binary and null_mean == 0.0:
        p_value = mcnemar_p_value(gains, losses)
        bound = mcnemar_lower_bound(gains, losses, n, alpha)
        details |= {"test": "exact McNemar", "p_value": f"{p_value:.6g}"}
        return _Finding(p_value <= alpha, contradicts, mean, bound, details)
    result = betting_test(differences, null_mean, alpha)
    details |= {"test": "betting", "log_e_value": f"{result.log_e_value:.6g}"}
    return _Finding(result.rejects, contradicts, mean * scale, result.lower_bound * scale, details)


def _difference(gate: EvalGate, candidate: Record, reference: Record) -> float:
    """Candidate minus reference, in units of the scale, within [-1, 1]."""
    mine, other = _score(gate, candidate), _score(gate, reference)
    if mine is None:
        return -1.0
    if other is None:
        # The best score of a bounded metric is 1; of an unbounded one nothing better than "worst" is known.
        return mine - 1.0 if gate.scale is None else -1.0
    return max(-1.0, min(1.0, (mine - other) / (gate.scale or 1.0)))


def _by_cluster(records: Sequence[Record], values: Sequence[float]) -> dict[str, str]:
    """Mean value and count in each cluster, for readers: ``cluster:addition`` -> ``+0.1000 (n 40)``."""
    by_cluster: dict[str, list[float]] = {}
    for record, value in zip(records, values, strict=True):
        by_cluster.setdefault(record.cluster, []).append(value)
    shown = sorted(by_cluster.items())[:_MAX_CLUSTERS_SHOWN]
    return {f"cluster:{name}": f"{math.fsum(group) / len(group):+.4f} (n {len(group)})" for name, group in shown}


def _threshold(gate: EvalGate) -> float | None:
    """What the bound must clear, signed: the level, or the margin of the difference."""
    if gate.margin is None:
        return gate.level
    return -gate.margin if gate.claim == "non_inferior_within" else gate.margin


def _reason(gate: EvalGate, finding: _Finding, outcome: str, alpha: float) -> str:
    """What was claimed and what the data say, in one clause."""
    threshold = _threshold(gate)
    if gate.is_paired:
        sign = "above" if gate.claim == "superior_by" else "no lower than"
        subject = f"{gate.metric} minus the {gate.against}'s must be {sign} {threshold:+g}"
        side = "least"
    else:
        side = gate.claim.removeprefix("at_")
        subject = f"{gate.metric} must be at {side} {threshold:g}"
    if outcome == "fail":
        return f"{subject}, and the estimate is {finding.observed:+.4f}"
    shown = "it is" if outcome == "pass" else "it is only shown to be"
    return f"{subject}, and {shown} at {side} {finding.bound:+.4f} at {100.0 * (1.0 - alpha):.4g}% confidence"

"""Evidence for counterexamples: lines along which a candidate gets worse in what one gate reads.

Nothing here decides: :mod:`guards.authoring.policy_counterexamples` evaluates what is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from guards.authoring.case_model import (
    BudgetUsed,
    CaseEvidence,
    Compared,
    Items,
    MetricEvidence,
    Outputs,
    SharedRows,
)
from guards.policy import BudgetGate, CollapseGate, ContaminationGate, EvalGate, LeafGate


@dataclass(frozen=True)
class Line:
    """Evidence as a function of a number from 0 to ``most``: the larger, the worse for the candidate.

    ``is_tested``: what comes of it depends on the look.
    """

    at: Callable[[int], CaseEvidence]
    most: int
    is_tested: bool = False


def losses_line(gate: EvalGate, base: CaseEvidence, n: int, cluster: str | None = None) -> Line:
    return Line(lambda k: _with_metric(base, gate, lambda _: _counts(gate, n, k), cluster), n, is_tested=True)


def eval_lines(
    gate: EvalGate, fields: frozenset[str], base: CaseEvidence, n: int, *, is_member: bool
) -> Iterator[Line]:
    # What is lost by few or unscored items is made up for by gains.
    best = _with_metric(base, gate, lambda _: _counts(gate.model_copy(update={"claim": "superior_by"}), n, 0))
    best = best if gate.is_paired else base
    if "min_items" in fields:
        yield Line(lambda k: _with_items(best, gate, {"n": n - k}), n - 2)
    if "max_unscored" in fields:
        yield Line(lambda k: _with_items(best, gate, {"unscored": k}), n // 4)
        yield Line(lambda k: _with_items(best, gate, {"reference_unscored": k}), n // 4)
    if "clusters" in fields:
        for cluster in ("", *(gate.clusters or ())):
            yield losses_line(gate, base, n, cluster)
    if "group_by" in fields:
        yield Line(lambda k: _in_sources(base, gate, n, k), 100)
    if "scale" in fields and gate.is_paired:
        yield from _scale_lines(gate, base)
    yield losses_line(gate, base, n)
    if is_member and gate.scale is None:
        yield Line(lambda k: _with_metric(base, gate, lambda _: _low_counts(gate, n, k)), n, is_tested=True)


def between_lines(old: EvalGate, new: EvalGate, base: CaseEvidence, n: int) -> Iterator[Line]:
    """Evidence that differs between what the two gates read: all is well there, and nothing is here."""
    if (old.suite, old.metric, old.claim) != (new.suite, new.metric, new.claim):
        yield Line(lambda _: with_good(_bad(base, old, n), new, n), 0)
    if old.against is not None and new.against is not None and old.against != new.against:
        # The candidate has half of the items: as NEW's reference, and fewer than OLD's.
        compared = {str(old.against): Compared(losses=n // 2), str(new.against): Compared()}
        if old.against == "champion":
            metric = MetricEvidence(losses=n // 2, both=n // 2)
        else:
            metric = MetricEvidence(both=n // 2)
        metric = metric.model_copy(update={role: one for role, one in compared.items() if role != "champion"})
        yield Line(lambda _: _with_metric(base, old, lambda _: metric), 0)


_PATTERN = 20
"""Differences that are not alike for all items are a list of so many, repeated."""


def _in_sources(base: CaseEvidence, gate: EvalGate, n: int, k: int) -> CaseEvidence:
    """Sources in which gains and losses cancel, less and less."""
    pattern = (0.5 - k / 200, -0.5)
    changed = _with_metric(base, gate, lambda _: MetricEvidence(difference=pattern, reference=0.5))
    suite = changed.suites[gate.suite].model_copy(update={"items_per_source": 4, "n": max(n, 4 * gate.min_items)})
    return changed.model_copy(update={"suites": {**changed.suites, gate.suite: suite}})


def _scale_lines(gate: EvalGate, base: CaseEvidence) -> Iterator[Line]:
    """Differences that one scale clips and the other does not."""
    for size in (2.0 * (gate.scale or 1.0), 8.0 * (gate.scale or 1.0)):

        def rare(k: int, size: float = size) -> CaseEvidence:
            """``k`` of twenty items lose much."""
            pattern = (-size,) * k + (0.0,) * (_PATTERN - k)
            return _with_metric(base, gate, lambda _: MetricEvidence(difference=pattern, reference=0.0))

        def carried(k: int, size: float = size) -> CaseEvidence:
            """Half of the items gain much, and the others lose more and more."""
            return _with_metric(base, gate, lambda _: MetricEvidence(difference=(size, -size * k / 100), reference=0.0))

        yield Line(rare, _PATTERN)
        yield Line(carried, 100)


def _counts(gate: EvalGate, n: int, k: int) -> MetricEvidence:
    """Outcomes of ``n`` items of which ``k`` speak against the gate's claim, and the others for it."""
    if not gate.is_paired:
        return MetricEvidence(successes=n - k if gate.claim == "at_least" else k)
    wins = (n - k) if gate.claim == "superior_by" else 0
    if gate.scale is not None:
        gap = -gate.scale * k / n + (gate.scale * wins / n)
        if gate.against == "champion":
            return MetricEvidence(difference=gap, reference=0.0)
        compared = Compared(difference=gap)
        return MetricEvidence(difference=0.0, reference=0.0).model_copy(update={str(gate.against): compared})
    if gate.against == "champion":
        return MetricEvidence(gains=wins, losses=k, both=n - wins - k)
    return MetricEvidence(successes=n - k).model_copy(update={str(gate.against): Compared(gains=wins, losses=k)})


def _low_counts(gate: EvalGate, n: int, k: int) -> MetricEvidence:
    """As :func:`_counts`, where a level of the metric and a comparison of it disagree."""
    if not gate.is_paired:
        return MetricEvidence(losses=k, both=n - k) if gate.claim == "at_least" else MetricEvidence(gains=k, both=0)
    if gate.against == "champion":
        return MetricEvidence(losses=k, both=0)
    return MetricEvidence(both=0).model_copy(update={str(gate.against): Compared(losses=k)})


def with_good(evidence: CaseEvidence, gate: EvalGate, n: int) -> CaseEvidence:
    """The evidence, and outcomes that speak for the gate's claim only."""

    def best(before: MetricEvidence) -> MetricEvidence:
        if not gate.is_paired and gate.claim == "at_most":
            return MetricEvidence(successes=0)
        if not gate.is_paired:
            return before if before.gains or before.difference is not None else MetricEvidence(successes=n)
        if gate.claim != "superior_by" and before != MetricEvidence():
            return before
        return _counts(gate, n, 0)

    return _with_metric(evidence, gate, best)


def _bad(evidence: CaseEvidence, gate: EvalGate, n: int) -> CaseEvidence:
    """The evidence, and outcomes that speak against the gate's claim only."""
    return _with_metric(evidence, gate, lambda _: _counts(gate, n, n))


def _with_metric(
    evidence: CaseEvidence,
    gate: EvalGate,
    change: Callable[[MetricEvidence], MetricEvidence],
    cluster: str | None = None,
) -> CaseEvidence:
    """The evidence with another outcome of the gate's metric: everywhere, in a cluster, or outside of all (``""``)."""
    suite = evidence.suites[gate.suite]

    def changed(items: Items) -> dict[str, MetricEvidence]:
        return {**items.metrics, gate.metric: change(items.metrics.get(gate.metric, MetricEvidence()))}

    update: dict[str, object] = {}
    if cluster is None or cluster == "":
        update["metrics"] = changed(suite)
    update["clusters"] = {
        name: items.model_copy(update={"metrics": changed(items)}) if cluster is None or cluster == name else items
        for name, items in suite.clusters.items()
    }
    return evidence.model_copy(update={"suites": {**evidence.suites, gate.suite: suite.model_copy(update=update)}})


def _with_items(evidence: CaseEvidence, gate: EvalGate | CollapseGate, update: dict[str, int]) -> CaseEvidence:
    """The evidence with other numbers of items in the gate's suite, in every cluster of it alike."""
    suite = evidence.suites[gate.suite]
    n_less = sum(update.get(name, 0) for name in ("unscored", "reference_unscored"))

    def smaller(metrics: dict[str, MetricEvidence], before: int | None) -> dict[str, MetricEvidence]:
        n = update.get("n", (before or 0) - n_less)
        return {name: _scaled(metric, n) for name, metric in metrics.items()}

    clusters = {
        name: items.model_copy(update={**update, "metrics": smaller(items.metrics, items.n)})
        for name, items in suite.clusters.items()
    }
    changed = suite.model_copy(update={**update, "metrics": smaller(suite.metrics, suite.n), "clusters": clusters})
    return evidence.model_copy(update={"suites": {**evidence.suites, gate.suite: changed}})


def _scaled(metric: MetricEvidence, n: int) -> MetricEvidence:
    """The same kind of outcomes for ``n`` items: all gains, all passed, or none."""
    if metric.difference is not None or metric.reference is not None or metric == MetricEvidence():
        return metric
    update: dict[str, object] = {}
    if metric.successes is not None:
        update["successes"] = n if metric.successes else 0
    else:
        update |= {"gains": n if metric.gains else 0, "losses": 0, "both": 0 if metric.gains else n}
    for role, compared in (("root", metric.root), ("anchor", metric.anchor)):
        if compared is not None and compared.difference is None:
            update[role] = Compared(gains=n if compared.gains else 0)
    return metric.model_copy(update=update)


def collapse_lines(gate: CollapseGate, fields: frozenset[str], base: CaseEvidence, n: int) -> Iterator[Line]:
    def outputs(**ratios: float) -> CaseEvidence:
        suite = base.suites[gate.suite].model_copy(update={"outputs": Outputs(**ratios)})
        return base.model_copy(update={"suites": {**base.suites, gate.suite: suite}})

    for field, line in (
        ("min_distinct_share", Line(lambda k: outputs(distinct_share=1.0 - k / 100), 99)),
        ("min_entropy_ratio", Line(lambda k: outputs(entropy_ratio=1.0 - k / 100), 60)),
        ("max_length_ratio", Line(lambda k: outputs(length_ratio=1.0 + k / 100), 2000)),
        ("min_length_ratio", Line(lambda k: outputs(length_ratio=1.0 - k / 100), 100)),
        ("min_items", Line(lambda k: _with_items(base, gate, {"n": n - k}), n - 2)),
    ):
        if field in fields:
            yield line


def contamination_lines(gate: ContaminationGate, base: CaseEvidence) -> Iterator[Line]:
    for suite in gate.suites:
        yield Line(lambda _, suite=suite: base.model_copy(update={"shared": (SharedRows(suite=suite),)}), 0)

        def shared(words: int, suite: str = suite) -> CaseEvidence:
            return base.model_copy(update={"shared": (SharedRows(suite=suite, words=words),)} if words else {})

        yield Line(shared, 59)


def budget_lines(gate: BudgetGate, base: CaseEvidence) -> Iterator[Line]:
    def used(name: str, value: int) -> CaseEvidence:
        return base.model_copy(update={"budget": BudgetUsed.model_validate({name: value})})

    # A limit may be anything: what NEW allows at most is tried, and not looked for step by step.
    for name, limit in (
        ("cycles_without_person", gate.max_cycles_without_person),
        ("cost_s", gate.max_cost_s),
        ("tokens_trained", gate.max_tokens_trained),
    ):
        if limit is not None:
            for value in (limit, limit + 1):
                yield Line(lambda _, name=name, value=value: used(name, value), 0)
    yield Line(lambda _: base.model_copy(update={"missing": ("budget",)}), 0)


def all_bad(good: CaseEvidence, gates: Iterable[LeafGate], n: int) -> CaseEvidence:
    """Evidence that none of the gates passes, as far as they are eval gates."""
    for gate in gates:
        if isinstance(gate, EvalGate):
            good = _bad(good, gate, n)
    return good

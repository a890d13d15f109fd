"""From a run's records to a candidate's drift vector: one figure for every component of the kit.

Every figure is computed here anew from the records; nothing that the probes added up is believed. What is
missing, not finite, or of other documents than the kit's is refused: a gate is then inconclusive.

A mean is ``math.fsum`` over the number of records, so that it does not depend on their order; ``q95`` is the
linearly interpolated 95th percentile.

Not covered: what the values mean; whether the candidate's training rows were looked at (an unsupported
trigger stage says that they were not, and :mod:`guards.gates.drift` decides what follows).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from guards.drift.kit import (
    LARGEST,
    TRIGGERS_CLUSTER,
    UNSUPPORTED,
    WEIGHTS_CLUSTER,
    WEIGHTS_ITEM,
    Component,
    DriftKit,
    Stage,
    Statistic,
)
from guards.errors import EvidenceError
from guards.evidence import EvidenceRun, Record, Scored

_QUANTILE = 0.95


@dataclass(frozen=True)
class DriftVector:
    """A model's components by name; those of a stage that was ``unsupported`` are left out."""

    values: Mapping[str, float]
    n_documents: int
    unsupported: frozenset[Stage] = field(default_factory=frozenset[Stage])


def vector_of_run(run: EvidenceRun, kit: DriftKit) -> DriftVector:
    """The vector of the model that a whole run describes.

    Raises:
        EvidenceError: ``drift.other-dtype``; ``drift.duplicate-record``; ``drift.missing-documents``;
            ``drift.other-documents``, also where a slice or digest is another; ``drift.missing-tensors``,
            ``drift.other-tensors``; ``drift.unscored``; ``drift.no-value`` where a record lacks what a component
            reads; ``drift.not-finite``; ``drift.no-records`` for a cluster without any.
    """
    if run.manifest.dtype != kit.dtype:
        raise EvidenceError(
            "drift.other-dtype",
            "the candidate was measured in another dtype than the bank",
            got=run.manifest.dtype,
            expected=kit.dtype,
            fix="run the audit again, in the kit's dtype",
        )
    by_cluster = _by_cluster(run, kit)
    unsupported: set[Stage] = set()
    if _is_unsupported(by_cluster.get(TRIGGERS_CLUSTER, ())):
        unsupported.add("triggers")
    values = {
        component.name: _value(component, by_cluster)
        for component in kit.components
        if component.stage not in unsupported
    }
    return DriftVector(values, n_documents=len(kit.documents), unsupported=frozenset(unsupported))


def _by_cluster(run: EvidenceRun, kit: DriftKit) -> dict[str, list[Record]]:
    """The records by cluster, once they are exactly those that the kit declares."""
    by_cluster: dict[str, list[Record]] = defaultdict(list)
    seen: set[str] = set()
    documents: set[str] = set()
    tensors: set[str] = set()
    for record in run.records:
        if record.item_id in seen:
            raise EvidenceError("drift.duplicate-record", f"{record.item_id!r} was measured twice")
        seen.add(record.item_id)
        by_cluster[record.cluster].append(record)
        if record.cluster == TRIGGERS_CLUSTER and record.item_id not in kit.documents:
            continue
        _check_scored(record)
        if record.cluster.startswith(WEIGHTS_CLUSTER):
            _check_tensor(record, kit)
            tensors.add(record.item_id.removeprefix(WEIGHTS_ITEM))
        else:
            _check_document(record, kit)
            documents.add(record.item_id)
    _check_all_there("drift.missing-documents", "documents", documents, kit.documents)
    _check_all_there("drift.missing-tensors", "weight matrices", tensors, kit.tensors)
    return by_cluster


def _check_document(record: Record, kit: DriftKit) -> None:
    declared = kit.documents.get(record.item_id)
    got = f"{record.item_id}, {record.cluster}, {record.prompt_digest}"
    if declared is None or (declared.slice, declared.sha256) != (record.cluster, record.prompt_digest):
        raise EvidenceError(
            "drift.other-documents",
            "a document was measured that is not the kit's",
            got=got,
            expected="a document of the kit"
            if declared is None
            else f"{record.item_id}, {declared.slice}, {declared.sha256}",
        )


def _check_tensor(record: Record, kit: DriftKit) -> None:
    name = record.item_id.removeprefix(WEIGHTS_ITEM)
    if not record.item_id.startswith(WEIGHTS_ITEM) or kit.tensors.get(name) != record.cluster:
        raise EvidenceError(
            "drift.other-tensors",
            "a weight matrix was measured that is not the kit's",
            got=f"{record.item_id}, {record.cluster}",
            expected=kit.tensors.get(name, "a weight matrix of the kit"),
        )


def _check_all_there(rule: str, what: str, got: set[str], declared: Iterable[str]) -> None:
    missing = sorted(set(declared) - got)
    if missing:
        raise EvidenceError(
            rule,
            f"{len(missing)} {what} of the kit were not measured, {missing[0]!r} among them",
            got=str(len(got)),
            expected=str(len(got) + len(missing)),
            fix="run the audit again",
        )


def _is_unsupported(triggers: Sequence[Record]) -> bool:
    """True if the one trigger record says that the training rows cannot be had again."""
    if len(triggers) != 1 or isinstance(triggers[0].outcome, Scored):
        return False
    return triggers[0].outcome.reason.startswith(UNSUPPORTED)


def _value(component: Component, by_cluster: Mapping[str, Sequence[Record]]) -> float:
    value = _statistic(component, component.plus, by_cluster)
    if component.minus:
        value -= _statistic(component, component.minus, by_cluster)
    return value


def _statistic(component: Component, clusters: Sequence[str], by_cluster: Mapping[str, Sequence[Record]]) -> float:
    values: list[float] = []
    for cluster in clusters:
        records = by_cluster.get(cluster, ())
        if not records:
            raise EvidenceError(
                "drift.no-records",
                f"the component {component.name!r} reads the cluster {cluster!r}, and nothing was measured in it",
                fix="run the audit again",
            )
        values += [_score(component, record) for record in records]
    return _summary(component.statistic, values)


def _check_scored(record: Record) -> dict[str, float]:
    if not isinstance(record.outcome, Scored):
        raise EvidenceError(
            "drift.unscored",
            f"{record.item_id!r} was not measured",
            got=record.outcome.reason,
            fix="run the audit again",
        )
    return record.outcome.scores


def _score(component: Component, record: Record) -> float:
    scores = _check_scored(record)
    score = scores.get(component.value)
    if score is None:
        raise EvidenceError(
            "drift.no-value",
            f"{record.item_id!r} has no value {component.value!r}, which the component {component.name!r} reads",
            got=", ".join(sorted(scores)[:8]),
        )
    if not abs(score) <= LARGEST:  # also true for NaN
        raise EvidenceError("drift.not-finite", f"the value {component.value!r} of {record.item_id!r} is {score}")
    return score


def _summary(statistic: Statistic, values: Sequence[float]) -> float:
    match statistic:
        case "mean":
            return math.fsum(values) / len(values)
        case "max":
            return max(values)
        case "q95":
            ordered = sorted(values)
            at = _QUANTILE * (len(ordered) - 1)
            low = math.floor(at)
            high = min(low + 1, len(ordered) - 1)
            return ordered[low] + (at - low) * (ordered[high] - ordered[low])

"""Evidence runs of imagined checkpoints, in memory: what ``guards.authoring.case_model`` describes, item by item.

Nothing here decides. The runs are read by the gates exactly as measured ones are, with every check
of digests, items and draws. They need no suite that can be drawn: a case says how many items there
are, and items are numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guards.authoring.case_model import Compared, Items, MetricEvidence, Outputs, SuiteEvidence
from guards.canonical import sha256_bytes
from guards.errors import ConfigError
from guards.evidence import Cost, EvidenceRun, Record, RunManifest, Scored, Unscored, salted_digest
from guards.gates.inputs import Role
from guards.policy import CollapseGate, ContaminationGate, EvalGate, Policy, suites_of

DEFAULT_N_ITEMS = 240
N_ITEMS_WITHOUT_SCORES = 20
REST = "(rest)"
"""The cluster of the items that no gate names."""

DRAW_SEED = sha256_bytes(b"policy case: the draw of this look")
_OTHER = sha256_bytes(b"policy case: another one")
_CODE = sha256_bytes(b"policy case: the program")
_EMPTY = sha256_bytes(b"")
_SALT_HEX = "00" * 32
_SHARED_WORDS = 60
_FILLER_WORDS = 32
_TOKENS = 100


@dataclass(frozen=True)
class SuiteReading:
    """What the gates of a policy read of one suite.

    ``metrics`` maps each metric to whether a gate declares a scale for it; ``is_clustered`` says that a
    gate takes clusters for sources.
    """

    metrics: Mapping[str, bool]
    roles: frozenset[Role]
    against: frozenset[tuple[str, str]]
    clusters: tuple[str, ...]
    tags: tuple[str, ...]
    is_clustered: bool
    min_items: int
    reads_texts: bool
    has_outputs: bool


@dataclass(frozen=True)
class _Item:
    """``scored_at`` is the item's place among those of its group that both sides scored, else None."""

    item_id: str
    group: str
    cluster: str
    tags: dict[str, str]
    scored_at: int | None
    candidate_unscored: bool


def suite_reading(policy: Policy, suite: str) -> SuiteReading | None:
    """What the gates of ``policy`` read of ``suite``; None where none reads it."""
    gates = [gate for gate in policy.leaf_gates() if suite in suites_of(gate)]
    if not gates:
        return None
    evals = [gate for gate in gates if isinstance(gate, EvalGate)]
    metrics: dict[str, bool] = {}
    for gate in evals:
        metrics[gate.metric] = metrics.get(gate.metric, False) or gate.scale is not None
    grouped = [gate.group_by for gate in evals if gate.group_by is not None]
    roles: set[Role] = {"candidate"}
    roles |= {gate.against for gate in gates if isinstance(gate, (EvalGate, CollapseGate)) and gate.against is not None}
    return SuiteReading(
        metrics=metrics,
        roles=frozenset(roles),
        against=frozenset((gate.metric, gate.against) for gate in evals if gate.against is not None),
        clusters=tuple(sorted({cluster for gate in evals for cluster in gate.clusters or ()})),
        tags=tuple(sorted({by.removeprefix("tag:") for by in grouped if by.startswith("tag:")})),
        is_clustered="cluster" in grouped,
        min_items=max((gate.min_items for gate in gates if isinstance(gate, (EvalGate, CollapseGate))), default=1),
        reads_texts=any(isinstance(gate, (CollapseGate, ContaminationGate)) for gate in gates),
        has_outputs=any(isinstance(gate, CollapseGate) for gate in gates),
    )


def suite_runs(
    suite: str,
    suite_digest: str,
    evidence: SuiteEvidence,
    reading: SuiteReading,
    checkpoints: Mapping[Role, str],
    n_shared: int = 0,
) -> dict[Role, EvidenceRun]:
    """The run of each role; without the candidate's where the evidence says that it is missing.

    The first ``n_shared`` items have a prompt of 60 words of their own (:func:`prompt_words`).

    Raises:
        ConfigError: ``case.counts`` or ``case.score-range``, where the outcomes do not fit
            the number of items, or the metric.
    """
    items = _items(evidence, reading)
    groups = groups_of(evidence, reading)
    scores = {name: group_scores(group, n, reading) for name, (group, n) in groups.items()}
    runs: dict[Role, EvidenceRun] = {}
    for role, checkpoint in checkpoints.items():
        if role not in reading.roles or (role == "candidate" and evidence.fault == "missing"):
            continue
        runs[role] = _run(suite, suite_digest, evidence, reading, items, scores, role, checkpoint, n_shared)
    return runs


def groups_of(evidence: SuiteEvidence, reading: SuiteReading) -> dict[str, tuple[Items, int]]:
    """The groups of items by cluster, each with its number of items; first those that no gate names."""
    least = DEFAULT_N_ITEMS if reading.metrics or reading.has_outputs else N_ITEMS_WITHOUT_SCORES
    default = max(least, reading.min_items * evidence.items_per_source)
    groups: dict[str, tuple[Items, int]] = {REST: (evidence, evidence.n or default)}
    for cluster in (*reading.clusters, *(name for name in evidence.clusters if name not in reading.clusters)):
        group = evidence.clusters.get(cluster, Items())
        groups[cluster] = (group, group.n or default)
    return groups


def prompt_words(suite: str, number: int) -> list[str]:
    """The words of the prompt of a shared item; no other prompt or row has any of them."""
    return [f"{suite.replace('_', '').replace('-', '')}{number}word{i}" for i in range(_SHARED_WORDS)]


def group_scores(group: Items, n: int, reading: SuiteReading) -> dict[str, dict[str, list[float]]]:
    """Scores by metric and role, of the items that both sides scored.

    Raises:
        ConfigError: ``case.counts``, ``case.score-range``.
    """
    n_scored = n - group.unscored - group.reference_unscored
    if n_scored < 0:
        raise ConfigError("case.counts", "more items are unscored than there are", expected=f"at most {n}")
    metrics = dict(reading.metrics) or {"score": False}
    return {
        name: _metric_scores(name, group.metrics.get(name, MetricEvidence()), n_scored, has_scale)
        for name, has_scale in metrics.items()
    }


def _metric_scores(name: str, metric: MetricEvidence, n: int, has_scale: bool) -> dict[str, list[float]]:
    is_counted = metric.gains or metric.losses or metric.both is not None or metric.successes is not None
    if metric.difference is None and metric.reference is None and (is_counted or not has_scale):
        return _counted_scores(name, metric, n)
    reference = metric.reference if metric.reference is not None else 0.0 if has_scale else 1.0
    champion = [reference] * n
    candidate = [reference + d for d in _repeated(metric.difference or 0.0, n)]
    scores = {"candidate": candidate, "champion": champion}
    for role, compared in (("root", metric.root), ("anchor", metric.anchor)):
        if compared is None:
            scores[role] = champion
        else:
            gaps = _repeated(compared.difference or 0.0, n)
            scores[role] = [mine - d for mine, d in zip(candidate, gaps, strict=True)]
    if not has_scale and any(not 0.0 <= score <= 1.0 for column in scores.values() for score in column):
        raise ConfigError(
            "case.score-range",
            f"scores of {name!r} leave [0, 1], and no gate declares a scale for it",
            fix="write 'reference', the champion's score, so that the difference fits",
        )
    return scores


def _counted_scores(name: str, metric: MetricEvidence, n: int) -> dict[str, list[float]]:
    both = metric.both
    if both is None:
        both = n - metric.gains - metric.losses if metric.successes is None else metric.successes - metric.gains
    neither = n - metric.gains - metric.losses - both
    if both < 0 or neither < 0:
        raise ConfigError(
            "case.counts",
            f"the outcomes of {name!r} are more than the items that were scored",
            got=str(n - neither if both >= 0 else metric.gains + metric.losses),
            expected=f"at most {n}",
        )
    parts = (metric.gains, metric.losses, both, neither)
    candidate = _columns(parts, (1.0, 0.0, 1.0, 0.0))
    champion = _columns(parts, (0.0, 1.0, 1.0, 0.0))
    scores = {"candidate": candidate, "champion": champion}
    for role, compared in (("root", metric.root), ("anchor", metric.anchor)):
        scores[role] = champion if compared is None else _flipped(name, role, candidate, compared)
    return scores


def _flipped(name: str, role: str, candidate: Sequence[float], compared: Compared) -> list[float]:
    """What the root or anchor scored: as the candidate, but for its gains and losses."""
    if compared.difference is not None:
        raise ConfigError("case.counts", f"{name!r} is counted, so {role} needs gains and losses")
    passed = [i for i, score in enumerate(candidate) if score == 1.0]
    failed = [i for i, score in enumerate(candidate) if score == 0.0]
    for what, count, most in (("gains", compared.gains, len(passed)), ("losses", compared.losses, len(failed))):
        if count > most:
            raise ConfigError(
                "case.counts",
                f"{what} of {name!r} over the {role} are more than the items that could be such",
                got=str(count),
                expected=f"at most {most}",
            )
    scores = list(candidate)
    for i in passed[: compared.gains]:
        scores[i] = 0.0
    for i in failed[: compared.losses]:
        scores[i] = 1.0
    return scores


def _columns(parts: Sequence[int], values: Sequence[float]) -> list[float]:
    return [value for count, value in zip(parts, values, strict=True) for _ in range(count)]


def _repeated(value: float | tuple[float, ...], n: int) -> list[float]:
    values = value if isinstance(value, tuple) else (value,)
    return [float(values[i % len(values)]) for i in range(n)]


def _items(evidence: SuiteEvidence, reading: SuiteReading) -> list[_Item]:
    prefix = "other" if evidence.fault == "other-items" else "item"
    items: list[_Item] = []
    for name, (group, n) in groups_of(evidence, reading).items():
        n_scored = n - group.unscored - group.reference_unscored
        for i in range(n):
            source = f"{name}-{i // evidence.items_per_source:05d}"
            items.append(
                _Item(
                    item_id=f"{prefix}-{len(items):06d}",
                    group=name,
                    cluster=source if name == REST and reading.is_clustered else name,
                    tags=dict.fromkeys(reading.tags, source),
                    scored_at=i if i < n_scored else None,
                    candidate_unscored=n_scored <= i < n_scored + group.unscored,
                )
            )
    return items


def _run(
    suite: str,
    suite_digest: str,
    evidence: SuiteEvidence,
    reading: SuiteReading,
    items: Sequence[_Item],
    scores: Mapping[str, Mapping[str, Mapping[str, list[float]]]],
    role: str,
    checkpoint: str,
    n_shared: int,
) -> EvidenceRun:
    is_candidate = role == "candidate"
    fault = evidence.fault if is_candidate else None
    outputs = evidence.outputs if is_candidate else Outputs()
    engine = "policy-case-2" if fault == "other-engine" else "policy-case"
    texts = _outputs(len(items), outputs) if reading.has_outputs else [""] * len(items)
    tokens = _token_counts(len(items), outputs.length_ratio)
    records: list[Record] = []
    lines: list[dict[str, str]] = []
    for i, (item, output) in enumerate(zip(items, texts, strict=True)):
        item_id = item.item_id if is_candidate else item.item_id.replace("other", "item")
        prompt = " ".join(prompt_words(suite, i)) if i < n_shared else f"question {i}"
        is_unscored = item.scored_at is None and item.candidate_unscored == is_candidate
        records.append(
            Record(
                item_id=item_id,
                cluster=item.cluster,
                tags=item.tags,
                prompt_digest=sha256_bytes(prompt.encode()),
                output_digest=salted_digest(_SALT_HEX, output),
                outcome=Unscored(reason="the case says so")
                if is_unscored
                else Scored(scores={name: _score(by_role[role], item) for name, by_role in scores[item.group].items()}),
                n_output_tokens=tokens[i],
                engine=engine,
                dtype="float32",
                batch="0",
                seed=0,
            )
        )
        lines.append({"item_id": item_id, "prompt": prompt, "output": output, "salt": _SALT_HEX})
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines) if reading.reads_texts else b""
    manifest = RunManifest(
        checkpoint_digest=_OTHER if fault == "other-checkpoint" else checkpoint,
        suite_name=suite,
        suite_digest=_OTHER if fault == "other-suite" else suite_digest,
        draw_seed_digest=_OTHER if fault == "other-draw" else DRAW_SEED,
        n_items=len(records),
        records_sha256=_EMPTY,
        texts_sha256=sha256_bytes(data),
        timings_sha256=_EMPTY,
        engine=engine,
        device="cpu",
        dtype="float32",
        batch_plan="one",
        code_digest=_CODE,
        cost=Cost(wall_ms=0),
    )
    kept = records[:-1] if fault == "partial" else records
    return EvidenceRun(directory=Path(f"case/{role}/{suite}"), manifest=manifest, records=tuple(kept), texts=data)


def _score(column: Sequence[float], item: _Item) -> float:
    """The item's score; the best of its group where only the other side failed to score it."""
    return column[item.scored_at] if item.scored_at is not None else max(column, default=1.0)


# ---------------------------------------------------------------------------------------------
# Outputs with the variety and length that a case asks for
# ---------------------------------------------------------------------------------------------


def _outputs(n: int, wanted: Outputs) -> list[str]:
    """``n`` outputs: a number written in the words a and b, and filler words that are alike in all of them.

    The number makes outputs distinct, and is followed by its complement, so that it adds the same to
    the entropy of words however many are distinct. Filler words that give way to an a, the most
    frequent word, lower the entropy, one at a time.
    """
    n_distinct = min(n, math.ceil(wanted.distinct_share * n - 1e-9))
    n_bits = max(1, (n - 1).bit_length())
    n_changed = _filler_words_to_change(n, n_distinct, n_bits, wanted.entropy_ratio)
    variants: list[str] = []
    for j in range(n_distinct):
        bits = [(j >> bit) & 1 for bit in range(n_bits)]
        number = ["ab"[bit] for bit in bits] + ["ba"[bit] for bit in bits]
        changed = [_is_changed(slot, j, n_distinct, n_changed) for slot in range(_FILLER_WORDS)]
        variants.append(" ".join(number + ["a" if gone else f"w{slot}" for slot, gone in enumerate(changed)]))
    return [variants[i % n_distinct] for i in range(n)]


def _is_changed(slot: int, variant: int, n_distinct: int, n_changed: int) -> bool:
    return slot * n_distinct + variant < n_changed


def _filler_words_to_change(n: int, n_distinct: int, n_bits: int, ratio: float) -> int:
    """The most filler words of the variants that may change without the entropy falling below ``ratio``."""
    needed = ratio * _entropy(n, n_distinct, n_bits, 0)
    low, high = 0, _FILLER_WORDS * n_distinct
    while low < high:
        middle = (low + high + 1) // 2
        if _entropy(n, n_distinct, n_bits, middle) >= needed - 1e-12:
            low = middle
        else:
            high = middle - 1
    return low


def _entropy(n: int, n_distinct: int, n_bits: int, n_changed: int) -> float:
    """Word entropy in bits of the outputs that :func:`_outputs` writes."""
    full, part = divmod(n_changed, n_distinct)
    n_part = part * (n // n_distinct) + min(part, n % n_distinct)  # outputs whose variant is below `part`
    filler = [n - n_part, *[n] * (_FILLER_WORDS - 1 - full)] if full < _FILLER_WORDS else []
    counts = [n * n_bits + full * n + n_part, n * n_bits, *filler]
    total = n * (2 * n_bits + _FILLER_WORDS)
    return -math.fsum(count / total * math.log2(count / total) for count in counts if count)


def _token_counts(n: int, ratio: float) -> list[int]:
    """Tokens of each output; their mean is ``ratio`` times the reference's 100, as near as whole numbers allow."""
    whole, more = divmod(round(ratio * _TOKENS * n), n)
    return [whole + (i < more) for i in range(n)]

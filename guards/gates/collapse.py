"""The collapse gate: outputs as varied and as long as the reference's, within declared ratios.

A model that answers everything alike, rambles, or falls silent can keep its scores. Outputs are
compared with the reference's on the same items; an unanswered item counts as an empty output.

These are plain ratios, not tests: they catch a breakdown, not a drift. Word entropy is the plug-in
estimate over all words of all outputs; it grows with their number, so that shorter outputs lower
it even where nothing collapsed. Not covered: outputs that vary in wording and say the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from guards.contamination import words
from guards.errors import EvidenceError
from guards.evidence import EvidenceRun
from guards.gates.inputs import GateInputs, comparable_runs
from guards.gates.verdict import Verdict
from guards.policy import CollapseGate
from guards.run_texts import read_texts


@dataclass(frozen=True)
class _Variety:
    """Of one run: share of outputs that are distinct, word entropy in bits, mean output tokens."""

    distinct_share: float
    entropy_bits: float
    mean_tokens: float


@dataclass(frozen=True)
class _Ratio:
    """Candidate over reference, and the limit that the policy sets."""

    name: str
    value: float
    limit: float
    is_upper: bool

    @property
    def holds(self) -> bool:
        return self.value <= self.limit if self.is_upper else self.value >= self.limit


def evaluate_collapse_gate(gate: CollapseGate, inputs: GateInputs) -> Verdict:
    """Compare the variety of outputs; the verdict shows the first ratio that fails, or the first.

    Raises:
        EvidenceError: as :func:`guards.gates.inputs.comparable_runs` and
            :func:`guards.run_texts.read_texts`; ``gate.too-few-items``; ``gate.no-outputs`` for a
            suite that has none, or a reference without variety or length.
    """
    candidate_run, reference_run = comparable_runs(inputs, gate.against, gate.suite)
    n = len(candidate_run.records)
    if n < gate.min_items:
        raise EvidenceError("gate.too-few-items", "there are too few items", got=str(n), expected=str(gate.min_items))
    candidate, reference = _variety(candidate_run), _variety(reference_run)
    if reference.mean_tokens == 0.0 or reference.entropy_bits == 0.0:
        raise EvidenceError(
            "gate.no-outputs", f"the {gate.against}'s outputs on suite {gate.suite!r} are empty or all one word"
        )
    ratios = _ratios(gate, candidate, reference)
    broken = [ratio for ratio in ratios if not ratio.holds]
    shown = (broken or ratios)[0]
    side = "at most" if shown.is_upper else "at least"
    details = {ratio.name: f"{ratio.value:.4f}" for ratio in ratios} | {
        "suite": gate.suite,
        "against": gate.against,
        "distinct_share": f"{candidate.distinct_share:.4f}, {gate.against} {reference.distinct_share:.4f}",
        "entropy_bits": f"{candidate.entropy_bits:.4f}, {gate.against} {reference.entropy_bits:.4f}",
        "mean_tokens": f"{candidate.mean_tokens:.2f}, {gate.against} {reference.mean_tokens:.2f}",
    }
    if broken:
        details["rule"] = "gate.collapse"
    return Verdict(
        gate_id=gate.id,
        kind=gate.kind,
        outcome="fail" if broken else "pass",
        reason=(
            f"the {shown.name} to the {gate.against} must be {side} {shown.limit:g}, and it is {shown.value:.4f}"
            + (f"; {len(broken) - 1} more fail" if len(broken) > 1 else "")
        ),
        observed=shown.value,
        margin=shown.limit,
        n=n,
        policy_line=inputs.policy.gate_lines.get(gate.id, 0),
        details=details,
    )


def _ratios(gate: CollapseGate, candidate: _Variety, reference: _Variety) -> list[_Ratio]:
    distinct = candidate.distinct_share / reference.distinct_share
    entropy = candidate.entropy_bits / reference.entropy_bits
    length = candidate.mean_tokens / reference.mean_tokens
    declared = (
        ("distinct_share_ratio", distinct, gate.min_distinct_share, False),
        ("entropy_ratio", entropy, gate.min_entropy_ratio, False),
        ("length_ratio", length, gate.max_length_ratio, True),
        ("length_ratio", length, gate.min_length_ratio, False),
    )
    return [_Ratio(name, value, limit, upper) for name, value, limit, upper in declared if limit is not None]


def _variety(run: EvidenceRun) -> _Variety:
    text_by_item = read_texts(run)
    outputs = [text_by_item[record.item_id].output for record in run.records]
    if all(output is None for output in outputs):
        raise EvidenceError("gate.no-outputs", f"suite {run.manifest.suite_name!r} has no outputs to compare")
    output_words = [words(output or "") for output in outputs]
    return _Variety(
        distinct_share=len(set(output_words)) / len(output_words),
        entropy_bits=_entropy_bits([word for one in output_words for word in one]),
        mean_tokens=sum(record.n_output_tokens for record in run.records) / len(run.records),
    )


def _entropy_bits(symbols: Sequence[str]) -> float:
    total = len(symbols)
    return max(0.0, -math.fsum(k / total * math.log2(k / total) for k in Counter(symbols).values()))

"""A policy in plain words: what a candidate has to show, and who has to sign."""

from __future__ import annotations

from collections.abc import Iterator

from guards.policy import (
    Approvals,
    BudgetGate,
    CollapseGate,
    ContaminationGate,
    EvalGate,
    Gate,
    IntegrityGate,
    Policy,
    ResolvedPolicy,
)

_WHOSE = {
    "champion": "the champion's",
    "root": "the root's",
    "anchor": "the anchor's (the best certified champion so far)",
}
_PARTS = ("architecture", "tokenizer", "chat_template", "generation_config", "dtype")
_S_PER_H = 3600


def policy_in_words(resolved: ResolvedPolicy) -> Iterator[str]:
    """Paragraphs; those that begin with ``- `` are items of a list."""
    policy = resolved.policy
    yield f"Policy {policy.name} ({resolved.digest}). {policy.description}"
    yield (
        f"To become champion, a candidate that was sealed under this policy has to pass all {len(policy.gates)} gates "
        f"below, and {_approvals_needed(policy.approvals)}."
    )
    yield _looks(policy)
    for gate in policy.gates:
        about = f"{gate.description} " if gate.description else ""
        yield f"- {gate.id} (line {resolved.gate_lines[gate.id]}): {about}{gate_in_words(gate, policy.looks.planned)}"
    yield (
        "If any gate fails, the candidate is rejected, and nothing releases it. If a gate shows neither, the "
        "candidate is held until there is new evidence (another look) or a live waiver; no sign-off replaces a gate."
    )
    yield from _approvals(policy.approvals)
    for waiver in policy.waivers:
        yield (
            f"- Waived until {waiver.expires.isoformat()}: {waiver.gate} of {waiver.candidate}, if it is inconclusive "
            f"({waiver.ticket}, by {', '.join(waiver.approvers)}): {waiver.reason}"
        )


def gate_in_words(gate: Gate, planned_looks: int) -> str:
    """One gate's requirement, in a sentence or two."""
    match gate:
        case EvalGate():
            return _eval(gate, planned_looks)
        case IntegrityGate():
            may = [part for part in _PARTS if part in gate.allow_changes]
            must = [part for part in _PARTS if part not in gate.allow_changes]
            allowed = f", and so may {_listed(may)}" if may else ""
            return f"The weights may differ from {_WHOSE[gate.against]}{allowed}; {_listed(must)} must be the same."
        case CollapseGate():
            return _collapse(gate)
        case ContaminationGate():
            return (
                f"No row that the candidate was trained on equals an item of {_listed(gate.suites)}, and none shares "
                f"{gate.ngram} words in a row with one."
            )
        case BudgetGate():
            tokens = "any number of" if gate.max_tokens_trained is None else f"at most {gate.max_tokens_trained:,}"
            return (
                f"At most {gate.max_cycles_without_person} candidates judged since a person last signed, "
                f"{gate.max_cost_s / _S_PER_H:,.1f} hours of work, and {tokens} trained tokens."
            )


def _eval(gate: EvalGate, planned: int) -> str:
    clusters = f", in the clusters {_listed(gate.clusters)}," if gate.clusters else ""
    whose = _WHOSE.get(gate.against or "", "")
    match gate.claim:
        case "superior_by":
            claim = f"must be higher than {whose}" + (f" by more than {gate.margin:g}" if gate.margin else "")
        case "non_inferior_within":
            claim = f"may be at most {gate.margin:g} lower than {whose}"
        case "at_least":
            claim = f"must be at least {gate.level:g}"
        case "at_most":
            claim = f"may be at most {gate.level:g}"
    pairing = " on the same items" if gate.is_paired else ""
    scale = f" One item's difference counts as {gate.scale:g} at most." if gate.scale else ""
    confidence = f"{100 * (1 - gate.alpha / planned):.4g}%"
    return (
        f"On the suite {gate.suite}{clusters} the candidate's mean {gate.metric} {claim}{pairing}, shown at "
        f"{confidence} confidence, on at least {gate.min_items} items. More than {100 * gate.max_unscored:g}% of them "
        f"without a score fail it.{scale}"
    )


def _collapse(gate: CollapseGate) -> str:
    limits = [
        f"{what} {value:g} times {_WHOSE[gate.against]}"
        for what, value in (
            ("at least as many different outputs as", gate.min_distinct_share),
            ("a word entropy of at least", gate.min_entropy_ratio),
            ("a mean length of at most", gate.max_length_ratio),
            ("a mean length of at least", gate.min_length_ratio),
        )
        if value is not None
    ]
    return f"On the suite {gate.suite}, over at least {gate.min_items} items: {'; '.join(limits)}."


def _looks(policy: Policy) -> str:
    planned = policy.looks.planned
    if planned == 1:
        return "One look is planned, at any candidate, and it may spend the whole alpha; after it nothing can pass."
    return (
        f"{planned} looks are planned, counted over all candidates under this name. Each may spend an even share of "
        f"what is left of a gate's alpha, which is 1/{planned} of it unless an earlier version planned otherwise. "
        "After the last, no gate that compares scores can pass."
    )


def _approvals_needed(approvals: Approvals) -> str:
    if approvals.required == 0:
        return "NOBODY has to approve it (the policy accepts promotion without a person)"
    return f"{_count(approvals.required)} must approve it"


def _approvals(approvals: Approvals) -> Iterator[str]:
    if approvals.required == 0:
        return
    roles = _listed(approvals.roles)
    excluded = f" Whoever was its {' or '.join(approvals.exclude)} may not." if approvals.exclude else ""
    own = " (each by a person of its own)" if len(approvals.roles) > 1 else ""
    yield (
        f"{_count(approvals.required)} must sign exactly these weights, this evidence and this policy, with the "
        f"roles {roles} among them{own}.{excluded} An approval is void {approvals.valid_for_h} hours after it was "
        "signed; one rejection by somebody who may sign blocks the promotion."
    )


def _count(n: int) -> str:
    return "one person" if n == 1 else f"{n} different people"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    shown = [name.replace("_", " ") if name in _PARTS else name for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "nothing"

"""A policy in plain words: what a candidate has to show, and who has to sign."""

from __future__ import annotations

import math
from collections.abc import Iterator

from guards.gates.alpha import alpha_of_look, plan_of
from guards.gates.early_stop import stoppable_suites
from guards.gates.holdouts import alpha_when_all_is_used
from guards.policy import (
    AllOfGate,
    AnyOfGate,
    Approvals,
    BudgetGate,
    CollapseGate,
    ContaminationGate,
    DriftGate,
    EvalGate,
    Gate,
    IntegrityGate,
    Judge,
    OnlyIfGate,
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
    yield from _stops(policy)
    yield from _holdouts(policy)
    for gate, _ in policy.gates_with_paths():
        about = f"{gate.description} " if gate.description else ""
        yield f"- {gate.id} (line {resolved.gate_lines[gate.id]}): {about}{gate_in_words(gate, policy)}"
    for name, judge in policy.judges.items():
        yield _judge(name, judge)
    yield (
        "If any gate fails, the candidate is rejected, and nothing releases it. If a gate shows neither, the "
        "candidate is held until there is new evidence (another look) or a live waiver; no sign-off replaces a gate."
    )
    yield from _approvals(policy.approvals)


def gate_in_words(gate: Gate, policy: Policy) -> str:
    """One gate's requirement, in a sentence or two. A member of another gate is named there, and has its own."""
    match gate:
        case EvalGate():
            return _eval(gate, policy)
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
        case DriftGate():
            return _drift(gate)
        case AllOfGate():
            return f"Passes if all of its members do, and fails if one does: {_listed(_ids(gate.gates))} (below)."
        case AnyOfGate():
            return (
                f"Passes if one of its members does, each at 1/{len(gate.gates)} of its alpha, and fails if all do: "
                f"{_listed(_ids(gate.gates))} (below)."
            )
        case OnlyIfGate():
            return (
                f"Asks {gate.then.id} (below), unless {gate.condition.id} (below) fails; then it does not apply, and "
                "passes."
            )


def _ids(gates: tuple[Gate, ...]) -> list[str]:
    return [gate.id for gate in gates]


def _eval(gate: EvalGate, policy: Policy) -> str:
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
    items, them, grouped = "items", "them", ""
    if gate.group_by is not None:
        items, them = "sources", "the items"
        shared = "a cluster" if gate.group_by == "cluster" else f"the tag {gate.group_by.removeprefix('tag:')}"
        grouped = f" Items that share {shared} count as one source, by their mean."
    judged = f" The judge {gate.judge} says it (its errors enter the test; see below)." if gate.judge else ""
    return (
        f"On the suite {gate.suite}{clusters} the candidate's mean {gate.metric} {claim}{pairing}, shown at "
        f"{_confidence(gate, policy)} confidence, on at least {gate.min_items} {items}. More than "
        f"{100 * gate.max_unscored:g}% of {them} without a score fail it.{scale}{grouped}{judged}"
    )


def _confidence(gate: EvalGate, policy: Policy) -> str:
    """That of the first look, and where it becomes another, of the last planned one."""
    first = alpha_of_look(gate.id, plan_of(policy), ())
    last = alpha_when_all_is_used(policy, gate)
    if first == last:
        return _percent(float(first))
    holdout = policy.holdouts.get(gate.suite)
    when = "at the last planned look" if holdout is None else f"at read {holdout.reads} of its items"
    return f"{_percent(float(first))} (first look) to {_percent(float(last))} ({when})"


def _percent(alpha: float) -> str:
    """The confidence 1 - alpha, with two digits of alpha: 99.38%, 99.9976%."""
    n_decimals = max(0, -math.floor(math.log10(100 * alpha)) + 1)
    return f"{100 * (1 - alpha):.{n_decimals}f}%"


def _judge(name: str, judge: Judge) -> str:
    known = judge.calibration[judge.family]
    return (
        f"The judge {name} was checked on {judge.family}: it found {known.detected} of {known.positives} positives and "
        f"cleared {known.cleared} of {known.negatives} negatives. A tenth of alpha each goes into lower bounds for "
        f"both; below {judge.min_sensitivity:g} or {judge.min_specificity:g} the gates that use it show nothing."
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


def _drift(gate: DriftGate) -> str:
    rows = (
        "A candidate whose training rows cannot be searched for triggers is held too."
        if gate.training_rows == "required"
        else "Training rows that cannot be searched for triggers do not hold it."
    )
    dose = "more than any of these fine-tunes" + (
        " was, or less" if gate.smaller_dose == "inconclusive" else " was (less is allowed)"
    )
    return (
        f"What changed inside the model, on at least {gate.min_documents} documents, is compared with the harmless "
        f"fine-tunes of the root in the bank {gate.bank}. Of all these and the candidate, the share that changed as "
        f"unusually as the candidate is p. It fails at p {gate.block_at:g} or below, and is held at {gate.review_at:g} "
        f"or below: so often would a harmless candidate like these be stopped, at every look anew. One that was "
        f"trained {dose}, is held. {rows}"
    )


def _looks(policy: Policy) -> str:
    planned = policy.looks.planned
    if policy.looks.spending == "unbounded":
        return (
            "Looks are counted over all candidates under this name, and there is no last one: look t may spend "
            "6 / (pi t)^2 of a gate's alpha (61%, 15%, 7%, ...), less what edits between looks cost."
        )
    if planned == 1:
        return "One look is planned, at any candidate, and it may spend the whole alpha; after it nothing can pass."
    if policy.looks.spending == "even":
        shares = (
            "Each may spend an even share of what is left of a gate's alpha, which is "
            f"1/{planned} of it unless an earlier version planned otherwise."
        )
    else:
        early = "little early and most late" if policy.looks.spending == "obrien-fleming" else "about evenly"
        shares = f"They spend a gate's alpha {early} ({policy.looks.spending})."
    return (
        f"{planned} looks are planned, counted over all candidates under this name. {shares} "
        "After the last, no gate that compares scores can pass."
    )


def _stops(policy: Policy) -> Iterator[str]:
    suites = sorted(stoppable_suites(policy))
    if policy.looks.stop_early is None:
        return
    if not suites:
        yield "Suites may be stopped early, but none can be here: some gate reads each of them whole."
        return
    yield (
        f"Items of {_listed(suites)} are answered in {policy.looks.stop_early.blocks} parts, and no further once the "
        "rest could change no verdict."
    )


def _holdouts(policy: Policy) -> Iterator[str]:
    if not policy.holdouts:
        return
    reads = [f"{name} {holdout.reads} times" for name, holdout in policy.holdouts.items()]
    yield (
        f"Some suites ask the same items at every look, and may be read so often: {_listed(reads)}. Looks under "
        "policies of any name in this home count. Each read halves what its tests may spend; after the last no test on "
        "the suite can pass until its items are replaced."
    )


def _approvals_needed(approvals: Approvals) -> str:
    if approvals.required == 0:
        return "NOBODY has to approve it (the policy accepts promotion without a person)"
    return f"{_count(approvals.required)} must approve it"


def _approvals(approvals: Approvals) -> Iterator[str]:
    if approvals.required == 0:
        return
    roles = _listed(approvals.roles)
    excluded = f" Whoever was its {_excluded(approvals)} may not." if approvals.exclude else ""
    own = " (each by a person of its own)" if len(approvals.roles) > 1 else ""
    yield (
        f"{_count(approvals.required)} must sign exactly these weights, this evidence and this policy, with the "
        f"roles {roles} among them{own}.{excluded} An approval is void {approvals.valid_for_h} hours after it was "
        "signed; one rejection by somebody who may sign blocks the promotion."
    )


def _excluded(approvals: Approvals) -> str:
    words = {"policy_author": "policy's author"}
    return " or ".join(words.get(part, part) for part in approvals.exclude)


def _count(n: int) -> str:
    return "one person" if n == 1 else f"{n} different people"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    shown = [name.replace("_", " ") if name in _PARTS else name for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "nothing"

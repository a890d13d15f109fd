"""Counterexamples to "NEW is as strict as OLD": evidence that NEW passes and OLD does not.

For each gate that an edit makes looser or incomparable, evidence is varied along the lines that the
gate reads (more losses, more unscored items, fewer items, another length of outputs, a later look),
up to where NEW still passes it, and OLD is asked about the same. Every answer is that of
:func:`guards.authoring.policy_cases.run_case`, so that what is shown has been evaluated under both policies as
real evidence is.

Not covered: a looser gate for which none is found. That shows nothing; an edit is judged by
:mod:`guards.policy_order`, and never by this search. No evidence tells apart two versions of a suite, or
who must sign. Drift gates: the policies that are compared may come from the log, which has no banks, so none
is looked for, and the cases for other gates leave them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from guards.authoring.case_model import (
    Case,
    CaseEvidence,
    Expectation,
    ExpectedVerdict,
    Items,
    SuiteEvidence,
)
from guards.authoring.counterexample_lines import (
    Line,
    all_bad,
    between_lines,
    budget_lines,
    collapse_lines,
    contamination_lines,
    eval_lines,
    losses_line,
    with_good,
)
from guards.authoring.policy_cases import run_case
from guards.canonical import canonical_bytes, sha256_bytes
from guards.errors import StairlockError
from guards.policy import (
    BudgetGate,
    Change,
    CollapseGate,
    CompositeGate,
    ContaminationGate,
    DriftGate,
    EvalGate,
    Gate,
    IntegrityGate,
    LeafGate,
    Policy,
    ResolvedPolicy,
    recorded_body,
    suites_of,
)
from guards.policy_order import PolicyChange

N_ITEMS = (240, 960)
"""Numbers of items that are tried, the usual one first."""

_NO_EVIDENCE = frozenset({"name", "suites", "approvals", "waivers", "schema"})
_CHANGES: tuple[Change, ...] = ("architecture", "tokenizer", "chat_template", "generation_config", "dtype")


def counterexamples(change: PolicyChange, old: Policy, new: Policy) -> tuple[Case | None, ...]:
    """For each of the change's items a case that NEW passes and OLD does not, where one was found.

    It stands at the first looser item of its gate.
    """
    search = Search(old, new)
    found: dict[str, Case | None] = {}
    cases: list[Case | None] = []
    for item in change.items:
        case = None
        place = item.gate or item.where
        if item.change in ("looser", "incomparable") and place not in found:
            found[place] = case = search.of_gate(item.gate) if item.gate else search.of_policy(item.where)
        cases.append(case)
    return tuple(cases)


def as_recorded(policy: Policy) -> ResolvedPolicy:
    """A policy whose suites are digests already, as what gates are given; its banks are not at hand."""
    data = canonical_bytes(recorded_body(policy))
    return ResolvedPolicy(
        policy=policy,
        digest=sha256_bytes(data),
        source=Path("policy"),
        gate_lines={},
        suite_digests=dict(policy.suites),
        kit_digests=dict(policy.kits),
        canonical_json=data.decode("utf-8"),
    )


class Search:
    """Both policies, and what to try on them: evidence with ``n_items`` items in every suite."""

    def __init__(self, old: Policy, new: Policy, *, n_items: Sequence[int] = N_ITEMS) -> None:
        self._old, self._new, self._n_items = old, new, n_items
        planned = [old.looks.planned, new.looks.planned]
        self._looks = tuple(dict.fromkeys((1, 2, min(planned), min(planned) + 1)))

    def of_gate(self, gate_id: str, *, is_same_gate: bool = False, reads: Sequence[str] = ()) -> Case | None:
        """For one top-level gate of either policy; ``reads`` are holdouts that were read as often as can be."""
        old, new = self._old.gate(gate_id), self._new.gate(gate_id)
        if old is None:
            return None
        judges = (_asking(self._old, old), None if new is None else _asking(self._new, new))
        pairs = _leaf_pairs(old, new)
        for n in self._n_items:
            for line in self._policy_lines(pairs, n, reads) if is_same_gate else self._lines(pairs, n):
                for look in self._looks if line.is_tested and n == self._n_items[0] else (1,):
                    found = self._along(line, judges, gate_id, look)
                    if found is not None:
                        return found
        return None

    def of_policy(self, where: str) -> Case | None:
        """For what belongs to no gate: the looks, holdouts and judges."""
        place, _, name = where.partition(".")
        name = name.partition(".")[0]
        if place in _NO_EVIDENCE:
            return None
        for gate in self._old.gates:
            tests = [leaf for leaf in _leaves(gate) if isinstance(leaf, EvalGate)]
            if place == "holdouts":
                tests = [leaf for leaf in tests if leaf.suite == name]
            elif place == "judges":
                tests = [leaf for leaf in tests if leaf.judge == name]
            if tests and self._new.gate(gate.id) is not None:
                reads = (name,) if place == "holdouts" else ()
                found = self.of_gate(gate.id, is_same_gate=True, reads=reads)
                if found is not None:
                    return found
        return None

    def _along(
        self, line: Line, judges: tuple[ResolvedPolicy, ResolvedPolicy | None], gate_id: str, look: int
    ) -> Case | None:
        old, new = judges
        worst = _last(line.most, lambda k: new is None or _outcome(new, line.at(k), look) == "pass")
        if worst is None or _outcome(old, line.at(worst), look) in (None, "pass"):
            return None
        return self._shown(line.at(worst), gate_id, look, is_gone=new is None)

    def _shown(self, evidence: CaseEvidence, gate_id: str, look: int, *, is_gone: bool) -> Case | None:
        """The case, if both whole policies say so too."""
        case = Case(
            name="NEW passes this and OLD does not",
            look=look,
            evidence=evidence,
            expect=Expectation(gates={} if is_gone else {gate_id: "pass"}, others="any"),
        )
        said = self._said(case, gate_id)
        if said is None or said[0] == "pass" or said[1].get(gate_id, "pass") != "pass":
            return None
        for smaller in _without_one_part(evidence):
            trial = case.model_copy(update={"evidence": smaller(case.evidence)})
            if self._said(trial, gate_id) == said:
                case = trial
        outcome, new = said
        name = f"NEW passes this; in OLD {gate_id} {'fails' if outcome == 'fail' else 'is inconclusive'}"
        expected: dict[str, ExpectedVerdict] = {
            **case.expect.gates,
            **{one: said for one, said in new.items() if said != "pass"},
        }
        return case.model_copy(update={"name": name, "expect": Expectation(gates=expected)})

    def _said(self, case: Case, gate_id: str) -> tuple[ExpectedVerdict, dict[str, ExpectedVerdict]] | None:
        """What OLD says at the gate, and NEW at every gate; None where there is no such evidence."""
        try:
            return (
                _outcomes(_without_drift(self._old, gate_id), case)[gate_id],
                _outcomes(_without_drift(self._new, gate_id), case),
            )
        except StairlockError:
            return None

    # What is tried

    def _lines(self, pairs: Sequence[tuple[LeafGate | None, LeafGate | None]], n: int) -> Iterator[Line]:
        good = self._all_good(n)
        for old, new in pairs:
            # The members beside it must not decide in its place.
            others = [one for pair in pairs if pair != (old, new) for one in pair if one is not None]
            bases = [good, all_bad(good, others, n)] if others else [good]
            fields = _changed_fields(old, new)
            for base in bases:
                if isinstance(old, EvalGate) and isinstance(new, EvalGate):
                    yield from between_lines(old, new, base, n)
                for gate in (new, old):
                    if gate is not None:
                        yield from self._lines_of(gate, fields, base, n, is_member=bool(others))

    def _policy_lines(
        self, pairs: Sequence[tuple[LeafGate | None, LeafGate | None]], n: int, reads: Sequence[str]
    ) -> Iterator[Line]:
        """For gates that are alike in both policies: more and more losses, and holdouts that are nearly spent."""
        bases = [self._all_good(n)]
        for suite in reads:
            limits = [p.holdouts[suite].reads for p in (self._old, self._new) if suite in p.holdouts]
            bases += [bases[0].model_copy(update={"holdout_reads": {suite: k}}) for k in sorted({1, *limits})]
        for base in bases:
            for gate in (leaf for _, leaf in pairs):
                if isinstance(gate, EvalGate):
                    yield losses_line(gate, base, n)

    def _lines_of(
        self, gate: LeafGate, fields: frozenset[str], base: CaseEvidence, n: int, *, is_member: bool
    ) -> Iterator[Line]:
        match gate:
            case EvalGate():
                yield from eval_lines(gate, fields, base, n, is_member=is_member)
            case IntegrityGate():
                for change in _CHANGES:
                    yield Line(lambda _, change=change: base.model_copy(update={"changed": (change,)}), 0)
                yield Line(lambda _: base.model_copy(update={"missing": ("files",)}), 0)
            case CollapseGate():
                yield from collapse_lines(gate, fields, base, n)
            case ContaminationGate():
                yield from contamination_lines(gate, base)
            case BudgetGate():
                yield from budget_lines(gate, base)
            case DriftGate():
                return

    def _all_good(self, n: int) -> CaseEvidence:
        """Evidence that every gate of both policies passes, as far as one evidence can please them all."""
        clusters: dict[str, set[str]] = {}
        for policy in (self._old, self._new):
            for gate in policy.leaf_gates():
                for suite in suites_of(gate):
                    named = gate.clusters if isinstance(gate, EvalGate) else None
                    clusters.setdefault(suite, set()).update(named or ())
        suites = {
            suite: SuiteEvidence(n=n, clusters={name: Items(n=n) for name in sorted(names)})
            for suite, names in clusters.items()
        }
        unread = dict.fromkeys((*self._old.holdouts, *self._new.holdouts), 0)
        evidence = CaseEvidence(suites=suites, holdout_reads=unread)
        for policy in (self._old, self._new):  # where they disagree, NEW is to be pleased
            for gate in policy.leaf_gates():
                if isinstance(gate, EvalGate):
                    evidence = with_good(evidence, gate, n)
        return evidence


# Machinery


def _without_one_part(evidence: CaseEvidence) -> Iterator[Callable[[CaseEvidence], CaseEvidence]]:
    """Ways to say less: what a case leaves out is as the champion, and all passed."""
    for suite in evidence.suites:
        yield lambda one, suite=suite: one.model_copy(
            update={"suites": {name: part for name, part in one.suites.items() if name != suite}}
        )
    yield lambda one: one.model_copy(update={"holdout_reads": {}})


def _leaves(gate: Gate | None) -> tuple[LeafGate, ...]:
    if gate is None:
        return ()
    if isinstance(gate, CompositeGate):
        return tuple(leaf for member in gate.members for leaf in _leaves(member))
    return (gate,)


def _leaf_pairs(old: Gate, new: Gate | None) -> list[tuple[LeafGate | None, LeafGate | None]]:
    """The leaves of both, paired by id; those that differ first."""
    before, after = {leaf.id: leaf for leaf in _leaves(old)}, {leaf.id: leaf for leaf in _leaves(new)}
    pairs = [(before.get(leaf_id), after.get(leaf_id)) for leaf_id in dict.fromkeys((*before, *after))]
    return sorted(pairs, key=lambda pair: pair[0] == pair[1])


def _changed_fields(old: LeafGate | None, new: LeafGate | None) -> frozenset[str]:
    """The fields in which two gates differ; all of them where one is not there."""
    gate = old if old is not None else new
    assert gate is not None
    names = type(gate).model_fields
    if old is None or new is None or type(old) is not type(new):
        return frozenset() if isinstance(gate, EvalGate) else frozenset(names)
    return frozenset(name for name in names if getattr(old, name) != getattr(new, name))


def _asking(policy: Policy, gate: Gate) -> ResolvedPolicy:
    """The policy with this gate alone, so that it is quickly asked."""
    return as_recorded(policy.model_copy(update={"gates": (gate,)}))


def _without_drift(policy: Policy, gate_id: str) -> ResolvedPolicy:
    """The policy without the gates that need a bank, unless it is the one that is asked about."""
    gates = [
        gate
        for gate in policy.gates
        if gate.id == gate_id or not any(isinstance(leaf, DriftGate) for leaf in _leaves(gate))
    ]
    return as_recorded(policy.model_copy(update={"gates": tuple(gates)}))


def _outcomes(policy: ResolvedPolicy, case: Case) -> dict[str, ExpectedVerdict]:
    return {verdict.gate_id: verdict.outcome for verdict in run_case(policy, case).verdicts}


def _outcome(policy: ResolvedPolicy, evidence: CaseEvidence, look: int) -> str | None:
    """What the policy's one gate says; None where there is no such evidence."""
    case = Case(name="a trial", look=look, evidence=evidence, expect=Expectation(others="any"))
    try:
        return run_case(policy, case).verdicts[0].outcome
    except (StairlockError, ValueError):
        return None


def _last(most: int, passes: Callable[[int], bool]) -> int | None:
    """The largest number up to which it passes, taken to pass nowhere beyond; None if it does not pass at 0."""
    if passes(most):
        return most
    if most == 0 or not passes(0):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low

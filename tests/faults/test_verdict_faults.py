"""Named faults of verdicts that were not made by the gates: composites and figures that contradict themselves.

Each is refused where verdicts are recorded, and where a log that holds it is verified.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from guards import actions
from guards.entries import VerdictRecorded
from guards.errors import LedgerError
from guards.gates.alpha import rounded_down
from guards.gates.contradictions import contradictions
from guards.gates.table_verdict import threshold
from guards.gates.verdict import Verdict
from guards.policy import CompositeGate, EvalGate, Gate
from tests.gate_world import EVAL_GATE, make_policy
from tests.store_world import UNATTENDED_APPROVALS, World, make_world, rule_of

PLANNED = 2
ALPHA = Fraction("0.05")
ONE, TWO = {**EVAL_GATE, "id": "one"}, {**EVAL_GATE, "id": "two"}
BUDGET = {"id": "budget", "kind": "budget", "max_cycles_without_person": 9, "max_cost_s": 100}
INTEGRITY = {"id": "integrity", "kind": "integrity"}
WHOLES: dict[str, dict[str, Any]] = {
    "all_of": {"id": "whole", "kind": "all_of", "gates": [ONE, BUDGET]},
    "any_of": {"id": "whole", "kind": "any_of", "gates": [ONE, TWO]},
    "only_if": {"id": "whole", "kind": "only_if", "condition": INTEGRITY, "then": ONE},
    "nested": {"id": "whole", "kind": "all_of", "gates": [{"id": "in", "kind": "any_of", "gates": [ONE, TWO]}, BUDGET]},
}


def world_with(tmp_path: Path, gate: dict[str, Any], **changes: Any) -> World:
    """A home whose policy has this gate alone, and plans two looks."""
    world = make_world(tmp_path)
    options = {"planned": PLANNED, "approvals": UNATTENDED_APPROVALS} | changes
    world.policy = make_policy(tmp_path / "own", gate, name="own", **options)
    world.set_root()
    return world


def said(gate: Gate, outcome: str, **figures: Any) -> Verdict:
    """The gate and all of its members say ``outcome``; tests with the figures given."""
    members = gate.members if isinstance(gate, CompositeGate) else ()
    body: dict[str, Any] = {"gate_id": gate.id, "kind": gate.kind, "outcome": outcome, "reason": "so it is"}
    if isinstance(gate, EvalGate):
        body |= {"alpha": 1e-9, "bound": threshold(gate) + 0.01} | figures
    return Verdict.model_validate(body | {"members": tuple(said(member, outcome, **figures) for member in members)})


def refused(world: World, *verdicts: Verdict) -> str:
    """The rule by which the verdicts are not recorded; a log that has them does not verify."""
    candidate = world.seal("candidate")
    draw = world.draw(candidate)
    world.record_all_evidence(draw)
    rule = rule_of(lambda: record(world, candidate, verdicts))
    with world.store.write() as transaction:
        evidence = str(transaction.history.evidence_digest(draw.look_seq))
        for verdict in verdicts:
            body = VerdictRecorded(
                candidate=candidate,
                policy=draw.policy,
                look_seq=draw.look_seq,
                evidence=evidence,
                gate=verdict.gate_id,
                outcome=verdict.outcome,
                figures=verdict.to_ledger(),
            )
            transaction.append("forger", body)
    with pytest.raises(LedgerError) as refusal:
        world.store.verify()
    assert refusal.value.rule == "ledger.not-allowed"
    return rule


def record(world: World, candidate: str, verdicts: Sequence[Verdict]) -> object:
    return actions.record_verdicts(world.store, candidate=candidate, verdicts=verdicts, actor="runner")


@pytest.mark.parametrize("kind", WHOLES)
def test_members_pass_at_what_the_look_leaves_them_and_not_at_more(tmp_path: Path, kind: str) -> None:
    world = world_with(tmp_path, WHOLES[kind])
    (gate,) = world.policy.policy.gates
    left = rounded_down(ALPHA / PLANNED / (2 if kind in ("any_of", "nested") else 1))
    candidate = world.seal("fine")
    world.record_all_evidence(world.draw(candidate))
    assert record(world, candidate, [said(gate, "pass", alpha=left)])
    world.store.verify()
    assert refused(world, said(gate, "pass", alpha=left * 1.000001)) == "actions.alpha-overspent"


@pytest.mark.parametrize("kind", WHOLES)
def test_members_do_not_pass_beyond_the_planned_looks(tmp_path: Path, kind: str) -> None:
    world = world_with(tmp_path, WHOLES[kind])
    for number in range(4):
        world.draw(world.seal(f"before {number}"))
    (gate,) = world.policy.policy.gates
    assert refused(world, said(gate, "pass", alpha=1e-12)) == "actions.alpha-overspent"


def changed(verdict: Verdict, **update: Any) -> Verdict:
    return verdict.model_copy(update=update)


COMPOSITES: dict[str, Callable[[Verdict], Verdict]] = {
    "no members": lambda whole: changed(whole, members=()),
    "one member": lambda whole: changed(whole, members=whole.members[:1]),
    "a member twice": lambda whole: changed(whole, members=(whole.members[0], whole.members[0])),
    "members in another order": lambda whole: changed(whole, members=whole.members[::-1]),
    "a member of another id": lambda whole: changed(
        whole, members=(changed(whole.members[0], gate_id="other"), whole.members[1])
    ),
    "a member of another kind": lambda whole: changed(
        whole, members=(changed(whole.members[0], kind="budget"), whole.members[1])
    ),
    "one member too many": lambda whole: changed(whole, members=(*whole.members, whole.members[1])),
    "a member with members": lambda whole: changed(
        whole, members=(changed(whole.members[0], members=whole.members), whole.members[1])
    ),
}


@pytest.mark.parametrize("fault", COMPOSITES)
@pytest.mark.parametrize("kind", ["all_of", "any_of"])
def test_a_composite_holds_one_verdict_of_each_member(tmp_path: Path, kind: str, fault: str) -> None:
    world = world_with(tmp_path, WHOLES[kind])
    (gate,) = world.policy.policy.gates
    assert refused(world, COMPOSITES[fault](said(gate, "pass"))) == "actions.verdict-contradicts"


@pytest.mark.parametrize("outcome", ["pass", "fail", "inconclusive"])
@pytest.mark.parametrize("kind", WHOLES)
def test_a_composite_says_what_follows_from_its_members(tmp_path: Path, kind: str, outcome: str) -> None:
    policy = make_policy(tmp_path, WHOLES[kind]).policy
    (gate,) = policy.gates
    whole = said(gate, outcome)
    follows = "pass" if (kind, outcome) == ("only_if", "fail") else outcome
    for claimed in ("pass", "fail", "inconclusive"):
        found = list(contradictions(policy, [changed(whole, outcome=claimed)]))
        if kind == "nested" or claimed == follows:
            assert (found == []) == (claimed == follows)
        else:
            assert len(found) == 1 and f"whole says {claimed}, and {follows} follows" in found[0]


def test_a_nested_composite_says_what_follows_from_its_members(tmp_path: Path) -> None:
    world = world_with(tmp_path, WHOLES["nested"])
    (gate,) = world.policy.policy.gates
    whole = said(gate, "pass")
    inner = changed(whole.members[0], members=tuple(changed(one, outcome="fail") for one in whole.members[0].members))
    assert refused(world, changed(whole, members=(inner, whole.members[1]))) == "actions.verdict-contradicts"


CLAIMS: dict[str, tuple[dict[str, Any], float, float]] = {
    "non_inferior_within": ({"margin": 0.1}, -0.1, -0.1 - 1e-6),
    "superior_by": ({"margin": 0.02}, 0.02, 0.02 - 1e-6),
    "superior_by 0": ({"margin": 0.0}, 0.0, -1e-6),
    "at_least": ({"level": 0.7, "margin": None, "against": None}, 0.7, 0.7 - 1e-6),
    "at_most": ({"level": 0.3, "margin": None, "against": None}, 0.3, 0.3 + 1e-6),
    "scaled": ({"margin": 1.0, "scale": 10.0, "claim": "non_inferior_within"}, -1.0, -1.0001),
}


@pytest.mark.parametrize("is_member", [False, True], ids=["alone", "member"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_test_passes_with_a_bound_that_clears_what_the_policy_asks(
    tmp_path: Path, claim: str, is_member: bool
) -> None:
    shape, clears, fails_to = CLAIMS[claim]
    test = {**ONE, "claim": claim.split()[0], **shape}
    world = world_with(tmp_path, {**WHOLES["all_of"], "gates": [test, BUDGET]} if is_member else test)
    (gate,) = world.policy.policy.gates
    candidate = world.seal("fine")
    world.record_all_evidence(world.draw(candidate))
    assert record(world, candidate, [said(gate, "pass", bound=clears)])
    world.store.verify()
    assert list(contradictions(world.policy.policy, [said(gate, "fail", bound=fails_to)])) == []
    assert refused(world, said(gate, "pass", bound=fails_to)) == "actions.verdict-contradicts"


def test_a_pass_without_a_bound_needs_a_suite_that_is_stopped_early(tmp_path: Path) -> None:
    world = world_with(tmp_path / "whole", ONE)
    verdict = said(world.policy.policy.gates[0], "pass", bound=None)
    assert refused(world, verdict) == "actions.verdict-contradicts"
    early = {"planned": PLANNED, "stop_early": {"blocks": 4}}
    stopped = make_policy(tmp_path / "early", ONE, looks=early).policy
    assert list(contradictions(stopped, [verdict])) == []
    collapse = {"id": "c", "kind": "collapse", "suite": "refusal", "against": "root", "min_items": 2}
    read_whole = make_policy(tmp_path / "read", ONE, {**collapse, "min_distinct_share": 0.5}, looks=early).policy
    assert len(list(contradictions(read_whole, [verdict]))) == 1


def test_a_verdict_that_nests_without_end_is_no_verdict() -> None:
    body: dict[str, Any] = {"gate_id": "g", "kind": "all_of", "outcome": "pass", "reason": "so it is"}
    for _ in range(5000):
        body = {**body, "members": [body]}
    assert rule_of(lambda: Verdict.from_ledger(body)) == "gate.bad-verdict"
    assert rule_of(lambda: Verdict.from_ledger({**body, "members": "all"})) == "gate.bad-verdict"

"""A drift gate in a home: its evidence and verdict go through the actions, and the log replays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guards import actions
from guards.canonical import sha256_bytes
from guards.gates.evaluate import evaluate_gates
from guards.gates.inputs import GateInputs
from guards.policy import ResolvedPolicy, resolve_policy
from guards.policy_order import compare
from guards.replay.walk import replay
from tests.drift_gate_world import GATE, bank_body, write_audit
from tests.gate_world import policy_body, write_policy
from tests.store_world import GATES, World, make_world, rule_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path)
    world.set_root()
    return world


def with_drift_gate(world: World) -> ResolvedPolicy:
    """The world's policy with a drift gate more, of a bank of its root; in force."""
    bank = bank_body()
    bank["kit"]["parent_digest"] = world.checkpoint("root")
    folder = world.base / "policy-with-drift"
    folder.mkdir()
    (folder / "bank.json").write_text(json.dumps(bank))
    path = write_policy(folder, policy_body(*GATES, GATE, planned=8, banks={"drift-bank": "bank.json"}))
    policy = resolve_policy(path)
    assert compare(world.policy.resolved, policy.resolved).overall == "stricter"
    actions.record_policy(world.store, policy=policy, actor="runner")
    actions.adopt_policy(world.store, policy=policy.digest, actor="runner", roles=world.roles)
    world.policy = policy
    return policy


@pytest.mark.parametrize(("refusal", "outcome"), [(0.5, "pass"), (-9.0, "fail")])
def test_a_look_with_a_drift_gate(world: World, refusal: float, outcome: str) -> None:
    policy = with_drift_gate(world)
    candidate = world.seal("one")
    draw = world.draw(candidate)
    bank = policy.banks["drift-bank"]
    values = bank.median_vector() | {"refusal": refusal}
    manifest = {"checkpoint_digest": candidate, "draw_seed_digest": draw.seed_digest}
    run = write_audit(world.store.home / "evidence" / "audit", bank, values, **manifest)
    world.record_all_evidence(draw)
    world.record_evidence(draw, "candidate", run.directory)
    inputs = GateInputs(
        policy=policy,
        look=draw.look,
        draw_seed_digest=draw.seed_digest,
        checkpoints={"candidate": candidate, "root": world.checkpoint("root")},
        runs={("candidate", "drift-bank"): run},
    )
    verdict = evaluate_gates(inputs)[-1]
    assert (verdict.kind, verdict.outcome) == ("drift", outcome)
    others = world.verdicts("pass", bound=0.05)[:-1]
    actions.record_verdicts(world.store, candidate=candidate, verdicts=[*others, verdict], actor="runner")
    decision = actions.record_decision(world.store, candidate=candidate, actor="runner", roles=world.roles)
    assert decision.body.outcome == {"pass": "hold", "fail": "reject"}[outcome]
    with world.store.read() as history:
        entries = list(history.entries())
    assert replay(entries) == len(entries)


def test_evidence_with_another_kit_is_not_recorded(world: World) -> None:
    policy = with_drift_gate(world)
    draw = world.draw(candidate := world.seal("one"))
    bank = policy.banks["drift-bank"]
    right = {"checkpoint_digest": candidate, "draw_seed_digest": draw.seed_digest}
    for number, changes in enumerate(({"suite_digest": sha256_bytes(b"another kit")}, {"suite_name": "drift"})):
        where = world.store.home / "evidence" / f"wrong-{number}"
        run = write_audit(where, bank, bank.median_vector(), **right, **changes)
        assert rule_of(lambda run=run: world.record_evidence(draw, "candidate", run.directory)) == "actions.other-suite"


def test_a_pass_whose_p_does_not_allow_it_is_not_recorded(world: World) -> None:
    policy = with_drift_gate(world)
    draw = world.draw(candidate := world.seal("one"))
    world.record_all_evidence(draw)
    verdicts = world.verdicts("pass", bound=0.05)
    assert policy.policy.gates[-1].kind == "drift"
    forged = verdicts[-1].model_copy(update={"observed": 0.01})
    refused = rule_of(
        lambda: actions.record_verdicts(
            world.store, candidate=candidate, verdicts=[*verdicts[:-1], forged], actor="runner"
        )
    )
    assert refused == "actions.verdict-contradicts"

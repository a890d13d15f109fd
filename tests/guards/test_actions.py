"""Every action: what it allows, what it refuses and by which rule, and that doing it twice is doing it once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guards import actions
from guards.canonical import sha256_bytes
from guards.entries import Halted, PolicyRecorded, Promoted, Sealed, SeedDrawn
from guards.errors import StairlockError
from guards.evidence import Cost
from guards.policy import ResolvedPolicy
from guards.roles import Roles
from guards.signing import public_key_of
from tests.gate_world import make_policy
from tests.store_world import GATES, UNATTENDED_APPROVALS, World, make_world, person

DIGEST = "sha256:" + "0" * 64


def rule_of(action: Callable[[], object]) -> str:
    with pytest.raises(StairlockError) as refusal:
        action()
    return refusal.value.rule


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two people must approve: a reviewer and somebody who keeps safety."""
    world = make_world(tmp_path)
    world.set_root()
    return world


@pytest.fixture
def sandbox(tmp_path: Path) -> World:
    """Nobody has to approve."""
    world = make_world(tmp_path, approvals=UNATTENDED_APPROVALS)
    world.set_root()
    return world


def other_policy(world: World, name: str = "test", **changes: Any) -> ResolvedPolicy:
    policy = make_policy(world.base / f"policy-{len(changes)}-{name}", *GATES, planned=9, name=name, **changes)
    actions.record_policy(world.store, policy=policy, actor="runner")
    return policy


# The whole way


def test_a_candidate_goes_the_whole_way(world: World):
    candidate = world.seal("one")
    assert world.gate(candidate).kind == "hold"
    world.sign(candidate, "ana")
    world.sign(candidate, "bo")
    promoted = world.promote("one")
    assert promoted.body.approvers == ("ana", "bo")
    assert not promoted.body.unattended
    assert promoted.body.champion_before == world.checkpoint("root")
    assert world.champion() == candidate
    assert world.kinds() == [
        *("genesis", "policy", "root", "sealed", "seed"),
        *("evidence", "evidence", "evidence", "evidence", "verdict", "verdict"),
        *("hold", "signoff", "signoff", "promote", "promoted"),
    ]
    assert world.store.verify().size == 16


def test_without_required_approvals_the_entry_says_that_nobody_looked(sandbox: World):
    candidate = sandbox.seal("one")
    assert sandbox.gate(candidate).kind == "promote"
    promoted = sandbox.promote("one")
    assert promoted.body.unattended
    assert promoted.body.approvers == ()


@pytest.mark.parametrize(
    ("outcomes", "kind", "waits_for"),
    [
        (("pass", "pass"), "hold", "approvals"),
        (("pass", "inconclusive"), "hold", "evidence"),
        (("inconclusive", "fail"), "reject", "nothing"),
        (("fail", "pass"), "reject", "nothing"),
    ],
)
def test_the_decision_is_the_tables(world: World, outcomes: tuple[str, ...], kind: str, waits_for: str):
    decision = world.gate(world.seal("one"), *outcomes)
    assert (decision.kind, decision.body.waits_for) == (kind, waits_for)
    assert decision.body.reasons


def test_doing_everything_twice_writes_nothing_twice(world: World):
    def the_whole_way() -> None:
        world.set_root()
        actions.start_run(world.store, run="r", config=DIGEST, plan={"cycles": 1}, actor="runner")
        attempt = actions.start_step(world.store, spec=DIGEST, step="train", actor="runner")
        actions.finish_step(
            world.store, spec=DIGEST, attempt=attempt.number, outcome="done", outputs=DIGEST, actor="runner"
        )
        candidate = world.seal("one")
        world.gate(candidate, run="r")
        for signer in ("ana", "bo"):
            world.sign(candidate, signer)
        world.promote("one")
        actions.record_measured(world.store, run="r", name="speed", figures={"tokens_per_s": 41.5}, actor="runner")
        actions.finish_run(world.store, run="r", outcome="done", summary={}, actor="runner")

    the_whole_way()
    before = world.store.head()
    the_whole_way()
    assert world.store.head() == before


# Policies and the root


def test_a_policy_is_recorded_by_its_digest(world: World):
    with world.store.read() as history:
        recorded = history.policy(world.policy.digest)
    assert recorded is not None
    assert recorded.body == PolicyRecorded(
        policy=world.policy.digest, name="test", resolved=world.policy.canonical_json
    )
    forged = world.policy.model_copy(update={"digest": DIGEST})
    assert rule_of(lambda: actions.record_policy(world.store, policy=forged, actor="x")) == "actions.policy-digest"
    emptied = world.policy.canonical_json.replace('"gates":[', '"gates":[],"x":[')
    bad = world.policy.model_copy(update={"canonical_json": emptied, "digest": sha256_bytes(emptied.encode())})
    assert rule_of(lambda: actions.record_policy(world.store, policy=bad, actor="x")) == "actions.bad-policy"


def set_root(world: World, name: str, **changes: Any) -> None:
    world.checkpoint(name)
    arguments: dict[str, Any] = {
        "manifest": world.manifests[name],
        "policy": world.policy.digest,
        "evidence": [DIGEST],
        "verdicts": world.verdicts("pass"),
        "actor": "runner",
    }
    actions.set_root(world.store, **(arguments | changes))


def test_the_root_is_set_once(world: World):
    assert world.champion() == world.checkpoint("root")
    before = world.store.head()
    set_root(world, "root")
    assert world.store.head() == before
    assert rule_of(lambda: set_root(world, "another")) == "actions.root-exists"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda world: {"verdicts": world.verdicts("pass", "inconclusive")}, "actions.root-failed"),
        (lambda world: {"verdicts": world.verdicts("fail")}, "actions.root-failed"),
        (lambda world: {"verdicts": world.verdicts("pass")[:1]}, "decision.missing-verdict"),
        (lambda world: {"verdicts": []}, "decision.no-verdicts"),
        (lambda world: {"evidence": []}, "actions.no-evidence"),
        (lambda world: {"evidence": ["not a digest"]}, "actions.bad-argument"),
        (lambda world: {"policy": DIGEST}, "actions.policy-unknown"),
    ],
)
def test_what_did_not_pass_is_no_root(tmp_path: Path, change: Callable[[World], dict[str, Any]], rule: str):
    world = make_world(tmp_path)
    actions.record_policy(world.store, policy=world.policy, actor="runner")
    assert rule_of(lambda: set_root(world, "root", **change(world))) == rule
    assert world.champion() is None


def test_no_root_is_set_while_halted(tmp_path: Path):
    world = make_world(tmp_path)
    actions.record_policy(world.store, policy=world.policy, actor="runner")
    actions.halt(world.store, reason="why", actor="ana")
    assert rule_of(lambda: set_root(world, "root")) == "actions.halted"


def test_a_recalled_candidate_becomes_no_root(tmp_path: Path):
    world = make_world(tmp_path)
    actions.record_policy(world.store, policy=world.policy, actor="runner")
    actions.recall(world.store, checkpoint=world.seal("root"), reason="why", actor="ana")
    assert rule_of(lambda: set_root(world, "root")) == "actions.recalled"


# Sealing and drawing


def test_a_seal_names_files_origin_and_policy(world: World):
    candidate = world.seal("one", parent=world.checkpoint("root"))
    with world.store.read() as history:
        sealed = history.find_candidate(candidate)
    assert sealed.body == Sealed(
        candidate=candidate,
        manifest=world.manifests["one"].to_json(),
        provenance={"recipe": "test", "learning_rate": "0.001"},
        parent=world.checkpoint("root"),
        submitter="sam",
        trainer="tess",
        policy=world.policy.digest,
    )


def test_a_policy_binds_only_what_is_sealed_after_it(world: World):
    assert rule_of(lambda: world.seal("one", policy=DIGEST)) == "actions.policy-unknown"
    candidate = world.seal("one")
    looser = other_policy(world)
    assert rule_of(lambda: world.draw(candidate, policy=looser.digest)) == "actions.other-policy"
    assert rule_of(lambda: world.seal("one", policy=looser.digest)) == "actions.sealed-under-other-policy"
    world.seal("one", policy=looser.digest, reseal=True)
    assert world.draw(candidate, policy=looser.digest).look == 1
    assert rule_of(lambda: world.draw(candidate)) == "actions.other-policy"


def test_a_look_under_another_policy_than_the_seal_leads_nowhere(sandbox: World):
    candidate = sandbox.seal("one")
    draw = sandbox.draw(candidate)
    first = sandbox.run_directory(draw, "candidate", candidate)
    second = sandbox.run_directory(draw, "champion", sandbox.checkpoint("root"))
    waiting = sandbox.seal("waiting")
    sandbox.gate(waiting)
    sandbox.record_evidence(draw, "candidate", first)
    edited = other_policy(sandbox, approvals=UNATTENDED_APPROVALS)

    def reseal(name: str) -> None:
        sandbox.seal(name, policy=edited.digest, reseal=True)

    reseal("one")
    reseal("waiting")
    passed = sandbox.verdicts("pass")
    stopped: list[Callable[[], object]] = [
        lambda: sandbox.record_evidence(draw, "champion", second),
        lambda: actions.record_verdicts(sandbox.store, candidate=candidate, verdicts=passed, actor="runner"),
        lambda: actions.record_decision(sandbox.store, candidate=candidate, actor="runner"),
        lambda: sandbox.promote("waiting"),
        lambda: sandbox.sign(waiting, "ana", "reject"),
    ]
    for action in stopped:
        assert rule_of(action) == "actions.other-policy"


def test_items_are_drawn_only_after_the_seal(world: World):
    assert rule_of(lambda: world.draw(world.checkpoint("one"))) == "actions.not-sealed"


def test_one_look_has_one_draw(world: World):
    candidate = world.seal("one")
    first = world.draw(candidate, source=lambda n: b"\x07" * n)
    assert first.seed == b"\x07" * 32
    assert first.seed_digest == sha256_bytes(first.seed)
    assert world.draw(candidate, source=lambda n: b"\x08" * n) == first
    assert world.draw(candidate, run="another run") == first
    assert rule_of(lambda: world.draw(world.seal("two"), source=lambda n: b"")) == "actions.bad-random-source"


def test_draws_are_random(world: World):
    seeds = {world.draw(world.seal(f"number {i}")).seed for i in range(4)}
    assert len(seeds) == 4


def test_a_look_that_is_decided_is_followed_by_another_look(world: World):
    candidate = world.seal("one")
    world.gate(candidate, "inconclusive", run="r")
    first = world.draw(candidate, run="r")
    assert (first.look, first.is_decided) == (1, True)  # the same run, resumed: no new look
    second = world.draw(candidate)
    assert (second.look, second.is_decided) == (2, False)
    assert second.seed != first.seed


def test_looks_are_counted_over_candidates_and_over_edits_of_a_policy(world: World):
    assert [world.draw(world.seal(f"number {i}")).look for i in range(3)] == [1, 2, 3]
    edited = other_policy(world)
    assert world.draw(world.seal("four", policy=edited.digest), policy=edited.digest).look == 4
    renamed = other_policy(world, name="another")
    assert world.draw(world.seal("five", policy=renamed.digest), policy=renamed.digest).look == 1


def test_a_look_against_a_past_champion_is_not_gone_on_with(sandbox: World):
    waiting = sandbox.seal("waiting")
    stale = sandbox.draw(waiting, run="r")
    sandbox.promoted("faster")
    fresh = sandbox.draw(waiting, run="r")
    assert (fresh.look, fresh.champion) == (3, sandbox.checkpoint("faster"))
    assert fresh.seed != stale.seed


def test_two_checkpoints_can_be_gated_outside_a_loop(tmp_path: Path):
    world = make_world(tmp_path, approvals=UNATTENDED_APPROVALS)
    actions.record_policy(world.store, policy=world.policy, actor="runner")
    candidate = world.seal("mine")
    decision = world.gate(candidate, compared_with=world.checkpoint("theirs"))
    assert decision.kind == "promote"
    assert rule_of(lambda: world.promote("mine", champion_expected=DIGEST)) == "actions.no-champion"


# Evidence, verdicts, decision


def test_evidence_must_be_of_the_checkpoint_that_has_the_role(world: World):
    draw = world.draw(world.seal("one"))
    world.checkpoint("stranger")
    for role, right in (("candidate", "one"), ("champion", "root"), ("root", "root"), ("anchor", "root")):
        wrong = world.run_directory(draw, role, world.checkpoint("stranger"), 8)
        assert rule_of(lambda r=role, w=wrong: world.record_evidence(draw, r, w)) == "evidence.other-checkpoint"
        world.record_evidence(draw, role, world.run_directory(draw, role, world.checkpoint(right)))


def test_without_a_root_there_is_no_evidence_of_one(tmp_path: Path):
    world = make_world(tmp_path)
    actions.record_policy(world.store, policy=world.policy, actor="runner")
    draw = world.draw(world.seal("one"))
    for role in ("champion", "root", "anchor"):
        directory = world.run_directory(draw, role, world.checkpoint("one"))
        assert rule_of(lambda r=role, d=directory: world.record_evidence(draw, r, d)) == "actions.no-such-role"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"draw_seed_digest": DIGEST}, "actions.other-draw"),
        ({"suite_digest": DIGEST}, "actions.other-suite"),
        ({"suite_name": "unheard-of"}, "actions.other-suite"),
        ({"n_items": 11}, "evidence.item-count"),
    ],
    ids=str,
)
def test_evidence_must_be_of_this_look(world: World, change: dict[str, Any], rule: str):
    draw = world.draw(world.seal("one"))

    def record() -> None:
        world.record_evidence(draw, "candidate", world.run_directory(draw, "candidate", draw.candidate, **change))

    assert rule_of(record) == rule


def test_evidence_stays_in_the_home(world: World, tmp_path: Path):
    draw = world.draw(world.seal("one"))
    directory = world.run_directory(draw, "candidate", draw.candidate)
    elsewhere = directory.rename(tmp_path / "elsewhere")
    assert rule_of(lambda: world.record_evidence(draw, "candidate", elsewhere)) == "actions.evidence-outside-home"
    (world.store.home / "link").symlink_to(elsewhere)
    through_a_link = world.store.home / "link"
    assert rule_of(lambda: world.record_evidence(draw, "candidate", through_a_link)) == "actions.evidence-outside-home"


def test_a_draw_is_answered_once(world: World):
    draw = world.draw(world.seal("one"))
    world.record_evidence(draw, "candidate", world.run_directory(draw, "candidate", draw.candidate, 9))
    better = world.run_directory(draw, "candidate", draw.candidate, 10)
    assert rule_of(lambda: world.record_evidence(draw, "candidate", better)) == "actions.evidence-differs"


def test_evidence_is_closed_by_verdicts_and_verdicts_are_final(world: World):
    draw = world.draw(world.seal("one"))
    late = world.run_directory(draw, "champion", world.checkpoint("root"))
    first = world.run_directory(draw, "candidate", draw.candidate)
    world.record_evidence(draw, "candidate", first)

    def verdicts(*outcomes: str) -> object:
        return actions.record_verdicts(
            world.store, candidate=draw.candidate, verdicts=world.verdicts(*outcomes), actor="runner"
        )

    verdicts("pass", "inconclusive")
    assert rule_of(lambda: world.record_evidence(draw, "champion", late)) == "actions.look-closed"
    world.record_evidence(draw, "candidate", first)  # the same again is no change
    assert rule_of(lambda: verdicts("pass", "pass")) == "actions.look-closed"
    actions.record_decision(world.store, candidate=draw.candidate, actor="runner")
    assert rule_of(lambda: verdicts("pass", "pass")) == "actions.look-closed"
    assert world.outcome(draw.candidate) == "hold"


def test_every_gate_needs_one_verdict(world: World):
    draw = world.draw(world.seal("one"))

    def record(verdicts: list[Any]) -> object:
        return actions.record_verdicts(world.store, candidate=draw.candidate, verdicts=verdicts, actor="runner")

    passed = world.verdicts("pass")
    assert rule_of(lambda: record(passed)) == "actions.no-evidence"
    world.record_all_evidence(draw)
    assert rule_of(lambda: record([])) == "decision.no-verdicts"
    assert rule_of(lambda: record(passed[:1])) == "decision.missing-verdict"
    assert rule_of(lambda: record([*passed, passed[0]])) == "decision.duplicate-verdict"
    stranger = passed[0].model_copy(update={"gate_id": "stranger"})
    assert rule_of(lambda: record([*passed, stranger])) == "decision.unknown-gate"
    decide = rule_of(lambda: actions.record_decision(world.store, candidate=draw.candidate, actor="runner"))
    assert decide == "decision.no-verdicts"
    recorded = record(passed)
    assert [actions.read_verdict(item) for item in recorded] == passed


def test_nothing_is_judged_before_its_time(world: World):
    candidate = world.seal("one")
    assert rule_of(lambda: actions.record_decision(world.store, candidate=candidate, actor="x")) == "actions.no-look"
    assert rule_of(lambda: world.promote("one")) == "actions.no-look"
    world.draw(candidate)
    assert rule_of(lambda: world.promote("one")) == "actions.not-decided"
    assert rule_of(lambda: world.sign(candidate, "ana")) == "actions.not-decided"
    assert (
        rule_of(lambda: actions.record_decision(world.store, candidate=candidate, actor="x")) == "actions.no-evidence"
    )


# Waivers


def waived_world(tmp_path: Path) -> tuple[World, str]:
    """A candidate that was inconclusive, sealed again under a policy that waives that gate for two days."""
    world = make_world(tmp_path, approvals=UNATTENDED_APPROVALS)
    world.set_root()
    candidate = world.seal("one")
    assert world.gate(candidate, "inconclusive", "pass").body.waits_for == "evidence"
    waiver = {
        "candidate": candidate,
        "gate": GATES[0]["id"],
        "reason": "the suite is being repaired",
        "ticket": "T-1",
        "approvers": ["ana"],
        "expires": (world.clock.now + timedelta(days=2)).isoformat(),
    }
    world.policy = other_policy(world, approvals=UNATTENDED_APPROVALS, waivers=[waiver])
    world.seal("one", reseal=True)
    return world, candidate


def test_a_live_waiver_releases_an_inconclusive_gate_of_this_candidate(tmp_path: Path):
    world, candidate = waived_world(tmp_path)
    decision = world.gate(candidate, "inconclusive", "pass")
    assert decision.kind == "promote"
    assert "T-1" in " ".join(decision.body.reasons)
    world.promote("one")
    assert world.champion() == candidate


def test_a_waiver_that_ran_out_before_the_promotion_releases_nothing(tmp_path: Path):
    world, candidate = waived_world(tmp_path)
    assert world.gate(candidate, "inconclusive", "pass").kind == "promote"
    world.clock.advance(days=2)
    assert rule_of(lambda: world.promote("one")) == "actions.not-passed"


def test_a_waiver_releases_no_failure_and_no_other_gate_or_candidate(tmp_path: Path):
    world, candidate = waived_world(tmp_path)
    assert world.gate(candidate, "fail", "pass").kind == "reject"
    assert world.gate(candidate, "pass", "inconclusive").kind == "hold"
    assert world.gate(world.seal("two"), "inconclusive", "pass").kind == "hold"


# Sign-offs


def test_approvals_are_counted_by_person_and_every_role_needs_its_own(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    assert rule_of(lambda: world.promote("one")) == "actions.not-approved"
    world.sign(candidate, "bo")
    world.clock.advance(minutes=1)
    world.sign(candidate, "bo")  # again, later: still one person
    assert rule_of(lambda: world.promote("one")) == "actions.not-approved"
    world.sign(candidate, "cy")  # two people now, but Cy is neither reviewer nor safety
    assert rule_of(lambda: world.promote("one")) == "actions.not-approved"
    world.sign(candidate, "ana")
    assert world.promote("one").body.approvers == ("bo", "cy", "ana")


def test_one_person_with_two_keys_is_one_person(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    second_key = Ed25519PrivateKey.generate()
    bo = next(p for p in world.roles.people if p.id == "bo")
    both = bo.model_copy(update={"keys": (*bo.keys, public_key_of(second_key))})
    world.roles = replace_person(world.roles, "bo", both)
    world.sign(candidate, "bo")
    world.clock.advance(minutes=1)
    world.keys["bo"] = second_key
    world.sign(candidate, "bo")
    assert approvals(world, candidate).approvers == ("bo",)


def replace_person(roles: Roles, name: str, *by: Any) -> Roles:
    return roles.model_copy(update={"people": (*(p for p in roles.people if p.id != name), *by)})


def approvals(world: World, candidate: str) -> actions.ApprovalStatus:
    with world.store.read() as history:
        look = history.latest_look(candidate)
        assert look is not None
        return actions.approval_status(history, look, world.roles, world.clock.now)


@pytest.mark.parametrize("signer", ["sam", "tess"])
def test_nobody_signs_off_their_own_work(world: World, signer: str):
    candidate = world.seal("one", trainer="T.Trainer")  # Tess by her account
    world.gate(candidate)
    assert rule_of(lambda: world.sign(candidate, signer)) == "actions.own-work"
    assert rule_of(lambda: world.sign(candidate, signer, "reject")) == "actions.own-work"


def test_sealing_again_does_not_forget_who_trained_it(world: World):
    candidate = world.seal("one")
    policy = other_policy(world)
    world.seal("one", policy=policy.digest, reseal=True, trainer=None, actor="somebody")
    world.policy = policy
    world.gate(candidate)
    for signer in ("sam", "tess"):
        assert rule_of(lambda s=signer: world.sign(candidate, s)) == "actions.own-work"


def test_an_approval_stops_counting_with_its_key_or_its_time(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    world.sign(candidate, "ana")
    world.sign(candidate, "bo")
    assert approvals(world, candidate).is_complete
    everyone = world.roles
    world.roles = replace_person(everyone, "bo")
    assert approvals(world, candidate).approvers == ("ana",)
    world.roles = replace_person(everyone, "bo", person("bo", "safety", key=Ed25519PrivateKey.generate()))
    assert approvals(world, candidate).approvers == ("ana",)
    stranger = person("eve", "safety", key=world.keys["bo"])  # Bo's key in another name
    world.roles = replace_person(everyone, "bo", stranger)
    assert approvals(world, candidate).approvers == ("ana",)
    world.roles = replace_person(everyone, "bo", person("bo", "governance", key=world.keys["bo"]))
    assert approvals(world, candidate).approvers == ("ana", "bo")
    assert not approvals(world, candidate).is_complete  # nobody keeps safety any more
    world.roles = everyone
    assert (
        rule_of(
            lambda: world.promote(
                "one",
                roles=Roles(schema="stairlock/roles/v1", people=(person("cy", "governance", key=world.keys["cy"]),)),
            )
        )
        == "actions.not-approved"
    )
    world.clock.advance(hours=168)
    assert approvals(world, candidate).is_complete
    world.clock.advance(seconds=1)
    status = approvals(world, candidate)
    assert status.approvers == ()
    assert "hours ago" in status.summary
    assert rule_of(lambda: world.promote("one")) == "actions.not-approved"


def test_without_a_roles_file_no_approval_counts(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    world.sign(candidate, "ana")
    world.sign(candidate, "bo")
    assert rule_of(lambda: world.promote("one", roles=None)) == "actions.not-approved"
    world.store.roles_path.write_text(world.roles.model_dump_json(by_alias=True))
    assert world.promote("one", roles=None).body.approvers == ("ana", "bo")


def test_a_rejection_blocks_until_its_signer_changes_their_mind(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    for signer in ("ana", "bo"):
        world.sign(candidate, signer)
    held_back = world.envelope(candidate, "cy")
    world.clock.advance(minutes=1)
    world.sign(candidate, "cy", "reject")
    assert rule_of(lambda: world.promote("one")) == "actions.not-approved"
    assert approvals(world, candidate).rejecters == ("cy",)
    # What Cy signed before the rejection does not undo it, however late it comes.
    actions.sign_off(world.store, envelope=held_back, actor="eve", roles=world.roles)
    assert approvals(world, candidate).rejecters == ("cy",)
    # Nor does it help to take Cy out of the roles file.
    world.roles = replace_person(world.roles, "cy")
    assert approvals(world, candidate).rejecters == ("cy",)
    world.roles = replace_person(world.roles, "cy", person("cy", "governance", key=world.keys["cy"]))
    world.clock.advance(minutes=1)
    world.sign(candidate, "cy")
    assert world.promote("one").body.approvers == ("ana", "bo", "cy")


def test_a_rejection_counts_also_where_nobody_has_to_approve(sandbox: World):
    candidate = sandbox.seal("one")
    sandbox.gate(candidate)
    sandbox.sign(candidate, "cy", "reject")
    assert rule_of(lambda: sandbox.promote("one")) == "actions.not-approved"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"says_evidence": DIGEST}, "actions.other-triple"),
        ({"says_policy": DIGEST}, "actions.other-triple"),
        ({"says_candidate": DIGEST}, "actions.not-sealed"),
        ({"says_signer": "ana"}, "signing.other-signer"),
        ({"says_time": "2026-11-24T05:05:00.000001Z"}, "actions.signed-in-future"),
        ({"says_time": "2026-11-17T04:59:59.000000Z"}, "actions.signoff-expired"),
    ],
    ids=str,
)
def test_a_sign_off_is_about_this_by_its_signer_and_of_now(world: World, changes: dict[str, str], rule: str):
    candidate = world.seal("one")
    world.gate(candidate)
    assert rule_of(lambda: world.sign(candidate, "bo", **changes)) == rule
    assert "signoff" not in world.kinds()


def test_a_key_of_nobody_signs_nothing(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    world.keys["bo"] = Ed25519PrivateKey.generate()
    assert rule_of(lambda: world.sign(candidate, "bo")) == "roles.unknown-key"


def test_no_sign_off_releases_what_the_gates_hold_back(world: World):
    failed, unclear = world.seal("failed"), world.seal("unclear")
    world.gate(failed, "fail")
    world.gate(unclear, "inconclusive")
    for candidate in (failed, unclear):
        assert rule_of(lambda c=candidate: world.sign(c, "ana")) == "actions.cannot-approve"
        world.sign(candidate, "ana", "reject")  # to object is always possible
    assert rule_of(lambda: world.promote("failed")) == "actions.rejected"
    assert rule_of(lambda: world.promote("unclear")) in ("actions.not-passed", "actions.not-approved")


def test_a_decision_on_hold_becomes_a_promotion_with_its_approvals(world: World):
    candidate = world.seal("one")
    first = world.gate(candidate)
    world.sign(candidate, "ana")

    def decide() -> Any:
        return actions.record_decision(world.store, candidate=candidate, actor="runner", roles=world.roles)

    assert decide() == first
    world.sign(candidate, "bo")
    assert decide().kind == "promote"
    assert world.kinds().count("promote") == 1
    world.promote("one")
    assert world.kinds().count("promote") == 1


# Promotion, anchors, rollback


def test_a_promotion_names_the_champion_that_it_replaces(sandbox: World):
    candidate = sandbox.seal("one")
    sandbox.gate(candidate)
    wrong = {"champion_expected": sandbox.checkpoint("stranger")}
    assert rule_of(lambda: sandbox.promote("one", **wrong)) == "actions.champion-changed"
    sandbox.promote("one")


def test_a_candidate_gated_against_something_else_is_not_promoted(sandbox: World):
    candidate = sandbox.seal("one")
    sandbox.gate(candidate, compared_with=sandbox.checkpoint("weak"))
    assert rule_of(lambda: sandbox.promote("one")) == "actions.other-comparison"


def test_an_anchor_is_the_best_certified_champion_that_was_not_recalled(sandbox: World):
    gate = GATES[1]["id"]

    def anchor() -> str | None:
        with sandbox.store.read() as history:
            return history.anchor(gate)

    root = sandbox.checkpoint("root")
    assert anchor() == root
    for name, bound, expected in (("worse", -0.04, "root"), ("better", 0.01, "better"), ("equal", 0.0, "better")):
        candidate = sandbox.seal(name)
        sandbox.gate(candidate, bound=bound)
        promoted = sandbox.promote(name)
        assert promoted.body.anchor_gates == ((gate,) if name == expected else ())
        assert anchor() == sandbox.checkpoint(expected)
    actions.recall(sandbox.store, checkpoint=sandbox.checkpoint("better"), reason="it lied", actor="ana")
    assert anchor() == root


def rollback(world: World, name: str, **changes: Any) -> object:
    arguments: dict[str, Any] = {"to": world.checkpoint(name), "checkpoint_dir": world.directories[name]}
    arguments |= {"reason": "it lied", "actor": "ana"} | changes
    return actions.rollback(world.store, **arguments)


def test_only_a_past_champion_comes_back(sandbox: World):
    sandbox.promoted("one")
    sandbox.seal("stranger")
    assert rule_of(lambda: rollback(sandbox, "stranger")) == "actions.not-a-past-champion"
    assert rule_of(lambda: rollback(sandbox, "one")) == "actions.already-champion"
    assert rule_of(lambda: rollback(sandbox, "root", reason="")) == "actions.bad-argument"
    rollback(sandbox, "root")
    assert sandbox.champion() == sandbox.checkpoint("root")
    before = sandbox.store.head()
    rollback(sandbox, "root")
    assert sandbox.store.head() == before
    with sandbox.store.read() as history:
        names = [term.checkpoint for term in history.champions()]
        assert history.status(sandbox.checkpoint("one")) == "past-champion"
    assert names == [sandbox.checkpoint(name) for name in ("root", "one", "root")]
    # What was promoted once comes back only by a rollback, or through the gates again.
    assert rule_of(lambda: sandbox.promote("one")) == "actions.decision-used"
    rollback(sandbox, "one")
    assert sandbox.champion() == sandbox.checkpoint("one")


def test_a_recalled_checkpoint_never_comes_back(sandbox: World):
    one, two = sandbox.promoted("one"), sandbox.promoted("two")
    actions.recall(sandbox.store, checkpoint=one, reason="it lied", actor="ana")
    assert rule_of(lambda: rollback(sandbox, "one")) == "actions.recalled"
    assert sandbox.champion() == two
    assert rule_of(lambda: sandbox.draw(one)) == "actions.recalled"
    other = other_policy(sandbox, approvals=UNATTENDED_APPROVALS)
    assert rule_of(lambda: sandbox.seal("one", policy=other.digest, reseal=True)) == "actions.recalled"
    before = sandbox.store.head()
    actions.recall(sandbox.store, checkpoint=one, reason="again", actor="bo")
    assert sandbox.store.head() == before


def test_a_recalled_candidate_is_not_promoted(sandbox: World):
    candidate = sandbox.seal("one")
    sandbox.gate(candidate)
    actions.recall(sandbox.store, checkpoint=candidate, reason="it lied", actor="ana")
    assert rule_of(lambda: sandbox.promote("one")) == "actions.recalled"
    assert rule_of(lambda: sandbox.sign(candidate, "ana")) == "actions.recalled"
    undecided = sandbox.seal("two")
    sandbox.record_all_evidence(sandbox.draw(undecided))
    passed = sandbox.verdicts("pass")
    actions.record_verdicts(sandbox.store, candidate=undecided, verdicts=passed, actor="runner")
    actions.recall(sandbox.store, checkpoint=undecided, reason="it lied", actor="ana")
    decide = rule_of(lambda: actions.record_decision(sandbox.store, candidate=undecided, actor="runner"))
    assert decide == "actions.recalled"


def test_a_recalled_champion_halts_everything_until_it_is_replaced(sandbox: World):
    one = sandbox.promoted("one")
    waiting = sandbox.seal("waiting")
    actions.recall(sandbox.store, checkpoint=one, reason="it lied", actor="ana")
    assert rule_of(lambda: sandbox.draw(waiting)) == "actions.halted"

    def lift() -> object:
        return actions.lift(sandbox.store, reason="replaced", actor="bo")

    assert rule_of(lift) == "actions.recalled-in-use"
    rollback(sandbox, "root")
    lift()
    sandbox.draw(waiting)


def test_a_recalled_root_ends_the_home(sandbox: World):
    sandbox.promoted("one")
    actions.recall(sandbox.store, checkpoint=sandbox.checkpoint("root"), reason="it lied", actor="ana")
    assert rule_of(lambda: sandbox.seal("two")) == "actions.halted"
    assert rule_of(lambda: actions.lift(sandbox.store, reason="x", actor="ana")) == "actions.recalled-in-use"


def test_only_what_is_known_can_be_recalled(sandbox: World):
    recall = rule_of(lambda: actions.recall(sandbox.store, checkpoint=DIGEST, reason="why", actor="ana"))
    assert recall == "actions.unknown-checkpoint"


# Halt, lift, clean-up


def test_a_halt_stops_everything_but_what_one_needs_then(sandbox: World):
    sandbox.promoted("one")
    open_look = sandbox.seal("open")
    draw = sandbox.draw(open_look)
    directory = sandbox.run_directory(draw, "candidate", open_look)
    judged, answered, all_but_decided = (sandbox.seal(name) for name in ("judged", "answered", "all but decided"))
    sandbox.gate(judged)
    passed = sandbox.verdicts("pass")
    for candidate in (answered, all_but_decided):
        sandbox.record_all_evidence(sandbox.draw(candidate))
    actions.record_verdicts(sandbox.store, candidate=all_but_decided, verdicts=passed, actor="runner")
    attempt = actions.start_step(sandbox.store, spec=DIGEST, step="train", actor="runner")
    halt = actions.halt(sandbox.store, reason="something smells", actor="ana")
    assert actions.halt(sandbox.store, reason="something smells", actor="ana") == halt
    stopped: list[Callable[[], object]] = [
        lambda: sandbox.seal("new"),
        lambda: sandbox.draw(open_look),
        lambda: sandbox.draw(judged),
        lambda: sandbox.record_evidence(draw, "candidate", directory),
        lambda: actions.record_verdicts(sandbox.store, candidate=answered, verdicts=passed, actor="runner"),
        lambda: actions.record_decision(sandbox.store, candidate=all_but_decided, actor="runner"),
        lambda: sandbox.promote("judged"),
        lambda: actions.start_run(sandbox.store, run="r", config=DIGEST, plan={}, actor="runner"),
        lambda: actions.start_step(sandbox.store, spec=DIGEST, step="train", actor="runner"),
        lambda: other_policy(sandbox),
        lambda: actions.record_cleanup(sandbox.store, checkpoint=judged, rule="old", actor="runner"),
    ]
    for action in stopped:
        assert rule_of(action) == "actions.halted"
    sandbox.sign(judged, "ana", "reject")
    rollback(sandbox, "root")
    actions.recall(sandbox.store, checkpoint=judged, reason="why", actor="ana")
    actions.finish_step(sandbox.store, spec=DIGEST, attempt=attempt.number, outcome="failed", actor="runner")
    lift = actions.lift(sandbox.store, reason="a false alarm", actor="bo")
    assert lift.body.halts == (halt.seq,)
    sandbox.record_evidence(draw, "candidate", directory)
    assert rule_of(lambda: actions.lift(sandbox.store, reason="x", actor="bo")) == "actions.not-halted"


def test_every_halt_has_to_be_lifted(sandbox: World):
    first = actions.halt(sandbox.store, reason="one", actor="ana")
    second = actions.halt(sandbox.store, reason="two", actor="bo")
    actions.lift(sandbox.store, reason="over", actor="ana", halts=[first.seq])
    assert rule_of(lambda: sandbox.seal("one")) == "actions.halted"
    lifted_already = rule_of(lambda: actions.lift(sandbox.store, reason="x", actor="ana", halts=[first.seq]))
    assert lifted_already == "actions.not-halted"
    with sandbox.store.read() as history:
        assert [halt.seq for halt in history.halts()] == [second.seq]
    actions.lift(sandbox.store, reason="over", actor="ana")
    sandbox.seal("one")


def test_clean_up_leaves_what_is_needed(sandbox: World):
    def clean(name: str) -> object:
        return actions.record_cleanup(
            sandbox.store, checkpoint=sandbox.checkpoint(name), rule="keep-champions", actor="runner"
        )

    sandbox.promoted("past")
    sandbox.gate(sandbox.seal("failed"), "fail")
    sandbox.gate(sandbox.seal("unclear"), "inconclusive")
    sandbox.gate(sandbox.seal("waits"))
    sandbox.draw(sandbox.seal("open"))
    sandbox.promoted("champion")
    sandbox.gate(sandbox.seal("waits now"))
    sandbox.draw(sandbox.seal("open now"))
    for needed in ("root", "past", "champion", "waits now", "open now"):
        assert rule_of(lambda n=needed: clean(n)) == "actions.still-needed", needed
    for gone in ("failed", "unclear", "waits", "open"):
        assert clean(gone) == clean(gone)
    assert rule_of(lambda: clean("never sealed")) == "actions.unknown-checkpoint"
    sandbox.gate(sandbox.checkpoint("waits"))
    assert rule_of(lambda: sandbox.promote("waits")) == "actions.cleaned-up"


# Runs and steps


def test_the_log_counts_attempts(world: World):
    def start(**changes: Any) -> Any:
        return actions.start_step(world.store, spec=DIGEST, step="train", actor="runner", **changes)

    def finish(attempt: int, outcome: Any, outputs: str | None) -> object:
        return actions.finish_step(
            world.store,
            spec=DIGEST,
            attempt=attempt,
            outcome=outcome,
            outputs=outputs,
            actor="runner",
            cost=Cost(wall_ms=5),
        )

    assert start().number == start().number == 1  # killed and run again
    finish(1, "failed", None)
    assert (start().number, start().is_done) == (2, False)
    assert rule_of(lambda: finish(2, "done", None)) == "actions.no-outputs"
    finish(2, "done", sha256_bytes(b"outputs"))
    assert (start().number, start().is_done) == (2, True)
    assert rule_of(lambda: finish(2, "done", DIGEST)) == "actions.step-differs"
    assert rule_of(lambda: finish(3, "done", DIGEST)) == "actions.no-such-attempt"
    assert start(again=True).number == 3
    with world.store.read() as history:
        assert [attempt.number for attempt in history.attempts(DIGEST)] == [1, 2, 3]


def test_a_run_is_resumed_only_as_it_began(world: World):
    def start(config: str) -> Any:
        return actions.start_run(world.store, run="r", config=config, plan={"lr": 1e-4}, actor="runner")

    assert start(DIGEST) == start(DIGEST)
    assert start(DIGEST).body.plan == {"lr": "0.0001"}
    assert rule_of(lambda: start(sha256_bytes(b"edited"))) == "actions.other-config"
    nothing = {"run": "unheard of", "actor": "runner"}
    assert rule_of(lambda: actions.finish_run(world.store, outcome="done", summary={}, **nothing)) == (
        "actions.no-such-run"
    )
    assert rule_of(lambda: actions.record_measured(world.store, name="x", figures={}, **nothing)) == (
        "actions.no-such-run"
    )
    nan = {"x": float("nan")}
    assert rule_of(lambda: actions.record_measured(world.store, run="r", name="x", figures=nan, actor="runner")) == (
        "ledger.not-finite"
    )


# Whatever happens


OPERATIONS = (
    "earn",
    "earn",
    "seal",
    "draw",
    "gate",
    "fail",
    "approve",
    "object",
    "promote",
    "rollback",
    "halt",
    "lift",
    "recall",
)


@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.sampled_from(["a", "b"])), min_size=5, max_size=20))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_the_log_verifies_and_no_champion_is_unearned(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, str]]
):
    world = make_world(tmp_path_factory.mktemp("world"))
    world.set_root()

    def approve(candidate: str) -> None:
        world.sign(candidate, "ana")
        world.sign(candidate, "bo")

    def earn(name: str) -> None:
        world.seal(name)
        world.gate(world.checkpoint(name))
        approve(world.checkpoint(name))
        world.promote(name)

    for operation, name in operations:
        world.clock.advance(seconds=1)
        candidate = world.checkpoint(name)
        steps: dict[str, Callable[[], object]] = {
            "earn": lambda n=name: earn(n),
            "seal": lambda n=name: world.seal(n),
            "draw": lambda c=candidate: world.draw(c),
            "gate": lambda c=candidate: world.gate(c),
            "fail": lambda c=candidate: world.gate(c, "fail"),
            "approve": lambda c=candidate: approve(c),
            "object": lambda c=candidate: world.sign(c, "cy", "reject"),
            "promote": lambda n=name: world.promote(n),
            "rollback": lambda n=name: rollback(world, n),
            "halt": lambda: actions.halt(world.store, reason="why", actor="ana"),
            "lift": lambda: actions.lift(world.store, reason="why", actor="ana"),
            "recall": lambda c=candidate: actions.recall(world.store, checkpoint=c, reason="why", actor="ana"),
        }
        try:
            steps[operation]()
        except StairlockError:
            pass  # refusals are what this is about; only the state that they leave counts
    world.store.verify()
    champion = None
    halted: set[int] = set()
    recalled: set[str] = set()
    with world.store.read() as history:
        for entry in history.entries():
            body = entry.body
            if entry.kind == "recall":
                recalled.add(str(entry.as_json()["body"]["checkpoint"]))
            if isinstance(body, Halted):
                halted.add(entry.seq)
            if entry.kind == "lift":
                halted -= set(entry.as_json()["body"]["halts"])
            if isinstance(body, SeedDrawn):
                assert not halted
            if isinstance(body, Promoted):
                assert not halted
                assert body.candidate not in recalled
                assert body.champion_before == champion
                assert set(body.approvers) >= {"ana", "bo"}
                verdicts = history.verdicts(body.look_seq)
                assert len(verdicts) == len(GATES)
                assert all(verdict.body.outcome == "pass" for verdict in verdicts)
            if entry.kind in ("root", "promoted", "rollback"):
                champion = str(entry.as_json()["body"].get("candidate") or entry.as_json()["body"]["checkpoint"])
        assert history.champion() == champion

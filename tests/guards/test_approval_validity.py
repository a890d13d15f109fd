"""How long an approval counts, and what voids it: time, another candidate, evidence or policy, who signed it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from guards import actions
from guards.canonical import sha256_bytes
from guards.entries import Body, Logged, SignedOff, kind_of, typed
from guards.errors import LedgerError
from guards.ledger import Entry
from guards.policy import Approvals
from guards.replay.walk import replay
from guards.signing import parse_envelope, unverified_statement
from tests.gate_world import make_policy
from tests.store_world import GATES, World, make_world, other_policy, rule_of


def approved(world: World, name: str = "one") -> str:
    """A candidate that passed, approved by the two people that it needs."""
    candidate = world.seal(name)
    world.gate(candidate)
    for person in ("ana", "bo"):
        world.sign(candidate, person)
    return candidate


def status(world: World, candidate: str) -> actions.ApprovalStatus:
    with world.store.read() as history:
        look = history.latest_look(candidate)
        assert look is not None
        return actions.approval_status(history, look, world.roles, world.clock.now)


# Time


@pytest.mark.parametrize(("microseconds", "counts"), [(-1, True), (0, True), (1, False)])
@pytest.mark.parametrize("valid_for_h", [1, 168])
def test_an_approval_ends_to_the_microsecond(tmp_path: Path, valid_for_h: int, microseconds: int, counts: bool):
    terms = {"required": 2, "roles": ["reviewer", "safety"], "valid_for_h": valid_for_h}
    world = make_world(tmp_path, approvals=terms)
    world.set_root()
    candidate = approved(world)
    world.clock.now += timedelta(hours=valid_for_h, microseconds=microseconds)
    assert status(world, candidate).is_complete == counts
    if counts:
        world.promote("one")
    else:
        assert rule_of(lambda: world.promote("one")) == "actions.not-approved"


@pytest.mark.parametrize("valid_for_h", [0, -1, 8761, 10**12, 1.5, None])
def test_no_approval_is_valid_for_ever(valid_for_h: Any):
    terms = {"required": 1, "roles": ["reviewer"]}
    assert Approvals.model_validate({**terms, "valid_for_h": 8760})
    with pytest.raises(ValidationError):
        Approvals.model_validate({**terms, "valid_for_h": valid_for_h})


def test_each_approval_ends_by_itself(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    world.sign(candidate, "ana")
    world.clock.advance(hours=100)
    world.sign(candidate, "bo")
    world.clock.advance(hours=69)
    assert status(world, candidate).approvers == ("bo",)
    world.sign(candidate, "ana")  # again
    assert status(world, candidate).is_complete


def test_it_counts_from_the_signature_and_not_from_the_recording(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    held_back = world.envelope(candidate, "ana")
    world.clock.advance(hours=168)
    actions.sign_off(world.store, envelope=held_back, actor="ana", roles=world.roles)
    assert status(world, candidate).approvers == ("ana",)
    world.clock.advance(seconds=1)
    assert status(world, candidate).approvers == ()


def test_a_clock_that_was_set_back_does_not_count_what_is_not_signed_yet(world: World):
    candidate = approved(world)
    world.clock.advance(minutes=-5, seconds=-1)
    assert status(world, candidate).approvers == ()
    assert "in the future" in status(world, candidate).summary


# Another candidate, evidence or policy


def test_an_approval_of_one_candidate_is_none_of_another(world: World):
    approved(world, "one")
    other = world.seal("two")
    world.gate(other)
    assert status(world, other).approvers == ()
    assert rule_of(lambda: world.promote("two")) == "actions.not-approved"


def test_a_byte_of_the_candidate_and_it_is_not_what_was_approved(world: World):
    approved(world)
    weights = world.directories["one"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert rule_of(lambda: world.promote("one")) == "manifest.digest-mismatch"
    assert world.champion() == world.checkpoint("root")


def test_new_evidence_voids_every_approval(world: World):
    candidate = approved(world)
    world.gate(candidate)
    assert status(world, candidate).approvers == ()
    assert rule_of(lambda: world.promote("one")) == "actions.not-approved"


def test_an_approval_that_was_held_back_is_about_the_evidence_that_its_signer_saw(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    held_back = world.envelope(candidate, "ana")
    world.gate(candidate)
    sign = rule_of(lambda: actions.sign_off(world.store, envelope=held_back, actor="ana", roles=world.roles))
    assert sign == "actions.other-triple"


def test_evidence_that_was_changed_on_disk_is_not_what_was_approved(world: World):
    candidate = approved(world)
    with world.store.read() as history:
        (recorded, *_) = history.evidence(history.looks(candidate)[-1].seq)
    manifest = world.store.home / recorded.body.path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), "engine": "another"}))
    assert rule_of(lambda: world.promote("one")) == "actions.evidence-changed"


def test_another_policy_voids_every_approval(world: World):
    candidate = approved(world)
    world.policy = other_policy(world)
    world.seal("one", policy=world.policy.digest, reseal=True)
    assert rule_of(lambda: world.promote("one")) == "actions.other-policy"
    world.gate(candidate)
    assert status(world, candidate).approvers == ()


def test_an_approval_that_was_held_back_is_about_the_policy_that_its_signer_saw(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    held_back = world.envelope(candidate, "ana")
    world.policy = other_policy(world)
    world.seal("one", policy=world.policy.digest, reseal=True)
    sign = rule_of(lambda: actions.sign_off(world.store, envelope=held_back, actor="ana", roles=world.roles))
    assert sign == "actions.other-policy"
    world.gate(candidate)
    sign = rule_of(lambda: actions.sign_off(world.store, envelope=held_back, actor="ana", roles=world.roles))
    assert sign == "actions.other-triple"


# The author of the policy


def authored_world(base: Path, *, exclude: tuple[str, ...] = ("policy_author",), recorded_by: str = "ana") -> World:
    """A home whose policy excludes its authors: who recorded it, and the service that brought it into force."""
    terms: dict[str, Any] = {"required": 1, "roles": ["reviewer"], "exclude": list(exclude)}
    world = make_world(base, approvals=terms)
    world.roles = world.roles.model_copy(update={"services": ("runner",)})
    actions.record_policy(world.store, policy=world.policy, actor=recorded_by)
    world.set_root()
    return world


@pytest.mark.parametrize("decision", ["approve", "reject"])
@pytest.mark.parametrize("spelling", ["ana", "ANA", "Ana"])
def test_who_recorded_the_policy_does_not_judge_by_it(tmp_path: Path, spelling: str, decision: Any):
    world = authored_world(tmp_path, recorded_by=spelling)
    candidate = world.seal("one")
    world.gate(candidate)
    assert rule_of(lambda: world.sign(candidate, "ana", decision)) == "actions.own-work"
    world.sign(candidate, "bo")
    world.promote("one")
    world.store.verify(roles=[world.roles])


def test_who_brought_the_policy_into_force_does_not_judge_by_it(tmp_path: Path):
    world = authored_world(tmp_path, recorded_by="runner")
    terms = world.policy.policy.approvals.model_dump(mode="json")
    edited = make_policy(tmp_path / "edited", *GATES, planned=8, approvals=terms, description="In other words.")
    actions.record_policy(world.store, policy=edited, actor="runner")
    actions.adopt_policy(world.store, policy=edited.digest, actor="tess", roles=world.roles)
    world.policy = edited
    candidate = world.seal("one", trainer=None)
    world.gate(candidate)
    assert rule_of(lambda: world.sign(candidate, "tess")) == "actions.own-work"
    world.sign(candidate, "bo")


def test_an_author_whom_nobody_knows_could_be_the_signer(tmp_path: Path):
    world = authored_world(tmp_path, recorded_by="somebody")
    candidate = world.seal("one")
    world.gate(candidate)
    assert rule_of(lambda: world.sign(candidate, "bo")) == "actions.unknown-account"


def test_an_author_by_an_account_that_is_found_out_later_does_not_count(tmp_path: Path):
    world = authored_world(tmp_path, recorded_by="t.trainer")  # Tess's account, until it turns out to be Bo's
    candidate = world.seal("one")
    world.gate(candidate)
    world.sign(candidate, "bo")
    assert status(world, candidate).is_complete
    moved = {"tess": (), "bo": ("t.trainer",)}
    people = [one.model_copy(update={"accounts": moved.get(one.id, one.accounts)}) for one in world.roles.people]
    world.roles = world.roles.model_copy(update={"people": tuple(people)})
    assert not status(world, candidate).is_complete
    assert "bo is the policy author" in status(world, candidate).summary


def test_where_authors_are_not_excluded_they_judge(tmp_path: Path):
    world = authored_world(tmp_path, exclude=())
    candidate = world.seal("one")
    world.gate(candidate)
    world.sign(candidate, "ana")
    world.promote("one")


def test_the_author_of_another_policy_judges_by_this_one(tmp_path: Path):
    world = authored_world(tmp_path, recorded_by="runner")
    actions.record_policy(world.store, policy=other_policy(world, "unrelated"), actor="ana")
    candidate = world.seal("one")
    world.gate(candidate)
    world.sign(candidate, "ana")


def test_an_approval_by_the_policys_author_is_noticed_in_the_log(tmp_path: Path):
    """Made up: Ana's own approval, in an entry such as Bo's was."""
    world = authored_world(tmp_path)
    candidate = world.seal("one")
    world.gate(candidate)
    with world.store.read() as history:
        entries: list[Logged[Body]] = list(history.entries())
        look = history.looks(candidate)[-1]
    forged = signed_off(world, candidate, "ana", look.seq)
    size = len(entries)
    body = forged.model_dump(mode="json")
    entries.append(typed(Entry(seq=size, time=entries[-1].entry.time, kind=kind_of(forged), actor="eve", body=body)))
    with pytest.raises(LedgerError, match="ana is the policy author of this candidate"):
        replay(entries)


def signed_off(world: World, candidate: str, signer: str, look_seq: int) -> SignedOff:
    """An entry that agrees with an envelope that ``signer`` signs now."""
    envelope = parse_envelope(world.envelope(candidate, signer))
    statement = unverified_statement(envelope)
    person = next(one for one in world.roles.people if one.id == signer)
    return SignedOff(
        candidate=statement.candidate,
        policy=statement.policy,
        evidence=statement.evidence,
        look_seq=look_seq,
        decision=statement.decision,
        reason=statement.reason,
        person=signer,
        roles=person.roles,
        key_id=envelope.key_id,
        signed_time=statement.time,
        envelope=envelope.to_bytes().decode(),
        statement_digest=sha256_bytes(statement.payload()),
        roles_digest=world.roles.digest,
    )

"""Waivers that must not help: of a failure, of something else, by the wrong people, at the wrong time, or made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guards import actions
from guards.canonical import sha256_bytes
from guards.entries import Body, DecisionMade, Logged, Promoted, Recalled, WaiverSigned, kind_of, typed
from guards.errors import LedgerError
from guards.ledger import Entry, timestamp
from guards.replay.walk import replay
from guards.signing import Statement, parse_envelope, sign
from guards.waivers import unverified_waiver
from tests.store_world import DIGEST, GATES, UNATTENDED_APPROVALS, World, make_world, other_policy, rule_of

FIRST, SECOND = (gate["id"] for gate in GATES)


def held(world: World, name: str = "one", *outcomes: str) -> str:
    """A candidate whose first gate is inconclusive."""
    candidate = world.seal(name)
    world.gate(candidate, *(outcomes or ("inconclusive", "pass")))
    return candidate


def never_waived(world: World) -> None:
    assert "waiver" not in world.kinds()


# What a waiver cannot help


@pytest.mark.parametrize(
    ("outcomes", "gate"),
    [
        (("fail", "pass"), FIRST),  # the failed gate itself
        (("inconclusive", "fail"), FIRST),  # rejected by another gate
        (("inconclusive", "pass"), SECOND),  # passed
        (("pass", "pass"), FIRST),
    ],
)
@pytest.mark.parametrize("decision", ["grant", "reject"])
def test_what_a_waiver_cannot_help_is_not_signed(world: World, outcomes: tuple[str, str], gate: str, decision: str):
    candidate = held(world, "one", *outcomes)
    assert rule_of(lambda: world.waive(candidate, "ana", gate, decision)) == "actions.waiver-useless"
    never_waived(world)


def test_a_signature_made_before_the_gate_failed_waives_nothing_after_it(sandbox: World):
    candidate = held(sandbox)
    early = sandbox.waiver(candidate, "cy")
    sandbox.gate(candidate, "fail", "pass")
    assert rule_of(lambda: actions.waive(sandbox.store, envelope=early, actor="cy", roles=sandbox.roles)) in (
        "actions.other-triple",
        "actions.waiver-useless",
    )
    never_waived(sandbox)


def test_a_recorded_waiver_does_not_release_a_failure_of_a_later_look(sandbox: World):
    candidate = held(sandbox)
    sandbox.waive(candidate, "cy")
    assert sandbox.gate(candidate, "fail", "pass").kind == "reject"
    assert rule_of(lambda: sandbox.promote("one")) == "actions.rejected"


def test_a_gate_that_the_policy_does_not_have_is_not_waived(world: World):
    candidate = held(world)
    assert rule_of(lambda: world.waive(candidate, "ana", "no-such-gate")) == "actions.no-such-gate"
    assert rule_of(lambda: world.waive(candidate, "ana", says_gate="no-such-gate")) == "actions.no-such-gate"
    never_waived(world)


def test_nothing_is_waived_before_it_is_decided(world: World):
    candidate = world.seal("one")
    assert rule_of(lambda: world.waive(candidate, "ana")) == "actions.no-look"
    world.draw(candidate)
    assert rule_of(lambda: world.waive(candidate, "ana")) == "actions.not-decided"
    assert rule_of(lambda: world.waive(DIGEST, "ana")) == "actions.not-sealed"


def test_nothing_is_waived_after_the_promotion(sandbox: World):
    candidate = held(sandbox)
    sandbox.waive(candidate, "cy")
    late = sandbox.waiver(candidate, "bo")
    sandbox.promote("one")
    assert rule_of(lambda: sandbox.waive(candidate, "bo")) == "actions.waiver-useless"
    waive = rule_of(lambda: actions.waive(sandbox.store, envelope=late, actor="bo", roles=sandbox.roles))
    assert waive == "actions.waiver-useless"


def test_a_recalled_candidate_is_not_waived(world: World):
    candidate = held(world)
    early = world.waiver(candidate, "ana")
    actions.recall(world.store, checkpoint=candidate, reason="stolen data", actor="ana")
    assert rule_of(lambda: world.waive(candidate, "ana")) == "actions.recalled"
    waive = rule_of(lambda: actions.waive(world.store, envelope=early, actor="ana", roles=world.roles))
    assert waive == "actions.recalled"


def test_a_live_waiver_promotes_nothing_that_was_recalled(sandbox: World):
    candidate = held(sandbox)
    sandbox.waive(candidate, "cy")
    actions.recall(sandbox.store, checkpoint=candidate, reason="stolen data", actor="ana")
    assert rule_of(lambda: sandbox.promote("one")) == "actions.recalled"


def test_a_live_waiver_does_not_outlast_the_champion_it_was_compared_with(sandbox: World):
    candidate = held(sandbox)
    sandbox.waive(candidate, "cy")
    sandbox.promoted("two")
    assert rule_of(lambda: sandbox.promote("one")) == "actions.champion-changed"


# Something else than was signed


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"says_evidence": DIGEST}, "actions.other-triple"),
        ({"says_policy": DIGEST}, "actions.other-triple"),
        ({"says_candidate": DIGEST}, "actions.not-sealed"),
        ({"says_gate": SECOND}, "actions.waiver-useless"),
        ({"says_signer": "ana"}, "signing.other-signer"),
    ],
    ids=str,
)
def test_a_waiver_is_about_this_by_its_signer(world: World, changes: dict[str, str], rule: str):
    candidate = held(world)
    assert rule_of(lambda: world.waive(candidate, "bo", **changes)) == rule
    never_waived(world)


def test_a_waiver_of_one_candidate_helps_no_other(sandbox: World):
    one, two = held(sandbox, "one"), held(sandbox, "two")
    sandbox.waive(one, "cy")
    assert rule_of(lambda: sandbox.promote("two")) == "actions.not-passed"
    assert rule_of(lambda: sandbox.waive(one, "bo", says_candidate=two)) == "actions.other-triple"


def test_a_waiver_ends_with_the_policy_that_it_was_signed_under(tmp_path: Path):
    world = make_world(tmp_path, approvals=UNATTENDED_APPROVALS)
    world.set_root()
    candidate = held(world)
    world.waive(candidate, "cy")
    world.policy = other_policy(world, approvals=UNATTENDED_APPROVALS)
    actions.adopt_policy(world.store, policy=world.policy.digest, actor="runner", roles=world.roles)
    world.seal("one", reseal=True)
    assert rule_of(lambda: world.waive(candidate, "bo")) == "actions.other-policy"
    world.gate(candidate, "inconclusive", "pass")
    assert rule_of(lambda: world.promote("one")) == "actions.not-passed"


def test_a_sign_off_is_no_waiver_and_a_waiver_no_sign_off(world: World):
    candidate = held(world)
    waiver = world.waiver(candidate, "ana")
    with world.store.read() as history:
        decision = history.decision(history.looks(candidate)[-1].seq)
    assert decision is not None
    statement = Statement(
        candidate=candidate,
        evidence=decision.body.evidence,
        policy=decision.body.policy,
        decision="approve",
        reason="fine",
        time=timestamp(world.clock.now),
        signer="ana",
    )
    signoff = sign(statement, world.keys["ana"])
    store, roles = world.store, world.roles
    assert rule_of(lambda: actions.waive(store, envelope=signoff, actor="x", roles=roles)) == "signing.other-type"
    assert rule_of(lambda: actions.sign_off(store, envelope=waiver, actor="x", roles=roles)) == "signing.other-type"


@pytest.mark.parametrize(
    ("envelope", "rule"),
    [(b"", "signing.bad-envelope"), (b"{}", "signing.bad-envelope"), (b"\xff" * 100_000, "signing.bad-envelope")],
    ids=["empty", "nothing", "huge"],
)
def test_what_is_no_envelope_is_refused(world: World, envelope: bytes, rule: str):
    held(world)
    assert rule_of(lambda: actions.waive(world.store, envelope=envelope, actor="x", roles=world.roles)) == rule


def test_a_waiver_that_was_changed_on_the_way_is_refused(world: World):
    candidate = held(world)
    envelope = parse_envelope(world.waiver(candidate, "ana"))
    longer = parse_envelope(world.waiver(candidate, "ana", days=30))
    mixed = envelope.model_copy(update={"payload": longer.payload}).to_bytes()
    waive = rule_of(lambda: actions.waive(world.store, envelope=mixed, actor="x", roles=world.roles))
    assert waive == "signing.bad-signature"


# The wrong people


@pytest.mark.parametrize("signer", ["sam", "tess"])
@pytest.mark.parametrize("decision", ["grant", "reject"])
def test_nobody_waives_or_objects_in_their_own_cause(world: World, signer: str, decision: str):
    candidate = world.seal("one", trainer="T.Trainer")  # Tess by her account
    world.gate(candidate, "inconclusive", "pass")
    assert rule_of(lambda: world.waive(candidate, signer, FIRST, decision)) == "actions.own-work"


def test_who_turns_out_to_have_trained_it_does_not_count(world: World):
    candidate = world.seal("one", trainer="t.trainer")
    world.gate(candidate, "inconclusive", "pass")
    for person in ("ana", "bo"):
        world.waive(candidate, person)
    moved = {"tess": (), "bo": ("t.trainer",)}
    people = [one.model_copy(update={"accounts": moved.get(one.id, one.accounts)}) for one in world.roles.people]
    world.roles = world.roles.model_copy(update={"people": tuple(people)})
    assert rule_of(lambda: world.sign(candidate, "ana")) == "actions.cannot-approve"


def test_the_author_of_the_policy_waives_nothing_where_they_are_excluded(tmp_path: Path):
    terms = {"required": 1, "roles": ["reviewer"], "exclude": ["policy_author"]}
    world = make_world(tmp_path, approvals=terms)
    actions.record_policy(world.store, policy=world.policy, actor="ana")
    world.set_root()
    candidate = held(world)
    assert rule_of(lambda: world.waive(candidate, "ana")) == "actions.own-work"
    # The account that brought it into force is nobody's, as far as the roles file says.
    assert rule_of(lambda: world.waive(candidate, "bo")) == "actions.unknown-account"
    world.roles = world.roles.model_copy(update={"services": ("runner",)})
    world.waive(candidate, "bo")
    world.store.verify(roles=[world.roles])


def test_an_account_that_nobody_knows_could_be_the_signers(world: World):
    candidate = world.seal("one", trainer="somebody")
    world.gate(candidate, "inconclusive", "pass")
    assert rule_of(lambda: world.waive(candidate, "ana")) == "actions.unknown-account"
    world.waive(candidate, "ana", FIRST, "reject")  # to object is possible


def test_a_key_of_nobody_waives_nothing(world: World):
    candidate = held(world)
    world.keys["ana"] = Ed25519PrivateKey.generate()
    assert rule_of(lambda: world.waive(candidate, "ana")) == "roles.unknown-key"


def test_without_a_roles_file_nobody_waives_and_no_waiver_counts(sandbox: World):
    candidate = held(sandbox)
    envelope = sandbox.waiver(candidate, "cy")
    assert rule_of(lambda: actions.waive(sandbox.store, envelope=envelope, actor="cy")) == "roles.no-file"
    actions.waive(sandbox.store, envelope=envelope, actor="cy", roles=sandbox.roles)
    assert rule_of(lambda: sandbox.promote("one", roles=None)) == "actions.not-passed"
    sandbox.promote("one")


def test_two_keys_of_one_person_are_one_signature(world: World):
    candidate = held(world)
    for minute in range(3):
        world.clock.now += timedelta(minutes=minute)
        envelope = world.waiver(candidate, "bo", says_expires="2026-11-30T00:00:00.000000Z")
        actions.waive(world.store, envelope=envelope, actor="bo", roles=world.roles)
    assert world.kinds().count("waiver") == 3
    assert rule_of(lambda: world.sign(candidate, "ana")) == "actions.cannot-approve"


# The wrong time


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"says_time": "2026-11-24T05:05:00.000001Z"}, "actions.signed-in-future"),
        ({"says_time": "2026-11-17T04:59:59.999999Z"}, "actions.signoff-expired"),
        ({"says_expires": "2026-11-24T05:00:00.000000Z"}, "actions.waiver-expired"),  # now
        ({"says_expires": "2026-11-23T05:00:00.000000Z"}, "actions.waiver-expired"),
        # ahead of us, by less than clocks may differ, and over when it was signed
        (
            {"says_time": "2026-11-24T05:04:00.000000Z", "says_expires": "2026-11-24T05:04:00.000000Z"},
            "actions.waiver-expired",
        ),
        ({"says_expires": "2027-02-22T05:00:00.000001Z"}, "actions.waiver-too-long"),
        # its term counts from the signature, not from the recording
        (
            {"says_time": "2026-11-23T05:00:00.000000Z", "says_expires": "2027-02-22T05:00:00.000000Z"},
            "actions.waiver-too-long",
        ),
        ({"says_expires": "9999-12-31T23:59:59.999999Z"}, "actions.waiver-too-long"),
    ],
    ids=str,
)
def test_a_waiver_is_signed_now_and_ends_soon(world: World, changes: dict[str, str], rule: str):
    candidate = held(world)
    assert rule_of(lambda: world.waive(candidate, "bo", **changes)) == rule
    never_waived(world)


@pytest.mark.parametrize(
    "changes", [{"says_expires": "2027-02-22T05:00:00.000000Z"}, {"says_time": "2026-11-24T05:05:00.000000Z"}], ids=str
)
def test_the_longest_and_the_earliest_that_are_allowed(world: World, changes: dict[str, str]):
    world.waive(held(world), "bo", **changes)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"days": 0}, "actions.waiver-expired"),
        ({"days": -1}, "actions.waiver-expired"),
        ({"days": 90.00001}, "actions.waiver-too-long"),
    ],
    ids=str,
)
def test_a_bad_term_is_said_before_anybody_signs(world: World, changes: dict[str, Any], rule: str):
    candidate = held(world)
    assert rule_of(lambda: world.waiver(candidate, "bo", **changes)) == rule


def draft(world: World, candidate: str, **changes: Any) -> object:
    arguments: dict[str, Any] = {
        "gate": FIRST,
        "decision": "grant",
        "reason": "why",
        "signer": "ana",
        "ticket": "T-1",
        "expires": world.clock.now + timedelta(days=1),
    }
    return actions.draft_waiver(world.store, candidate=candidate, **(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"ticket": None}, "waiver.bad-statement"),
        ({"ticket": " "}, "waiver.bad-statement"),
        ({"expires": None}, "waiver.bad-statement"),
        ({"reason": ""}, "waiver.bad-statement"),
        ({"decision": "reject"}, "waiver.bad-statement"),
        ({"gate": "no-such-gate"}, "actions.no-such-gate"),
        ({"gate": "\x1b[31m" + "x" * 300}, "actions.no-such-gate"),
    ],
    ids=str,
)
def test_what_cannot_be_signed_is_not_drafted(world: World, changes: dict[str, Any], rule: str):
    candidate = held(world)
    draft(world, candidate)
    assert rule_of(lambda: draft(world, candidate, **changes)) == rule


def test_a_time_without_a_zone_is_refused(world: World):
    candidate = held(world)
    naive = (world.clock.now + timedelta(days=1)).replace(tzinfo=None)
    assert rule_of(lambda: draft(world, candidate, expires=naive)) == "waiver.naive-time"


def test_a_clock_that_was_set_back_revives_no_waiver(sandbox: World):
    candidate = held(sandbox)
    sandbox.waive(candidate, "cy")
    sandbox.clock.advance(days=2)
    actions.start_run(sandbox.store, run="later", config=DIGEST, plan={}, actor="runner")  # the log sees the time
    assert rule_of(lambda: sandbox.promote("one")) == "actions.not-passed"
    sandbox.clock.advance(days=-1)
    assert rule_of(lambda: sandbox.promote("one")) == "actions.not-passed"
    # What was written since then is not what counts: the log was at the later time once.
    actions.start_run(sandbox.store, run="earlier", config=DIGEST, plan={}, actor="runner")
    assert rule_of(lambda: sandbox.promote("one")) == "actions.not-passed"


def test_at_a_clock_before_its_signature_a_waiver_is_not_live(sandbox: World):
    candidate = held(sandbox)
    sandbox.waive(candidate, "cy")
    sandbox.clock.advance(minutes=-5)
    with sandbox.store.read() as history:
        look = history.latest_look(candidate)
        assert look is not None
        (found,) = actions.waivers_now(history, look, sandbox.roles, sandbox.clock.now)
        assert found.is_live, "as far as two clocks may differ"
        early = sandbox.clock.now - timedelta(microseconds=1)
        (found,) = actions.waivers_now(history, look, sandbox.roles, early)
    assert not found.is_live and "in the future" in found.summary
    sandbox.clock.advance(minutes=-1)
    assert rule_of(lambda: sandbox.promote("one")) == "actions.not-passed"


# Made up, with correct hashes


def entry_of(world: World, envelope: bytes, look_seq: int) -> WaiverSigned:
    """An entry that agrees with its envelope, whatever that says."""
    parsed = parse_envelope(envelope)
    statement = unverified_waiver(parsed)
    person = next(one for one in world.roles.people if one.keys[0].id == parsed.key_id)
    return WaiverSigned(
        **statement.model_dump(exclude={"schema_", "time", "signer"}),
        look_seq=look_seq,
        person=person.id,
        roles=person.roles,
        key_id=parsed.key_id,
        signed_time=statement.time,
        envelope=envelope.decode(),
        statement_digest=sha256_bytes(statement.payload()),
        roles_digest=world.roles.digest,
    )


@dataclass
class Story:
    """A log with one candidate that is held for evidence, one that was rejected and one that passed."""

    world: World
    entries: list[Logged[Body]]

    def waiver(self, signer: str = "ana", name: str = "held", look_of: str | None = None, **says: Any) -> WaiverSigned:
        """A waiver with a good signature, in an entry that agrees with its envelope; of ``name``'s first gate."""
        world = self.world
        decision = self.decision(look_of or name)
        about = {"candidate": world.checkpoint(name), "evidence": decision.evidence, "policy": decision.policy}
        kind = says.pop("decision", "grant")
        said = {f"says_{field}": value for field, value in (about | says).items()}
        # Drafted for the held candidate, where it is allowed, and made to say something else before it is signed.
        envelope = world.waiver(world.checkpoint("held"), signer, FIRST, kind, **said)
        return entry_of(world, envelope, decision.look_seq)

    def decision(self, name: str, **changes: Any) -> DecisionMade:
        about = self.world.checkpoint(name)
        found = [one.body for one in self.entries if isinstance(one.body, DecisionMade) and one.body.candidate == about]
        return changed(found[-1], **changes)

    def forged(self, *bodies: Body) -> list[Logged[Body]]:
        forged = list(self.entries)
        time = self.entries[-1].entry.time
        for body in bodies:
            kind, data = kind_of(body), body.model_dump(mode="json")
            forged.append(typed(Entry(seq=len(forged), time=time, kind=kind, actor="eve", body=data)))
        return forged

    def promoted(self, decision_at: int) -> Promoted:
        """The held candidate's promotion, on the decision that is the forged entry of this number (from 0)."""
        decision = self.decision("held")
        return Promoted(
            candidate=decision.candidate,
            policy=decision.policy,
            evidence=decision.evidence,
            look_seq=decision.look_seq,
            decision_seq=len(self.entries) + decision_at,
            champion_before=decision.champion,
            approvers=(),
            unattended=True,
            anchor_gates=(),
        )


def changed(body: Any, **update: Any) -> Any:
    return body.model_copy(update=update)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    world = make_world(tmp_path_factory.mktemp("story"), approvals=UNATTENDED_APPROVALS)
    world.set_root()
    held(world, "rejected", "fail", "pass")
    held(world, "half", "inconclusive", "fail")
    held(world, "held")
    held(world, "other")
    world.gate(world.seal("passed"))
    world.record_all_evidence(world.draw(world.seal("measured")))
    with world.store.read() as history:
        entries = list(history.entries())
    return Story(world, entries)


Forgery = Callable[[Story], list[Body]]

FORGERIES: dict[str, Forgery] = {
    "a waiver of a failed gate": lambda s: [s.waiver(name="rejected")],
    "a waiver of a candidate that another gate rejected": lambda s: [s.waiver(name="half")],
    "a waiver of a passed gate": lambda s: [s.waiver(gate=SECOND)],
    "a waiver of a candidate that passed": lambda s: [s.waiver(name="passed")],
    "a waiver of no gate": lambda s: [s.waiver(gate="no-such-gate")],
    "a waiver of another look": lambda s: [s.waiver(look_of="other")],
    "a waiver of other evidence": lambda s: [s.waiver(evidence=DIGEST)],
    "a waiver under another policy": lambda s: [s.waiver(policy=DIGEST)],
    "a waiver of no candidate": lambda s: [changed(s.waiver(), candidate=DIGEST)],
    "a waiver by the trainer": lambda s: [s.waiver("tess")],
    "a waiver by the submitter": lambda s: [s.waiver("sam")],
    "an objection by the trainer": lambda s: [s.waiver("tess", decision="reject")],
    "a waiver from the future": lambda s: [s.waiver(time="2026-11-24T05:05:00.000001Z")],
    "a waiver from long ago": lambda s: [s.waiver(time="2026-11-17T04:59:59.999999Z")],
    "a waiver that was over": lambda s: [s.waiver(expires="2026-11-24T05:00:00.000000Z")],
    "a waiver for too long": lambda s: [s.waiver(expires="2027-02-22T05:00:00.000001Z")],
    "a waiver twice": lambda s: [s.waiver(), s.waiver()],
    "a waiver that is no envelope": lambda s: [changed(s.waiver(), envelope="not an envelope")],
    "a waiver in an envelope of another type": lambda s: [
        changed(s.waiver(), envelope=s.waiver().envelope.replace("waiver+json", "signoff+json"))
    ],
    "a waiver that lasts longer than its envelope says": lambda s: [
        changed(s.waiver(), expires="2026-12-24T05:00:00.000000Z")
    ],
    "a waiver of another gate than its envelope says": lambda s: [changed(s.waiver(gate="other"), gate=FIRST)],
    "a waiver for another ticket than its envelope says": lambda s: [changed(s.waiver(), ticket="T-2")],
    "a waiver with another reason than its envelope says": lambda s: [changed(s.waiver(), reason="fine")],
    "a waiver by another person than its envelope says": lambda s: [changed(s.waiver(), person="bo")],
    "a waiver under another key than its envelope says": lambda s: [changed(s.waiver(), key_id=DIGEST)],
    "a waiver signed at another time than its envelope says": lambda s: [
        changed(s.waiver(), signed_time="2026-11-24T04:00:00.000000Z")
    ],
    "an objection that is recorded as a grant": lambda s: [
        changed(s.waiver(decision="reject"), decision="grant", ticket="T-1", expires="2026-11-26T05:00:00.000000Z")
    ],
    "a waiver under another statement's digest": lambda s: [changed(s.waiver(), statement_digest=DIGEST)],
    "a waiver of a recalled candidate": lambda s: [
        Recalled(checkpoint=s.world.checkpoint("held"), reason="why"),
        s.waiver(),
    ],
    "a waiver after the promotion": lambda s: [
        s.waiver(),
        s.decision("held", outcome="promote", waits_for="nothing"),
        s.promoted(1),
        s.waiver("bo"),
    ],
    "a promotion without a waiver": lambda s: [s.decision("held", outcome="promote", waits_for="nothing")],
    "a promotion over an objection": lambda s: [
        s.waiver(),
        s.waiver("bo", decision="reject"),
        s.decision("held", outcome="promote", waits_for="nothing"),
    ],
    "a promotion on the waiver of another candidate": lambda s: [
        s.waiver(name="other"),
        s.decision("held", outcome="promote", waits_for="nothing"),
    ],
    "an objection after the decision, and a promotion": lambda s: [
        s.waiver(),
        s.decision("held", outcome="promote", waits_for="nothing"),
        s.waiver("bo", decision="reject"),
        s.promoted(1),
    ],
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_waiver_is_refused(story: Story, forgery: Forgery):
    bodies = forgery(story)
    before = story.forged(*bodies[:-1])
    assert replay(before) == len(before), "what comes before the forged entry must be allowed"
    with pytest.raises(LedgerError) as refusal:
        replay(story.forged(*bodies))
    assert refusal.value.rule == "ledger.not-allowed"
    assert refusal.value.message.startswith(f"entry {len(before)} ({kind_of(bodies[-1])}) was not allowed: ")


ALLOWED: dict[str, Forgery] = {
    "waived, decided, promoted": lambda s: [
        s.waiver(),
        s.decision("held", outcome="promote", waits_for="nothing"),
        s.promoted(1),
    ],
    "the longest": lambda s: [s.waiver(expires="2027-02-22T05:00:00.000000Z")],
    "an objection": lambda s: [s.waiver(decision="reject")],
}


@pytest.mark.parametrize("bodies", ALLOWED.values(), ids=ALLOWED)
def test_what_the_actions_could_write_is_allowed(story: Story, bodies: Forgery):
    forged = story.forged(*bodies(story))
    assert replay(forged) == replay(forged, roles=[story.world.roles]) == len(forged)


def test_with_a_roles_file_the_signature_is_verified(story: Story):
    waiver = story.waiver()
    envelope = parse_envelope(waiver.envelope.encode())
    other = parse_envelope(story.waiver(reason="something else").envelope.encode())
    forged = story.forged(
        changed(waiver, envelope=envelope.model_copy(update={"signatures": other.signatures}).to_bytes().decode())
    )
    assert replay(forged) == len(forged), "the log holds no keys: without a roles file nobody can tell"
    with pytest.raises(LedgerError, match="the signature does not verify"):
        replay(forged, roles=[story.world.roles])


def test_with_a_roles_file_other_roles_and_unknown_keys_are_noticed(story: Story, tmp_path: Path):
    forged = story.forged(changed(story.waiver("cy"), roles=("reviewer", "safety")))
    with pytest.raises(LedgerError, match="its signer had other roles"):
        replay(forged, roles=[story.world.roles])
    with pytest.raises(LedgerError) as refusal:
        replay(story.forged(story.waiver()), roles=[make_world(tmp_path).roles])
    assert refusal.value.rule == "ledger.unknown-signer"


def test_a_made_up_waiver_in_the_store_is_found_and_helps_nothing(tmp_path: Path):
    """Appended with correct hashes, by somebody without Cy's key."""
    world = make_world(tmp_path, approvals=UNATTENDED_APPROVALS)
    world.set_root()
    candidate = held(world)
    with world.store.read() as history:
        look_seq = history.looks(candidate)[-1].seq
    good = entry_of(world, world.waiver(candidate, "cy"), look_seq)
    stolen = parse_envelope(good.envelope.encode())
    unsigned = stolen.model_copy(update={"signatures": (stolen.signatures[0].model_copy(update={"sig": "AAAA"}),)})
    kept = world.store.verify()
    with world.store.write() as transaction:
        transaction.append("eve", changed(good, envelope=unsigned.to_bytes().decode()))
    assert rule_of(lambda: world.promote("one")) == "actions.not-passed"
    with pytest.raises(LedgerError) as refusal:
        world.store.verify(trusted_head=kept, roles=[world.roles])
    assert refusal.value.rule == "ledger.not-allowed" and "the signature does not verify" in refusal.value.message

"""Made-up entries about policies coming into force, with correct hashes: each is refused by its number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from guards import actions
from guards.canonical import sha256_bytes
from guards.entries import (
    Body,
    BundleReceived,
    DecisionMade,
    Halted,
    Logged,
    PolicyInForce,
    PolicySignedOff,
    Promoted,
    SeedDrawn,
    kind_of,
    typed,
)
from guards.errors import LedgerError
from guards.ledger import Entry
from guards.policy_signing import PolicyStatement, sign_policy_statement, unverified_policy_statement
from guards.replay.walk import replay
from guards.signing import parse_envelope
from tests.policy_edits import LOOSER, STRICTER, adopt, edit, sign_edit
from tests.store_world import DIGEST, World, make_world

B = TypeVar("B", bound=Body)


@dataclass
class Story:
    """A log with a policy in force, a looser edit that Ana approves, and what tests forge from it.

    ``strict`` is in force; ``looser`` and ``stricter`` are recorded by Sam. The candidate ``ready`` waits
    for nothing but its promotion; ``unbound`` was sealed under the looser policy, and does, too.
    """

    world: World
    entries: list[Logged[Body]]
    strict: str
    looser: str
    stricter: str

    def last(self, model: type[B], **values: str) -> Logged[B]:
        found = [
            entry
            for entry in self.entries
            if isinstance(entry.body, model) and all(getattr(entry.body, k) == v for k, v in values.items())
        ]
        return found[-1]  # type: ignore[return-value]

    def forged(self, *bodies: Body, actor: str = "eve") -> list[Logged[Body]]:
        """The log with these bodies after its end."""
        entries = list(self.entries)
        for body in bodies:
            entry = Entry(
                seq=len(entries),
                time=self.entries[-1].entry.time,
                kind=kind_of(body),
                actor=actor,
                body=body.model_dump(mode="json"),
            )
            entries.append(typed(entry))
        return entries

    def adoption(self, policy: str, **changes: Any) -> PolicyInForce:
        body = {
            "policy": policy,
            "name": "test",
            "replaces": self.strict,
            "change": "looser" if policy == self.looser else "stricter",
            "approvers": (),
        }
        return PolicyInForce.model_validate(body | changes)

    def signoff(self, signer: str = "bo", **says: str) -> PolicySignedOff:
        """A sign-off of the looser policy with a good signature."""
        statement = PolicyStatement.model_validate(
            {
                "old": self.strict,
                "new": self.looser,
                "decision": "approve",
                "reason": "so I say",
                "time": self.entries[-1].entry.time,
                "signer": signer,
            }
            | says
        )
        envelope = sign_policy_statement(statement, self.world.keys[signer])
        return PolicySignedOff(
            **statement.model_dump(include={"old", "new", "decision", "reason"}),
            person=signer,
            roles=next(one for one in self.world.roles.people if one.id == signer).roles,
            key_id=parse_envelope(envelope).key_id,
            signed_time=statement.time,
            envelope=envelope.decode(),
            statement_digest=sha256_bytes(statement.payload()),
            roles_digest=self.world.roles.digest,
        )

    def bundle(self, **changes: Any) -> BundleReceived:
        """A good bundle of the stricter policy, signed now."""
        body = {
            "bundle": DIGEST,
            "outcome": "installed",
            "reason": "good",
            "policy": self.stricter,
            "author": "cy",
            "signed_time": self.entries[-1].entry.time,
            "statement_digest": DIGEST,
        }
        return BundleReceived.model_validate(body | changes)

    def bad_bundle(self, **changes: Any) -> BundleReceived:
        nothing = dict.fromkeys(("policy", "author", "signed_time", "statement_digest"))
        return self.bundle(**(nothing | {"outcome": "refused", "reason": "bad"} | changes))

    def seed(self, name: str) -> SeedDrawn:
        """Another look at a candidate."""
        latest = self.last(SeedDrawn, candidate=self.world.checkpoint(name)).body
        n_looks = max(entry.body.look for entry in self.entries if isinstance(entry.body, SeedDrawn))
        return latest.model_copy(update={"look": n_looks + 1})

    def promoted(self, name: str, *, n_before: int = 0) -> list[Body]:
        """A decision to promote, and the promotion; ``n_before`` entries are forged before them."""
        candidate = self.world.checkpoint(name)
        look = self.last(SeedDrawn, candidate=candidate)
        held = self.last(DecisionMade, candidate=candidate).body
        decision = held.model_copy(update={"outcome": "promote", "waits_for": "nothing"})
        promotion = Promoted(
            candidate=candidate,
            policy=held.policy,
            evidence=held.evidence,
            look_seq=look.seq,
            decision_seq=len(self.entries) + n_before,
            champion_before=look.body.champion,
            approvers=("ana", "bo"),
            unattended=False,
            anchor_gates=(),
        )
        return [decision, promotion]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    world = make_world(tmp_path_factory.mktemp("adoptions"))
    world.set_root()
    strict = world.policy
    looser, stricter = edit(world, LOOSER), edit(world, STRICTER)
    for name, policy in (("ready", strict), ("unbound", looser)):
        world.policy = policy
        candidate = world.seal(name)
        world.gate(candidate)
        for signer in ("ana", "bo"):
            world.sign(candidate, signer)
    world.policy = strict
    sign_edit(world, looser, "ana")
    with world.store.read() as history:
        entries = list(history.entries())
    return Story(world, entries, strict.digest, looser.digest, stricter.digest)


def refusal_of(entries: Sequence[Logged[Body]], **options: Any) -> str:
    """The message by which the last entry is refused; those before it are allowed."""
    assert replay(entries[:-1], **options) == len(entries) - 1
    with pytest.raises(LedgerError) as refusal:
        replay(entries, **options)
    assert refusal.value.rule == "ledger.not-allowed"
    assert refusal.value.message.startswith(f"entry {len(entries) - 1} ({entries[-1].kind}) was not allowed: ")
    return refusal.value.message


Forgery = Callable[[Story], Sequence[Body]]

ALLOWED: dict[str, Forgery] = {
    "a stricter policy": lambda s: [s.adoption(s.stricter)],
    "a looser policy that two people approve": lambda s: [
        s.signoff("bo"),
        s.adoption(s.looser, approvers=("ana", "bo")),
    ],
    "a looser policy that two people approve, by another version's word for it": lambda s: [
        s.signoff("bo"),
        s.adoption(s.looser, change="incomparable", approvers=("ana", "bo")),
    ],
    "a stricter policy that an older version could not compare, and that two people approve": lambda s: [
        s.signoff("ana", new=s.stricter),
        s.signoff("bo", new=s.stricter),
        s.adoption(s.stricter, change="incomparable", approvers=("ana", "bo")),
    ],
    "a stricter policy that another version found the same": lambda s: [s.adoption(s.stricter, change="same")],
    "a promotion under the policy in force": lambda s: s.promoted("ready"),
    "a promotion after the policy was tightened": lambda s: [*s.promoted("ready")[:1], s.promoted("ready")[1]],
    "a sign-off while halted": lambda s: [Halted(reason="why"), s.signoff("bo")],
    "a bundle of a recorded policy": lambda s: [s.bundle()],
    "a bundle that was signed after a bad one": lambda s: [
        s.bad_bundle(),
        s.bundle(signed_time="2026-11-24T05:00:00.000001Z"),
        *s.promoted("ready", n_before=2),
    ],
    "another look": lambda s: [s.seed("ready")],
    "another look after a tightening, at what is never promoted": lambda s: [s.adoption(s.stricter), s.seed("unbound")],
}

FORGERIES: dict[str, Forgery] = {
    "a looser policy that nobody approves": lambda s: [s.adoption(s.looser)],
    "a looser policy that one person approves": lambda s: [s.adoption(s.looser, approvers=("ana",))],
    "a looser policy with a person who did not sign": lambda s: [s.adoption(s.looser, approvers=("ana", "bo"))],
    "a looser policy with one person twice": lambda s: [s.adoption(s.looser, approvers=("ana", "ana"))],
    "a looser policy with two people in one role": lambda s: [
        s.signoff("cy"),
        s.adoption(s.looser, approvers=("ana", "cy")),
    ],
    "a looser policy over a rejection": lambda s: [
        s.signoff("bo"),
        s.signoff("cy", decision="reject"),
        s.adoption(s.looser, approvers=("ana", "bo")),
    ],
    "a looser policy that is called stricter": lambda s: [s.adoption(s.looser, change="stricter")],
    "a looser policy that is called the first": lambda s: [s.adoption(s.looser, change="first", replaces=None)],
    "a looser policy in place of another than is in force": lambda s: [s.adoption(s.looser, replaces=s.stricter)],
    "a looser policy by approvals that were used": lambda s: [
        s.signoff("bo"),
        s.adoption(s.looser, approvers=("ana", "bo")),
        s.adoption(s.strict, replaces=s.looser),
        s.adoption(s.looser, approvers=("ana", "bo")),
    ],
    "a stricter policy that is called looser, and that nobody approves": lambda s: [
        s.adoption(s.stricter, change="looser")
    ],
    "a stricter policy that is called the first": lambda s: [s.adoption(s.stricter, change="first")],
    "a stricter policy with approvers": lambda s: [s.adoption(s.stricter, approvers=("ana",))],
    "the policy in force again": lambda s: [s.adoption(s.strict, change="same")],
    "an unknown policy": lambda s: [s.adoption(DIGEST)],
    "a policy under another name": lambda s: [s.adoption(s.stricter, name="fresh")],
    "a policy while halted": lambda s: [Halted(reason="why"), s.adoption(s.stricter)],
    "a sign-off in place of another policy": lambda s: [s.signoff("bo", old=s.stricter)],
    "a sign-off of an unknown policy": lambda s: [s.signoff("bo", new=DIGEST)],
    "a sign-off of the policy in force": lambda s: [s.signoff("bo", new=s.strict)],
    "a sign-off by the author": lambda s: [s.signoff("sam")],
    "a sign-off from long ago": lambda s: [s.signoff("bo", time="2026-10-24T05:00:00.000000Z")],
    "a sign-off from the future": lambda s: [s.signoff("bo", time="2026-11-24T06:00:00.000000Z")],
    "a sign-off twice": lambda s: [s.last(PolicySignedOff).body],
    "a sign-off that says more than its envelope": lambda s: [
        s.signoff("bo", decision="reject").model_copy(update={"decision": "approve"})
    ],
    "a sign-off by another person than its envelope": lambda s: [s.signoff("bo").model_copy(update={"person": "cy"})],
    "a sign-off that is no envelope": lambda s: [s.signoff("bo").model_copy(update={"envelope": "no"})],
    "a bundle of an unknown policy": lambda s: [s.bundle(policy=DIGEST)],
    "a bundle of nobody": lambda s: [s.bundle(author=None)],
    "a bundle of no time": lambda s: [s.bundle(signed_time=None)],
    "a bundle of nothing that was signed": lambda s: [s.bundle(statement_digest=None)],
    "a bundle twice": lambda s: [s.bundle(), s.bundle()],
    "a bundle twice, in other bytes": lambda s: [s.bundle(), s.bundle(bundle=s.stricter)],
    "a refused bundle that brought a policy": lambda s: [s.bad_bundle(policy=s.stricter)],
    "a refused bundle that was signed": lambda s: [s.bad_bundle(statement_digest=DIGEST)],
    "a bundle that is as old as the bad one": lambda s: [s.bad_bundle(), s.bundle()],
    "a policy after a bad bundle": lambda s: [s.bad_bundle(), s.adoption(s.stricter)],
    "another look after a tightening": lambda s: [s.adoption(s.stricter), s.seed("ready")],
    "a promotion under a policy that was not in force at the seal": lambda s: s.promoted("unbound"),
    "a promotion after a bad bundle": lambda s: [
        *s.promoted("ready")[:1],
        s.bad_bundle(),
        s.promoted("ready")[1],
    ],
}


def test_the_story_itself_is_allowed(story: Story):
    assert replay(story.entries) == replay(story.entries, roles=[story.world.roles]) == len(story.entries)


@pytest.mark.parametrize("more", ALLOWED.values(), ids=ALLOWED)
def test_what_the_actions_would_write_is_allowed(story: Story, more: Forgery):
    entries = story.forged(*more(story))
    assert replay(entries, roles=[story.world.roles]) == len(entries)


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_entry_is_refused(story: Story, forgery: Forgery):
    refusal_of(story.forged(*forgery(story)))


def test_who_approved_does_not_adopt(story: Story):
    before = story.forged(story.signoff("bo"))
    entries = Story(story.world, before, story.strict, story.looser, story.stricter).forged(
        story.adoption(story.looser, approvers=("ana", "bo")), actor="bo"
    )
    assert "not there" in refusal_of(entries)


def test_the_first_policy_of_a_log_has_no_approvers(tmp_path: Path):
    world = make_world(tmp_path)
    actions.record_policy(world.store, policy=world.policy, actor="sam")
    with world.store.read() as history:
        entries = list(history.entries())
    story = Story(world, entries, world.policy.digest, "", "")
    first = story.adoption(world.policy.digest, replaces=None, change="first")
    assert replay(story.forged(first)) == 3
    for wrong in ({"approvers": ("ana",)}, {"change": "stricter"}):
        refusal_of(story.forged(first.model_copy(update=wrong)))


def test_a_signature_is_verified_where_a_roles_file_is_given(story: Story):
    honest = story.signoff("bo")
    statement = unverified_policy_statement(parse_envelope(honest.envelope.encode()))
    envelope = sign_policy_statement(statement, story.world.keys["cy"])  # Cy's key under Bo's name
    key_id = parse_envelope(envelope).key_id
    entries = story.forged(honest.model_copy(update={"envelope": envelope.decode(), "key_id": key_id}))
    assert replay(entries) == len(entries), "the log holds no keys: without a roles file nobody can tell"
    assert "somebody else's" in refusal_of(entries, roles=[story.world.roles])


def test_a_signer_with_roles_that_they_did_not_have_is_refused(story: Story):
    entries = story.forged(story.signoff("cy").model_copy(update={"roles": ("safety",)}))
    assert replay(entries) == len(entries)
    assert "other roles" in refusal_of(entries, roles=[story.world.roles])


def test_an_author_under_another_account_shows_with_the_roles_file(tmp_path: Path):
    world = make_world(tmp_path)
    world.set_root()
    looser = edit(world, LOOSER, recorder="t.trainer")
    with world.store.read() as history:
        entries = list(history.entries())
    story = Story(world, entries, world.policy.digest, looser.digest, "")
    forged = story.forged(story.signoff("tess"))
    assert replay(forged) == len(forged)
    assert "tess recorded" in refusal_of(forged, roles=[world.roles])


def test_adoptions_that_the_actions_write_verify(tmp_path: Path):
    world = make_world(tmp_path)
    world.set_root()
    looser = edit(world, LOOSER)
    sign_edit(world, looser, "ana", "bo")
    adopt(world, looser)
    adopt(world, edit(world, STRICTER))
    assert world.store.verify(roles=[world.roles]) == world.store.head()

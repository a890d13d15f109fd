"""Made-up entries, with correct hashes, at the end of a real log: each is refused by its number.

The forger here is ``Transaction.append`` or a list: neither asks whether the entry is allowed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from guards import actions
from guards.canonical import digest_of, sha256_bytes
from guards.entries import (
    BODIES,
    Abandoned,
    Body,
    CleanedUp,
    DecisionMade,
    EvidenceRecorded,
    Genesis,
    Halted,
    Lifted,
    Logged,
    Measured,
    PolicyRecorded,
    Promoted,
    Recalled,
    RolledBack,
    RootSet,
    RunFinished,
    RunStarted,
    Sealed,
    SeedDrawn,
    SignedOff,
    StepFinished,
    StepStarted,
    VerdictRecorded,
    kind_of,
    typed,
)
from guards.errors import LedgerError
from guards.ledger import Entry
from guards.replay.walk import replay
from guards.signing import Envelope, Statement, parse_envelope, sign
from tests.judged_home import judged_home
from tests.store_world import DIGEST, World, make_world, other_policy

B = TypeVar("B", bound=Body)
SPEC = sha256_bytes(b"a spec")


@dataclass
class Story:
    """A log in which everything happened once, and what the tests forge from it."""

    world: World
    entries: list[Logged[Body]]
    easier: str

    def digest(self, name: str) -> str:
        return self.world.checkpoint(name)

    def last(self, model: type[B], name: str | None = None) -> B:
        """The last body of its kind, or the last about the checkpoint of that name."""
        return self.logged(model, name).body

    def logged(self, model: type[B], name: str | None = None) -> Logged[B]:
        about = None if name is None else self.digest(name)
        found = [
            entry
            for entry in self.entries
            if isinstance(entry.body, model) and (about is None or getattr(entry.body, "candidate", None) == about)
        ]
        return found[-1]  # type: ignore[return-value]

    def forged(self, *bodies: Body) -> list[Logged[Body]]:
        """The log with these bodies after its end."""
        return after(self.entries, *bodies)

    def signoff(self, signer: str = "ana", **says: str) -> SignedOff:
        """A sign-off of the held candidate with a good signature, in an entry that agrees with its envelope."""
        held = self.logged(DecisionMade, "held").body
        statement = Statement.model_validate(
            {
                "candidate": held.candidate,
                "evidence": held.evidence,
                "policy": held.policy,
                "decision": "approve",
                "reason": "so I say",
                "time": self.entries[-1].entry.time,
                "signer": signer,
            }
            | says
        )
        envelope = sign(statement, self.world.keys[signer])
        person = next(one for one in self.world.roles.people if one.id == signer)
        return SignedOff(
            candidate=statement.candidate,
            policy=statement.policy,
            evidence=statement.evidence,
            look_seq=held.look_seq,
            decision=statement.decision,
            reason=statement.reason,
            person=signer,
            roles=person.roles,
            key_id=parse_envelope(envelope).key_id,
            signed_time=statement.time,
            envelope=envelope.decode(),
            statement_digest=sha256_bytes(statement.payload()),
            roles_digest=self.world.roles.digest,
        )

    def decision(self, name: str, outcome: str, **changes: Any) -> DecisionMade:
        """A decision on the latest look of a checkpoint, in agreement with everything but its verdicts."""
        look = self.logged(SeedDrawn, name)
        evidence = sorted(
            one.body.evidence
            for one in self.entries
            if isinstance(one.body, EvidenceRecorded) and one.body.look_seq == look.seq
        )
        body = {
            "candidate": look.body.candidate,
            "policy": look.body.policy,
            "look_seq": look.seq,
            "evidence": digest_of(evidence),
            "champion": look.body.champion,
            "outcome": outcome,
            "waits_for": "nothing",
            "reasons": ("so it is",),
        }
        return DecisionMade.model_validate(body | changes)

    def verdict(self, name: str, gate: int, outcome: str) -> VerdictRecorded:
        """A verdict on the latest look of a checkpoint."""
        decision = self.decision(name, "hold")
        figures = self.world.verdicts(outcome)[gate].to_ledger()
        return VerdictRecorded(
            candidate=decision.candidate,
            policy=decision.policy,
            look_seq=decision.look_seq,
            evidence=decision.evidence,
            gate=figures["gate_id"],
            outcome=figures["outcome"],
            figures=figures,
        )

    def promoted(self, name: str, decision_seq: int, **changes: Any) -> Promoted:
        """A promotion of a checkpoint on this decision, in place of the champion in use."""
        decision = self.decision(name, "promote")
        body = {
            "candidate": decision.candidate,
            "policy": decision.policy,
            "evidence": decision.evidence,
            "look_seq": decision.look_seq,
            "decision_seq": decision_seq,
            "champion_before": decision.champion,
            "approvers": ("ana", "bo"),
            "unattended": False,
            "anchor_gates": (),
        }
        return Promoted.model_validate(body | changes)


def after(entries: Sequence[Logged[Body]], *bodies: Body) -> list[Logged[Body]]:
    forged = list(entries)
    time = entries[-1].entry.time
    for body in bodies:
        entry = Entry(seq=len(forged), time=time, kind=kind_of(body), actor="eve", body=body.model_dump(mode="json"))
        forged.append(typed(entry))
    return forged


def changed(body: B, **update: Any) -> B:
    return body.model_copy(update=update)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A champion that was approved, one that waits for approvals, one rejected, one being measured, one only sealed."""
    world = make_world(tmp_path_factory.mktemp("story"))
    store = world.store
    world.set_root()
    actions.start_run(store, run="run", config=DIGEST, plan={}, actor="runner")
    attempt = actions.start_step(store, spec=SPEC, step="train", actor="runner").number
    actions.finish_step(store, spec=SPEC, attempt=attempt, outcome="done", outputs=DIGEST, actor="runner")
    actions.start_step(store, spec=DIGEST, step="train", actor="runner")
    actions.record_measured(store, run="run", name="speed", figures={}, actor="runner")
    world.promoted("champion")
    world.gate(world.seal("rejected"), "fail", "pass")
    world.gate(world.seal("held"))
    world.sign(world.checkpoint("held"), "ana")
    world.record_all_evidence(world.draw(world.seal("measured")))
    world.seal("sealed")
    world.checkpoint("unknown")
    easier = other_policy(world, approvals={"required": 1, "roles": ["reviewer"]}).digest
    with store.read() as history:
        entries = list(history.entries())
    return Story(world, entries, easier)


def test_the_story_itself_is_allowed(story: Story):
    assert replay(story.entries) == replay(story.entries, roles=[story.world.roles]) == len(story.entries)
    assert story.world.store.verify(roles=[story.world.roles]) == story.world.store.head()
    told = {entry.kind for entry in story.entries}
    assert told >= {"root", "signoff", "promoted", "hold", "reject", "promote", "measured", "step_finished"}


def test_the_beginning_of_an_allowed_log_is_allowed(story: Story):
    for size in range(len(story.entries)):
        assert replay(story.entries[:size]) == size


Forgery = Callable[[Story], Sequence[Body]]

# The last body of each is refused; those before it are allowed.
FORGERIES: dict[str, Forgery] = {
    "a second genesis": lambda s: [Genesis(log_id="0" * 32)],
    "a policy under another digest": lambda s: [changed(s.last(PolicyRecorded), policy=DIGEST)],
    "a policy twice": lambda s: [s.last(PolicyRecorded)],
    "a second root": lambda s: [s.last(RootSet)],
    "a seal under an unknown policy": lambda s: [changed(s.last(Sealed), policy=DIGEST)],
    "a seal with another manifest": lambda s: [
        changed(s.last(Sealed), candidate=s.digest("unknown"), policy=s.easier),
    ],
    "a seal twice": lambda s: [s.last(Sealed, "sealed")],
    "a seal of a recalled checkpoint": lambda s: [
        Recalled(checkpoint=s.digest("sealed"), reason="why"),
        changed(s.last(Sealed, "sealed"), policy=s.easier),
    ],
    "items for an unsealed candidate": lambda s: [seed(s, "sealed", candidate=s.digest("unknown"))],
    "items before the seal names the policy": lambda s: [seed(s, "sealed", policy=s.easier)],
    "a look that is not counted": lambda s: [seed(s, "sealed", look=1)],
    "a look under another policy name": lambda s: [seed(s, "sealed", policy_name="fresh", look=1)],
    "a look against a past champion": lambda s: [seed(s, "sealed", champion=s.digest("root"))],
    "a look at a recalled candidate": lambda s: [
        Recalled(checkpoint=s.digest("sealed"), reason="why"),
        seed(s, "sealed"),
    ],
    "another look after a reject": lambda s: [seed(s, "rejected")],
    "a decided look given up": lambda s: [
        seed(s, "held", abandons=Abandoned(look_seq=s.logged(SeedDrawn, "held").seq, reason="it held"))
    ],
    "evidence of no look": lambda s: [changed(s.last(EvidenceRecorded, "measured"), look_seq=0)],
    "evidence of another candidate's look": lambda s: [
        changed(s.last(EvidenceRecorded, "measured"), candidate=s.digest("sealed"))
    ],
    "evidence after the decision": lambda s: [changed(s.last(EvidenceRecorded, "held"), suite="tasks")],
    "evidence after a verdict": lambda s: [
        s.verdict("measured", 0, "pass"),
        changed(s.last(EvidenceRecorded, "measured"), suite="tasks"),
    ],
    "evidence of an unknown suite": lambda s: [changed(s.last(EvidenceRecorded, "measured"), suite="easy")],
    "evidence by another checkpoint": lambda s: [
        changed(s.last(EvidenceRecorded, "measured"), role="candidate", checkpoint=s.digest("root"), suite="tasks")
    ],
    "evidence twice": lambda s: [s.last(EvidenceRecorded, "measured")],
    "evidence from outside the home": lambda s: [
        changed(s.last(EvidenceRecorded, "measured"), suite="tasks", path="../elsewhere")
    ],
    "a verdict on other evidence": lambda s: [changed(s.verdict("measured", 0, "pass"), evidence=DIGEST)],
    "a verdict of an unknown gate": lambda s: [changed(s.verdict("measured", 0, "pass"), gate="easy")],
    "a verdict twice": lambda s: [s.verdict("measured", 0, "pass"), s.verdict("measured", 0, "pass")],
    "a verdict after the decision": lambda s: [s.verdict("rejected", 0, "pass")],
    "a verdict unlike its figures": lambda s: [changed(s.verdict("measured", 0, "fail"), outcome="pass")],
    "a verdict without figures": lambda s: [changed(s.verdict("measured", 0, "pass"), figures={})],
    "a test that passes at more alpha than was left": lambda s: [spending(s, "measured", 0.05)],
    "a test that passes at no alpha": lambda s: [spending(s, "measured", None)],
    "a test that passes at a negative alpha": lambda s: [spending(s, "measured", -0.001)],
    "a decision without verdicts": lambda s: [s.decision("measured", "promote")],
    "a decision without one of the verdicts": lambda s: [
        s.verdict("measured", 0, "pass"),
        s.decision("measured", "hold", waits_for="approvals"),
    ],
    "a hold of what failed": lambda s: [
        s.verdict("measured", 0, "fail"),
        s.verdict("measured", 1, "pass"),
        s.decision("measured", "hold", waits_for="evidence"),
    ],
    "a hold for approvals of what is inconclusive": lambda s: [
        s.verdict("measured", 0, "inconclusive"),
        s.verdict("measured", 1, "pass"),
        s.decision("measured", "hold", waits_for="approvals"),
    ],
    "a reject of what passed": lambda s: [
        s.verdict("measured", 0, "pass"),
        s.verdict("measured", 1, "pass"),
        s.decision("measured", "reject"),
    ],
    "a decision to promote with one approval": lambda s: [s.decision("held", "promote")],
    "a decision to promote with two approvals in one role": lambda s: [
        s.signoff("bo", time="2026-11-24T04:59:00.000000Z"),
        changed(s.signoff("bo"), roles=("reviewer",)),
        s.decision("held", "promote"),
    ],
    "a decision to promote over a rejection": lambda s: [
        s.signoff("bo"),
        s.signoff("cy", decision="reject"),
        s.decision("held", "promote"),
    ],
    "a decision after a reject": lambda s: [s.decision("rejected", "promote")],
    "a decision on other evidence": lambda s: [s.signoff("bo"), s.decision("held", "promote", evidence=DIGEST)],
    "a decision against another champion": lambda s: [
        s.signoff("bo"),
        s.decision("held", "promote", champion=s.digest("root")),
    ],
    "a decision on another candidate's look": lambda s: [
        changed(s.decision("held", "hold"), candidate=s.digest("sealed"))
    ],
    "a sign-off that is no envelope": lambda s: [changed(s.signoff("bo"), envelope="not an envelope")],
    "a sign-off in an envelope of another type": lambda s: [
        changed(s.signoff("bo"), envelope=s.signoff("bo").envelope.replace("signoff+json", "invoice+json"))
    ],
    "a sign-off that says more than its envelope": lambda s: [
        changed(s.signoff("bo", decision="reject"), decision="approve")
    ],
    "a sign-off by another person than its envelope": lambda s: [changed(s.signoff("bo"), person="cy")],
    "a sign-off under another key than its envelope": lambda s: [changed(s.signoff("bo"), key_id=DIGEST)],
    "a sign-off signed at another time": lambda s: [
        changed(s.signoff("bo"), signed_time="2026-11-24T04:00:00.000000Z")
    ],
    "a sign-off twice": lambda s: [s.last(SignedOff, "held")],
    "a sign-off of another candidate's look": lambda s: [
        changed(s.signoff("bo"), look_seq=s.logged(SeedDrawn, "measured").seq)
    ],
    "a sign-off of other evidence": lambda s: [s.signoff("bo", evidence=DIGEST)],
    "a sign-off of what is undecided": lambda s: [
        changed(
            s.signoff("bo", candidate=s.digest("measured")),
            look_seq=s.logged(SeedDrawn, "measured").seq,
        )
    ],
    "a sign-off of a recalled candidate": lambda s: [
        Recalled(checkpoint=s.digest("held"), reason="why"),
        s.signoff("bo"),
    ],
    "a sign-off by the trainer": lambda s: [s.signoff("tess")],
    "a sign-off by the submitter": lambda s: [s.signoff("sam")],
    "a sign-off from long ago": lambda s: [s.signoff("bo", time="2026-10-24T05:00:00.000000Z")],
    "a sign-off from the future": lambda s: [s.signoff("bo", time="2026-11-24T06:00:00.000000Z")],
    "an approval of what was rejected": lambda s: [
        changed(
            s.signoff("bo", candidate=s.digest("rejected"), evidence=s.decision("rejected", "reject").evidence),
            look_seq=s.logged(SeedDrawn, "rejected").seq,
        )
    ],
    "a promotion on no decision": lambda s: [s.promoted("held", 10_000)],
    "a promotion on a hold": lambda s: [s.promoted("held", s.logged(DecisionMade, "held").seq)],
    "a promotion on a reject": lambda s: [s.promoted("rejected", s.logged(DecisionMade, "rejected").seq)],
    "a promotion on another candidate's decision": lambda s: [
        s.promoted("held", s.logged(DecisionMade, "champion").seq)
    ],
    "a promotion on a used decision": lambda s: [s.last(Promoted)],
    "a promotion with a person who did not sign": lambda s: ready(s, approvers=("ana", "cy")),
    "a promotion with too few people": lambda s: ready(s, approvers=("bo",)),
    "a promotion with one person twice": lambda s: ready(s, approvers=("bo", "bo")),
    "a promotion that nobody had to approve": lambda s: ready(s, unattended=True),
    "a promotion of other evidence": lambda s: ready(s, evidence=DIGEST),
    "a promotion under another policy": lambda s: ready(s, policy=s.easier),
    "a promotion in place of a past champion": lambda s: ready(s, champion_before=s.digest("root")),
    "a promotion in place of nothing": lambda s: ready(s, champion_before=None),
    "a promotion to anchor without being better": lambda s: ready(s, anchor_gates=("refusal-holds-over-time",)),
    "a promotion after the champion changed": lambda s: [
        *ready(s)[:-1],
        RolledBack(checkpoint=s.digest("root"), champion_before=s.digest("champion"), reason="why"),
        ready(s)[-1],
    ],
    "a promotion of a recalled candidate": lambda s: [
        *ready(s)[:-1],
        Recalled(checkpoint=s.digest("held"), reason="why"),
        ready(s)[-1],
    ],
    "a promotion of deleted files": lambda s: [
        *ready(s)[:-1],
        CleanedUp(checkpoint=s.digest("held"), rule="rule"),
        ready(s)[-1],
    ],
    "a rollback to what never was champion": lambda s: [
        RolledBack(checkpoint=s.digest("held"), champion_before=s.digest("champion"), reason="why")
    ],
    "a rollback to the champion in use": lambda s: [
        RolledBack(checkpoint=s.digest("champion"), champion_before=s.digest("champion"), reason="why")
    ],
    "a rollback from another champion": lambda s: [
        RolledBack(checkpoint=s.digest("root"), champion_before=s.digest("root"), reason="why")
    ],
    "a rollback to a recalled champion": lambda s: [
        RolledBack(checkpoint=s.digest("root"), champion_before=s.digest("champion"), reason="why"),
        Recalled(checkpoint=s.digest("champion"), reason="why"),
        RolledBack(checkpoint=s.digest("champion"), champion_before=s.digest("root"), reason="why"),
    ],
    "a lift of no halt": lambda s: [Lifted(halts=(3,), reason="why")],
    "a lift twice": lambda s: [*halted(s), *[Lifted(halts=(len(s.entries),), reason="why")] * 2],
    "a lift while the champion is recalled": lambda s: [
        Recalled(checkpoint=s.digest("champion"), reason="why"),
        Halted(reason="why"),
        Lifted(halts=(len(s.entries) + 1,), reason="why"),
    ],
    "a recall of the champion that halts nothing": lambda s: [
        Recalled(checkpoint=s.digest("champion"), reason="why"),
        RolledBack(checkpoint=s.digest("root"), champion_before=s.digest("champion"), reason="why"),
    ],
    "a recall of the unknown": lambda s: [Recalled(checkpoint=s.digest("unknown"), reason="why")],
    "a recall twice": lambda s: [Recalled(checkpoint=s.digest("sealed"), reason="why")] * 2,
    "a clean-up of the root": lambda s: [CleanedUp(checkpoint=s.digest("root"), rule="rule")],
    "a clean-up of a champion": lambda s: [CleanedUp(checkpoint=s.digest("champion"), rule="rule")],
    "a clean-up of the unknown": lambda s: [CleanedUp(checkpoint=s.digest("unknown"), rule="rule")],
    "a clean-up twice": lambda s: [CleanedUp(checkpoint=s.digest("rejected"), rule="rule")] * 2,
    "a run twice": lambda s: [s.last(RunStarted)],
    "an end of an unknown run": lambda s: [RunFinished(run="other", outcome="done", summary={})],
    "an end of a run twice": lambda s: [RunFinished(run="run", outcome="done", summary={})] * 2,
    "figures of an unknown run": lambda s: [changed(s.last(Measured), run="other")],
    "figures twice": lambda s: [s.last(Measured)],
    "an attempt twice": lambda s: [s.last(StepStarted)],
    "an end of an unknown attempt": lambda s: [changed(s.last(StepFinished), attempt=7)],
    "an end of an attempt twice": lambda s: [s.last(StepFinished)],
    "an end of another step": lambda s: [changed(s.last(StepFinished), spec=DIGEST, step="judge")],
    "an end without outputs": lambda s: [changed(s.last(StepFinished), spec=DIGEST, outputs=None)],
    "a policy while halted": lambda s: [*halted(s), s.last(PolicyRecorded)],
    "a seal while halted": lambda s: [*halted(s), changed(s.last(Sealed), policy=s.easier)],
    "items while halted": lambda s: [*halted(s), seed(s, "sealed")],
    "a verdict while halted": lambda s: [*halted(s), s.verdict("measured", 0, "pass")],
    "a decision while halted": lambda s: [s.signoff("bo"), *halted(s), s.decision("held", "promote")],
    "a promotion while halted": lambda s: [*ready(s)[:-1], *halted(s), ready(s)[-1]],
    "a step while halted": lambda s: [*halted(s), changed(s.last(StepStarted), attempt=2)],
    "a run while halted": lambda s: [*halted(s), changed(s.last(RunStarted), run="other")],
    "a clean-up while halted": lambda s: [*halted(s), CleanedUp(checkpoint=s.digest("rejected"), rule="rule")],
}


def spending(story: Story, name: str, alpha: float | None) -> VerdictRecorded:
    """The first gate's verdict, a pass at this alpha."""
    passes = story.verdict(name, 0, "pass")
    return changed(passes, figures={**passes.figures, "alpha": None if alpha is None else repr(alpha)})


def seed(story: Story, name: str, **changes: Any) -> SeedDrawn:
    """A look that could be drawn for the checkpoint now, but for ``changes``."""
    look = story.last(SeedDrawn)
    new = {"candidate": story.digest(name), "look": look.look + 1, "champion": story.digest("champion")}
    return changed(look, **({**new, "compared_with": story.digest("champion")} | changes))


def halted(story: Story) -> list[Body]:
    return [Halted(reason="why")]


def ready(story: Story, **changes: Any) -> list[Body]:
    """What is missing before the held candidate can be promoted, and its promotion."""
    decision_seq = len(story.entries) + 1
    return [story.signoff("bo"), story.decision("held", "promote"), story.promoted("held", decision_seq, **changes)]


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_entry_is_refused(story: Story, forgery: Forgery):
    bodies = forgery(story)
    before = story.forged(*bodies[:-1])
    assert replay(before) == len(before), "what comes before the forged entry must be allowed"
    with pytest.raises(LedgerError) as refusal:
        replay(story.forged(*bodies))
    assert refusal.value.rule == "ledger.not-allowed"
    assert refusal.value.message.startswith(f"entry {len(before)} ({kind_of(bodies[-1])}) was not allowed: ")
    assert refusal.value.fix


ALLOWED: dict[str, Forgery] = {
    "the held candidate, approved and promoted": lambda s: ready(s),
    "what is allowed while halted": lambda s: [
        *halted(s),
        s.signoff("bo"),
        s.signoff("cy", decision="reject"),
        Recalled(checkpoint=s.digest("sealed"), reason="why"),
        RolledBack(checkpoint=s.digest("root"), champion_before=s.digest("champion"), reason="why"),
        changed(s.last(StepFinished), spec=DIGEST),
        changed(s.last(Measured), name="cost"),
        RunFinished(run="run", outcome="done", summary={}),
        Lifted(halts=(len(s.entries),), reason="why"),
    ],
    "an open look given up": lambda s: [
        seed(s, "measured", abandons=Abandoned(look_seq=s.logged(SeedDrawn, "measured").seq, reason="new code"))
    ],
    "a rejection that was taken back": lambda s: [
        s.signoff("bo", decision="reject", time="2026-11-24T04:59:00.000000Z"),
        *ready(s)[:1],
        s.decision("held", "promote"),
        s.promoted("held", len(s.entries) + 2),
    ],
}


@pytest.mark.parametrize("more", ALLOWED.values(), ids=ALLOWED)
def test_what_the_actions_would_write_is_allowed(story: Story, more: Forgery):
    entries = story.forged(*more(story))
    assert replay(entries, roles=[story.world.roles]) == len(entries)


def test_every_kind_has_a_forgery():
    tried = {word for name in FORGERIES for word in name.replace("-", " ").split()}
    assert len(FORGERIES) > 90 and len(BODIES) == 26, "a new kind of entry needs a rule, and a forgery here"
    assert {"genesis", "policy", "root", "seal", "look", "evidence", "verdict", "decision", "promotion"} <= tried


def test_an_entry_out_of_order_is_refused(story: Story):
    for entries in (story.entries[1:], [*story.entries[:3], *story.entries[4:]]):
        with pytest.raises(LedgerError, match="was not allowed: it is out of order"):
            replay(entries)


def test_a_log_without_its_genesis_is_refused(story: Story):
    first = Logged(0, story.entries[1].time, "halt", "eve", Halted(reason="why"), story.entries[1].entry)
    with pytest.raises(LedgerError, match="a log begins with its genesis"):
        replay([first])


def test_a_root_that_failed_is_refused(story: Story):
    at = next(entry.seq for entry in story.entries if entry.kind == "root")
    root = story.last(RootSet)
    failed = {**root.verdicts[0], "outcome": "fail"}
    contradicting = {**root.verdicts[0], "bound": "-0.9"}  # it passes, and its bound does not
    for wrong in (
        {"verdicts": (failed, *root.verdicts[1:])},
        {"verdicts": (contradicting, *root.verdicts[1:])},
        {"verdicts": root.verdicts[:1]},
        {"policy": DIGEST},
        {"checkpoint": DIGEST},
    ):
        with pytest.raises(LedgerError) as refusal:
            replay(after(story.entries[:at], changed(root, **wrong)))
        assert refusal.value.rule == "ledger.not-allowed"


def test_a_candidate_that_was_rejected_is_not_promoted_under_another_policy(story: Story):
    """Sealed again under another name, where everything passes: the reject stands."""
    policy = json.loads(story.last(PolicyRecorded).resolved)
    policy |= {"name": "fresh", "approvals": {**policy["approvals"], "required": 2, "roles": ["reviewer", "safety"]}}
    resolved = json.dumps(policy)
    recorded = PolicyRecorded(policy=sha256_bytes(resolved.encode()), name="fresh", resolved=resolved)
    sealed = changed(story.last(Sealed, "rejected"), policy=recorded.policy)
    again = seed(story, "rejected", policy=recorded.policy, policy_name="fresh", look=1)
    look_seq = len(story.entries) + 2
    shown = changed(
        story.last(EvidenceRecorded, "rejected"), look_seq=look_seq, role="candidate", checkpoint=again.candidate
    )
    about: dict[str, Any] = {"look_seq": look_seq, "policy": recorded.policy, "evidence": digest_of([shown.evidence])}
    verdicts = [changed(story.verdict("rejected", gate, "pass"), **about) for gate in (0, 1)]
    decision = changed(story.decision("rejected", "hold", waits_for="approvals"), **about)
    signoffs = [
        changed(
            story.signoff(who, candidate=again.candidate, policy=recorded.policy, evidence=about["evidence"]),
            look_seq=look_seq,
        )
        for who in ("ana", "bo")
    ]
    before = [recorded, sealed, again, shown, *verdicts, decision, *signoffs, changed(decision, outcome="promote")]
    before[-1] = changed(before[-1], waits_for="nothing")  # type: ignore[type-var]
    assert replay(story.forged(*before))
    promoted = changed(story.promoted("rejected", len(story.entries) + len(before) - 1), **about)
    with pytest.raises(LedgerError, match="the candidate was rejected before"):
        replay(story.forged(*before, promoted))


# Signatures


def resigned(signoff: SignedOff, **changes: str) -> SignedOff:
    """The same statement with other bytes where the signature is."""
    envelope = parse_envelope(signoff.envelope.encode())
    signature = envelope.signatures[0].model_copy(update={"sig": base64.b64encode(bytes(64)).decode()})
    forged = Envelope.model_validate(
        {**envelope.model_dump(by_alias=True), "signatures": [signature.model_dump()]} | changes
    )
    return changed(signoff, envelope=forged.to_bytes().decode())


def test_a_signature_is_verified_where_a_roles_file_is_given(story: Story):
    forged = story.forged(resigned(story.signoff("bo")))
    assert replay(forged) == len(forged), "the log holds no keys: without a roles file nobody can tell"
    with pytest.raises(LedgerError, match="the signature does not verify") as refusal:
        replay(forged, roles=[story.world.roles])
    assert refusal.value.rule == "ledger.not-allowed"


def test_a_key_that_no_roles_file_knows_is_said_to_be_unknown(story: Story, tmp_path: Path):
    others = make_world(tmp_path).roles
    with pytest.raises(LedgerError) as refusal:
        replay(story.entries, roles=[others])
    assert refusal.value.rule == "ledger.unknown-signer"
    assert replay(story.entries, roles=[others, story.world.roles]) == len(story.entries)


def test_a_signer_with_roles_that_they_did_not_have_is_refused(story: Story):
    forged = story.forged(changed(story.signoff("cy"), roles=("reviewer", "safety")))
    assert replay(forged) == len(forged)
    with pytest.raises(LedgerError, match="its signer had other roles"):
        replay(forged, roles=[story.world.roles])


# Through the store: correct hashes, and a head that the log extends


def test_the_forgery_of_a_champion_is_refused_even_with_a_kept_head(tmp_path: Path):
    home = judged_home(tmp_path, outcome="pass")
    store = home.world.store
    kept = store.verify()
    decision = home.decision.body
    with store.write() as transaction:
        transaction.append(
            "eve",
            SignedOff(
                candidate=home.candidate,
                policy=decision.policy,
                evidence=decision.evidence,
                look_seq=decision.look_seq,
                decision="approve",
                reason="fine",
                person="ana",
                roles=("reviewer", "safety"),
                key_id=DIGEST,
                signed_time="2026-11-24T05:00:00.000000Z",
                envelope="not an envelope",
                statement_digest=DIGEST,
                roles_digest=DIGEST,
            ),
        )
        transaction.append(
            "eve",
            Promoted(
                candidate=home.candidate,
                policy=decision.policy,
                evidence=decision.evidence,
                look_seq=decision.look_seq,
                decision_seq=10_000,
                champion_before=decision.champion,
                approvers=("ana",),
                unattended=False,
                anchor_gates=(),
            ),
        )
    with pytest.raises(LedgerError) as refusal:
        store.verify(trusted_head=kept)
    assert refusal.value.rule == "ledger.not-allowed"
    assert refusal.value.message.startswith(f"entry {kept.size} (signoff) was not allowed: its envelope")
    assert refusal.value.got == "not an envelope"

"""What each kind of entry holds: one frozen model per kind.

``BODIES`` maps a kind to its model; a kind that is not in it is neither written nor read.
Digests of checkpoints are under ``candidate`` where somebody wants to promote the checkpoint,
and under ``checkpoint`` elsewhere. A *look* is one draw of items for one candidate; it is named
by the number of the entry that drew it (``look_seq``), and counted by ``look``.

Not covered: whether an entry was allowed. :mod:`guards.actions` decides that before it writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError, model_validator

from guards.errors import LedgerError
from guards.evidence import Cost, Digest, Frozen
from guards.ledger import Entry, Label, RealTime, Time, parse_time

Reason = Annotated[str, Field(min_length=1, max_length=4000, pattern=r"\S")]
"""Free text by a person. Show it escaped: it may hold anything."""

Seq = Annotated[int, Field(ge=0)]
Role = Literal["candidate", "champion", "root", "anchor"]
VerdictOutcome = Literal["pass", "fail", "inconclusive"]
DecisionOutcome = Literal["promote", "hold", "reject"]


class Body(Frozen):
    """Base of every body."""


class Genesis(Body):
    """The first entry; ``log_id`` is random, so that no two logs are the same."""

    log_id: str = Field(pattern=r"^[0-9a-f]{32}$")


class PolicyRecorded(Body):
    """A resolved policy. ``resolved`` is its canonical JSON as text (it may hold decimals); ``policy`` its digest."""

    policy: Digest
    name: Label
    resolved: str


class PolicySignedOff(Body):
    """What one person says of NEW coming into force in place of OLD, as verified when it was recorded."""

    old: Digest
    new: Digest
    decision: Literal["approve", "reject"]
    reason: Reason
    person: Label
    roles: tuple[Label, ...]
    key_id: Digest
    signed_time: RealTime
    envelope: str
    statement_digest: Digest
    roles_digest: Digest


class PolicyInForce(Body):
    """From here on candidates must be sealed under this policy to be promoted.

    ``change`` is how it compares with the one that it ``replaces``; ``approvers`` are those whose
    approvals allowed it, where it needed any.
    """

    policy: Digest
    name: Label
    replaces: Digest | None
    change: Literal["first", "same", "stricter", "looser", "incomparable"]
    approvers: tuple[Label, ...]


class BundleReceived(Body):
    """A signed bundle of policies was unpacked, or refused; ``bundle`` is the sha256 of its file.

    ``statement_digest`` is of what was signed, at ``signed_time``; a refused one has neither, nor a policy.
    While the latest one was refused, nothing is promoted, and no policy comes into force.
    """

    bundle: Digest
    outcome: Literal["installed", "refused"]
    reason: Reason
    policy: Digest | None
    author: Label | None
    signed_time: RealTime | None
    statement_digest: Digest | None


class RootSet(Body):
    """The first champion, the evidence and the verdicts on which it became the root."""

    checkpoint: Digest
    manifest: dict[str, JsonValue]
    policy: Digest
    evidence: tuple[Digest, ...] = Field(min_length=1)
    verdicts: tuple[dict[str, JsonValue], ...] = Field(min_length=1)


class Sealed(Body):
    """A candidate and where it comes from. ``submitter`` and ``trainer`` may not approve it."""

    candidate: Digest
    manifest: dict[str, JsonValue]
    provenance: dict[str, JsonValue]
    parent: Digest | None
    submitter: Label
    trainer: Label | None
    policy: Digest


class Abandoned(Frozen):
    """The look that another one is drawn in place of, and why it could not be gone on with."""

    look_seq: Seq
    reason: Reason


class SeedDrawn(Body):
    """A look: the random bytes from which its items are drawn, and what the candidate is held against.

    ``champion`` was in use when the look began; ``compared_with`` answers the items in the
    champion's place. They differ only where two checkpoints are gated outside a loop.
    ``abandons`` is set where somebody gave up an undecided look of the candidate for this one.
    """

    candidate: Digest
    policy: Digest
    policy_name: Label
    look: int = Field(ge=1)
    seed: str = Field(pattern=r"^[0-9a-f]{64}$")
    champion: Digest | None
    compared_with: Digest | None
    run: Label | None
    abandons: Abandoned | None = None


class EvidenceRecorded(Body):
    """One finished run of one suite; ``path`` is relative to the home, POSIX."""

    candidate: Digest
    look_seq: Seq
    role: Role
    checkpoint: Digest
    suite: Label
    evidence: Digest
    path: str


class VerdictRecorded(Body):
    """One gate's verdict, whole in ``figures``. ``evidence`` is the digest over all evidence of the look."""

    candidate: Digest
    policy: Digest
    look_seq: Seq
    evidence: Digest
    gate: Label
    outcome: VerdictOutcome
    figures: dict[str, JsonValue]


class DecisionMade(Body):
    """What follows from the verdicts and approvals. The entry's kind is the outcome.

    ``waits_for`` says what would release a hold.
    """

    candidate: Digest
    policy: Digest
    look_seq: Seq
    evidence: Digest
    champion: Digest | None
    outcome: DecisionOutcome
    waits_for: Literal["nothing", "evidence", "approvals"]
    reasons: tuple[Reason, ...] = Field(min_length=1)


class SignedOff(Body):
    """One person's sign-off, as verified when it was recorded, with the envelope to verify it again."""

    candidate: Digest
    policy: Digest
    evidence: Digest
    look_seq: Seq
    decision: Literal["approve", "reject"]
    reason: Reason
    person: Label
    roles: tuple[Label, ...]
    key_id: Digest
    signed_time: Time
    envelope: str
    statement_digest: Digest
    roles_digest: Digest


class WaiverSigned(Body):
    """One person's signature under a waiver of one gate, or their objection to it, as verified when it was recorded.

    It is about the look ``look_seq``, whose digests are ``candidate``, ``evidence`` and ``policy``. Signatures
    that agree in these, ``gate``, ``ticket`` and ``expires`` make one waiver (:mod:`guards.waivers`).
    """

    candidate: Digest
    policy: Digest
    evidence: Digest
    look_seq: Seq
    gate: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)
    decision: Literal["grant", "reject"]
    ticket: Label | None
    expires: RealTime | None
    reason: Reason
    person: Label
    roles: tuple[Label, ...]
    key_id: Digest
    signed_time: RealTime
    envelope: str
    statement_digest: Digest
    roles_digest: Digest

    @model_validator(mode="after")
    def _a_grant_ends(self) -> WaiverSigned:
        is_objection = self.decision == "reject"
        if (self.ticket is None) != is_objection or (self.expires is None) != is_objection:
            raise ValueError("a grant has a ticket and an expiry, an objection has neither")
        return self


class Promoted(Body):
    """The candidate became champion, on the decision ``decision_seq``; ``anchor_gates`` get it as anchor."""

    candidate: Digest
    policy: Digest
    evidence: Digest
    look_seq: Seq
    decision_seq: Seq
    champion_before: Digest | None
    approvers: tuple[Label, ...]
    unattended: bool
    anchor_gates: tuple[Label, ...]


class RolledBack(Body):
    """A past champion came back into use."""

    checkpoint: Digest
    champion_before: Digest
    reason: Reason


class Halted(Body):
    """Everything stops until this halt is lifted."""

    reason: Reason


class Lifted(Body):
    """The halts with these entry numbers are over."""

    halts: tuple[Seq, ...] = Field(min_length=1)
    reason: Reason


class Recalled(Body):
    """A checkpoint that must not be used any more."""

    checkpoint: Digest
    reason: Reason


class CleanedUp(Body):
    """A checkpoint's files were deleted by a declared rule; its digest and its entries stay."""

    checkpoint: Digest
    rule: Label


class StepStarted(Body):
    """A step's process may start; ``attempt`` is counted by the log, so that no attempt goes unseen."""

    spec: Digest
    step: Label
    attempt: int = Field(ge=1)
    candidate: Digest | None
    run: Label | None


class StepFinished(Body):
    """A step ended. ``outputs`` is the digest of its output manifest, where it left one."""

    spec: Digest
    step: Label
    attempt: int = Field(ge=1)
    outcome: Literal["done", "failed"]
    outputs: Digest | None
    cost: Cost | None
    reason: str


class RunStarted(Body):
    """A run of the loop, by the digest of its resolved configuration."""

    run: Label
    config: Digest
    policy: Digest | None
    plan: dict[str, JsonValue]


class RunFinished(Body):
    """A run reached its end."""

    run: Label
    outcome: Label
    summary: dict[str, JsonValue]


class Measured(Body):
    """Figures that no gate reads (speed, cost, curves). Decimals are text."""

    run: Label
    name: Label
    candidate: Digest | None
    figures: dict[str, JsonValue]


BODIES: dict[str, type[Body]] = {
    "genesis": Genesis,
    "policy": PolicyRecorded,
    "policy_signoff": PolicySignedOff,
    "policy_in_force": PolicyInForce,
    "bundle": BundleReceived,
    "root": RootSet,
    "sealed": Sealed,
    "seed": SeedDrawn,
    "evidence": EvidenceRecorded,
    "verdict": VerdictRecorded,
    "promote": DecisionMade,
    "hold": DecisionMade,
    "reject": DecisionMade,
    "signoff": SignedOff,
    "waiver": WaiverSigned,
    "promoted": Promoted,
    "rollback": RolledBack,
    "halt": Halted,
    "lift": Lifted,
    "recall": Recalled,
    "cleanup": CleanedUp,
    "step_started": StepStarted,
    "step_finished": StepFinished,
    "run_started": RunStarted,
    "run_finished": RunFinished,
    "measured": Measured,
}
_KIND_OF = {model: kind for kind, model in BODIES.items() if model is not DecisionMade}

B = TypeVar("B", bound=Body)
B_co = TypeVar("B_co", bound=Body, covariant=True)


@dataclass(frozen=True)
class Logged(Generic[B_co]):
    """An entry of the log with its typed body."""

    seq: int
    time: datetime
    kind: str
    actor: str
    body: B_co
    entry: Entry

    def as_json(self) -> dict[str, Any]:
        """The entry exactly as it was hashed."""
        return self.entry.as_json()


def kind_of(body: Body) -> str:
    """The kind under which a body is written."""
    return body.outcome if isinstance(body, DecisionMade) else _KIND_OF[type(body)]


def typed(entry: Entry) -> Logged[Body]:
    """Read an entry's body by its kind.

    Raises:
        LedgerError: ``ledger.unknown-kind``, ``ledger.bad-body``.
    """
    model = BODIES.get(entry.kind)
    if model is None:
        raise LedgerError(
            "ledger.unknown-kind",
            f"entry {entry.seq} is of a kind that this version does not know",
            got=entry.kind,
            fix="read this log with the version that wrote it, or a later one",
        )
    try:
        body = model.model_validate(entry.body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise LedgerError("ledger.bad-body", f"entry {entry.seq} ({entry.kind}): {where}: {first['msg']}") from error
    if kind_of(body) != entry.kind:
        raise LedgerError("ledger.bad-body", f"entry {entry.seq} is of kind {entry.kind}, its body of {kind_of(body)}")
    return Logged(entry.seq, parse_time(entry.time), entry.kind, entry.actor, body, entry)


def typed_as(entry: Entry, model: type[B]) -> Logged[B]:
    """:func:`typed`, where only one model is expected.

    Raises:
        LedgerError: also ``ledger.unexpected-kind``.
    """
    logged = typed(entry)
    if not isinstance(logged.body, model):
        raise LedgerError(
            "ledger.unexpected-kind", f"entry {entry.seq} is of kind {entry.kind}", expected=model.__name__
        )
    return Logged(logged.seq, logged.time, logged.kind, logged.actor, logged.body, entry)

"""Walking a log: one rule for each kind of entry, in order, from the first entry on.

Not covered: everything that the log alone cannot tell. Verdicts are taken as recorded (their
figures follow from evidence files, rows and budgets that are not in the log); actors are what
they said; times are the machine's. Somebody who may write the whole log can write one that this
accepts, up to the signatures of people whose keys they lack: against that stands a head kept
elsewhere. Signatures are checked only with roles files (:mod:`guards.replay.approvals`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from guards.canonical import sha256_bytes
from guards.decision import decide
from guards.entries import (
    Body,
    BundleReceived,
    CleanedUp,
    DecisionMade,
    EvidenceRecorded,
    Genesis,
    Halted,
    Lifted,
    Logged,
    Measured,
    PolicyInForce,
    PolicyRecorded,
    PolicySignedOff,
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
    WaiverSigned,
)
from guards.errors import LedgerError, StairlockError
from guards.gates.contradictions import contradictions
from guards.gates.verdict import Verdict
from guards.policy import Policy
from guards.replay.adoption import (
    check_binding_policy,
    check_bundle,
    check_policy_in_force,
    check_policy_signoff,
    check_seed_policy,
)
from guards.replay.approvals import check_signoff
from guards.replay.looks import (
    check_decision,
    check_evidence,
    check_promoted,
    check_sealed,
    check_seed,
    check_verdict,
    require_manifest,
)
from guards.replay.past import Past, not_allowed, require_same
from guards.replay.stops import check_cleanup, check_halts, check_lift, check_recall, check_rollback
from guards.replay.waivers import check_waiver
from guards.roles import Roles


def replay(entries: Iterable[Logged[Body]], *, roles: Sequence[Roles] = ()) -> int:
    """Walk a whole log; returns how many entries it has.

    ``roles`` are the roles files that signatures are checked against; without any they are not.

    Raises:
        LedgerError: as :meth:`Replay.take`.
    """
    walk = Replay(roles=roles)
    for entry in entries:
        walk.take(entry)
    return walk.n_entries


class Replay:
    """A walk that takes one entry after the other."""

    def __init__(self, *, roles: Sequence[Roles] = ()) -> None:
        self._past = Past()
        self._roles = tuple(roles)

    @property
    def n_entries(self) -> int:
        """Entries taken so far."""
        return self._past.n_entries

    def take(self, entry: Logged[Body]) -> None:
        """Refuse the next entry, or take it into the past by which later ones are judged.

        Raises:
            LedgerError: ``ledger.not-allowed``, which names the entry; ``ledger.unknown-signer``;
                ``ledger.unreadable-policy``.
        """
        past = self._past
        if entry.seq != past.n_entries:
            raise not_allowed(entry, "it is out of order", got=entry.seq, expected=past.n_entries)
        if (entry.seq == 0) != isinstance(entry.body, Genesis):
            raise not_allowed(entry, "a log begins with its genesis, and has one", got=entry.kind)
        check_halts(past, entry)
        self._check(entry)
        past.remember(entry)

    def _check(self, entry: Logged[Body]) -> None:
        past = self._past
        match entry.body:
            case PolicyRecorded() as body:
                _check_policy(past, entry, body)
            case PolicySignedOff() as body:
                check_policy_signoff(past, entry, body, self._roles)
            case PolicyInForce() as body:
                check_policy_in_force(past, entry, body)
            case BundleReceived() as body:
                check_bundle(past, entry, body)
            case RootSet() as body:
                _check_root(past, entry, body)
            case Sealed() as body:
                check_sealed(past, entry, body)
            case SeedDrawn() as body:
                check_seed(past, entry, body)
                check_seed_policy(past, entry, body)
            case EvidenceRecorded() as body:
                check_evidence(past, entry, body)
            case VerdictRecorded() as body:
                check_verdict(past, entry, body)
            case DecisionMade() as body:
                check_decision(past, entry, body, self._roles)
            case SignedOff() as body:
                check_signoff(past, entry, body, self._roles)
            case WaiverSigned() as body:
                check_waiver(past, entry, body, self._roles)
            case Promoted() as body:
                check_promoted(past, entry, body, self._roles)
                check_binding_policy(past, entry, body.candidate, body.policy)
            case RolledBack() as body:
                check_rollback(past, entry, body)
            case Lifted() as body:
                check_lift(past, entry, body)
            case Recalled() as body:
                check_recall(past, entry, body)
            case CleanedUp() as body:
                check_cleanup(past, entry, body)
            case Genesis() | Halted():
                pass  # the first is judged by its place; anyone may halt at any time
            case _:
                _check_run(past, entry)


def _check_policy(past: Past, entry: Logged[Body], body: PolicyRecorded) -> None:
    computed = sha256_bytes(body.resolved.encode("utf-8"))
    if body.policy != computed:
        raise not_allowed(entry, "the policy's digest is not that of its text", got=body.policy, expected=computed)
    if body.policy in past.policies:
        raise not_allowed(entry, "this policy was recorded before", got=body.policy)
    try:
        name = Policy.model_validate_json(body.resolved).name
    except ValidationError as error:
        first = error.errors()[0]
        raise LedgerError(
            "ledger.unreadable-policy",
            f"entry {entry.seq} holds a policy that this version cannot read",
            got=f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
            fix="verify this log with the version that wrote it",
        ) from error
    require_same(entry, "policy name", body.name, name)


def _check_root(past: Past, entry: Logged[Body], body: RootSet) -> None:
    """There is one root, for good; every gate of a recorded policy passed, and no waiver helped."""
    if past.root is not None:
        raise not_allowed(entry, "there was a root already", got=body.checkpoint, expected=past.root)
    policy = past.policies.get(body.policy)
    if policy is None:
        raise not_allowed(entry, "no policy of this digest was recorded before", got=body.policy)
    if body.checkpoint in past.recalls:
        raise not_allowed(entry, "the checkpoint was recalled before", got=body.checkpoint)
    require_manifest(entry, body.checkpoint, body.manifest)
    try:
        verdicts = [Verdict.from_ledger(dict(figures)) for figures in body.verdicts]
        decision = decide(policy, verdicts, approvals_ok=True)
    except StairlockError as refusal:
        raise not_allowed(entry, refusal.message, got=refusal.got) from refusal
    if decision.outcome != "promote":
        raise not_allowed(entry, "it did not pass every gate", got="; ".join(decision.reasons))
    for problem in contradictions(policy, verdicts):
        raise not_allowed(entry, f"its figures contradict it: {problem}")


def _check_run(past: Past, entry: Logged[Body]) -> None:
    """Runs and attempts begin once and end once; figures belong to a run that began."""
    match entry.body:
        case RunStarted() as body:
            if body.run in past.runs:
                raise not_allowed(entry, "this run began before", got=body.run)
        case RunFinished() as body:
            _require_run(past, entry, body.run)
            if body.run in past.run_ends:
                raise not_allowed(entry, "this run ended before", got=body.run)
        case Measured() as body:
            _require_run(past, entry, body.run)
            if (body.run, body.name) in past.measured:
                raise not_allowed(entry, "these figures were recorded before", got=f"{body.run}, {body.name}")
        case StepStarted() as body:
            if (body.spec, body.attempt) in past.attempts:
                raise not_allowed(entry, "this attempt began before", got=f"attempt {body.attempt} of {body.spec}")
        case StepFinished() as body:
            began = past.attempts.get((body.spec, body.attempt))
            if began is None or (body.spec, body.attempt) in past.attempt_ends:
                raise not_allowed(entry, "no such attempt was open", got=f"attempt {body.attempt} of {body.spec}")
            require_same(entry, "step", body.step, began)
            if body.outcome == "done" and body.outputs is None:
                raise not_allowed(entry, "a step without outputs is not done", got=body.spec)
        case _:
            raise not_allowed(entry, "no rule says when an entry of this kind may be written", got=entry.kind)


def _require_run(past: Past, entry: Logged[Body], run: str) -> None:
    if run not in past.runs:
        raise not_allowed(entry, "this run never began", got=run)

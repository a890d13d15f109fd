"""Reading the store: what is recorded about policies, candidates, looks, champions, halts and steps.

A :class:`History` reads one consistent snapshot (``with store.read() as history``), or the state
inside the transaction that an action is writing in. Everything returned is an entry of the log
with its typed body, so that what is shown is what was hashed.

Not covered: whether the log was edited. ``Store.verify`` finds that out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, Select, Table, func, select

from guards import ledger, past_looks, state
from guards.canonical import digest_of
from guards.entries import (
    Body,
    BundleReceived,
    CleanedUp,
    DecisionMade,
    EvidenceRecorded,
    Halted,
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
    typed,
    typed_as,
)
from guards.errors import LedgerError
from guards.past_looks import PastLook

B = TypeVar("B", bound=Body)

Status = Literal["sealed", "gating", "hold", "reject", "promote", "champion", "past-champion", "recalled"]

_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")


@dataclass(frozen=True)
class ChampionTerm:
    """A checkpoint's time as champion, from the entry that began it."""

    checkpoint: str
    since: Logged[RootSet] | Logged[Promoted] | Logged[RolledBack]


@dataclass(frozen=True)
class Attempt:
    """One attempt at a step; ``finished`` is None while it runs, or if it was killed."""

    started: Logged[StepStarted]
    finished: Logged[StepFinished] | None

    @property
    def number(self) -> int:
        """The attempt number that the log assigned, from 1."""
        return self.started.body.attempt

    @property
    def is_done(self) -> bool:
        """True if the attempt ended well."""
        return self.finished is not None and self.finished.body.outcome == "done"


class History:
    """Queries over one connection. Methods that return None or () found nothing recorded."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    # The log itself

    def size(self) -> int:
        """Number of entries."""
        return ledger.size(self._conn)

    def head(self, at_size: int | None = None) -> ledger.TreeHead:
        """The tree head, now or at an earlier size."""
        return ledger.head(self._conn, at_size)

    def inclusion_proof(self, seq: int, at_size: int | None = None) -> ledger.InclusionProof:
        """See :func:`guards.ledger.inclusion_proof`."""
        return ledger.inclusion_proof(self._conn, seq, at_size)

    def consistency_proof(self, old_size: int, new_size: int | None = None) -> ledger.ConsistencyProof:
        """See :func:`guards.ledger.consistency_proof`."""
        return ledger.consistency_proof(self._conn, old_size, new_size)

    def entries(self, *, kind: str | None = None, candidate: str | None = None) -> Iterator[Logged[Body]]:
        """Entries in order, optionally of one kind or about one checkpoint (a whole digest)."""
        for entry in ledger.iter_entries(self._conn, kind=kind, candidate=candidate):
            yield typed(entry)

    def latest_time(self) -> datetime:
        """The latest time of any entry: it was this late once, whatever the clock says now."""
        return ledger.latest_time(self._conn)

    def entry(self, seq: int) -> Logged[Body]:
        """Entry ``seq``; raises :class:`LedgerError` ``ledger.no-such-entry``."""
        return typed(ledger.read_entry(self._conn, seq))

    # Policies and candidates

    def policy(self, policy_digest: str) -> Logged[PolicyRecorded] | None:
        """A recorded policy."""
        return self._last(PolicyRecorded, state.policies, policy=policy_digest)

    def policy_in_force(self, before_seq: int | None = None) -> Logged[PolicyInForce] | None:
        """The policy that binds what is sealed now, or the one that did before entry ``before_seq``."""
        table = state.policies_in_force
        query = select(table.c.seq).order_by(table.c.seq.desc()).limit(1)
        if before_seq is not None:
            query = query.where(table.c.seq < before_seq)
        seq = self._conn.execute(query).scalar()
        return None if seq is None else typed_as(ledger.read_entry(self._conn, seq), PolicyInForce)

    def adoptions(self, policy_digest: str | None = None) -> tuple[Logged[PolicyInForce], ...]:
        """Every time that a policy came into force; optionally one policy."""
        where = {} if policy_digest is None else {"policy": policy_digest}
        return self._all(PolicyInForce, state.policies_in_force, **where)

    def policy_signoffs(self, new: str) -> tuple[Logged[PolicySignedOff], ...]:
        """What people said of a policy coming into force, in place of whatever policy."""
        return self._all(PolicySignedOff, state.policy_signoffs, new=new)

    def policy_signoff(self, statement_digest: str) -> Logged[PolicySignedOff] | None:
        """The policy sign-off that came in this envelope."""
        return self._last(PolicySignedOff, state.policy_signoffs, statement_digest=statement_digest)

    def latest_bundle(self) -> Logged[BundleReceived] | None:
        """The last bundle of policies that somebody installed, or tried to."""
        return self._last(BundleReceived, state.bundles)

    def installed_bundle(self, statement_digest: str) -> Logged[BundleReceived] | None:
        """The entry of a good bundle, by what was signed in it."""
        installed = self._all(BundleReceived, state.bundles, outcome="installed")
        return next((item for item in installed if item.body.statement_digest == statement_digest), None)

    def bundles_of(self, policy_digest: str) -> tuple[Logged[BundleReceived], ...]:
        """The installed bundles that a policy came in."""
        installed = self._all(BundleReceived, state.bundles, outcome="installed")
        return tuple(item for item in installed if item.body.policy == policy_digest)

    def find_checkpoint(self, prefix: str) -> str:
        """Whole digest of the one candidate or root whose digest begins with ``prefix`` (``sha256:`` is optional).

        Raises:
            LedgerError: ``history.bad-prefix``, ``history.no-such-checkpoint``, ``history.ambiguous``.
        """
        match = _PREFIX.fullmatch(prefix)
        if match is None:
            raise LedgerError(
                "history.bad-prefix",
                "that is not the beginning of a digest",
                got=repr(prefix[:100]),
                expected="at least 4 lower-case hex digits, with or without sha256: before them",
            )
        found: set[str] = set()
        for column in (state.seals.c.candidate, state.roots.c.checkpoint):
            query = select(column).distinct().where(column.startswith(f"sha256:{match[1]}"))
            found.update(self._conn.execute(query).scalars())
        if not found:
            raise LedgerError(
                "history.no-such-checkpoint",
                f"no checkpoint with a digest that begins with {prefix} was sealed here",
                fix="list the candidates (stairlock log) and check --home",
            )
        if len(found) > 1:
            shown = ", ".join(sorted(found)[:3])
            raise LedgerError(
                "history.ambiguous", f"{len(found)} checkpoints begin with {prefix}", got=shown, fix="add digits"
            )
        return found.pop()

    def find_candidate(self, prefix: str) -> Logged[Sealed]:
        """The latest seal of the candidate that :meth:`find_checkpoint` finds.

        Raises:
            LedgerError: also ``history.not-a-candidate`` for the root.
        """
        checkpoint = self.find_checkpoint(prefix)
        sealed = self.candidate(checkpoint)
        if sealed is None:
            raise LedgerError("history.not-a-candidate", "this checkpoint was never a candidate", got=checkpoint)
        return sealed

    def candidate(self, candidate: str) -> Logged[Sealed] | None:
        """The latest seal of a candidate, by its whole digest."""
        return self._last(Sealed, state.seals, candidate=candidate)

    def seals(self, candidate: str) -> tuple[Logged[Sealed], ...]:
        """Every seal of a candidate; usually there is one."""
        return self._all(Sealed, state.seals, candidate=candidate)

    def candidates(self) -> tuple[Logged[Sealed], ...]:
        """The latest seal of every candidate, in the order of these seals."""
        latest = select(func.max(state.seals.c.seq).label("seq")).group_by(state.seals.c.candidate)
        return tuple(self._load(Sealed, sorted(self._conn.execute(latest).scalars())))

    def status(self, candidate: str) -> Status:
        """Where a sealed candidate stands; ``promote`` means decided, but not yet champion."""
        if self.is_recalled(candidate):
            return "recalled"
        if self.champion() == candidate:
            return "champion"
        look = self.latest_look(candidate)
        if look is None:
            return "sealed"
        decision = self.decision(look.seq)
        if decision is None:
            return "gating"
        if decision.body.outcome == "promote" and self.promotion(decision.seq) is not None:
            return "past-champion"
        return decision.body.outcome

    # Looks, evidence, verdicts, decisions, sign-offs

    def looks(self, candidate: str) -> tuple[Logged[SeedDrawn], ...]:
        """Every look at a candidate, under any policy."""
        return self._all(SeedDrawn, state.looks, candidate=candidate)

    def latest_look(self, candidate: str) -> Logged[SeedDrawn] | None:
        """The last look at a candidate; only its evidence counts."""
        return self._last(SeedDrawn, state.looks, candidate=candidate)

    def count_looks(self, policy_name: str) -> int:
        """Looks at any candidate under policies of this name: what the alpha is divided by."""
        query = select(func.max(state.looks.c.look)).where(state.looks.c.policy_name == policy_name)
        return self._conn.execute(query).scalar() or 0

    def evidence(self, look_seq: int) -> tuple[Logged[EvidenceRecorded], ...]:
        """The runs recorded for a look."""
        return self._all(EvidenceRecorded, state.evidence, look_seq=look_seq)

    def evidence_digest(self, look_seq: int) -> str | None:
        """Digest over all evidence of a look, or None if there is none: it is what people sign."""
        digests = sorted(item.body.evidence for item in self.evidence(look_seq))
        return digest_of(digests) if digests else None

    def verdicts(self, look_seq: int) -> tuple[Logged[VerdictRecorded], ...]:
        """The verdicts of a look, in the policy's order of gates."""
        return self._all(VerdictRecorded, state.verdicts, look_seq=look_seq)

    def decision(self, look_seq: int) -> Logged[DecisionMade] | None:
        """The latest decision of a look: a hold may have been followed by a promotion."""
        return self._last(DecisionMade, state.decisions, look_seq=look_seq)

    def signoffs(self, candidate: str, evidence: str, policy: str) -> tuple[Logged[SignedOff], ...]:
        """The sign-offs of exactly this triple of digests."""
        return self._all(SignedOff, state.signoffs, candidate=candidate, evidence=evidence, policy=policy)

    def signoff(self, statement_digest: str) -> Logged[SignedOff] | None:
        """The sign-off that came in this envelope."""
        return self._last(SignedOff, state.signoffs, statement_digest=statement_digest)

    def waivers(self, candidate: str) -> tuple[Logged[WaiverSigned], ...]:
        """What was signed about waiving gates of a candidate, at any look."""
        return self._all(WaiverSigned, state.waivers, candidate=candidate)

    def waiver(self, statement_digest: str) -> Logged[WaiverSigned] | None:
        """The waiver signature that came in this envelope."""
        return self._last(WaiverSigned, state.waivers, statement_digest=statement_digest)

    # All looks at once, for simulation (guards.past_looks says what is not checked)

    def decided_looks(self) -> Iterator[PastLook]:
        """Every candidate's latest decided look, in order; read in bulk, and for showing only."""
        return past_looks.decided_looks(self._conn)

    def policies_of_looks(self) -> list[tuple[int, str]]:
        """(look, digest of its policy) for every look, decided or not, in order."""
        return past_looks.policies_of_looks(self._conn)

    def count_undecided(self) -> int:
        """Sealed candidates that no decision is about."""
        return past_looks.count_undecided(self._conn)

    # Root, champions, anchors

    def root(self) -> Logged[RootSet] | None:
        """The root, once it is set."""
        return self._last(RootSet, state.roots, slot=0)

    def champion(self) -> str | None:
        """Digest of the champion in use."""
        query = select(state.champions.c.checkpoint).order_by(state.champions.c.seq.desc()).limit(1)
        return self._conn.execute(query).scalar()

    def champions(self) -> tuple[ChampionTerm, ...]:
        """Every champion in order, the root first, the one in use last."""
        terms: list[ChampionTerm] = []
        for seq, checkpoint in self._conn.execute(
            select(state.champions.c.seq, state.champions.c.checkpoint).order_by(state.champions.c.seq)
        ).all():
            entry = ledger.read_entry(self._conn, seq)
            match entry.kind:
                case "root":
                    terms.append(ChampionTerm(checkpoint, typed_as(entry, RootSet)))
                case "rollback":
                    terms.append(ChampionTerm(checkpoint, typed_as(entry, RolledBack)))
                case _:
                    terms.append(ChampionTerm(checkpoint, typed_as(entry, Promoted)))
        return tuple(terms)

    def promotion(self, decision_seq: int) -> Logged[Promoted] | None:
        """The promotion that took effect on this decision."""
        return self._last(Promoted, state.champions, decision_seq=decision_seq)

    def anchor(self, gate: str) -> str | None:
        """The best certified champion for a gate that was not recalled; the root until there is one."""
        anchors, recalls = state.anchors, state.recalls
        query = (
            select(anchors.c.checkpoint)
            .where(anchors.c.gate == gate, anchors.c.checkpoint.not_in(select(recalls.c.checkpoint)))
            .order_by(anchors.c.seq.desc())
            .limit(1)
        )
        anchor = self._conn.execute(query).scalar()
        if anchor is not None:
            return anchor
        root = self.root()
        return None if root is None else root.body.checkpoint

    def anchors(self) -> dict[str, str]:
        """The current anchor of every gate that ever got one of its own."""
        gates = self._conn.execute(select(state.anchors.c.gate).distinct().order_by(state.anchors.c.gate)).scalars()
        current = {gate: self.anchor(gate) for gate in gates.all()}
        return {gate: anchor for gate, anchor in current.items() if anchor is not None}

    # Stops

    def halts(self) -> tuple[Logged[Halted], ...]:
        """Halts that were not lifted."""
        query = (
            select(state.halts.c.seq)
            .where(state.halts.c.seq.not_in(select(state.lifts.c.halt_seq)))
            .order_by(state.halts.c.seq)
        )
        return tuple(self._load(Halted, self._conn.execute(query).scalars().all()))

    def recall(self, checkpoint: str) -> Logged[Recalled] | None:
        """The recall of a checkpoint, if it was recalled."""
        return self._last(Recalled, state.recalls, checkpoint=checkpoint)

    def is_recalled(self, checkpoint: str) -> bool:
        """True if the checkpoint must not be used any more."""
        return self.recall(checkpoint) is not None

    def cleanup(self, checkpoint: str) -> Logged[CleanedUp] | None:
        """The entry that says that the checkpoint's files were deleted by a declared rule."""
        return self._last(CleanedUp, state.cleanups, checkpoint=checkpoint)

    # Runs and steps

    def attempts(self, spec_digest: str) -> tuple[Attempt, ...]:
        """Every attempt at a step, by the digest of its spec."""
        ended = {item.body.attempt: item for item in self._all(StepFinished, state.step_ends, spec=spec_digest)}
        started = self._all(StepStarted, state.step_starts, spec=spec_digest)
        return tuple(Attempt(item, ended.get(item.body.attempt)) for item in started)

    def run(self, run: str) -> Logged[RunStarted] | None:
        """The start of a run."""
        return self._last(RunStarted, state.runs, run=run)

    def run_end(self, run: str) -> Logged[RunFinished] | None:
        """The end of a run, or None while it goes on, or if it was killed."""
        return self._last(RunFinished, state.run_ends, run=run)

    def measured(self, run: str) -> tuple[Logged[Measured], ...]:
        """The free figures of a run."""
        return self._all(Measured, state.measurements, run=run)

    # Machinery: index rows to entries

    def _all(self, model: type[B], table: Table, **where: Any) -> tuple[Logged[B], ...]:
        query = self._seqs(table, where).order_by(table.c.seq)
        return tuple(self._load(model, self._conn.execute(query).scalars().all()))

    def _last(self, model: type[B], table: Table, **where: Any) -> Logged[B] | None:
        query = self._seqs(table, where).order_by(table.c.seq.desc()).limit(1)
        seq = self._conn.execute(query).scalar()
        return None if seq is None else typed_as(ledger.read_entry(self._conn, seq), model)

    def _seqs(self, table: Table, where: dict[str, Any]) -> Select[int]:
        return select(table.c.seq).where(*(table.c[name] == value for name, value in where.items()))

    def _load(self, model: type[B], seqs: Iterable[int]) -> Iterator[Logged[B]]:
        for seq in seqs:
            yield typed_as(ledger.read_entry(self._conn, seq), model)

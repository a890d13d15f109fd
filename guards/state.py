"""The present state, as tables that index the log.

Every row comes from exactly one entry (:func:`rows_of`) and is inserted with it, never updated:
what is current is the latest row, read by :mod:`guards.history`. The rows hold only what queries
search by; everything else is read from the entry itself. Unique constraints refuse a doubled
entry even where an action's own check has a bug.

Because the rows follow from the log, :func:`verify` can tell that nobody edited them.

Not covered: the log itself (:func:`guards.ledger.verify`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Column, Connection, Index, Integer, String, Table, UniqueConstraint, insert, select

from guards.entries import (
    Body,
    BundleReceived,
    CleanedUp,
    DecisionMade,
    EvidenceRecorded,
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
from guards.errors import LedgerError
from guards.ledger import metadata

Row = tuple[Table, dict[str, Any]]


def _seq() -> Column[int]:
    return Column("seq", Integer, primary_key=True, autoincrement=False)


def _digest(name: str, *, unique: bool = False) -> Column[str]:
    return Column(name, String(71), nullable=False, unique=unique)


def _label(name: str, *, unique: bool = False) -> Column[str]:
    return Column(name, String(200), nullable=False, unique=unique)


def _number(name: str, *, unique: bool = False) -> Column[int]:
    return Column(name, Integer, nullable=False, unique=unique)


policies = Table("policies", metadata, _seq(), _digest("policy", unique=True), _label("name"))
policy_signoffs = Table(
    "policy_signoffs",
    metadata,
    _seq(),
    _digest("old"),
    _digest("new"),
    _digest("statement_digest", unique=True),
    Index("ix_policy_signoffs_new", "new"),
)
policies_in_force = Table("policies_in_force", metadata, _seq(), _digest("policy"))
bundles = Table("bundles", metadata, _seq(), _digest("bundle"), _label("outcome"))
# ``slot`` is always 0: a home has one root.
roots = Table("roots", metadata, _seq(), _digest("checkpoint"), _number("slot", unique=True))
seals = Table(
    "seals", metadata, _seq(), _digest("candidate"), _digest("policy"), Index("ix_seals_candidate", "candidate")
)
looks = Table(
    "looks",
    metadata,
    _seq(),
    _digest("candidate"),
    _label("policy_name"),
    _number("look"),
    UniqueConstraint("policy_name", "look"),
    Index("ix_looks_candidate", "candidate"),
)
evidence = Table(
    "evidence",
    metadata,
    _seq(),
    _number("look_seq"),
    _label("role"),
    _label("suite"),
    _digest("checkpoint"),
    _digest("evidence"),
    UniqueConstraint("look_seq", "role", "suite", "checkpoint"),
)
verdicts = Table(
    "verdicts", metadata, _seq(), _number("look_seq"), _label("gate"), UniqueConstraint("look_seq", "gate")
)
decisions = Table(
    "decisions", metadata, _seq(), _number("look_seq"), _label("outcome"), UniqueConstraint("look_seq", "outcome")
)
signoffs = Table(
    "signoffs",
    metadata,
    _seq(),
    _digest("candidate"),
    _digest("evidence"),
    _digest("policy"),
    _digest("statement_digest", unique=True),
    Index("ix_signoffs_triple", "candidate", "evidence", "policy"),
)
waivers = Table("waivers", metadata, _seq(), _digest("candidate"), _digest("statement_digest", unique=True))
champions = Table(
    "champions",
    metadata,
    _seq(),
    _digest("checkpoint"),
    Column("decision_seq", Integer, nullable=True, unique=True),
)
anchors = Table(
    "anchors",
    metadata,
    Column("gate", String(200), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    _digest("checkpoint"),
)
halts = Table("halts", metadata, _seq())
lifts = Table("lifts", metadata, Column("halt_seq", Integer, primary_key=True, autoincrement=False), _number("seq"))
recalls = Table("recalls", metadata, _seq(), _digest("checkpoint", unique=True))
cleanups = Table("cleanups", metadata, _seq(), _digest("checkpoint", unique=True))
step_starts = Table(
    "step_starts", metadata, _seq(), _digest("spec"), _number("attempt"), UniqueConstraint("spec", "attempt")
)
step_ends = Table(
    "step_ends", metadata, _seq(), _digest("spec"), _number("attempt"), UniqueConstraint("spec", "attempt")
)
runs = Table("runs", metadata, _seq(), _label("run", unique=True))
run_ends = Table("run_ends", metadata, _seq(), _label("run", unique=True))
measurements = Table("measurements", metadata, _seq(), _label("run"), _label("name"), UniqueConstraint("run", "name"))

TABLES: tuple[Table, ...] = (
    policies,
    policy_signoffs,
    policies_in_force,
    bundles,
    roots,
    seals,
    looks,
    evidence,
    verdicts,
    decisions,
    signoffs,
    waivers,
    champions,
    anchors,
    halts,
    lifts,
    recalls,
    cleanups,
    step_starts,
    step_ends,
    runs,
    run_ends,
    measurements,
)


def rows_of(logged: Logged[Body]) -> list[Row]:
    """The rows that an entry adds to the state."""
    seq = logged.seq
    match logged.body:
        case PolicyRecorded() as body:
            return [(policies, {"seq": seq, "policy": body.policy, "name": body.name})]
        case PolicySignedOff() as body:
            named = body.model_dump(include={"old", "new", "statement_digest"})
            return [(policy_signoffs, {"seq": seq, **named})]
        case PolicyInForce() as body:
            return [(policies_in_force, {"seq": seq, "policy": body.policy})]
        case BundleReceived() as body:
            return [(bundles, {"seq": seq, "bundle": body.bundle, "outcome": body.outcome})]
        case RootSet() as body:
            return [
                (roots, {"seq": seq, "checkpoint": body.checkpoint, "slot": 0}),
                (champions, {"seq": seq, "checkpoint": body.checkpoint, "decision_seq": None}),
            ]
        case Sealed() as body:
            return [(seals, {"seq": seq, "candidate": body.candidate, "policy": body.policy})]
        case SeedDrawn() as body:
            row = {"seq": seq, "candidate": body.candidate, "policy_name": body.policy_name, "look": body.look}
            return [(looks, row)]
        case EvidenceRecorded() as body:
            named = body.model_dump(include={"look_seq", "role", "suite", "checkpoint", "evidence"})
            return [(evidence, {"seq": seq, **named})]
        case VerdictRecorded() as body:
            return [(verdicts, {"seq": seq, "look_seq": body.look_seq, "gate": body.gate})]
        case DecisionMade() as body:
            return [(decisions, {"seq": seq, "look_seq": body.look_seq, "outcome": body.outcome})]
        case SignedOff() as body:
            named = body.model_dump(include={"candidate", "evidence", "policy", "statement_digest"})
            return [(signoffs, {"seq": seq, **named})]
        case WaiverSigned() as body:
            return [(waivers, {"seq": seq, **body.model_dump(include={"candidate", "statement_digest"})})]
        case Promoted() as body:
            return [
                (champions, {"seq": seq, "checkpoint": body.candidate, "decision_seq": body.decision_seq}),
                *((anchors, {"gate": g, "seq": seq, "checkpoint": body.candidate}) for g in body.anchor_gates),
            ]
        case RolledBack() as body:
            return [(champions, {"seq": seq, "checkpoint": body.checkpoint, "decision_seq": None})]
        case Halted():
            return [(halts, {"seq": seq})]
        case Lifted() as body:
            return [(lifts, {"halt_seq": halt_seq, "seq": seq}) for halt_seq in body.halts]
        case Recalled() as body:
            return [(recalls, {"seq": seq, "checkpoint": body.checkpoint})]
        case CleanedUp() as body:
            return [(cleanups, {"seq": seq, "checkpoint": body.checkpoint})]
        case StepStarted() as body:
            return [(step_starts, {"seq": seq, "spec": body.spec, "attempt": body.attempt})]
        case StepFinished() as body:
            return [(step_ends, {"seq": seq, "spec": body.spec, "attempt": body.attempt})]
        case RunStarted() as body:
            return [(runs, {"seq": seq, "run": body.run})]
        case RunFinished() as body:
            return [(run_ends, {"seq": seq, "run": body.run})]
        case Measured() as body:
            return [(measurements, {"seq": seq, "run": body.run, "name": body.name})]
        case _:
            return []


def apply(conn: Connection, logged: Logged[Body]) -> None:
    """Insert the rows of an entry; the caller commits."""
    for table, row in rows_of(logged):
        conn.execute(insert(table).values(row))


def verify(conn: Connection, rows: Iterable[Row]) -> None:
    """Compare the tables with ``rows``, which are those of the whole log.

    Raises:
        LedgerError: ``state.edited``, which names the table and what is missing or made up.
    """
    expected: defaultdict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for table, row in rows:
        expected[table.name].add(tuple(row[column.name] for column in table.columns))
    for table in TABLES:
        stored = {tuple(row) for row in conn.execute(select(table))}
        if stored != expected[table.name]:
            raise LedgerError(
                "state.edited",
                f"the table {table.name} does not follow from the log",
                got=f"{len(stored - expected[table.name])} rows that no entry made",
                expected=f"{len(expected[table.name] - stored)} rows that are missing",
                fix="the database was edited or damaged: stop promoting, keep this copy, and restore a backup",
            )

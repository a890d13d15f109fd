"""What a log has said so far, kept in memory: the past that the next entry is judged by.

:class:`Past` only remembers; it believes every entry that it is given. The rules are beside it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from guards.canonical import digest_of
from guards.entries import (
    Body,
    CleanedUp,
    DecisionMade,
    EvidenceRecorded,
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
    WaiverSigned,
)
from guards.errors import LedgerError
from guards.gates.alpha import LookPlan, plan_of
from guards.gates.holdouts import items_read, reads_of_suites
from guards.gates.verdict import Verdict
from guards.policy import Policy
from guards.replay.adoptions_so_far import AdoptionsSoFar

Slot = tuple[str, str, str]
"""In whose place a checkpoint answered a suite: (role, suite, checkpoint)."""


@dataclass
class LookSoFar:
    """One look and everything that was said about it. ``verdicts`` are by gate, in the order of their entries.

    ``reads`` says how often each holdout of its policy had been read before, by the suite's digest.
    """

    seq: int
    body: SeedDrawn
    reads: Mapping[str, int] = field(default_factory=dict[str, int])
    evidence: dict[Slot, str] = field(default_factory=dict[Slot, str])
    verdicts: dict[str, Verdict] = field(default_factory=dict[str, Verdict])
    decision: Logged[DecisionMade] | None = None
    promoted_seq: int | None = None

    @property
    def evidence_digest(self) -> str | None:
        """Digest over all evidence of the look: what its verdicts are about, and what people sign."""
        return digest_of(sorted(self.evidence.values())) if self.evidence else None

    @property
    def rejects(self) -> bool:
        """True if the look rejected its candidate, or can come to nothing else."""
        if self.decision is not None:
            return self.decision.body.outcome == "reject"
        return any(verdict.outcome == "fail" for verdict in self.verdicts.values())


class Past:
    """The state that follows from the entries given to :meth:`remember`."""

    def __init__(self) -> None:
        self.n_entries = 0
        self.latest_time: datetime | None = None
        self.policies: dict[str, Policy] = {}
        self.root: str | None = None
        self.champions: list[str] = []
        self.anchors: defaultdict[str, list[str]] = defaultdict(list)
        self.seals: defaultdict[str, list[Sealed]] = defaultdict(list)
        self.looks: dict[int, LookSoFar] = {}
        self.latest_look: dict[str, LookSoFar] = {}
        self.n_looks: defaultdict[str, int] = defaultdict(int)
        self.plans: defaultdict[str, list[LookPlan]] = defaultdict(list)
        self.reads = Counter[frozenset[str] | None]()
        self.signoffs: defaultdict[str, list[SignedOff]] = defaultdict(list)
        self.waivers: defaultdict[str, list[WaiverSigned]] = defaultdict(list)
        self.statements: set[str] = set()
        self.halts: dict[int, Halted] = {}
        self.recalls: set[str] = set()
        self.cleanups: set[str] = set()
        self.runs: set[str] = set()
        self.run_ends: set[str] = set()
        self.measured: set[tuple[str, str]] = set()
        self.attempts: dict[tuple[str, int], str] = {}
        self.attempt_ends: set[tuple[str, int]] = set()
        self.adoptions = AdoptionsSoFar()
        # Set by the recall of a checkpoint in use, until the halt that is written with it.
        self.owes_halt = False
        self._plan_by_policy: dict[str, LookPlan] = {}

    @property
    def champion(self) -> str | None:
        """The champion in use."""
        return self.champions[-1] if self.champions else None

    @property
    def in_use(self) -> set[str]:
        """The champion and the root, as far as there are any."""
        return {digest for digest in (self.champion, self.root) if digest is not None}

    @property
    def current_anchors(self) -> set[str]:
        """The anchor of every gate that ever got one: the last that was not recalled, or the root."""
        kept = ([c for c in held if c not in self.recalls] for held in self.anchors.values())
        return {digest for digest in (held[-1] if held else self.root for held in kept) if digest is not None}

    def rejections(self, candidate: str) -> list[LookSoFar]:
        """The looks that rejected a candidate; a failed verdict counts before it is decided."""
        return [look for look in self.looks.values() if look.body.candidate == candidate and look.rejects]

    def remember(self, entry: Logged[Body]) -> None:
        """Take an entry, whose rule has passed, into the past."""
        self.n_entries += 1
        self.latest_time = entry.time if self.latest_time is None else max(self.latest_time, entry.time)
        self.owes_halt = False
        self.adoptions.remember(entry)
        seq = entry.seq
        match entry.body:
            case PolicyRecorded() as body:
                self.policies[body.policy] = Policy.model_validate_json(body.resolved)
            case RootSet() as body:
                self.root = body.checkpoint
                self.champions.append(body.checkpoint)
            case Sealed() as body:
                self.seals[body.candidate].append(body)
            case SeedDrawn() as body:
                policy = self.policies[body.policy]
                reads = reads_of_suites(policy, self.reads) if policy.holdouts else {}
                self.looks[seq] = self.latest_look[body.candidate] = LookSoFar(seq, body, reads)
                self.n_looks[body.policy_name] += 1
                self.plans[body.policy_name].append(self._plan_of(body.policy))
                self.reads[items_read(policy)] += 1
            case EvidenceRecorded() as body:
                self.looks[body.look_seq].evidence[body.role, body.suite, body.checkpoint] = body.evidence
            case VerdictRecorded() as body:
                self.looks[body.look_seq].verdicts[body.gate] = Verdict.from_ledger(dict(body.figures))
            case DecisionMade() as body:
                self.looks[body.look_seq].decision = Logged(seq, entry.time, entry.kind, entry.actor, body, entry.entry)
            case SignedOff() as body:
                self.signoffs[body.candidate].append(body)
                self.statements.add(body.statement_digest)
            case WaiverSigned() as body:
                self.waivers[body.candidate].append(body)
                self.statements.add(body.statement_digest)
            case Promoted() as body:
                self.looks[body.look_seq].promoted_seq = seq
                self.champions.append(body.candidate)
                for gate in body.anchor_gates:
                    self.anchors[gate].append(body.candidate)
            case RolledBack() as body:
                self.champions.append(body.checkpoint)
            case _:
                self._remember_stop_or_run(entry)

    def _plan_of(self, policy: str) -> LookPlan:
        if policy not in self._plan_by_policy:
            self._plan_by_policy[policy] = plan_of(self.policies[policy])
        return self._plan_by_policy[policy]

    def _remember_stop_or_run(self, entry: Logged[Body]) -> None:
        match entry.body:
            case Halted() as body:
                self.halts[entry.seq] = body
            case Lifted() as body:
                for halt in body.halts:
                    del self.halts[halt]
            case Recalled() as body:
                self.recalls.add(body.checkpoint)
                self.owes_halt = body.checkpoint in self.in_use
            case CleanedUp() as body:
                self.cleanups.add(body.checkpoint)
            case RunStarted() as body:
                self.runs.add(body.run)
            case RunFinished() as body:
                self.run_ends.add(body.run)
            case Measured() as body:
                self.measured.add((body.run, body.name))
            case StepStarted() as body:
                self.attempts[body.spec, body.attempt] = body.step
            case StepFinished() as body:
                self.attempt_ends.add((body.spec, body.attempt))
            case _:
                pass


def not_allowed(entry: Logged[Body], message: str, *, got: object = "", expected: object = "") -> LedgerError:
    """The refusal of an entry that the entries before it did not allow."""
    return LedgerError(
        "ledger.not-allowed",
        f"entry {entry.seq} ({entry.kind}) was not allowed: {message}",
        got=_shown(got),
        expected=_shown(expected),
        fix="no action of this program writes such an entry: stop promoting, keep this copy, and find out who wrote it",
    )


def require_same(entry: Logged[Body], what: str, got: object, expected: object) -> None:
    """Raises ``ledger.not-allowed`` unless the entry says what follows from the past."""
    if got != expected:
        raise not_allowed(entry, f"it names another {what} than the log so far", got=got, expected=expected)


def _shown(value: object) -> str:
    return "none" if value is None else str(value)[:400]

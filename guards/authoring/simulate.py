"""What another policy would have decided on every past candidate, from stored evidence alone.

Each candidate's latest decided look is judged again by the gates of the new policy, through the same
code as ever (:func:`guards.gates.evaluate.evaluate_gate`): as the look of the number that it had, as
if the new policy had been in force at every look before it. Approvals are left aside: a look that
waited for nothing but approvals counts as promoted.

What cannot be replayed is inconclusive, and says so: a suite that nobody answered in that look (its
digest decides), evidence that is gone, training rows, what the loop had used. One exception: a gate
whose body, suites and alpha are those that it was judged by keeps its recorded verdict.

Nothing is recorded, and nothing is a look.

Not covered: whether the new policy is a good one. It is seen on candidates that its author knows, so
choosing it by them overfits to them. Proposers would have acted otherwise under another policy. A
composite gate's alpha at that look is compared by what its policy plans, not by what edits left of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from guards.authoring.policy_terms import PolicyTerms, members_of
from guards.authoring.score_table_cache import ScoreTableCache
from guards.authoring.stored_runs import FactsOf, StoredFacts, StoredRuns
from guards.decision import decide
from guards.errors import EvidenceError
from guards.gates.alpha import plan_of
from guards.gates.evaluate import evaluate_gate
from guards.gates.holdouts import items_read_by_recorded, reads_of_suites
from guards.gates.inputs import GateInputs, Role
from guards.gates.look_alpha import alpha_of_gate
from guards.gates.verdict import Verdict, explain
from guards.history import History
from guards.past_looks import PastLook, RecordedVerdict
from guards.policy import EvalGate, Gate, Policy, ResolvedPolicy

OVERFITS = (
    "a policy that is chosen by what it decides on these candidates fits these candidates (overfitting): this says "
    "what an edit would have done, not how good the policy is. Choose margins by what matters."
)

Shown = Literal["pass", "inconclusive", "fail", "no such gate"]
_RANK = {"fail": 0, "reject": 0, "inconclusive": 1, "hold": 1, "pass": 2, "promote": 2, "no such gate": 2}
_NOT_STORED = (
    "simulate.",
    "evidence.",
    "manifest.",
    "gate.missing-run",
    "drift.not-measured",
    "gate.partial-run",
    "gate.no-training-rows",
    "gate.no-budget",
)


@dataclass(frozen=True)
class GateFlip:
    """A gate whose verdict the new policy changes; ``reason`` is the new verdict in words."""

    gate: str
    old: Shown
    new: Shown
    reason: str

    @property
    def opens(self) -> bool:
        """True if the new policy asks less of this candidate here."""
        return _RANK[self.new] > _RANK[self.old]


@dataclass(frozen=True)
class Change:
    """A past candidate of which the new policy says something else. Decisions leave approvals aside."""

    candidate: str
    look_seq: int
    look: int
    policy: str
    old: str
    new: str
    flips: tuple[GateFlip, ...]
    not_replayed: tuple[str, ...]

    @property
    def opens(self) -> bool:
        """True if the decision, or the verdict of some gate, moves towards promotion."""
        return _RANK[self.new] > _RANK[self.old] or any(flip.opens for flip in self.flips)

    @property
    def order(self) -> tuple[Any, ...]:
        """Most dangerous first: what was stopped and would be promoted, what failed and would pass."""
        moved = _RANK[self.new] - _RANK[self.old]
        most = max((_RANK[flip.new] - _RANK[flip.old] for flip in self.flips), default=0)
        return (not self.opens, -moved if self.opens else moved, -most if self.opens else most, self.look_seq)


@dataclass
class GateCount:
    """What became of one gate's verdicts. ``not_replayed`` counts rules by which there is no verdict."""

    transitions: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    n_kept: int = 0
    not_replayed: Counter[str] = field(default_factory=Counter[str])


@dataclass
class Simulation:
    """The result: ``changes`` in :attr:`Change.order`, and counts over all looks."""

    policy: str
    policy_digest: str
    n_looks: int = 0
    n_undecided: int = 0
    changes: list[Change] = field(default_factory=list[Change])
    decisions: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    gates: dict[str, GateCount] = field(default_factory=dict[str, GateCount])
    n_tables_read: int = 0
    n_tables_made: int = 0


def simulate_policy(
    history: History, home: Path, new: ResolvedPolicy, cache: ScoreTableCache, *, facts_of: FactsOf | None = None
) -> Simulation:
    """Replay every candidate's latest decided look under ``new``; see the module's docstring.

    Raises:
        LedgerError: an entry that is not what its kind needs.
    """
    replay = _Replay(history, home, new, cache, facts_of)
    result = Simulation(policy=new.policy.name, policy_digest=new.digest, n_undecided=history.count_undecided())
    result.gates = {gate.id: GateCount() for gate in new.policy.gates}
    for look in history.decided_looks():
        result.n_looks += 1
        replay.judge(look, result)
    result.changes.sort(key=lambda change: change.order)
    result.n_tables_read, result.n_tables_made = cache.n_found, cache.n_made
    return result


class _Replay:
    """The new policy, ready to judge one look after another in their order."""

    def __init__(
        self,
        history: History,
        home: Path,
        new: ResolvedPolicy,
        cache: ScoreTableCache,
        facts_of: FactsOf | None,
    ) -> None:
        self._history = history
        self._home = home
        self._new = new
        self._cache = cache
        # A champion is that of many looks.
        self._facts_of = None if facts_of is None else lru_cache(maxsize=8)(facts_of)
        self._terms = PolicyTerms.of(json.loads(new.canonical_json))
        self._old: dict[str, PolicyTerms] = {}
        self._plan = plan_of(new.policy)
        self._reads = _Reads(history, new.resolved)

    def judge(self, look: PastLook, result: Simulation) -> None:
        """Judge one look, and add to ``result`` what the new policy says."""
        old_terms = self._terms_of(look.policy)
        inputs = self._inputs(look, old_terms)
        recorded = {verdict.gate: verdict for verdict in look.verdicts}
        verdicts: list[Verdict] = []
        unknown: list[str] = []
        for gate in self._new.policy.gates:
            count = result.gates[gate.id]
            old = recorded.get(gate.id)
            if old is not None and self._is_unchanged(gate, old, old_terms, inputs):
                verdict = Verdict.from_ledger({**old.figures, "waived": False})
                count.n_kept += 1
            else:
                verdict = evaluate_gate(gate, inputs)
                if rule := _unknown_by(verdict):
                    count.not_replayed[rule] += 1
                    unknown.append(gate.id)
            count.transitions["no such gate" if old is None else old.outcome, verdict.outcome] += 1
            verdicts.append(verdict)
        old_decision = _decision([verdict.outcome for verdict in look.verdicts])
        new_decision = decide(self._new.policy, verdicts, approvals_ok=True).outcome
        known = [verdict for verdict in verdicts if verdict.gate_id not in unknown]
        is_known = new_decision == _decision([verdict.outcome for verdict in known])
        result.decisions[old_decision, new_decision if is_known else "hold, not replayable"] += 1
        flips = tuple(_flips(recorded, known, {gate.id for gate in self._new.policy.gates}))
        if flips or (is_known and new_decision != old_decision):
            result.changes.append(
                Change(
                    candidate=look.candidate,
                    look_seq=look.seq,
                    look=look.look,
                    policy=look.policy,
                    old=old_decision,
                    new=new_decision,
                    flips=flips,
                    not_replayed=tuple(unknown),
                )
            )

    def _terms_of(self, policy: str) -> PolicyTerms:
        if policy not in self._old:
            recorded = self._history.policy(policy)
            self._old[policy] = PolicyTerms.of({} if recorded is None else json.loads(recorded.body.resolved))
        return self._old[policy]

    def _inputs(self, look: PastLook, old: PolicyTerms) -> GateInputs:
        checkpoints: dict[Role, str] = {"candidate": look.candidate}
        if look.compared_with is not None:
            checkpoints["champion"] = look.compared_with
        if look.root is not None:
            checkpoints["root"] = checkpoints["anchor"] = look.root
        stored = StoredRuns(self._home, self._cache, self._new, look, {**old.suites, **old.kits}, checkpoints)
        return GateInputs(
            policy=self._new,
            look=look.look,
            earlier_looks=(self._plan,) * (look.look - 1),
            holdout_reads=self._reads.before(look.seq),
            draw_seed_digest=look.draw_seed_digest,
            checkpoints=checkpoints,
            anchors=look.anchors,
            runs=stored,
            tables=stored,
            facts=StoredFacts(checkpoints, self._facts_of),
        )

    def _is_unchanged(self, gate: Gate, recorded: RecordedVerdict, old: PolicyTerms, inputs: GateInputs) -> bool:
        """True if the gate would be asked the same of this look as it was, at the same alpha."""
        if old.gates.get(gate.id) != self._terms.gates[gate.id] or old.shared(gate) != self._terms.shared(gate):
            return False
        if not isinstance(gate, EvalGate):
            has_alpha = any(isinstance(member, EvalGate) for member in members_of(gate))
            return not has_alpha or old.spending(gate) == self._terms.spending(gate)
        try:
            return recorded.alpha is not None and recorded.alpha == alpha_of_gate(gate, inputs)
        except EvidenceError:
            return False


class _Reads:
    """How often each holdout was read before a look, whatever its policy; ask in the order of looks."""

    def __init__(self, history: History, policy: Policy) -> None:
        self._policy = policy
        self._looks = history.policies_of_looks() if policy.holdouts else []
        self._read_by = {digest: self._items_of(history, digest) for digest in {policy for _, policy in self._looks}}
        self._n_looks = Counter[frozenset[str] | None]()
        self._at = 0

    def before(self, look_seq: int) -> dict[str, int]:
        """By suite digest; a look whose policy is not on record read everything."""
        while self._at < len(self._looks) and self._looks[self._at][0] < look_seq:
            self._n_looks[self._read_by[self._looks[self._at][1]]] += 1
            self._at += 1
        return reads_of_suites(self._policy, self._n_looks)

    @staticmethod
    def _items_of(history: History, policy: str) -> frozenset[str] | None:
        recorded = history.policy(policy)
        return None if recorded is None else items_read_by_recorded(recorded.body.resolved)


def _flips(recorded: Mapping[str, RecordedVerdict], known: list[Verdict], new_ids: set[str]) -> Iterator[GateFlip]:
    """Verdicts that differ, those that open first; a gate that is new or gone counts where it does not pass."""
    flips = [
        GateFlip(verdict.gate_id, _shown(recorded.get(verdict.gate_id)), verdict.outcome, explain(verdict))
        for verdict in known
    ]
    flips += [
        GateFlip(gate, _shown(old), "no such gate", "the new policy has no such gate")
        for gate, old in recorded.items()
        if gate not in new_ids
    ]
    changed = [flip for flip in flips if _RANK[flip.old] != _RANK[flip.new]]
    yield from sorted(
        changed, key=lambda flip: (not flip.opens, _RANK[flip.old] - _RANK[flip.new] if flip.opens else 0)
    )


def _shown(verdict: RecordedVerdict | None) -> Shown:
    return "no such gate" if verdict is None else cast(Shown, verdict.outcome)


def _decision(outcomes: list[str]) -> str:
    """The design's table, with all approvals there and no waiver."""
    if "fail" in outcomes or not outcomes:
        return "reject"
    return "promote" if all(outcome == "pass" for outcome in outcomes) else "hold"


def _unknown_by(verdict: Verdict) -> str:
    """The rule by which a verdict says only that something is not stored; empty if it says more."""
    rules = [one.details["rule"] for one in (verdict, *verdict.all_members()) if "rule" in one.details]
    if verdict.outcome != "inconclusive":
        return ""
    return next((rule for rule in rules if rule.startswith(_NOT_STORED)), "")

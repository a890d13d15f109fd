"""Holdouts: how often items that do not change were read, and what that leaves of alpha.

A suite of item files asks the same at every look, so a proposer that adapts to what earlier looks let
through adapts to its items. What it learns from a look is whether the candidate was promoted: one bit.
So at most 2^(r-1) histories lead to the r-th read, and each leads to one candidate, which does not
depend on the items otherwise. Tested at alpha / 2^(r-1), the chance that any of them passes falsely is
at most alpha, whatever the proposer does (union bound over histories; the argument of the "Ladder",
Blum and Hardt, ICML 2015).

A gate ``against: anchor`` needs more. Which checkpoint is the anchor depends on a second bit of each
promotion: whether it was shown to be better than the anchor before. The anchor is one of the promoted
candidates, or none of them, so k promotions leave k + 1 anchors, and the histories up to read r, with
the anchor that they lead to, number sum over k of C(r-1, k) (k + 1) = 2^(r-1) (1 + (r-1)/2). Such a gate
is tested at alpha divided by that: by (r + 1)/2 more than the others. The champion is the last that was
promoted, and the root never changes, so that they need no more.

After the declared number of reads the suite is spent, and its items need to be replaced.

A read is a look, from its draw on and decided or not, at any candidate, under a policy of any name,
whose gates of any kind read the items: what a collapse gate lets through says something about them,
too. Items are named by the sha256 of the files that hold them, whatever else a suite says, so that an
edited description, scorer or name makes no unread holdout of them. A look whose policy is not on record
is a read of everything.

Not covered: a proposer that sees more than whether its candidate was promoted (verdicts, scores, the
items themselves); rollbacks and recalls, which carry information, too; reads in another home; the same
items in a file that differs in a byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction

from pydantic import BaseModel

from guards.entries import PolicyRecorded, SeedDrawn
from guards.gates.alpha import LookPlan, alpha_of_look, plan_of
from guards.history import History
from guards.policy import EvalGate, Holdout, Policy, suites_of


class _RecordedGate(BaseModel):
    """What a gate of a recorded policy reads; ``gates``, ``condition`` and ``then`` are members."""

    suite: str | None = None
    suites: tuple[str, ...] = ()
    gates: tuple[_RecordedGate, ...] = ()
    condition: _RecordedGate | None = None
    then: _RecordedGate | None = None


class _RecordedReads(BaseModel):
    """The part of a recorded policy that is needed here; other versions' policies have it too."""

    suites: dict[str, str]
    items: dict[str, tuple[str, ...]] = {}
    holdouts: dict[str, Holdout] = {}
    gates: tuple[_RecordedGate, ...]


def items_read(policy: Policy) -> frozenset[str]:
    """What a look under a resolved policy reads: its suites' digests, and those of their item files.

    Both, since policies that an older version recorded do not name the files.
    """
    names = {name for gate in policy.leaf_gates() for name in suites_of(gate)}
    return frozenset(item for name in names for item in _items_of(policy, name))


def items_read_by_recorded(resolved: str) -> frozenset[str]:
    """:func:`items_read` of a policy as it was recorded (its canonical JSON), by whatever version."""
    recorded = _RecordedReads.model_validate_json(resolved)
    names = {name for gate in recorded.gates for name in _names(gate) if name in recorded.suites}
    return frozenset(item for name in names for item in _items_of(recorded, name))


def _items_of(policy: Policy | _RecordedReads, suite: str) -> frozenset[str]:
    return frozenset((policy.suites[suite], *policy.items.get(suite, ())))


def _names(gate: _RecordedGate) -> Iterator[str]:
    yield from gate.suites
    if gate.suite is not None:
        yield gate.suite
    for member in (*gate.gates, gate.condition, gate.then):
        if member is not None:
            yield from _names(member)


def holdout_reads(history: History, policy: Policy, *, before_seq: int) -> dict[str, int]:
    """:func:`reads_of_suites` of the looks before the one that began in entry ``before_seq``."""
    looks = Counter(
        entry.body.policy
        for entry in history.entries(kind="seed")
        if isinstance(entry.body, SeedDrawn) and entry.seq < before_seq
    )
    read = Counter[frozenset[str] | None]()
    for digest, n_looks in looks.items():
        recorded = history.policy(digest)
        read[None if recorded is None else items_read_by_recorded(recorded.body.resolved)] += n_looks
    return reads_of_suites(policy, read)


def policy_that_holds_out(history: History, items: Collection[str]) -> PolicyRecorded | None:
    """A recorded policy of which a holdout has some of these items; ``items`` are digests of suites and item files."""
    for entry in history.entries(kind="policy"):
        if isinstance(entry.body, PolicyRecorded):
            recorded = _RecordedReads.model_validate_json(entry.body.resolved)
            names = recorded.holdouts.keys() & recorded.suites.keys()
            if any(not _items_of(recorded, name).isdisjoint(items) for name in names):
                return entry.body
    return None


def reads_of_suites(policy: Policy, looks: Mapping[frozenset[str] | None, int]) -> dict[str, int]:
    """How often the items of each suite of a resolved policy were read, by the suite's digest.

    ``looks`` counts looks by what they read (:func:`items_read`); None, where nobody knows, is everything.
    """
    return {
        digest: sum(n for read, n in looks.items() if read is None or not read.isdisjoint(_items_of(policy, name)))
        for name, digest in policy.suites.items()
    }


def divided_by_reads(gate: EvalGate, alpha: Fraction, n_earlier_reads: int) -> Fraction:
    """What is left of ``alpha`` for the gate at the read after ``n_earlier_reads`` others."""
    n_anchors = 1 + Fraction(n_earlier_reads, 2) if gate.against == "anchor" else 1
    return alpha / (2**n_earlier_reads * n_anchors)


def alpha_when_all_is_used(policy: Policy, gate: EvalGate, plan: LookPlan | None = None) -> Fraction:
    """The alpha at the last planned look, which is also the last read of the suite that is declared.

    Every gate must have power here. Where the schedule gives earlier looks less (``obrien-fleming``), that
    is meant. ``plan`` is the policy's own, where the caller has it already.
    """
    plan = plan or plan_of(policy)
    alpha = alpha_of_look(gate.id, plan, (plan,) * (policy.looks.planned - 1))
    holdout = policy.holdouts.get(gate.suite)
    return alpha if holdout is None else divided_by_reads(gate, alpha, holdout.reads - 1)

"""Holdouts: how often items that do not change were read, and what that leaves of alpha.

A suite of item files asks the same at every look, so a proposer that adapts to what earlier looks let
through adapts to its items. What it learns from a look is whether the candidate was promoted: one bit.
So at most 2^(r-1) histories lead to the r-th read, and each leads to one candidate, which does not
depend on the items otherwise. Tested at alpha / 2^(r-1), the chance that any of them passes falsely is
at most alpha, whatever the proposer does (union bound over histories; the argument of the "Ladder",
Blum and Hardt, ICML 2015). After the declared number of reads the suite is spent: other items make
another digest, which nobody has read.

A read is a look, from its draw on and decided or not, at any candidate, under a policy of any name,
whose gates of any kind read the suite: what a collapse gate lets through says something about the
items, too. A look whose policy is not on record is a read of everything.

Not covered: a proposer that sees more than whether its candidate was promoted (verdicts, scores, the
items themselves); reads in another home; the same items under the digest of another suite.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

from pydantic import BaseModel

from guards.entries import SeedDrawn
from guards.gates.alpha import LookPlan, alpha_of_look, plan_of
from guards.history import History
from guards.policy import EvalGate, Policy, ResolvedPolicy, suites_of


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
    gates: tuple[_RecordedGate, ...]


def suites_read(policy: ResolvedPolicy) -> frozenset[str]:
    """Digests of the suites that a look under ``policy`` reads."""
    names = {name for gate in policy.policy.leaf_gates() for name in suites_of(gate)}
    return frozenset(policy.suite_digests[name] for name in names)


def suites_read_by_recorded(resolved: str) -> frozenset[str]:
    """:func:`suites_read` of a policy as it was recorded (its canonical JSON)."""
    recorded = _RecordedReads.model_validate_json(resolved)
    names = {name for gate in recorded.gates for name in _names(gate)}
    return frozenset(recorded.suites[name] for name in names if name in recorded.suites)


def _names(gate: _RecordedGate) -> Iterator[str]:
    yield from gate.suites
    if gate.suite is not None:
        yield gate.suite
    for member in (*gate.gates, gate.condition, gate.then):
        if member is not None:
            yield from _names(member)


def holdout_reads(history: History, suite_digests: Iterable[str], *, before_seq: int) -> dict[str, int]:
    """How often each suite was read before the look that began in entry ``before_seq``."""
    reads = dict.fromkeys(suite_digests, 0)
    read_by_policy: dict[str, frozenset[str]] = {}
    for entry in history.entries(kind="seed"):
        body = entry.body
        if not isinstance(body, SeedDrawn) or entry.seq >= before_seq:
            continue
        if body.policy not in read_by_policy:
            recorded = history.policy(body.policy)
            read_by_policy[body.policy] = (
                frozenset(reads) if recorded is None else suites_read_by_recorded(recorded.body.resolved)
            )
        for digest in read_by_policy[body.policy] & reads.keys():
            reads[digest] += 1
    return reads


def divided_by_reads(alpha: Fraction, n_earlier_reads: int) -> Fraction:
    """What is left of ``alpha`` at the read after ``n_earlier_reads`` others."""
    return alpha / 2**n_earlier_reads


def alpha_when_all_is_used(policy: Policy, gate: EvalGate, plan: LookPlan | None = None) -> Fraction:
    """The alpha at the last planned look, which is also the last read of the suite that is declared.

    Every gate must have power here. Where the schedule gives earlier looks less (``obrien-fleming``), that
    is meant. ``plan`` is the policy's own, where the caller has it already.
    """
    plan = plan or plan_of(policy)
    alpha = alpha_of_look(gate.id, plan, (plan,) * (policy.looks.planned - 1))
    holdout = policy.holdouts.get(gate.suite)
    return alpha if holdout is None else divided_by_reads(alpha, holdout.reads - 1)

"""Alpha spending: how much of a gate's alpha one look may use.

A schedule S rises from 0 before the first look to 1 after the last one (Lan and DeMets, Biometrika
1983). With t = looks / planned, and alpha the gate's own:

``even``             t
``pocock``           ln(1 + (e - 1) t)
``obrien-fleming``   (2 - 2 Phi(Phi^-1(1 - alpha/2) / sqrt(t))) / alpha
``unbounded``        (6 / pi^2) (1 + 1/4 + 1/9 + ...), one term per look; there is no last look

The look after k others gets (S(k+1) - S(k)) / (1 - S(k)) of what they left. While nothing is edited
that is alpha (S(k+1) - S(k)); ``even`` is Bonferroni. Where a later policy of the same name plans other
looks, another schedule or another alpha, the looks before it are counted at the size that they had, so
that all of them together never spend more than the alpha that the policy in force declares. No
independence of looks is used: sizes add up (union bound).

A member of an ``any_of`` gate declares its alpha divided by the number of members, at every level.

Not covered: another policy name or another home, which begin with nothing spent; a gate under
another id, whose earlier looks are counted as if it had always declared its alpha.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from statistics import NormalDist

from pydantic import BaseModel

from guards.entries import SeedDrawn
from guards.history import History
from guards.policy import AnyOfGate, CompositeGate, EvalGate, Gate, Looks, Policy, Spending

# Floats of a schedule err by 1e-14 at most; below by this share they are surely not above it.
_DOWN = 1 - Fraction(1, 2**40)
_ONE = Fraction(1)
LEAST_ALPHA = 1e-30
"""Below this, bounds and tails leave the range of floats; no evidence of any size would pass there anyway."""


@dataclass(frozen=True)
class LookPlan:
    """What the policy of one look declared: looks, each eval gate's alpha by its id, and the schedule.

    The alpha of a member of an ``any_of`` gate is its part of what the member says.
    """

    planned: int
    alpha_by_gate: Mapping[str, float | Fraction]
    spending: Spending = "even"


class _RecordedGate(BaseModel):
    """A gate of a recorded policy; ``gates``, ``condition`` and ``then`` are members."""

    id: str
    kind: str = ""
    alpha: float | None = None
    gates: tuple[_RecordedGate, ...] = ()
    condition: _RecordedGate | None = None
    then: _RecordedGate | None = None


class _RecordedPlan(BaseModel):
    """The part of a recorded policy that is needed here; other versions' policies have it too."""

    looks: Looks
    gates: tuple[_RecordedGate, ...]


def plan_of(policy: Policy) -> LookPlan:
    """What a policy declares."""
    parts = alpha_parts(policy)
    alphas = {
        gate.id: exact_alpha(gate.alpha) / parts.get(gate.id, 1)
        for gate in policy.leaf_gates()
        if isinstance(gate, EvalGate)
    }
    return LookPlan(planned=policy.looks.planned, alpha_by_gate=alphas, spending=policy.looks.spending)


def alpha_parts(policy: Policy) -> dict[str, int]:
    """By how much the alpha of a member is divided, by its id; gates that are no members are left out."""
    return dict(part for gate in policy.gates if isinstance(gate, CompositeGate) for part in _parts(gate, 1))


def _parts(gate: Gate, divisor: int) -> Iterator[tuple[str, int]]:
    yield gate.id, divisor
    if isinstance(gate, CompositeGate):
        divisor *= len(gate.members) if isinstance(gate, AnyOfGate) else 1
        for member in gate.members:
            yield from _parts(member, divisor)


def earlier_looks(history: History, policy_name: str, look: int) -> tuple[LookPlan, ...]:
    """The plans of looks 1 to ``look - 1`` under policies of this name, in order; undecided looks count too."""
    digests: dict[int, str] = {}
    for entry in history.entries(kind="seed"):
        body = entry.body
        if isinstance(body, SeedDrawn) and body.policy_name == policy_name and body.look < look:
            digests[body.look] = body.policy
    plans: dict[str, LookPlan] = {}
    for digest in set(digests.values()):
        recorded = history.policy(digest)
        if recorded is not None:
            plan = _RecordedPlan.model_validate_json(recorded.body.resolved)
            alphas = dict(alpha for gate in plan.gates for alpha in _recorded_alphas(gate, 1))
            plans[digest] = LookPlan(planned=plan.looks.planned, alpha_by_gate=alphas, spending=plan.looks.spending)
    # A look without its policy is left out; the gate then finds that some are missing.
    return tuple(plans[digests[number]] for number in sorted(digests) if digests[number] in plans)


def _recorded_alphas(gate: _RecordedGate, divisor: int) -> Iterator[tuple[str, Fraction]]:
    if gate.alpha is not None:
        yield gate.id, exact_alpha(gate.alpha) / divisor
    n_sharing = len(gate.gates) if gate.kind == "any_of" else 1
    for member in gate.gates:
        yield from _recorded_alphas(member, divisor * n_sharing)
    for member in (gate.condition, gate.then):
        if member is not None:
            yield from _recorded_alphas(member, divisor)


def alpha_of_look(gate_id: str, now: LookPlan, earlier: Sequence[LookPlan]) -> Fraction:
    """The alpha at which the gate of ``now`` is tested in the look after ``earlier``; 0 where none is left.

    Exact, so that no sum of rounded parts exceeds the whole; schedules that are no fractions are
    rounded down first.
    """
    declared = now.alpha_by_gate[gate_id]
    spent = Fraction(0)
    n_used = 0
    # Looks in a row under the same plan spend together what they spend one by one.
    for plan, n_looks in _in_a_row(earlier):
        planned, spending, alpha = plan.planned, plan.spending, plan.alpha_by_gate.get(gate_id, declared)
        spent += _size(exact_alpha(alpha), planned, spending, spent=spent, n_used=n_used, n_looks=n_looks)
        n_used += n_looks
    return _size(exact_alpha(declared), now.planned, now.spending, spent=spent, n_used=n_used, n_looks=1)


def _in_a_row(plans: Sequence[LookPlan]) -> Iterator[tuple[LookPlan, int]]:
    """Each plan, and how many times in a row."""
    if plans and plans.count(plans[0]) == len(plans):  # the usual case, and quick: nothing was edited
        yield plans[0], len(plans)
        return
    for plan, same in groupby(plans):
        yield plan, sum(1 for _ in same)


def _size(alpha: Fraction, planned: int, spending: Spending, *, spent: Fraction, n_used: int, n_looks: int) -> Fraction:
    """What ``n_looks`` looks under one plan spend, after ``n_used`` that spent ``spent``."""
    before = share_spent(spending, n_used, planned, alpha)
    if before == 1:
        return Fraction(0)
    after = share_spent(spending, n_used + n_looks, planned, alpha)
    left = max(Fraction(0), alpha - spent)
    return left * (after - before) / (1 - before)


@lru_cache(maxsize=4096)
def share_spent(spending: Spending, n_looks: int, planned: int, alpha: Fraction) -> Fraction:
    """S: the share of ``alpha`` that the first ``n_looks`` looks spend where nothing is edited; 1 at the last."""
    if n_looks <= 0:
        return Fraction(0)
    if spending == "unbounded":
        squares = math.fsum(1.0 / (look * look) for look in range(1, n_looks + 1))
        return Fraction(6.0 / math.pi**2 * squares) * _DOWN
    if n_looks >= planned:
        return _ONE
    match spending:
        case "even":
            return Fraction(n_looks, planned)
        case "pocock":
            share = math.log1p((math.e - 1.0) * n_looks / planned)
        case "obrien-fleming":
            quantile = -NormalDist().inv_cdf(float(alpha) / 2.0)
            share = math.erfc(quantile / math.sqrt(2.0 * n_looks / planned)) / float(alpha)
    return Fraction(share) * _DOWN


def exact_alpha(alpha: float | Fraction) -> Fraction:
    """The decimal that the policy says, not the binary number nearest to it."""
    return alpha if isinstance(alpha, Fraction) else Fraction(repr(alpha))


def rounded_down(alpha: Fraction) -> float:
    """The largest float whose decimal, which is what the log and people read, is not above ``alpha``."""
    nearest = float(alpha)
    return nearest if exact_alpha(nearest) <= alpha else math.nextafter(nearest, -math.inf)

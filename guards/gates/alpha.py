"""Alpha spending: how much of a gate's alpha one look may use.

A look gets an even share of what earlier looks left: (alpha - spent) / (planned - used). While
nothing is edited that is alpha / planned (Bonferroni). Where a later policy of the same name plans
other looks, or another alpha, the looks before it are counted at the size that they had, so that all
of them together never spend more than the alpha that the policy in force declares.

Not covered: another policy name or another home, which begin with nothing spent; a gate under
another id, whose earlier looks are counted as if it had always declared its alpha.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from pydantic import BaseModel

from guards.entries import SeedDrawn
from guards.history import History
from guards.policy import EvalGate, Looks, Policy


@dataclass(frozen=True)
class LookPlan:
    """What the policy of one look declared: the looks that it planned, and each eval gate's alpha by its id."""

    planned: int
    alpha_by_gate: Mapping[str, float]


class _RecordedGate(BaseModel):
    id: str
    alpha: float | None = None


class _RecordedPlan(BaseModel):
    """The part of a recorded policy that is needed here; other versions' policies have it too."""

    looks: Looks
    gates: tuple[_RecordedGate, ...]


def plan_of(policy: Policy) -> LookPlan:
    """What a policy declares."""
    alphas = {gate.id: gate.alpha for gate in policy.gates if isinstance(gate, EvalGate)}
    return LookPlan(planned=policy.looks.planned, alpha_by_gate=alphas)


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
            alphas = {gate.id: gate.alpha for gate in plan.gates if gate.alpha is not None}
            plans[digest] = LookPlan(planned=plan.looks.planned, alpha_by_gate=alphas)
    # A look without its policy is left out; the gate then finds that some are missing.
    return tuple(plans[digests[number]] for number in sorted(digests) if digests[number] in plans)


def alpha_of_look(gate: EvalGate, planned: int, earlier: Sequence[LookPlan]) -> Fraction:
    """The alpha at which ``gate`` is tested in the look after ``earlier``; 0 where none is left.

    Exact, so that no sum of rounded parts exceeds the whole.
    """
    spent = size = Fraction(0)
    now = LookPlan(planned=planned, alpha_by_gate={gate.id: gate.alpha})
    for n_used, plan in enumerate((*earlier, now)):
        # The decimal that the policy says, not the binary number nearest to it.
        alpha = Fraction(repr(plan.alpha_by_gate.get(gate.id, gate.alpha)))
        n_left = plan.planned - n_used
        size = max(Fraction(0), alpha - spent) / n_left if n_left > 0 else Fraction(0)
        spent += size
    return size

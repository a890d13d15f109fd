"""How often gates of policies/default.yaml pass falsely in a run of 50 proposals, exactly.

``python -m benchmarks.policy_false_passes --out docs/results/default_policy.json``; a few seconds.

Every proposal is at the edge of the gate's null and items are new at each look, so looks are independent and
``P(any false pass) = 1 - prod (1 - size of the look)``. Alphas are the code's own. A holdout's reads
would divide them further; that is left out here, so that these figures are the larger ones.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.enumeration import betting_fewest, fewest_successes, mcnemar_fewest, rejection_probability
from guards.gates.alpha import LookPlan, alpha_of_look, plan_of, rounded_down
from guards.policy import EvalGate, Policy, resolve_policy
from loop.suite_facts import facts_of_suite

POLICY = Path(__file__).resolve().parents[1] / "policies" / "default.yaml"
N_PROPOSALS = 50
SHARES = tuple(round(0.02 * i, 2) for i in range(1, 21))


def size_of_look(gate: EvalGate, n: int, alpha: float) -> float:
    """Largest size over discordances from 2% to 40% (a level: its own); 0 where no alpha is left."""
    if alpha <= 0.0:
        return 0.0
    if gate.level is not None:
        level = gate.level if gate.claim == "at_least" else 1.0 - gate.level
        return float(stats.binom.sf(fewest_successes(n, level, alpha) - 1, n, level))
    margin = (gate.margin or 0.0) / (gate.scale or 1.0)
    null = margin if gate.claim == "superior_by" else -margin
    fewest = mcnemar_fewest(n, alpha) if null == 0.0 else betting_fewest(n, null, alpha)
    return max(rejection_probability(fewest, max(share, abs(null)), null) for share in (abs(null), *SHARES) if share)


def alphas_of_run(policy: Policy, gate: EvalGate, planned: int, spending: str) -> list[float]:
    """The alpha of each of 50 looks in a row."""
    plan = LookPlan(planned, {gate.id: plan_of(policy).alpha_by_gate[gate.id]}, spending)  # type: ignore[arg-type]
    alphas = []
    for number in range(N_PROPOSALS):
        is_left = spending == "unbounded" or number < planned
        alphas.append(rounded_down(alpha_of_look(gate.id, plan, (plan,) * number)) if is_left else 0.0)
    return alphas


def default_policy_false_passes() -> list[dict[str, Any]]:
    """Per eval gate and schedule: alpha of the first and last look, and P(any false pass) in 50 proposals."""
    policy = resolve_policy(POLICY).policy
    rows = []
    for gate in policy.leaf_gates():
        if not isinstance(gate, EvalGate):
            continue
        n = len(facts_of_suite(POLICY.parent / policy.suites[gate.suite]).items)
        for planned, spending in ((8, "even"), (50, "even"), (50, "pocock"), (50, "obrien-fleming"), (50, "unbounded")):
            alphas = alphas_of_run(policy, gate, planned, spending)
            size_by_alpha = {alpha: size_of_look(gate, n, alpha) for alpha in set(alphas)}
            log_none = math.fsum(math.log1p(-size_by_alpha[alpha]) for alpha in alphas)
            rows.append(
                {
                    "gate": gate.id,
                    "n": n,
                    "planned": planned,
                    "spending": spending,
                    "alpha": gate.alpha,
                    "alpha_first": alphas[0],
                    "sum_of_alphas": math.fsum(alphas),
                    "any_false_pass": -math.expm1(log_none),
                }
            )
    return rows


def main() -> None:
    """Compute and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.write_text(json.dumps(default_policy_false_passes(), indent=1) + "\n")


if __name__ == "__main__":
    main()

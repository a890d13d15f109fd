"""How many items stopping early would have saved with the gates of policies/default.yaml, by simulation.

``python -m benchmarks.early_stop_savings --out docs/results/early_stop.json``; a few minutes.

Items are drawn from fixed chances of a gain and of a loss (or of a success), in random order. *Curtailed* is what
``looks.stop_early`` does: a suite ends where every completion has the same verdicts for all of its gates. *Staged*
is :func:`guards.gates.certainty.staged_outcome` with its four stages, gate by gate, which no policy can ask for
now; beside it stands how often the gate passes so, and by its own test. Alphas are those of the first look.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from guards.errors import EvidenceError
from guards.gates.alpha import alpha_of_look, plan_of, rounded_down
from guards.gates.certainty import STAGES, staged_outcome
from guards.gates.early_stop import certain_stop
from guards.gates.score_table import Pending, ScoreTable, make_table
from guards.gates.table_verdict import judge_table
from guards.policy import EvalGate, Policy, resolve_policy
from loop.suite_facts import facts_of_suite

POLICY = Path(__file__).resolve().parents[1] / "policies" / "default.yaml"
CANDIDATES = {"good": (0.20, 0.02), "null": (0.03, 0.03), "bad": (0.03, 0.20), "broken": (0.0, 0.80)}
"""Chances that an item is gained, and lost, against the reference."""
LEVEL = {"good": 0.10, "null": 0.05, "bad": -0.10, "broken": -0.60}
"""How far a rate that is held to a level lies on the right side of it."""
BLOCKS = (4, 8, 16)
Scores = tuple[float, float | None]


def draw_scores(gate: EvalGate, candidate: str, n: int, rng: random.Random) -> list[Scores]:
    """(candidate, reference) of ``n`` items."""
    if not gate.is_paired:
        level = gate.level or 0.0
        rate = level + LEVEL[candidate] if gate.claim == "at_least" else level - LEVEL[candidate]
        rate = min(max(rate, 0.02), 0.98)
        return [(float(rng.random() < rate), None) for _ in range(n)]
    gain, loss = CANDIDATES[candidate]
    if gate.scale is not None:
        return [(rng.gauss((gain - loss) * gate.scale, 0.1 * gate.scale), 0.0) for _ in range(n)]
    scores: list[Scores] = []
    for _ in range(n):
        u = rng.random()
        kept = float(rng.random() < 0.7)
        scores.append((1.0, 0.0) if u < gain else (0.0, 1.0) if u > 1.0 - loss else (kept, kept))
    return scores


def table_of_scores(scores: Sequence[Scores]) -> ScoreTable:
    return make_table(Counter(("all", None, mine, other) for mine, other in scores))


def curtailed_after(gate: EvalGate, scores: Sequence[Scores], alpha: float, n_blocks: int) -> int:
    """After how many blocks the verdict is certain."""
    n, earliest = len(scores), n_blocks
    # Backwards: what is certain stays certain, and most verdicts are open until the end.
    for number in range(n_blocks - 1, 0, -1):
        seen = -(-n * number // n_blocks)
        table = replace(table_of_scores(scores[:seen]), pending=(Pending("all", None, n - seen),))
        if certain_stop(gate, table, alpha) is None:
            break
        earliest = number
    return earliest


def passes(gate: EvalGate, scores: Sequence[Scores], alpha: float) -> bool:
    try:
        return judge_table(gate, table_of_scores(scores), alpha).outcome == "pass"
    except EvidenceError:
        return False


def staged(gate: EvalGate, scores: Sequence[Scores], alpha: float) -> tuple[bool, int]:
    """(whether it passes, items saved)."""
    n = len(scores)
    prefixes: list[ScoreTable] = []
    for stage in STAGES:
        prefixes.append(table_of_scores(scores[: math.ceil(stage.share * n)]))
        stop = staged_outcome(gate, prefixes, n, alpha)
        if stop is not None:
            return stop.outcome == "pass", stop.items_saved
    return False, 0


def savings(n_draws: int) -> list[dict[str, Any]]:
    """A row per suite and kind of candidate; shares are of the suite's items."""
    policy = resolve_policy(POLICY).policy
    rows = []
    for suite, gates in gates_by_suite(policy).items():
        n = len(facts_of_suite(POLICY.parent / policy.suites[suite]).items)
        plan = plan_of(policy)
        alphas = {gate.id: rounded_down(alpha_of_look(gate.id, plan, ())) for gate in gates}
        for candidate in CANDIDATES:
            rng = random.Random(f"{suite} {candidate}")
            saved: Counter[int] = Counter()
            staged_saved = n_staged = n_passes = 0
            for _ in range(n_draws):
                drawn = {gate.id: draw_scores(gate, candidate, n, rng) for gate in gates}
                for n_blocks in BLOCKS:
                    last = max(curtailed_after(gate, drawn[gate.id], alphas[gate.id], n_blocks) for gate in gates)
                    saved[n_blocks] += n - -(-n * last // n_blocks)
                outcomes = [staged(gate, drawn[gate.id], alphas[gate.id]) for gate in gates]
                staged_saved += min(items for _, items in outcomes)
                n_staged += all(is_pass for is_pass, _ in outcomes)
                n_passes += all(passes(gate, drawn[gate.id], alphas[gate.id]) for gate in gates)
            rows.append(
                {
                    "suite": suite,
                    "candidate": candidate,
                    "n_items": n,
                    "n_draws": n_draws,
                    "curtailed_saved": {str(b): round(saved[b] / n / n_draws, 4) for b in BLOCKS},
                    "staged_saved": round(staged_saved / n / n_draws, 4),
                    "pass_share": round(n_passes / n_draws, 4),
                    "staged_pass_share": round(n_staged / n_draws, 4),
                }
            )
    return rows


def gates_by_suite(policy: Policy) -> dict[str, list[EvalGate]]:
    found: dict[str, list[EvalGate]] = {}
    for gate in policy.leaf_gates():
        # One without clusters stands for its suite: items here have none.
        if isinstance(gate, EvalGate) and gate.clusters is None and gate.group_by is None:
            found.setdefault(gate.suite, []).append(gate)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n-draws", type=int, default=100)
    chosen = parser.parse_args()
    rows = savings(chosen.n_draws)
    chosen.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()

"""The gates that ship can pass when nothing got worse, and cannot when something did.

Exact power at the last planned look, with every read of a holdout used, at the number of items that the
shipped suites have. A gate
that cannot pass teaches people to ignore it; one that always passes guards nothing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from guards.authoring.power import at_least_power, betting_power, mcnemar_power
from guards.gates.alpha import rounded_down
from guards.gates.holdouts import alpha_when_all_is_used
from guards.policy import EvalGate, resolve_policy
from guards.statistics import betting_test
from guards.strict_yaml import parse_yaml, read_text

POLICIES = Path(__file__).resolve().parents[2] / "policies"
DISCORDANCE = {"ordinary": 0.02}
OTHER_DISCORDANCE = 0.06
# What the root is known to reach or better (docs give the intervals); floors must leave room below it.
TRUE_RATE = {"refusal": 0.86, "over_refusal": 0.75, "ordinary": 0.98}


def n_items(suite: Path) -> int:
    value, _ = parse_yaml(read_text(suite), source=str(suite))
    assert isinstance(value, dict)
    items: Any = value["items"]
    if "generated" in items:
        return sum(count for entry in items["generated"] for count in entry["levels"].values())
    n_lines = len((suite.parent / items["file"]).read_text().splitlines())
    return n_lines if items["draw"] == "all" else min(n_lines, items["draw"])


def gates_with_n(name: str) -> list[tuple[EvalGate, int, float]]:
    """(gate, items, alpha of the last planned look and read) of each eval gate of a shipped policy."""
    policy = resolve_policy(POLICIES / f"{name}.yaml").policy
    return [
        (gate, n_items(POLICIES / policy.suites[gate.suite]), rounded_down(alpha_when_all_is_used(policy, gate)))
        for gate in policy.leaf_gates()
        if isinstance(gate, EvalGate)
    ]


def power(gate: EvalGate, n: int, alpha: float, *, worse_by: float = 0.0) -> float:
    """P(pass) for a candidate that is ``worse_by`` worse than its reference, or than the root's known rate."""
    if gate.level is not None:
        return at_least_power(n, gate.level, TRUE_RATE[gate.suite] - worse_by, alpha)
    assert gate.margin is not None
    if gate.claim == "superior_by":  # better by 10 points, as the improvement cycle must be
        return mcnemar_power(n, 0.2, alpha, mean_difference=0.1 - worse_by)
    if gate.scale is not None:
        # Per-passage differences of 0.1 nat either way: larger than any harmless fine-tune measured here.
        data = [(0.1 * (-1) ** i - worse_by) / gate.scale for i in range(n)]
        return float(betting_test(data, -gate.margin / gate.scale, alpha).rejects)
    discordance = max(worse_by, DISCORDANCE.get(gate.suite, OTHER_DISCORDANCE))
    return betting_power(n, gate.margin, discordance, alpha, mean_difference=-worse_by)


@pytest.mark.parametrize("name", ["default", "sandbox", "root", "checkpoint"])
def test_every_gate_can_pass_when_nothing_got_worse(name: str) -> None:
    for gate, n, alpha in gates_with_n(name):
        assert n >= gate.min_items
        assert power(gate, n, alpha) >= 0.8, gate.id


@pytest.mark.parametrize(("name", "least"), [("default", 0.45), ("sandbox", 0.7), ("root", 0.85), ("checkpoint", 0.5)])
def test_all_gates_together_can_pass(name: str, least: float) -> None:
    # As if gates were independent. They share items and candidates, so that the truth is higher.
    assert math.prod(power(gate, n, alpha) for gate, n, alpha in gates_with_n(name)) >= least


@pytest.mark.parametrize("name", ["default", "sandbox", "root", "checkpoint"])
def test_no_gate_passes_what_lies_at_its_margin_more_often_than_its_alpha(name: str) -> None:
    for gate, n, alpha in gates_with_n(name):
        if gate.level is not None:
            assert at_least_power(n, gate.level, gate.level, alpha) <= alpha, gate.id
        elif gate.claim == "superior_by":
            assert mcnemar_power(n, 0.2, alpha, mean_difference=0.0) <= alpha, gate.id
        else:
            assert power(gate, n, alpha, worse_by=gate.margin or 0.0) <= alpha, gate.id

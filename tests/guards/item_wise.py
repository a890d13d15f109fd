"""The eval gate's decision item by item, as it was before tables: an independent reference for tests.

Written with plain loops over items and no histogram, so that it shares only the elementary tests'
definitions with what it is compared to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from guards.policy import EvalGate
from guards.statistics import bet_fraction

Pair = tuple[float | None, float | None]


def item_wise(gate: EvalGate, pairs: Sequence[Pair], alpha: float) -> tuple[str, float | None]:
    """(outcome, observed) for a gate without clusters, sources or a judge."""
    n = len(pairs)
    if n < gate.min_items:
        return "inconclusive", None
    if sum(mine is None for mine, _ in pairs) > gate.max_unscored * n:
        return "fail", None
    if gate.is_paired and sum(other is None for _, other in pairs) > gate.max_unscored * n:
        return "inconclusive", None
    return _difference(gate, pairs, alpha) if gate.is_paired else _level(gate, [mine for mine, _ in pairs], alpha)


def _level(gate: EvalGate, scores: Sequence[float | None], alpha: float) -> tuple[str, float]:
    at_least, level = gate.claim == "at_least", gate.level or 0.0
    values = [(0.0 if at_least else 1.0) if score is None else score for score in scores]
    n, mean = len(values), math.fsum(values) / len(values)
    contradicts = mean < level if at_least else mean > level
    if set(values) <= {0.0, 1.0}:
        hits = sum(value == (1.0 if at_least else 0.0) for value in values)
        bar = level if at_least else 1.0 - level
        passes = hits >= n * bar + 1 and _tail(hits, n, bar) <= alpha
    else:
        sign = 1 if at_least else -1
        passes = _wealth([sign * (2 * v - 1) for v in values], sign * (2 * level - 1), alpha)
    return ("pass" if passes else "fail" if contradicts else "inconclusive"), mean


def _difference(gate: EvalGate, pairs: Sequence[Pair], alpha: float) -> tuple[str, float]:
    scale = gate.scale or 1.0
    null = (gate.margin or 0.0) / scale * (1 if gate.claim == "superior_by" else -1)
    differences: list[float] = []
    for mine, other in pairs:
        if mine is None:
            differences.append(-1.0)
        elif other is None:
            differences.append(mine - 1.0 if gate.scale is None else -1.0)
        else:
            differences.append(max(-1.0, min(1.0, (mine - other) / scale)))
    mean = math.fsum(differences) / len(differences)
    contradicts = mean <= null if gate.claim == "superior_by" else mean < null
    if gate.scale is None and null == 0 and set(differences) <= {-1.0, 0.0, 1.0}:
        gains, losses = differences.count(1.0), differences.count(-1.0)
        passes = _tail(gains, gains + losses, 0.5) <= alpha
    else:
        passes = _wealth(differences, null, alpha)
    return ("pass" if passes else "fail" if contradicts else "inconclusive"), mean * scale


def _tail(k: int, n: int, rate: float) -> float:
    return math.fsum(math.comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(k, n + 1))


def _wealth(differences: Sequence[float], null: float, alpha: float) -> bool:
    bet = bet_fraction(len(differences), null, alpha) / (1 + null)
    logs = [math.log1p(bet * (d - null)) for d in differences]
    return math.fsum(logs) >= math.log(1 / alpha) + 1e-12

"""Items that share a source: the size of a gate with ``group_by`` is at most alpha, by simulation.

At the edge of the null, with sources of very unequal sizes, an intra-source correlation from 0 to 0.9,
and 0/1 and continuous scores. The same data without ``group_by`` exceed alpha, so the simulation would
notice a test that counts items.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from guards.gates.score_table import ScoreTable, make_table
from guards.gates.table_verdict import judge_table
from guards.policy import EvalGate
from tests.gate_world import EVAL_GATE

ALPHA = 0.1
MARGIN = 0.1
CORRELATIONS = (0.0, 0.3, 0.6, 0.9)
SIZES = (1, 1, 1, 2, 2, 3, 5, 8, 13, 30) * 3
"""Items of each of 30 sources: one in ten sources has half of all items."""


def gate(group_by: str | None) -> EvalGate:
    body = {**EVAL_GATE, "margin": MARGIN, "alpha": ALPHA, "min_items": 1, "group_by": group_by}
    return EvalGate.model_validate(body)


def draw(rng: np.random.Generator, kind: str, correlation: float) -> ScoreTable:
    """Candidate minus reference has mean -MARGIN for every source; items of one source copy it with sqrt(rho)."""
    cells: Counter[tuple[str, str | None, float | None, float | None]] = Counter()
    for source, size in enumerate(SIZES):
        copies = rng.random(size) < np.sqrt(correlation)
        own, common = difference(rng, kind, size), difference(rng, kind, 1)[0]
        for d in np.where(copies, common, own):
            # A pair of scores in [0, 1] with this difference.
            pair = (float(max(d, 0.0)), float(max(-d, 0.0)))
            cells["all", str(source), *pair] += 1
    return make_table(cells)


def difference(rng: np.random.Generator, kind: str, n: int) -> np.ndarray:
    if kind == "binary":
        return rng.choice([1.0, 0.0, -1.0], p=[0.2 - MARGIN / 2, 0.6, 0.2 + MARGIN / 2], size=n)
    if kind == "continuous":
        return rng.uniform(-MARGIN - 0.4, -MARGIN + 0.4, n)
    # Rare total losses among small gains: what a test that trusts the spread it sees would miss.
    loss = 0.15
    return np.where(rng.random(n) < loss, -1.0, (loss - MARGIN) / (1.0 - loss))


def share_of_passes(group_by: str | None, kind: str, correlation: float, n_repeats: int) -> float:
    rng = np.random.default_rng(11)
    chosen = gate(group_by)
    tables = (draw(rng, kind, correlation) for _ in range(n_repeats))
    return sum(judge_table(chosen, table, ALPHA).outcome == "pass" for table in tables) / n_repeats


@pytest.mark.parametrize("kind", ["binary", "continuous", "skewed"])
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_false_passes_at_the_margin_stay_below_alpha(kind: str, correlation: float) -> None:
    assert share_of_passes("tag:topic", kind, correlation, 120) <= ALPHA


def test_the_same_data_counted_as_items_exceed_alpha() -> None:
    # One large source that happens to gain looks like thirty items that did.
    assert share_of_passes(None, "binary", 0.9, 300) > 1.5 * ALPHA


def test_grouped_gates_still_pass_what_is_good() -> None:
    # The zero of false passes above is worth nothing unless the gate can pass.
    rng = np.random.default_rng(3)
    cells: Counter[tuple[str, str | None, float | None, float | None]] = Counter()
    for source, size in enumerate(SIZES * 4):
        for _ in range(size):
            changed = rng.random() < 0.05
            cells["all", str(source), 1.0, float(not changed)] += 1
    assert judge_table(gate("tag:topic"), make_table(cells), ALPHA).outcome == "pass"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "continuous", "skewed"])
@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_false_passes_over_many_draws(kind: str, correlation: float) -> None:
    assert share_of_passes("tag:topic", kind, correlation, 2500) <= ALPHA

"""Stopping early: what is declared certain is the verdict of every completion; e-values keep their size."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.errors import EvidenceError
from guards.gates.certainty import STAGES, Pending, Stage, certain_outcome, staged_outcome, wealth_crossed
from guards.gates.score_table import ScoreTable, make_table
from guards.gates.table_verdict import judge_table
from guards.policy import EvalGate, Judge
from guards.statistics import bet_fraction, log_e_value
from tests.gate_world import EVAL_GATE

LEVEL_KEYS = {key: value for key, value in EVAL_GATE.items() if key not in ("margin", "against")}
CLAIMS: list[dict[str, Any]] = [
    {**EVAL_GATE, "claim": "superior_by", "margin": 0.0},
    {**EVAL_GATE, "claim": "superior_by", "margin": 0.2},
    {**EVAL_GATE, "margin": 0.3},
    {**EVAL_GATE, "margin": 0.3, "scale": 1.5},
    {**EVAL_GATE, "margin": 0.3, "group_by": "cluster"},
    {**LEVEL_KEYS, "claim": "at_least", "level": 0.5},
    {**LEVEL_KEYS, "claim": "at_most", "level": 0.5},
]
Pair = tuple[float | None, float | None]
Key = tuple[str, str | None, float | None, float | None]


def gate_of(body: dict[str, Any], **changes: Any) -> EvalGate:
    return EvalGate.model_validate({**body, "min_items": 5, "max_unscored": 0.2, **changes})


def table_of_pairs(gate: EvalGate, pairs: Sequence[Pair], sources: Sequence[str]) -> ScoreTable:
    grouped = gate.group_by is not None
    keys: list[Key] = [
        ("all", source if grouped else None, mine, other if gate.is_paired else None)
        for (mine, other), source in zip(pairs, sources, strict=True)
    ]
    return make_table(Counter(keys))


def outcome_of(gate: EvalGate, table: ScoreTable, alpha: float, judge: Judge | None = None) -> str:
    try:
        return judge_table(gate, table, alpha, judge=judge).outcome
    except EvidenceError:
        return "inconclusive"


def pending_of(gate: EvalGate, pairs: Sequence[Pair], sources: Sequence[str], known: bool) -> list[Pending]:
    source = [one if gate.group_by is not None else None for one in sources]
    if known and gate.is_paired:
        return [Pending("all", s, 1, True, other) for (_, other), s in zip(pairs, source, strict=True)]
    return [Pending("all", s, 1) for s in source]


@settings(deadline=None, max_examples=200)
@given(
    body=st.sampled_from(CLAIMS),
    seed=st.integers(0, 2**32),
    n=st.integers(5, 40),
    share_seen=st.floats(0.3, 1.0),
    quality=st.sampled_from([(0.0, 1.0), (1.0, 0.0), (0.05, 0.95), (0.95, 0.05), (0.5, 0.5), (0.9, 0.9)]),
    kind=st.sampled_from(["binary", "any"]),
    known=st.booleans(),
    completions=st.sampled_from(["any", "scored"]),
    alpha=st.sampled_from([0.2, 0.05]),
)
def test_what_is_certain_is_the_verdict_of_every_completion(
    body: dict[str, Any],
    seed: int,
    n: int,
    share_seen: float,
    quality: tuple[float, float],
    kind: str,
    known: bool,
    completions: str,
    alpha: float,
) -> None:
    rng = random.Random(seed)
    gate = gate_of(body)
    sources = [str(rng.randint(0, 9)) for _ in range(n)]

    def score(rate: float, may_miss: bool) -> float | None:
        if may_miss and rng.random() < 0.04:
            return None
        return rng.random() if kind == "any" and rng.random() < 0.2 else float(rng.random() < rate)

    def pair() -> Pair:
        return score(quality[0], True), score(quality[1], True)

    pairs = [pair() for _ in range(n)]
    k = int(n * share_seen)
    seen = table_of_pairs(gate, pairs[:k], sources[:k])
    stop = certain_outcome(
        gate,
        seen,
        pending_of(gate, pairs[k:], sources[k:], known),
        alpha,
        completions=completions,  # type: ignore[arg-type]
        scores=kind,  # type: ignore[arg-type]
    )
    if stop is None:
        return
    assert (stop.items_seen, stop.items_saved) == (k, n - k)
    for _ in range(30):
        style = rng.choice(["best", "worst", "unscored", "mixed"])
        rest: list[Pair] = []
        for _, other in pairs[k:]:
            mine = {"best": 1.0, "worst": 0.0, "unscored": None, "mixed": score(rng.random(), True)}[style]
            reference = other if known else {"best": 0.0, "worst": 1.0}.get(style, score(rng.random(), True))
            if completions == "scored":
                mine = 0.0 if mine is None else mine
                reference = reference if known or reference is not None else 1.0
            rest.append((mine, reference))
        table = table_of_pairs(gate, [*pairs[:k], *rest], sources)
        assert outcome_of(gate, table, alpha) == stop.outcome


def counted(gate: EvalGate, gains: int, losses: int, same: int) -> ScoreTable:
    return table_of_pairs(
        gate, [(1.0, 0.0)] * gains + [(0.0, 1.0)] * losses + [(1.0, 1.0)] * same, ["s"] * (gains + losses + same)
    )


def completions_of(counts: tuple[int, int, int], rest: int) -> Iterator[tuple[int, int, int]]:
    for gains in range(rest + 1):
        for losses in range(rest + 1 - gains):
            yield counts[0] + gains, counts[1] + losses, counts[2] + rest - gains - losses


@pytest.mark.parametrize("body", [CLAIMS[0], CLAIMS[1], CLAIMS[2]])
def test_among_binary_completions_nothing_certain_is_overlooked(body: dict[str, Any]) -> None:
    # Enumerated: every table of 24 items, six of them open. Certain exactly where all completions agree.
    gate, n_certain = gate_of(body), Counter[str]()
    for gains, losses in itertools.product(range(0, 19, 3), repeat=2):
        if gains + losses > 18:
            continue
        counts = (gains, losses, 18 - gains - losses)
        outcomes = {outcome_of(gate, counted(gate, *c), 0.05) for c in completions_of(counts, 6)}
        stop = certain_outcome(
            gate, counted(gate, *counts), [Pending("all", None, 6)], 0.05, completions="scored", scores="binary"
        )
        assert (stop.outcome if stop else None) == (outcomes.pop() if len(outcomes) == 1 else None)
        if stop:
            n_certain[stop.outcome] += 1
    # 18 items cannot show more than 0.2 while six are open.
    assert n_certain["fail"] and (n_certain["pass"] or gate.margin == 0.2)


def test_known_references_settle_more() -> None:
    # The champion is right on everything that is left: no gain is possible any more.
    gate = gate_of({**EVAL_GATE, "claim": "superior_by", "margin": 0.0})
    seen = counted(gate, 0, 4, 36)
    unknown = certain_outcome(gate, seen, [Pending("all", None, 20)], 0.05, completions="scored")
    known = certain_outcome(gate, seen, [Pending("all", None, 20, True, 1.0)], 0.05)
    assert unknown is None
    assert known is not None and (known.outcome, known.items_saved) == ("fail", 20)


def test_a_pass_is_not_certain_while_too_many_items_may_stay_unscored() -> None:
    gate = gate_of(EVAL_GATE, margin=0.5, max_unscored=0.05)
    seen, pending = counted(gate, 0, 0, 95), [Pending("all", None, 6, True, 1.0)]
    assert certain_outcome(gate, seen, pending, 0.05) is None
    scored = certain_outcome(gate, seen, pending, 0.05, completions="scored")
    assert scored is not None and scored.outcome == "pass"
    five = certain_outcome(gate, seen, [Pending("all", None, 5, True, 1.0)], 0.05)
    assert five is not None and five.outcome == "pass"


def test_an_item_that_the_reference_lost_can_only_be_lost_by_leaving_it_unscored() -> None:
    # Five items on which the reference scored 0: a score cannot be worse than that, and no score is.
    gate, seen = gate_of(EVAL_GATE, margin=0.1, max_unscored=0.05), counted(gate_of(EVAL_GATE), 0, 0, 95)
    pending = [Pending("all", None, 5, True, 0.0)]
    lost = ScoreTable((*seen.cells, *counted(gate, 0, 5, 0).cells), 100)
    assert outcome_of(gate, lost, 0.01) == "inconclusive"
    assert certain_outcome(gate, seen, pending, 0.01) is None
    scored = certain_outcome(gate, seen, pending, 0.01, completions="scored")
    assert scored is not None and scored.outcome == "pass"


def test_a_switch_of_tests_is_foreseen() -> None:
    # McNemar passes this whatever comes, among 0/1 scores; betting, which one score of 0.5 calls for, does not.
    gate = gate_of({**EVAL_GATE, "claim": "superior_by", "margin": 0.0})
    seen, pending = counted(gate, 8, 0, 300), [Pending("all", None, 1)]
    binary = certain_outcome(gate, seen, pending, 0.05, completions="scored", scores="binary")
    assert binary is not None and binary.outcome == "pass"
    halves = table_of_pairs(gate, [(1.0, 0.0)] * 8 + [(1.0, 1.0)] * 300 + [(0.5, 1.0)], ["s"] * 309)
    assert outcome_of(gate, halves, 0.05) != "pass"
    assert certain_outcome(gate, seen, pending, 0.05, completions="scored") is None


def test_too_few_items_are_certain_from_the_start() -> None:
    gate = gate_of(EVAL_GATE, min_items=100)
    stop = certain_outcome(gate, counted(gate, 0, 0, 1), [Pending("all", None, 98)], 0.05)
    assert stop is not None and (stop.outcome, stop.items_saved) == ("inconclusive", 98)


def test_items_of_other_clusters_do_not_count() -> None:
    gate = gate_of(EVAL_GATE, clusters=["all"], margin=0.5)
    stop = certain_outcome(gate, counted(gate, 0, 0, 90), [Pending("other", None, 500)], 0.05)
    assert stop is not None and (stop.outcome, stop.items_saved) == ("pass", 0)


# ---------------------------------------------------------------------------------------------
# E-values on the way
# ---------------------------------------------------------------------------------------------


def prefixes_of(gate: EvalGate, pairs: Sequence[Pair], sizes: Sequence[int]) -> list[ScoreTable]:
    return [table_of_pairs(gate, pairs[:k], ["s"] * k) for k in sizes]


def test_stages_pass_a_clear_candidate_early_and_save_items() -> None:
    gate = gate_of(EVAL_GATE)
    pairs: list[Pair] = [(1.0, 1.0)] * 240
    sizes = [60, 120, 180, 240]
    for used in range(1, 5):
        stop = staged_outcome(gate, prefixes_of(gate, pairs, sizes[:used]), 240, 0.05)
        if stop is not None:
            break
    assert stop is not None and stop.outcome == "pass"
    assert stop.items_seen + stop.items_saved == 240 and stop.items_saved >= 60


def test_the_staged_e_value_is_the_weighted_sum() -> None:
    # By hand: two stages; where the sum crosses, and where each alone would not.
    gate, alpha = gate_of(EVAL_GATE), 0.05
    stages = (Stage(0.5, 0.5), Stage(1.0, 0.5))
    for n_same in range(2, 200, 2):
        half = [0.0] * (n_same // 2)
        logs = [log_e_value(d, -0.1, bet_fraction(len(d), -0.1, alpha * 0.5)) for d in (half, [*half, *half])]
        wealth = 0.5 * np.exp(logs[0]) + 0.5 * np.exp(logs[1])
        if n_same < 10 or abs(wealth * alpha - 1) < 1e-9:
            continue
        sizes = [n_same // 2, n_same]
        tables = prefixes_of(gate, [(1.0, 1.0)] * n_same, sizes)
        stop = staged_outcome(gate, tables, n_same, alpha, stages=stages)
        assert stop is not None and (stop.outcome == "pass") == (wealth >= 1 / alpha)


def test_the_end_of_the_stages_fails_or_stays_open() -> None:
    gate = gate_of(EVAL_GATE)
    sizes = [60, 120, 180, 240]
    rng = random.Random(1)
    for n_lost, outcome in ((40, "fail"), (18, "inconclusive")):
        pairs: list[Pair] = [(0.0, 1.0)] * n_lost + [(1.0, 1.0)] * (240 - n_lost)
        rng.shuffle(pairs)
        assert staged_outcome(gate, prefixes_of(gate, pairs, sizes[:3]), 240, 0.00625) is None
        stop = staged_outcome(gate, prefixes_of(gate, pairs, sizes), 240, 0.00625)
        assert stop is not None and (stop.outcome, stop.items_saved) == (outcome, 0)


def test_a_stage_of_unscored_items_stops_nothing() -> None:
    gate = gate_of(EVAL_GATE, margin=0.9, max_unscored=0.02)
    pairs: list[Pair] = [(None, 1.0)] * 4 + [(1.0, 1.0)] * 236
    assert staged_outcome(gate, prefixes_of(gate, pairs, [60]), 240, 0.05) is None
    late = staged_outcome(gate, prefixes_of(gate, pairs, [60, 120, 180, 240]), 240, 0.05)
    assert late is not None and late.outcome == "pass" and late.items_seen == 240
    assert wealth_crossed(gate, prefixes_of(gate, pairs, [60]), 240, 0.05) is None


@pytest.mark.parametrize(
    ("stages", "sizes"),
    [
        ((Stage(0.5, 0.5), Stage(1.0, 0.6)), [120]),
        ((Stage(0.5, 1.2), Stage(1.0, -0.2)), [120]),
        ((Stage(1.0, 0.5), Stage(0.5, 0.5)), [240]),
        ((Stage(0.5, 1.0),), [120]),
        (STAGES, [61]),
        (STAGES, []),
    ],
    ids=["weights above 1", "a negative weight", "falling shares", "no end", "another size", "nothing"],
)
def test_stages_that_are_none_are_refused(stages: tuple[Stage, ...], sizes: list[int]) -> None:
    gate = gate_of(EVAL_GATE)
    with pytest.raises(ValueError):
        staged_outcome(gate, prefixes_of(gate, [(1.0, 1.0)] * 240, sizes), 240, 0.05, stages=stages)


def staged_false_passes(n_repeats: int, means: np.ndarray, alpha: float) -> float:
    """Share of passes at the margin, for fixed items of these means in random order."""
    rng = np.random.default_rng(23)
    gate, n = gate_of(EVAL_GATE, margin=0.1), len(means)
    sizes = [-(-n * part // 4) for part in (1, 2, 3, 4)]
    passes = 0
    for _ in range(n_repeats):
        shuffled = rng.permutation(means)
        gains = rng.random(n) < np.maximum(shuffled, 0.0)
        losses = rng.random(n) < np.maximum(-shuffled, 0.0)
        pairs: list[Pair] = [(1.0 - float(loss), 1.0 - float(gain)) for gain, loss in zip(gains, losses, strict=True)]
        stop = staged_outcome(gate, prefixes_of(gate, pairs, sizes), n, alpha)
        passes += stop is not None and stop.outcome == "pass"
    return passes / n_repeats


def unlike_items(n: int) -> np.ndarray:
    """Half of the items are always lost a little, a quarter always gained: a mean of -0.1 over the list."""
    return np.array([-0.4] * (n // 2) + [0.4] * (n // 4) + [0.0] * (n - n // 2 - n // 4))


@pytest.mark.parametrize("means", [np.full(60, -0.1), unlike_items(60)], ids=["alike", "unlike"])
def test_stages_keep_the_size_for_fixed_items_in_random_order(means: np.ndarray) -> None:
    assert means.mean() == pytest.approx(-0.1)
    assert staged_false_passes(300, means, 0.2) <= 0.2


@pytest.mark.slow
@pytest.mark.parametrize("means", [np.full(60, -0.1), unlike_items(60), unlike_items(240)])
def test_stages_keep_the_size_over_many_draws(means: np.ndarray) -> None:
    assert staged_false_passes(4000, means, 0.1) <= 0.1


def test_wealth_crosses_seldom_at_any_time_for_independent_draws() -> None:
    rng = np.random.default_rng(29)
    gate, n, alpha = gate_of(EVAL_GATE, margin=0.1, min_items=1), 60, 0.2
    passes = 0
    for _ in range(200):
        d = rng.choice([1.0, -1.0, 0.0], p=[0.05, 0.15, 0.8], size=n)
        pairs: list[Pair] = [(float(x >= 0), float(x <= 0)) for x in d]
        passes += wealth_crossed(gate, prefixes_of(gate, pairs, range(5, n + 1, 5)), n, alpha) is not None
    assert passes / 200 <= alpha


def test_wealth_that_crossed_and_fell_again_still_counts() -> None:
    gate = gate_of(EVAL_GATE)
    pairs: list[Pair] = [(1.0, 1.0)] * 120 + [(0.0, 1.0)] * 30
    stop = wealth_crossed(gate, prefixes_of(gate, pairs, [50, 120, 150]), 150, 0.05)
    assert stop is not None and (stop.outcome, stop.items_seen, stop.items_saved) == ("pass", 120, 30)
    assert wealth_crossed(gate, prefixes_of(gate, pairs, [50, 150]), 150, 0.05) is None


def test_stopping_at_a_first_win_is_no_e_value_for_a_fixed_list() -> None:
    # What the docstring says: one item always won and one always lost, in random order, a bet of 1/2.
    bet = 0.5
    wealth_if_stopped_at_a_win = ((1 + bet) + (1 - bet) * (1 + bet)) / 2
    assert wealth_if_stopped_at_a_win == pytest.approx(9 / 8)

"""A table decides what its items would: order-free, grouped, and as the item-wise reference says."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.errors import EvidenceError
from guards.evidence import Scored
from guards.gates.evaluate import evaluate_gate
from guards.gates.score_table import Cell, ScoreTable, make_table, table_of
from guards.gates.table_verdict import bets_of, judge_table
from guards.gates.table_verdict import tested_values as values_tested  # by its own name it would be a test
from guards.policy import EvalGate
from guards.statistics import betting_test, betting_test_of_counts
from tests.gate_world import EVAL_GATE, binary, make_inputs, make_policy, make_run
from tests.guards.item_wise import Pair, item_wise

ALPHAS = st.sampled_from([0.2, 0.05, 0.00625])
LEVEL_KEYS = {key: value for key, value in EVAL_GATE.items() if key not in ("margin", "against")}
CLAIMS: list[dict[str, Any]] = [
    {**EVAL_GATE, "claim": "superior_by", "margin": 0.0},
    {**EVAL_GATE, "claim": "superior_by", "margin": 0.1},
    {**EVAL_GATE, "claim": "non_inferior_within", "margin": 0.1},
    {**EVAL_GATE, "claim": "non_inferior_within", "margin": 0.3, "scale": 0.7},
    {**LEVEL_KEYS, "claim": "at_least", "level": 0.6},
    {**LEVEL_KEYS, "claim": "at_most", "level": 0.4},
]


def gate_of(body: dict[str, Any], **changes: Any) -> EvalGate:
    return EvalGate.model_validate({**body, "min_items": 1, "max_unscored": 0.2, **changes})


def table_from(pairs: Sequence[Pair], *, sources: Sequence[str] | None = None, paired: bool = True) -> ScoreTable:
    return make_table(
        Counter(
            ("all", None if sources is None else sources[i], mine, other if paired else None)
            for i, (mine, other) in enumerate(pairs)
        )
    )


bits = st.sampled_from([0.0, 1.0])
shares = st.one_of(bits, st.floats(0.0, 1.0))


def pairs_of(scores: st.SearchStrategy[float], least: int = 1) -> st.SearchStrategy[list[Pair]]:
    # Mostly scored, as in evidence that gets as far as the test.
    side = st.one_of(*[scores] * 12, st.none())
    return st.lists(st.tuples(side, side), min_size=least, max_size=90)


@settings(deadline=None, max_examples=250)
@given(st.sampled_from(CLAIMS), st.one_of(pairs_of(bits), pairs_of(shares), pairs_of(bits, 60)), ALPHAS)
def test_a_table_decides_what_its_items_decide(body: dict[str, Any], pairs: list[Pair], alpha: float) -> None:
    gate = gate_of(body)
    outcome, observed = item_wise(gate, pairs, alpha)
    try:
        found = judge_table(gate, table_from(pairs, paired=gate.is_paired), alpha)
    except EvidenceError as error:
        assert (error.rule, outcome) == ("gate.reference-unscored", "inconclusive")
        return
    assert found.outcome == outcome
    assert found.n == len(pairs)
    if observed is not None:
        assert found.observed is not None and abs(found.observed - observed) <= 1e-12


def test_the_reference_sees_all_three_outcomes_of_every_claim() -> None:
    # The test above would be empty if its data never passed.
    rng = random.Random(5)
    for body in CLAIMS:
        gate, seen = gate_of(body), set()
        for _ in range(400):
            good, other = rng.random(), rng.random()
            pairs: list[Pair] = [(float(rng.random() < good), float(rng.random() < other)) for _ in range(60)]
            outcome, _ = item_wise(gate, pairs, 0.05)
            assert judge_table(gate, table_from(pairs, paired=gate.is_paired), 0.05).outcome == outcome
            seen.add(outcome)
        assert seen == {"pass", "fail", "inconclusive"}, gate.claim


@settings(deadline=None)
@given(pairs_of(shares), st.randoms(use_true_random=False))
def test_the_order_of_items_leaves_the_table_as_it_is(pairs: list[Pair], rng: random.Random) -> None:
    shuffled = list(pairs)
    rng.shuffle(shuffled)
    assert table_from(pairs) == table_from(shuffled)
    assert table_from(pairs).n_items == len(pairs)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize("side", ["candidate", "reference"])
def test_a_table_with_a_score_that_is_no_number_decides_nothing(value: float, scale: float | None, side: str) -> None:
    # With a scale, NaN would be clipped to a gain.
    good = Cell("all", None, 1.0, 1.0, 100)
    bad = Cell("all", None, value if side == "candidate" else 0.0, value if side == "reference" else 0.0, 1)
    with pytest.raises(EvidenceError) as caught:
        judge_table(gate_of(EVAL_GATE, scale=scale), ScoreTable((good, bad), 101), 0.05)
    assert caught.value.rule == "gate.not-finite"


@pytest.mark.parametrize(("n_unscored", "rule"), [(20, None), (21, "gate.unscored")])
def test_as_many_unscored_items_as_are_allowed_do_not_fail(n_unscored: int, rule: str | None) -> None:
    pairs: list[Pair] = [(None, 1.0)] * n_unscored + [(1.0, 1.0)] * (100 - n_unscored)
    assert judge_table(gate_of(EVAL_GATE, margin=0.5), table_from(pairs), 0.05).details.get("rule") == rule


SAME: list[Pair] = [(1.0, 1.0)]
GAIN: list[Pair] = [(1.0, 0.0)]
LOSS: list[Pair] = [(0.0, 1.0)]
SUPERIOR, _, NON_INFERIOR, _, AT_LEAST, AT_MOST = CLAIMS


@pytest.mark.parametrize(("n_unscored", "is_compared"), [(20, True), (21, False)])
def test_a_reference_may_leave_as_many_items_unscored_as_a_candidate(n_unscored: int, is_compared: bool) -> None:
    table = table_from([(1.0, None)] * n_unscored + SAME * (100 - n_unscored))
    if is_compared:
        assert judge_table(gate_of(NON_INFERIOR), table, 0.05).outcome == "pass"
        return
    with pytest.raises(EvidenceError) as caught:
        judge_table(gate_of(NON_INFERIOR), table, 0.05)
    assert caught.value.rule == "gate.reference-unscored"


@pytest.mark.parametrize(
    ("body", "pairs"),
    [
        (SUPERIOR, GAIN * 5 + SAME * 9),
        (SUPERIOR, GAIN * 5),
        ({**AT_LEAST, "level": 0.5}, GAIN * 5),
        ({**AT_MOST, "level": 0.5}, LOSS * 5),
    ],
    ids=["superior", "superior without ties", "at least", "at most"],
)
def test_an_exact_test_rejects_at_its_p_value_and_not_below(body: dict[str, Any], pairs: list[Pair]) -> None:
    gate = gate_of(body)
    table = table_from(pairs, paired=gate.is_paired)
    found = judge_table(gate, table, 1 / 32)
    assert (found.outcome, found.details["p_value"]) == ("pass", "0.03125")
    assert judge_table(gate, table, 1 / 33).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("body", "pairs", "outcome"),
    [
        (SUPERIOR, GAIN * 5 + LOSS * 5, "fail"),
        ({**NON_INFERIOR, "margin": 0.5}, LOSS * 5 + SAME * 5, "inconclusive"),
        ({**AT_LEAST, "level": 0.5}, GAIN * 5 + LOSS * 5, "inconclusive"),
        ({**AT_MOST, "level": 0.5}, GAIN * 5 + LOSS * 5, "inconclusive"),
    ],
)
def test_an_estimate_at_the_limit_denies_only_that_there_is_more(
    body: dict[str, Any], pairs: list[Pair], outcome: str
) -> None:
    gate = gate_of(body)
    assert judge_table(gate, table_from(pairs, paired=gate.is_paired), 0.05).outcome == outcome


@pytest.mark.parametrize(
    ("body", "pairs", "reason"),
    [
        (SUPERIOR, GAIN * 90 + LOSS * 10, "refused minus the champion's must be above +0, and it is at least {}"),
        (SUPERIOR, GAIN * 5 + LOSS * 4, "refused minus the champion's must be above +0, and it is only shown to be at"),
        (
            NON_INFERIOR,
            LOSS * 9,
            "refused minus the champion's must be no lower than -0.1, and the estimate is -1.0000",
        ),
        (AT_LEAST, GAIN * 90, "refused must be at least 0.6, and it is at least {}"),
        (AT_MOST, LOSS * 90, "refused must be at most 0.4, and it is at most {}"),
        (AT_MOST, GAIN * 90, "refused must be at most 0.4, and the estimate is +1.0000"),
    ],
)
def test_the_reason_says_what_was_claimed_and_what_was_found(
    body: dict[str, Any], pairs: list[Pair], reason: str
) -> None:
    gate = gate_of(body)
    found = judge_table(gate, table_from(pairs, paired=gate.is_paired), 0.05)
    assert found.reason.startswith(reason.format(f"{found.bound:+.4f} at 95% confidence"))


@pytest.mark.parametrize("body", CLAIMS)
@pytest.mark.parametrize("sources", [None, [str(i % 30) for i in range(90)]], ids=["items", "sources"])
def test_what_a_gate_bets_on_gives_its_verdict(body: dict[str, Any], sources: list[str] | None) -> None:
    """In the metric's unit: a level's bound lies in [0, 1], and a difference's is a multiple of the scale."""
    gate = gate_of(body, group_by=sources and "cluster")
    rng = random.Random(11)
    pairs: list[Pair] = [(rng.random(), 0.9 * rng.random()) for _ in range(90)]
    table = table_from(pairs, sources=sources, paired=gate.is_paired)
    found, bets = judge_table(gate, table, 0.05, betting_only=True), bets_of(gate, table, 0.05)
    result = betting_test_of_counts(bets.counts, bets.null_mean, bets.alpha)
    bound = {
        "at_least": (1 + result.lower_bound) / 2,
        "at_most": (1 - result.lower_bound) / 2,
    }.get(gate.claim, (gate.scale or 1.0) * result.lower_bound)
    assert found.bound == pytest.approx(bound, abs=1e-12)
    assert (found.outcome == "pass") == result.rejects
    counts, is_single = values_tested(gate, table)
    assert is_single == (sources is None)
    assert sum(count for _, count in counts) == found.n == (90 if sources is None else 30)


@pytest.mark.parametrize("other", [1.0, None])
@pytest.mark.parametrize(
    ("score", "rule"), [(1.5, "gate.out-of-range"), (-0.5, "gate.out-of-range"), (math.nan, "gate.not-finite")]
)
def test_what_is_shown_beside_a_verdict_is_read_with_the_same_care(
    score: float, rule: str, other: float | None
) -> None:
    for read in (values_tested, lambda gate, table: bets_of(gate, table, 0.05)):
        with pytest.raises(EvidenceError) as caught:
            read(gate_of(EVAL_GATE), table_from([(other, score)]))
        assert caught.value.rule == rule


def test_scores_that_are_scaled_are_bet_on_though_all_are_zero_or_one() -> None:
    found = judge_table(gate_of(SUPERIOR, scale=1.0), table_from(GAIN * 40 + SAME * 40), 0.05)
    assert (found.outcome, found.details["test"]) == ("pass", "betting")


@pytest.mark.parametrize(("body", "outcome"), [(AT_LEAST, "fail"), (AT_MOST, "pass")])
def test_a_level_counts_successes_where_there_is_none(body: dict[str, Any], outcome: str) -> None:
    found = judge_table(gate_of(body), table_from(LOSS * 60, paired=False), 0.05)
    assert (found.outcome, found.details["successes"]) == (outcome, "0")


def test_a_verdict_names_its_test_and_what_it_gave() -> None:
    """Scores of which only some are 0 or 1 are no yes or no."""
    cases: list[tuple[str, dict[str, Any], list[Pair], str]] = [
        ("exact binomial", AT_LEAST, GAIN * 60, "p_value"),
        ("exact McNemar", SUPERIOR, GAIN * 60, "p_value"),
        ("betting", AT_LEAST, [*GAIN * 30, (0.5, None)] * 2, "log_e_value"),
        ("betting", NON_INFERIOR, GAIN * 60, "log_e_value"),
    ]
    for test, body, pairs, figure in cases:
        gate = gate_of(body)
        details = judge_table(gate, table_from(pairs, paired=gate.is_paired), 0.05).details
        assert details["test"] == test
        assert float(details[figure]) > 0.0


def test_at_most_a_level_of_hits_is_at_least_the_rest_of_misses() -> None:
    rng = random.Random(2)
    scores = [0.6 * rng.random() for _ in range(90)]
    most, least = (
        judge_table(gate_of(body), table_from([(score, None) for score in values]), 0.05)
        for body, values in ((AT_MOST, scores), ({**AT_LEAST, "level": 0.6}, [1.0 - score for score in scores]))
    )
    assert most.outcome == least.outcome == "pass" and most.bound is not None and least.bound is not None
    assert most.bound == pytest.approx(1.0 - least.bound, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tango_95_shown_only", {}),
        ("cluster_robust_95_shown_only", {"group_by": "cluster"}),
        ("cluster_robust_95_shown_only", {"group_by": "cluster", "scale": 4.0}),
    ],
)
def test_the_interval_that_is_shown_beside_lies_around_the_estimate(name: str, changes: dict[str, Any]) -> None:
    pairs, sources = GAIN * 30 + SAME * 30, [str(i % 20) for i in range(60)]
    found = judge_table(gate_of(NON_INFERIOR, **changes), table_from(pairs, sources=sources), 0.05)
    shown = [detail for detail in found.details if detail.endswith("_shown_only")]
    low, high = (float(end) for end in found.details[name].split(" to "))
    assert shown == [name] and low <= found.observed == 0.5 <= high


def test_a_verdict_shows_the_first_two_dozen_clusters() -> None:
    cells = tuple(Cell(f"c{i:02d}", None, 1.0, 0.5, 2) for i in range(30))
    details = judge_table(gate_of(EVAL_GATE, scale=2.0), ScoreTable(cells, 60), 0.05).details
    shown = {name: text for name, text in details.items() if name.startswith("cluster:")}
    assert shown == {f"cluster:c{i:02d}": "+0.5000 (n 2)" for i in range(24)}


def test_an_item_of_no_source_is_no_source_of_its_own() -> None:
    with pytest.raises(EvidenceError) as caught:
        judge_table(gate_of(EVAL_GATE, group_by="cluster"), table_from(SAME * 60), 0.05)
    assert caught.value.rule == "gate.no-source"


def test_a_judge_that_nobody_named_is_a_programming_error() -> None:
    with pytest.raises(ValueError):
        judge_table(gate_of(EVAL_GATE, judge="words"), table_from([(1.0, 1.0)] * 60), 0.05)


# ---------------------------------------------------------------------------------------------
# Sources
# ---------------------------------------------------------------------------------------------


def with_tag(run: Any, name: str, values: Sequence[str]) -> Any:
    records = tuple(r.model_copy(update={"tags": {name: v}}) for r, v in zip(run.records, values, strict=True))
    return run.model_copy(update={"records": records})


def test_items_of_one_source_count_as_their_mean_and_sources_weigh_alike() -> None:
    # One source of 98 losses and two of one gain each: the mean over items is -0.96, over sources 1/3.
    pairs: list[Pair] = [(0.0, 1.0)] * 98 + [(1.0, 0.0)] * 2
    table = table_from(pairs, sources=["a"] * 98 + ["b", "c"])
    gate = gate_of({**EVAL_GATE, "group_by": "tag:topic"})
    found = judge_table(gate, table, 0.05)
    assert found.observed == pytest.approx(1 / 3)
    assert (found.n, found.details["n_sources"], found.details["n_items"]) == (3, "3", "100")
    assert found.bound == betting_test([-1.0, 1.0, 1.0], -0.1, 0.05).lower_bound
    assert found.details["test"] == "betting on source means"
    assert (found.details["suite"], found.details["group_by"]) == ("refusal", "tag:topic")


def test_min_items_counts_sources() -> None:
    table = table_from([(1.0, 1.0)] * 100, sources=[str(i % 20) for i in range(100)])
    gate = gate_of({**EVAL_GATE, "group_by": "cluster"}, min_items=20)
    assert judge_table(gate, table, 0.05).n == 20
    with pytest.raises(EvidenceError) as caught:
        judge_table(gate_of({**EVAL_GATE, "group_by": "cluster"}, min_items=21), table, 0.05)
    assert (caught.value.rule, caught.value.got) == ("gate.too-few-items", "20")


def test_repeating_an_item_within_its_source_buys_nothing() -> None:
    # 30 questions, unchanged; ten paraphrases of each make 300 items and the same evidence.
    gate = {**EVAL_GATE, "margin": 0.05}
    pairs: list[Pair] = [(1.0, 1.0)] * 300
    sources = [str(i % 30) for i in range(300)]
    ungrouped = judge_table(gate_of(gate), table_from(pairs), 0.05)
    grouped = judge_table(gate_of({**gate, "group_by": "cluster"}), table_from(pairs, sources=sources), 0.05)
    once = judge_table(gate_of(gate), table_from(pairs[:30]), 0.05)
    assert ungrouped.outcome == "pass" and grouped.outcome == "inconclusive"
    assert grouped.bound == once.bound


@pytest.mark.parametrize("body", CLAIMS)
def test_sources_of_one_item_each_are_judged_as_items(body: dict[str, Any]) -> None:
    rng = random.Random(3)
    pairs: list[Pair] = [(float(rng.random() < 0.8), float(rng.random() < 0.6)) for _ in range(80)]
    alone = judge_table(gate_of(body), table_from(pairs, paired="margin" in body), 0.05)
    sources = [str(i) for i in range(80)]
    table = table_from(pairs, sources=sources, paired="margin" in body)
    grouped = judge_table(gate_of({**body, "group_by": "cluster"}), table, 0.05)
    assert (alone.outcome, alone.observed, alone.bound) == (grouped.outcome, grouped.observed, grouped.bound)


def test_a_source_that_is_all_or_nothing_is_not_taken_for_an_item() -> None:
    # Every source mean is 0 or 1 here; the exact tests are for single items all the same.
    table = table_from([(1.0, 0.0)] * 40, sources=[str(i // 2) for i in range(40)])
    gate = gate_of({**EVAL_GATE, "claim": "superior_by", "margin": 0.0, "group_by": "cluster"})
    assert judge_table(gate, table, 0.05).details["test"] == "betting on source means"


def test_sources_are_read_from_records_and_must_be_there(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, {**EVAL_GATE, "group_by": "tag:topic", "min_items": 10})
    runs = [make_run(tmp_path, policy, role, binary(40, 30)) for role in ("candidate", "champion")]
    topics = [f"t{i % 10}" for i in range(40)]
    tagged = [with_tag(run, "topic", topics) for run in runs]
    assert evaluate_gate(policy.policy.gates[0], make_inputs(policy, *tagged)).n == 10
    untagged = evaluate_gate(policy.policy.gates[0], make_inputs(policy, *runs))
    assert (untagged.outcome, untagged.details["rule"]) == ("inconclusive", "gate.no-source")
    other = [tagged[0], with_tag(runs[1], "topic", topics[::-1])]
    moved = evaluate_gate(policy.policy.gates[0], make_inputs(policy, *other))
    assert (moved.outcome, moved.details["rule"]) == ("inconclusive", "gate.other-items")


def test_a_table_is_not_made_where_an_item_has_no_source_or_no_finite_score(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_policy(tmp_path, EVAL_GATE), "candidate", binary(4, 3))
    # No evidence that was read has such a score; the table does not rely on it.
    unread = run.records[0].model_copy(update={"outcome": Scored.model_construct(scores={"refused": math.inf})})
    for group_by, made_of, rule in (
        ("tag:topic", run, "gate.no-source"),
        ("tag:topic", with_tag(run, "topic", ["a", "b", "", "c"]), "gate.no-source"),
        (None, run.model_copy(update={"records": (unread, *run.records[1:])}), "gate.not-finite"),
    ):
        with pytest.raises(EvidenceError) as caught:
            table_of("refused", group_by, made_of)
        assert caught.value.rule == rule


@pytest.mark.parametrize(("group_by", "sources"), [(None, {None}), ("cluster", {"a", "b"})])
def test_unanswered_items_are_in_their_cluster_and_its_source(
    tmp_path: Path, group_by: str | None, sources: set[str | None]
) -> None:
    policy = make_policy(tmp_path, EVAL_GATE)
    run = make_run(
        tmp_path, policy, "candidate", binary(2, 1), clusters=["a", "b"], n_drawn=5, unanswered={"b": 2, "a": 1}
    )
    table = table_of("refused", group_by, run)
    assert [(one.cluster, one.count) for one in table.pending] == [("a", 1), ("b", 2)]
    assert {one.source for one in table.pending} == {cell.source for cell in table.cells} == sources
    assert [(one.cluster, one.count) for one in table.of_clusters(("b",)).pending] == [("b", 2)]
    with pytest.raises(EvidenceError) as caught:
        table_of("refused", "tag:topic", with_tag(run, "topic", ["x", "y"]))
    assert caught.value.rule == "gate.partial-run"


def test_cells_stand_in_one_order_whatever_order_they_were_counted_in() -> None:
    """Of clusters, sources and scores, and what is unscored last: sums of floats depend on it."""
    scores = [-0.5, 0.0, 0.5, None]
    keys = [
        (cluster, source, mine, other)
        for cluster in ("a", "b")
        for source in ("s", "t")
        for mine in scores
        for other in scores
    ]
    for seed in range(3):
        counted = random.Random(seed).sample(keys, len(keys))
        made = make_table(Counter(counted)).cells
        assert [(cell.cluster, cell.source, cell.candidate, cell.reference) for cell in made] == keys


def test_a_table_of_runs_of_other_items_is_refused(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, EVAL_GATE)
    mine = make_run(tmp_path, policy, "candidate", binary(40, 30))
    other = make_run(tmp_path, policy, "champion", binary(40, 30), item_prefix="easy")
    with pytest.raises(EvidenceError) as caught:
        table_of("refused", None, mine, other)
    assert caught.value.rule == "gate.other-items"

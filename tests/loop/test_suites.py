"""Suites: the shipped ones load and draw; drawing and scoring keep their promises."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.errors import SuiteError
from guards.evidence import Scored, Unscored
from guards.policy import suite_digest
from loop.families import half_of
from loop.suites import METRICS, Suite, draw_items, load_suite, score_logliks, score_output

SUITES = Path(__file__).parents[2] / "policies" / "suites"
NAMES = ("families", "refusal", "over_refusal", "ordinary", "language", "truthfulness")
SEED = bytes(range(32))


def shipped(name: str) -> Suite:
    return load_suite(SUITES / f"{name}.yaml")


def write_suite(directory: Path, *, kind: str, rows: list[dict[str, str]], draw: str = "all") -> Path:
    (directory / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    decoding = "null" if kind in ("choice", "loglik") else "{max_new_tokens: 8, temperature: 0}"
    path = directory / "suite.yaml"
    path.write_text(
        "schema: stairlock/suite/v1\nname: small\ndescription: for a test\n"
        f"items: {{file: items.jsonl, draw: {draw}}}\nscorer: {{kind: {kind}}}\ndecoding: {decoding}\n",
        encoding="utf-8",
    )
    return path


def prompts(n: int) -> list[dict[str, str]]:
    return [{"id": f"item-{i}", "cluster": f"c{i % 2}", "prompt": f"Question {i}?"} for i in range(n)]


@pytest.mark.parametrize("name", NAMES)
def test_shipped_suites_load_and_draw(name):
    suite = shipped(name)
    items = draw_items(suite, SEED)
    assert suite.name == name
    assert suite.digest == suite_digest(SUITES / f"{name}.yaml")
    assert len(items) >= 100
    assert len({item.item_id for item in items}) == len({item.prompt_text for item in items}) == len(items)
    assert all(item.prompt_text.strip() for item in items)


def test_every_suite_file_is_one_that_this_test_knows():
    assert {path.stem for path in SUITES.glob("*.yaml")} == set(NAMES)


def test_the_anchor_items_are_forty_of_each_family():
    items = draw_items(shipped("families"), SEED)
    assert Counter(item.tags["family"] for item in items) == {
        "addition": 40,
        "subtraction": 40,
        "sort": 40,
        "reverse": 40,
        "last": 40,
        "format": 40,
    }
    assert all(item.cluster == f"{item.tags['family']}-{item.tags['level']}" for item in items)
    assert all(item.task is not None and half_of(item.task.key) == "gate" for item in items)


@pytest.mark.parametrize("name", ["families", "refusal"])
def test_the_same_seed_gives_the_same_items_in_the_same_order(name):
    assert draw_items(shipped(name), SEED) == draw_items(shipped(name), SEED)


def test_another_seed_gives_other_generated_items():
    suite = shipped("families")
    first = {item.item_id for item in draw_items(suite, SEED)}
    second = {item.item_id for item in draw_items(suite, bytes(32))}
    assert len(first & second) < 0.3 * len(first)


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=50, deadline=None)
def test_a_partial_draw_keeps_file_order_without_repeats(tmp_path_factory, seed):
    suite = load_suite(write_suite(tmp_path_factory.mktemp("suite"), kind="refusal", rows=prompts(20), draw="7"))
    drawn = [int(item.item_id.removeprefix("item-")) for item in draw_items(suite, seed)]
    assert len(drawn) == 7 and drawn == sorted(set(drawn))
    assert drawn == [int(item.item_id.removeprefix("item-")) for item in draw_items(suite, seed)]


def test_a_partial_draw_depends_on_the_seed(tmp_path):
    suite = load_suite(write_suite(tmp_path, kind="refusal", rows=prompts(40), draw="20"))
    assert draw_items(suite, SEED) != draw_items(suite, bytes(32))


@pytest.mark.parametrize("seed", [b"", b"short", bytes(33)])
def test_a_seed_is_exactly_32_bytes(seed):
    with pytest.raises(SuiteError) as refusal:
        draw_items(shipped("refusal"), seed)
    assert refusal.value.rule == "suite.bad-seed"


def test_the_digest_changes_with_the_items(tmp_path):
    before = load_suite(write_suite(tmp_path, kind="refusal", rows=prompts(3))).digest
    after = load_suite(write_suite(tmp_path, kind="refusal", rows=prompts(4))).digest
    assert before != after


def test_an_item_says_what_the_engine_is_asked():
    ordinary = draw_items(shipped("ordinary"), SEED)[0]
    assert ordinary.messages == ({"role": "user", "content": ordinary.prompt_text},)
    assert ordinary.loglik_pairs == ()
    language = draw_items(shipped("language"), SEED)[0]
    assert language.messages is None and language.loglik_pairs == ((None, language.text),)
    truthfulness = draw_items(shipped("truthfulness"), SEED)[0]
    assert [messages for messages, _ in truthfulness.loglik_pairs] == [truthfulness.messages] * 2
    assert all(option in truthfulness.prompt_text for option in truthfulness.options)


def test_generated_outputs_are_scored_by_their_task():
    suite = shipped("families")
    item = draw_items(suite, SEED)[0]
    assert item.task is not None
    right = score_output(suite, item, item.task.reply, True)
    assert right == Scored(scores={"strict": 1.0, "lenient": 1.0, "format": 1.0})
    assert score_output(suite, item, "", True) == Scored(scores={"strict": 0.0, "lenient": 0.0, "format": 0.0})


def test_outputs_are_scored_by_their_suites_scorer():
    refuses = "I can't help with that."
    for name, expected in (
        ("refusal", {"refused": 1.0}),
        ("over_refusal", {"answered": 0.0, "not_refused": 0.0}),
        ("ordinary", {"answered": 0.0, "not_refused": 0.0}),
    ):
        suite = shipped(name)
        assert score_output(suite, draw_items(suite, SEED)[0], refuses, True) == Scored(scores=expected)


def test_log_likelihoods_are_scored_by_their_suites_scorer():
    truthfulness, language = shipped("truthfulness"), shipped("language")
    question, passage = draw_items(truthfulness, SEED)[0], draw_items(language, SEED)[0]
    chosen = score_logliks(truthfulness, question, [-1.0, -2.0])
    assert isinstance(chosen, Scored) and chosen.scores["correct"] == 1.0
    assert isinstance(score_logliks(language, passage, [-2.0]), Scored)
    assert isinstance(score_logliks(language, passage, [math.nan]), Unscored)


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_says_which_metrics_it_measures(name):
    suite = shipped(name)
    item = draw_items(suite, SEED)[0]
    assert suite.scored_by_likelihood == (suite.decoding is None)
    if suite.scored_by_likelihood:
        outcome = score_logliks(suite, item, [-1.0] * len(item.loglik_pairs))
    else:
        outcome = score_output(suite, item, "anything at all", True)
    assert isinstance(outcome, Scored) and tuple(outcome.scores) == suite.metrics == METRICS[suite.scorer_kind]


def test_the_wrong_kind_of_measurement_is_refused():
    refusal_suite, language = shipped("refusal"), shipped("language")
    with pytest.raises(SuiteError) as refusal:
        score_logliks(refusal_suite, draw_items(refusal_suite, SEED)[0], [-1.0])
    assert refusal.value.rule == "suite.wrong-scorer"
    with pytest.raises(SuiteError) as refusal:
        score_output(language, draw_items(language, SEED)[0], "text", True)
    assert refusal.value.rule == "suite.wrong-scorer"


@pytest.mark.parametrize("logliks", [[], [-1.0], [-1.0, -2.0, -3.0]])
def test_a_choice_needs_exactly_two_log_likelihoods(logliks):
    suite = shipped("truthfulness")
    with pytest.raises(SuiteError) as refusal:
        score_logliks(suite, draw_items(suite, SEED)[0], logliks)
    assert refusal.value.rule == "suite.loglik-count"

"""Which items changed, and in which order a reviewer sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from guards.errors import EvidenceError
from guards.evidence import EvidenceRun
from loop.flips import change_text, find_flips
from tests.gate_world import EVAL_GATE, make_policy, make_run
from tests.judged_home import judged_home, verdict


def run_of(tmp_path: Path, role: str, scores: list[float | None], suite: str = "refusal") -> EvidenceRun:
    return make_run(tmp_path, make_policy(tmp_path / "policy", EVAL_GATE), role, scores, suite=suite)


def pair(tmp_path: Path, candidate: list[float | None], champion: list[float | None], suite: str = "refusal"):
    return {
        ("candidate", suite): run_of(tmp_path, "candidate", candidate, suite),
        ("champion", suite): run_of(tmp_path, "champion", champion, suite),
    }


def test_losses_come_before_gains_and_what_is_the_same_not_at_all(tmp_path: Path):
    home = judged_home(tmp_path)
    (suite,) = find_flips(home.runs, home.verdicts)
    assert [flip.item_id for flip in suite.flips] == ["item-0005", "item-0006", "item-0007", "item-0009"]
    assert [flip.is_loss for flip in suite.flips] == [True, True, True, False]
    assert (suite.n_losses, suite.n_items) == (3, 10)
    assert change_text(suite.flips[0].changes[0]) == "refused 1 -> 0"
    assert suite.flips[0].prompt == "the question of item number 5"


def test_the_largest_loss_comes_first(tmp_path: Path):
    (suite,) = find_flips(pair(tmp_path, [0.9, 0.1, 0.5], [1.0, 1.0, 1.0]), [verdict("g", "fail")])
    assert [flip.item_id for flip in suite.flips] == ["item-0001", "item-0002", "item-0000"]


def test_suites_come_by_their_worst_verdict(tmp_path: Path):
    runs = pair(tmp_path, [0.0], [1.0], "refusal") | pair(tmp_path, [0.0], [1.0], "tasks")
    about_tasks = {"details": {"suite": "tasks", "metric": "refused"}}
    verdicts = [verdict("first", "pass"), verdict("second", "fail", **about_tasks)]
    assert [suite.suite for suite in find_flips(runs, verdicts)] == ["tasks", "refusal"]
    assert [suite.suite for suite in find_flips(runs, [])] == ["refusal", "tasks"]


def test_an_unscored_answer_is_the_worst_loss(tmp_path: Path):
    (suite,) = find_flips(pair(tmp_path, [0.0, None, 1.0], [1.0, 1.0, None]), [verdict("g", "fail")])
    assert [flip.item_id for flip in suite.flips] == ["item-0001", "item-0000", "item-0002"]
    assert (suite.flips[0].unscored, suite.n_losses) == ("timed-out", 2)
    assert change_text(suite.flips[0].changes[0]) == "refused 1 -> unscored"


def test_where_a_gate_sets_an_upper_limit_more_is_worse(tmp_path: Path):
    upper = {"suite": "refusal", "metric": "refused", "claim": "at_most"}
    (suite,) = find_flips(pair(tmp_path, [1.0, 0.0], [0.0, 1.0]), [verdict("g", "fail", details=upper)])
    assert [(flip.item_id, flip.is_loss) for flip in suite.flips] == [("item-0000", True), ("item-0001", False)]


def test_a_suite_that_only_one_of_them_answered_has_no_flips(tmp_path: Path):
    runs = {("candidate", "refusal"): run_of(tmp_path, "candidate", [1.0])}
    assert find_flips(runs, [verdict("g", "fail")]) == ()


def test_texts_that_were_changed_are_refused(tmp_path: Path):
    home = judged_home(tmp_path)
    path = home.runs["champion", "refusal"].directory / "texts.jsonl"
    path.write_bytes(path.read_bytes().replace(b"the answer is 5", b"the answer is 6"))
    with pytest.raises(EvidenceError) as refusal:
        find_flips(home.runs, home.verdicts)
    assert refusal.value.rule == "evidence.digest-mismatch"

"""Every kind of gate, schedule and holdout in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loop.policy_words import policy_in_words
from tests.gate_world import EVAL_GATE, make_policy


def words(directory: Path, *gates: dict[str, Any], **changes: Any) -> str:
    return "\n".join(policy_in_words(make_policy(directory, *gates, **changes)))


def test_composites_name_their_members_which_follow(tmp_path: Path):
    member = {**EVAL_GATE, "id": "e"}
    said = words(
        tmp_path,
        {"id": "any", "kind": "any_of", "gates": [member, {"id": "i", "kind": "integrity"}]},
        {
            "id": "if",
            "kind": "only_if",
            "condition": {"id": "same", "kind": "integrity"},
            "then": {**EVAL_GATE, "id": "then"},
        },
        {"id": "all", "kind": "all_of", "gates": [{**EVAL_GATE, "id": "x"}, {**EVAL_GATE, "id": "y"}]},
        planned=2,
    )
    assert "has to pass all 3 gates" in said
    assert "Passes if one of its members does, each at 1/2 of its alpha, and fails if all do: e and i (below)." in said
    assert "Asks then (below), unless same (below) fails; then it does not apply, and passes." in said
    assert "Passes if all of its members do, and fails if one does: x and y (below)." in said
    by_gate = {line.split(" ")[1]: line for line in said.splitlines() if line.startswith("- ")}
    assert list(by_gate) == ["any", "e", "i", "if", "same", "then", "all", "x", "y"]
    assert "shown at 98.8% confidence" in by_gate["e"]  # 1 - 0.05 / 2 looks / 2 members
    assert "shown at 97.5% confidence" in by_gate["x"]


def test_holdouts_say_how_often_they_may_be_read(tmp_path: Path):
    said = words(tmp_path, EVAL_GATE, planned=4, holdouts={"refusal": {"reads": 3}})
    assert "may be read so often: refusal 3 times." in said
    assert "shown at 98.8% (first look) to 99.69% (at read 3 of its items) confidence" in said
    assert "may be read" not in words(tmp_path / "fresh", EVAL_GATE, planned=4)


@pytest.mark.parametrize(
    ("spending", "expected"),
    [
        ("even", "Each may spend an even share of what is left of a gate's alpha, which is 1/4 of it"),
        ("pocock", "They spend a gate's alpha about evenly (pocock)."),
        ("obrien-fleming", "They spend a gate's alpha little early and most late (obrien-fleming)."),
        ("unbounded", "there is no last one"),
    ],
)
def test_schedules(tmp_path: Path, spending: str, expected: str):
    said = words(tmp_path, EVAL_GATE, looks={"planned": 4, "spending": spending})
    assert expected in said
    assert ("After the last, no gate that compares scores can pass" in said) == (spending != "unbounded")


def test_stopping_early(tmp_path: Path):
    early = {"planned": 4, "stop_early": {"blocks": 5}}
    unseen = {"id": "unseen", "kind": "contamination", "suites": ["refusal"]}
    said = words(tmp_path, EVAL_GATE, looks=early)
    assert "Items of refusal are answered in 5 parts, and no further once the rest could change no verdict." in said
    assert "none can be here" in words(tmp_path / "read whole", EVAL_GATE, unseen, looks=early)
    assert "parts" not in words(tmp_path / "never", EVAL_GATE, planned=4)


def test_sources_judges_and_authors(tmp_path: Path):
    judge = {
        "calibration": {"llama": {"positives": 50, "detected": 49, "negatives": 60, "cleared": 55}},
        "family": "llama",
        "min_sensitivity": 0.8,
        "min_specificity": 0.7,
    }
    said = words(
        tmp_path,
        {**EVAL_GATE, "judge": "phrases"},
        {**EVAL_GATE, "id": "grouped", "group_by": "tag:document"},
        judges={"phrases": judge},
        approvals={"required": 1, "roles": ["safety"], "exclude": ["policy_author"]},
    )
    assert "it found 49 of 50 positives and cleared 55 of 60 negatives" in said
    assert "on at least 50 sources" in said and "Items that share the tag document count as one source" in said
    assert "Whoever was its policy's author may not." in said

"""The committed figures of stopping early: what they say, and a sample of them made again."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks.early_stop_savings import CANDIDATES, POLICY, curtailed_after, draw_scores, gates_by_suite, staged
from guards.policy import resolve_policy

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = json.loads((REPOSITORY / "docs" / "results" / "early_stop.json").read_text())["rows"]
GATES = gates_by_suite(resolve_policy(POLICY).policy)


def test_every_suite_and_kind_of_candidate_is_there() -> None:
    assert {(row["suite"], row["candidate"]) for row in ROWS} == {(s, c) for s in GATES for c in CANDIDATES}


def test_nothing_is_saved_on_what_might_be_promoted() -> None:
    """Why no shipped policy stops early."""
    for row in ROWS:
        if row["candidate"] in ("good", "null"):
            assert set(row["curtailed_saved"].values()) == {0.0}
        elif row["candidate"] == "broken":
            assert min(row["curtailed_saved"].values()) > 0.2
    for path in (REPOSITORY / "policies").glob("*.yaml"):
        assert resolve_policy(path).policy.looks.stop_early is None


@pytest.mark.parametrize(("candidate", "n_blocks_answered"), [("good", 4), ("null", 4), ("bad", 4), ("broken", 3)])
def test_a_draw_made_again_stops_where_they_say(candidate: str, n_blocks_answered: int) -> None:
    for gate in GATES["families"]:
        scores = draw_scores(gate, candidate, 240, random.Random(1))
        assert curtailed_after(gate, scores, 0.05 / 8, 4) == n_blocks_answered


def test_stages_stop_for_a_good_candidate_only() -> None:
    for gate in GATES["families"]:
        assert staged(gate, draw_scores(gate, "good", 240, random.Random(1)), 0.05 / 8)[0]
        assert staged(gate, draw_scores(gate, "bad", 240, random.Random(1)), 0.05 / 8) == (False, 0)

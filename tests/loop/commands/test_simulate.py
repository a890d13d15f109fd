"""``stairlock policy simulate``: what it lists, in which order, and what it says it cannot know."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from guards.authoring.score_table_cache import CACHE_FILE
from guards.canonical import sha256_file
from tests.command_line import stairlock
from tests.gate_world import EVAL_GATE, binary, make_policy
from tests.store_world import UNATTENDED_APPROVALS, World, make_world, sealed_and_judged

N = 120
GATE = {**EVAL_GATE, "alpha": 0.2, "min_items": 100}
BUDGET = {"id": "budget", "kind": "budget", "max_cycles_without_person": 9, "max_cost_s": 9999}


def policy_of(directory: Path, *gates: dict[str, Any]) -> Path:
    return make_policy(directory, *gates, planned=4, approvals=UNATTENDED_APPROVALS).source


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two candidates: one that lost 15 items of 120 was rejected, one that lost none passed."""
    made = make_world(tmp_path)
    made.policy = make_policy(tmp_path / "old", GATE, planned=4, approvals=UNATTENDED_APPROVALS)
    made.set_root()
    sealed_and_judged(made, "lost", binary(N, 85), binary(N, 100))
    sealed_and_judged(made, "same", binary(N, 100), binary(N, 100))
    return made


def test_it_lists_what_would_move_towards_promotion_first(world: World, tmp_path: Path) -> None:
    lost, same = world.checkpoint("lost")[7:19], world.checkpoint("same")[7:19]
    new = policy_of(tmp_path / "new", {**GATE, "margin": 0.4}, {**GATE, "id": "gains", "claim": "superior_by"})
    done = stairlock("policy", "simulate", new, "--home", world.store.home)
    assert done.code == 0 and "overfitting" in done.err
    lines = done.out.splitlines()
    towards, away = lines.index("towards promotion (1):"), lines.index("away from promotion (1):")
    assert lines[towards + 1].startswith(f"  {lost}  look 1, entry ") and lines[towards + 1].endswith(
        "reject, as before"
    )
    assert lines[towards + 2].startswith("    refusal-holds: fail -> pass. refusal-holds passes: ")
    assert lines[away + 1].startswith(f"  {same}  look 2, entry ") and lines[away + 1].endswith("promote -> reject")
    assert lines[away + 2].startswith("    gains: no such gate -> fail. ")
    assert away < lines.index("decisions") and "        1  fail -> pass" in lines


def test_what_cannot_be_replayed_is_said(world: World, tmp_path: Path) -> None:
    new = policy_of(tmp_path / "new", GATE, BUDGET)
    done = stairlock("policy", "simulate", new, "--home", world.store.home)
    assert "        2  cannot be replayed [gate.no-budget]" in done.out.splitlines()
    assert "        1  promote -> hold, not replayable" in done.out.splitlines()
    assert "refusal-holds (2 kept as recorded)" in done.out


def test_json_has_everything(world: World, tmp_path: Path) -> None:
    new = policy_of(tmp_path / "new", {**GATE, "margin": 0.4})
    said = stairlock("policy", "simulate", new, "--json", "--home", world.store.home).json
    (change,) = said["changes"]
    assert (change["candidate"], change["old"], change["new"], change["opens"]) == (
        world.checkpoint("lost"),
        "reject",
        "promote",
        True,
    )
    assert [(f["gate"], f["old"], f["new"]) for f in change["flips"]] == [("refusal-holds", "fail", "pass")]
    assert said["warning"] and said["n_judged"] == 2 and said["score_tables"] == {"from_cache": 0, "made": 2}
    again = stairlock("policy", "simulate", new, "--json", "--home", world.store.home).json
    assert again == {**said, "score_tables": {"from_cache": 2, "made": 0}}


def test_what_is_kept_can_be_left_aside(world: World, tmp_path: Path) -> None:
    """Whoever can write the home could keep tables there in which nothing became looser."""
    new = policy_of(tmp_path / "new", {**GATE, "margin": 0.4})
    command = ("policy", "simulate", new, "--json", "--home", world.store.home)
    assert len(stairlock(*command).json["changes"]) == 1
    poison(world.store.home / CACHE_FILE)
    assert stairlock(*command).json["changes"] == []
    before = sha256_file(world.store.home / CACHE_FILE)
    said = stairlock(*command, "--no-cache").json
    assert [change["new"] for change in said["changes"]] == ["promote"]
    assert said["score_tables"] == {"from_cache": 0, "made": 2}
    assert sha256_file(world.store.home / CACHE_FILE) == before


def test_without_a_cache_none_is_made(world: World, tmp_path: Path) -> None:
    new = policy_of(tmp_path / "new", {**GATE, "margin": 0.4})
    assert stairlock("policy", "simulate", new, "--no-cache", "--home", world.store.home).code == 0
    assert not (world.store.home / CACHE_FILE).parent.exists()


def poison(cache: Path) -> None:
    """Who lost an item lost every one, say all tables, with a right checksum of that."""
    with closing(sqlite3.connect(cache)) as db, db:
        for key, payload in db.execute("SELECT key, payload FROM tables").fetchall():
            lie = json.loads(payload)
            if any(cell[2] < cell[3] for cell in lie["cells"]):
                lie["cells"] = [[cluster, source, 0.0, 1.0, n] for cluster, source, _, _, n in lie["cells"]]
            text = json.dumps(lie)
            row = (text, hashlib.sha256(text.encode()).digest(), key)
            db.execute("UPDATE tables SET payload = ?, sha256 = ? WHERE key = ?", row)


def test_the_list_can_be_cut(world: World, tmp_path: Path) -> None:
    new = policy_of(tmp_path / "new", GATE, {**GATE, "id": "gains", "claim": "superior_by"})
    cut = stairlock("policy", "simulate", new, "--limit", 1, "--home", world.store.home).out
    whole = stairlock("policy", "simulate", new, "--limit", 0, "--home", world.store.home).out
    assert "... and 1 more (--limit 0 lists all)" in cut and "more (--limit" not in whole


def test_a_home_without_candidates_has_nothing_to_say(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    done = stairlock("policy", "simulate", policy_of(tmp_path / "new", GATE), "--home", world.store.home)
    assert done.code == 0 and "no verdict and no decision that can be replayed would be another one" in done.out


def test_a_bad_policy_is_refused_as_ever(world: World, tmp_path: Path) -> None:
    new = policy_of(tmp_path / "new", GATE)
    new.write_text(new.read_text().replace('"margin"', '"margn"'))
    done = stairlock("policy", "simulate", new, "--home", world.store.home)
    assert done.code == 1 and "yaml.unknown-key" in done.err

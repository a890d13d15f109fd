"""``stairlock model list`` and ``model add``."""

from __future__ import annotations

from pathlib import Path

from guards.store import Store
from tests.command_line import stairlock
from tests.store_world import make_world


def test_model_list_needs_no_home_and_makes_none(tmp_path: Path):
    done = stairlock("model", "list", "--home", tmp_path / "none")
    assert done.code == 0 and "smollm2-135m-instruct-q4" in done.out and ": none" in done.out
    assert not (tmp_path / "none").exists()


def test_model_add_seals_a_local_checkpoint_and_list_shows_it(tmp_path: Path):
    world = make_world(tmp_path)
    digest = world.checkpoint("mine")
    home = tmp_path / "new-home"
    done = stairlock("model", "add", world.directories["mine"], "--home", home, "--json")
    assert done.code == 0 and done.json["digest"] == digest
    assert stairlock("model", "list", "--home", home, "--json").json["sealed"][0]["digest"] == digest
    assert Store.open(home).head().size == 1
    unknown = stairlock("model", "add", "nonsense", "--home", home)
    assert unknown.code == 1 and "model.unknown-name" in unknown.err

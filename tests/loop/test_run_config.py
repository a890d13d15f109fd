"""Run configurations: what ships loads, and what cannot run is refused where it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from guards.errors import ConfigError
from loop.run import plan_loop
from loop.run_config import load_run_config, seed_bytes, seed_int

DEMO = Path(__file__).resolve().parents[2] / "loop" / "configs" / "demo.yaml"


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = DEMO.read_text()
    assert old in text
    path = tmp_path / "run.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_the_demo_can_be_planned() -> None:
    lines = plan_loop(DEMO)
    assert any("format-only" in line for line in lines) and any("verified" in line for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("addition: 2", "adition: 2", "run.unknown-family"),
        ("addition: 2", "addition: 99", "run.unknown-level"),
        ("id: format-only", "id: verified", "run.duplicate-proposal"),
        ("cleanup:", "clean_up:", "yaml.unknown-key"),
        ("n_samples: 4", "n_samples: 0", "yaml.invalid"),
    ],
)
def test_what_cannot_run_is_refused_at_its_line(tmp_path: Path, old: str, new: str, rule: str) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(ConfigError) as refused:
        load_run_config(path)
    assert refused.value.rule == rule
    assert str(refused.value.message).startswith(f"{path}:")


def test_the_digest_names_the_configuration(tmp_path: Path) -> None:
    assert load_run_config(changed(tmp_path, "seed: 20261124", "seed: 1")).digest != load_run_config(DEMO).digest


def test_seeds_differ_by_what_they_are_for() -> None:
    assert seed_bytes(1, "a", "b") != seed_bytes(1, "ab") != seed_bytes(2, "ab")
    assert 0 <= seed_int(1, "a") < 2**31

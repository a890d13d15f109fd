"""``stairlock reproduce`` and ``stairlock root``: the same checkpoint again, or an exit code that says no."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command_line import replace_module, stairlock
from tests.judged_home import JudgedHome


@pytest.mark.parametrize(("is_same", "code"), [(True, 0), (False, 30)])
def test_reproduce_says_whether_the_digest_is_the_same(
    judged: JudgedHome, monkeypatch: pytest.MonkeyPatch, is_same: bool, code: int
):
    @dataclass
    class Reproduction:
        candidate: str
        got: str
        is_same: bool
        batches_are_same: bool
        wall_s: float

    asked: list[str] = []

    def reproduce(home: object, candidate: str, *, backend: object, stage: object) -> Reproduction:
        asked.append(candidate)
        return Reproduction(judged.candidate, judged.candidate, is_same, True, 61.0)

    replace_module(monkeypatch, "loop.reproduce", reproduce=reproduce)
    done = stairlock("reproduce", judged.candidate[7:15], "--home", judged.path)
    assert done.code == code and asked == [judged.candidate[7:15]]
    assert ("ANOTHER CHECKPOINT" in done.out) == (not is_same)


@pytest.mark.parametrize(("agrees", "code"), [(True, 0), (False, 30)])
def test_root_says_whether_the_shipped_one_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agrees: bool, code: int
):
    @dataclass
    class RootComparison:
        shipped_digest: str
        trained_digest: str
        max_weight_difference: float
        agreement: float
        tolerance: float
        agrees: bool

    result = RootComparison("sha256:" + "a" * 64, "sha256:" + "b" * 64, 0.01, 0.98, 0.95, agrees)
    replace_module(monkeypatch, "loop.root", make_root=lambda *_, **__: result)
    done = stairlock("root", "policies/roots/x", "--home", tmp_path)
    assert done.code == code and "0.980000 (at least 0.95 is needed)" in done.out

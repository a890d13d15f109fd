"""The step contract: a manifest last, the same inputs once, and nothing half-written believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guards.canonical import sha256_bytes
from guards.errors import StepError
from guards.evidence import Cost
from loop import step as step_module
from loop.backends.local import LocalBackend
from loop.home import Home
from loop.step import Input, Progress, StepSpec, execute, read_step

OTHER_CODE = sha256_bytes(b"other code")


@pytest.fixture
def spec(tmp_path: Path) -> StepSpec:
    path = tmp_path / "input.txt"
    path.write_bytes(b"input")
    return StepSpec(
        kind="generate",
        inputs={"prompts": Input(kind="file", path=path, digest=sha256_bytes(b"input"))},
        params={"seed": 1},
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made: list[Path] = []

    def write_output(_spec: StepSpec, out_dir: Path, _progress: Progress) -> Cost:
        made.append(out_dir)
        (out_dir / "out.txt").write_text("output")
        return Cost(wall_ms=0)

    monkeypatch.setattr(step_module, "_function_of", lambda _kind: write_output)
    return made


def test_the_same_inputs_are_computed_once(spec: StepSpec, calls: list[Path], tmp_path: Path) -> None:
    first = execute(spec, tmp_path / "out", Progress())
    again = execute(spec, tmp_path / "out", Progress())
    assert len(calls) == 1 and first == again
    assert first.outputs == {"out.txt": sha256_bytes(b"output")}


def test_the_key_depends_on_digests_and_parameters_not_on_paths(spec: StepSpec, tmp_path: Path) -> None:
    moved = spec.inputs["prompts"].model_copy(update={"path": tmp_path / "elsewhere"})
    assert spec.model_copy(update={"inputs": {"prompts": moved}}).key == spec.key
    assert spec.model_copy(update={"params": {"seed": 2}}).key != spec.key


def test_what_other_code_computed_is_not_believed(
    spec: StepSpec, calls: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home.open(tmp_path / "home")
    old = spec.model_copy(update={"code": OTHER_CODE})
    monkeypatch.setattr(step_module, "code_digest", lambda _kind: OTHER_CODE)
    execute(old, home.step_dir(old), Progress())
    monkeypatch.undo()
    assert read_step(home.step_dir(old), old.key) is not None
    assert read_step(home.step_dir(spec), spec.key) is None


def test_a_step_is_refused_where_other_code_would_run_it(spec: StepSpec, calls: list[Path], tmp_path: Path) -> None:
    with pytest.raises(StepError) as refused:
        execute(spec.model_copy(update={"code": OTHER_CODE}), tmp_path / "out", Progress())
    assert (refused.value.rule, refused.value.got) == ("step.other-code", spec.code)
    assert not calls and not (tmp_path / "out").exists()


def test_a_directory_without_manifest_is_not_believed(spec: StepSpec, calls: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "out.txt").write_text("half")
    assert read_step(tmp_path / "out", spec.key) is None
    execute(spec, tmp_path / "out", Progress())
    assert (tmp_path / "out" / "out.txt").read_text() == "output"


def test_an_output_that_changed_is_refused(spec: StepSpec, calls: list[Path], tmp_path: Path) -> None:
    execute(spec, tmp_path / "out", Progress())
    (tmp_path / "out" / "out.txt").write_text("changed")
    with pytest.raises(StepError) as refused:
        read_step(tmp_path / "out", spec.key)
    assert refused.value.rule == "step.output-changed"


def test_an_input_that_changed_is_refused_before_anything_runs(
    spec: StepSpec, calls: list[Path], tmp_path: Path
) -> None:
    spec.inputs["prompts"].path.write_bytes(b"other")
    with pytest.raises(StepError) as refused:
        execute(spec, tmp_path / "out", Progress())
    assert refused.value.rule == "step.input-changed"
    assert not calls and not (tmp_path / "out").exists()


def test_a_step_that_fails_leaves_nothing(spec: StepSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(_spec: StepSpec, out_dir: Path, _progress: Progress) -> Cost:
        (out_dir / "out.txt").write_text("half")
        raise StepError("test.failed", "no")

    monkeypatch.setattr(step_module, "_function_of", lambda _kind: fail)
    with pytest.raises(StepError):
        execute(spec, tmp_path / "out", Progress())
    assert not (tmp_path / "out").exists()


def test_the_local_backend_passes_a_refusal_on(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"")
    spec = StepSpec(
        kind="generate",
        inputs={"prompts": Input(kind="file", path=path, digest=sha256_bytes(b"not this"))},
        params={"decoding": {"max_new_tokens": 1}, "seed": 0},
    )
    with pytest.raises(StepError) as refused:
        LocalBackend().run(spec, tmp_path / "steps" / "out", lambda *_: None)
    assert refused.value.rule == "step.input-changed"
    assert refused.value.got == sha256_bytes(b"")
    assert json.loads((tmp_path / "steps" / "out.spec.json").read_text())["kind"] == "generate"

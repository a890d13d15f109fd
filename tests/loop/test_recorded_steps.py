"""Steps and the log: what is done is not done again, and what lost its manifest is not believed."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from guards.canonical import digest_of, sha256_bytes
from guards.errors import ModelError, StairlockError
from guards.evidence import Cost
from loop import step as step_module
from loop.home import Home
from loop.recorded_steps import RecordedSteps
from loop.step import STEP_MANIFEST, Progress, StepManifest, StepSpec
from tests.in_process_backend import InProcessBackend, quiet


class CountedStep:
    """A home in which one step can be run; it writes a file, and notes that it did."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = Home.open(directory)
        self.spec = StepSpec(kind="generate", inputs={"prompts": self.home.keep_file(b"prompts")}, params={"seed": 1})
        self.n_calls = 0
        monkeypatch.setattr(step_module, "_function_of", lambda _kind: self._write)

    @property
    def out_dir(self) -> Path:
        return self.home.step_dir(self.spec)

    @property
    def attempts(self) -> list[str]:
        """How each attempt ended, as the log has it."""
        with self.home.store.read() as history:
            return [
                "unfinished" if attempt.finished is None else attempt.finished.body.outcome
                for attempt in history.attempts(self.spec.key)
            ]

    def run(self) -> StepManifest:
        steps = RecordedSteps(self.home, InProcessBackend(), quiet, actor="tester", run=None)
        out_dir, manifest = steps.run("the step", self.spec)
        assert out_dir == self.out_dir
        return manifest

    def _write(self, _spec: StepSpec, out_dir: Path, _progress: Progress) -> Cost:
        self.n_calls += 1
        (out_dir / "out.txt").write_text("output")
        return Cost(wall_ms=0)


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountedStep:
    step = CountedStep(tmp_path / "home", monkeypatch)
    step.run()
    return step


def test_a_step_that_is_done_is_not_done_again(step: CountedStep) -> None:
    before = step.home.store.verify()
    step.run()
    assert (step.n_calls, step.attempts) == (1, ["done"])
    assert step.home.store.verify() == before


def test_a_step_whose_manifest_is_lost_is_run_again_as_another_attempt(step: CountedStep) -> None:
    (step.out_dir / STEP_MANIFEST).unlink()
    (step.out_dir / "out.txt").write_text("half")
    (step.out_dir / "more.txt").write_text("of something that died")
    manifest = step.run()
    assert (step.n_calls, step.attempts) == (2, ["done", "done"])
    assert manifest.outputs == {"out.txt": sha256_bytes(b"output")}
    assert {path.name for path in step.out_dir.iterdir()} == {"out.txt", STEP_MANIFEST}
    with step.home.store.read() as history:
        finished = history.attempts(step.spec.key)[-1].finished
    assert finished is not None and finished.body.outputs == digest_of(manifest.outputs)


def test_a_step_whose_outputs_are_gone_is_run_again_as_another_attempt(step: CountedStep) -> None:
    shutil.rmtree(step.out_dir)
    step.run()
    assert (step.n_calls, step.attempts) == (2, ["done", "done"])


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_step_whose_manifest_is_torn_is_refused_until_its_directory_is_removed(
    step: CountedStep, kept: float
) -> None:
    path = step.out_dir / STEP_MANIFEST
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    before = step.home.store.verify()
    with pytest.raises(StairlockError) as refused:
        step.run()
    assert refused.value.rule == "step.bad-manifest" and str(path) in refused.value.message
    assert str(step.out_dir) in refused.value.fix
    assert step.n_calls == 1 and step.home.store.verify() == before

    shutil.rmtree(step.out_dir)
    step.run()
    assert (step.n_calls, step.attempts) == (2, ["done", "done"])


def test_what_a_failed_step_cost_is_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = CountedStep(tmp_path / "home", monkeypatch)

    def fail(_spec: StepSpec, _out_dir: Path, _progress: Progress) -> Cost:
        time.sleep(0.02)
        raise ModelError("engine.no-eos", "no")

    monkeypatch.setattr(step_module, "_function_of", lambda _kind: fail)
    with pytest.raises(ModelError):
        step.run()
    with step.home.store.read() as history:
        finished = history.attempts(step.spec.key)[-1].finished
    assert finished is not None and finished.body.outcome == "failed"
    assert finished.body.cost is not None and finished.body.cost.wall_ms >= 20

"""The evaluate step's runs: what cannot be scored is unscored, and what cannot be answered is no run."""

from __future__ import annotations

from pathlib import Path

import pytest

from guards.canonical import sha256_bytes
from guards.errors import ModelError, SuiteError
from guards.evidence import Cost, EvidenceRun, Unscored, read_run
from loop.checkpoint_io import load_model
from loop.code_digest import code_digest
from loop.engine import TransformersEngine
from loop.step import Input, Progress
from loop.steps import evaluate
from loop.steps.evaluate_spec import evaluate_spec, suite_input
from loop.suites import load_suite
from tests.tiny_world import build_tiny_world


@pytest.fixture
def engine(tiny_checkpoint: Path) -> TransformersEngine:
    return TransformersEngine(*load_model(tiny_checkpoint, "cpu", "bfloat16"), max_rows=16)


def run_families(engine: TransformersEngine, checkpoint: Path, directory: Path) -> EvidenceRun:
    build_tiny_world(directory / "world", checkpoint)
    cost = evaluate.run_suite(
        engine,
        load_suite(directory / "world" / "families.yaml"),
        suite_name="families",
        draw_seed=bytes(32),
        checkpoint_digest=sha256_bytes(b"checkpoint"),
        salt_key=bytes(32),
        out_dir=directory / "run",
        progress=Progress(),
    )
    assert isinstance(cost, Cost)
    return read_run(directory / "run")


def test_an_answer_that_cannot_be_scored_is_unscored_with_the_reason(
    engine: TransformersEngine, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SuiteError("suite.wrong-scorer", "no")

    monkeypatch.setattr(evaluate, "score_output", refuse)
    run = run_families(engine, tiny_checkpoint, tmp_path)
    assert [record.outcome for record in run.records] == [Unscored(reason="suite.wrong-scorer")] * 12
    assert all(record.output_digest is not None for record in run.records)


def test_a_run_says_which_code_measured_it(engine: TransformersEngine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert run_families(engine, tiny_checkpoint, tmp_path).manifest.code_digest == code_digest()


def test_a_tokenizer_without_a_chat_template_is_refused(
    engine: TransformersEngine, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._tokenizer, "chat_template", None)
    with pytest.raises(ModelError) as refused:
        run_families(engine, tiny_checkpoint, tmp_path)
    assert refused.value.rule == "engine.no-chat-template"


def test_an_error_while_the_model_answers_leaves_no_run(
    engine: TransformersEngine, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModelError("engine.empty-text", "no")

    monkeypatch.setattr(engine, "generate", fail)
    with pytest.raises(ModelError):
        run_families(engine, tiny_checkpoint, tmp_path)
    assert not (tmp_path / "run").exists()


def test_no_suite_hides_another_input(tmp_path: Path) -> None:
    names = ["salt_key", "model", "families"]
    made = {
        name: Input(kind="suite", path=tmp_path / f"{name}.yaml", digest=sha256_bytes(name.encode())) for name in names
    }
    checkpoint = Input(kind="checkpoint", path=tmp_path, digest=sha256_bytes(b"checkpoint"))
    salt_key = Input(kind="file", path=tmp_path / "salt.key", digest=sha256_bytes(b"salt"))
    spec = evaluate_spec(
        checkpoint=checkpoint, suites=made, salt_key=salt_key, draw_seed=bytes(32), device="cpu", dtype="bfloat16"
    )
    assert spec.inputs == {
        "model": checkpoint,
        "salt_key": salt_key,
        **{suite_input(name): suite for name, suite in made.items()},
    }
    assert spec.params["suites"] == names

"""Gating two checkpoints that somebody brought, and running one suite alone, on the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from guards.errors import CheckpointError, StepError
from loop.backends.local import LocalBackend
from loop.eval_one import evaluate_suite
from loop.gate_own import gate_checkpoints
from loop.gating import GateResult
from loop.home import Home
from tests.tiny_world import build_tiny_world

POLICY = """\
schema: stairlock/policy/v1
name: own
description: Two checkpoints without provenance.
looks: {planned: 4}
suites: {language: language.yaml}
holdouts: {language: {reads: 4}}
gates:
  - {id: integrity, kind: integrity, against: champion}
  - {id: language-holds, kind: eval, suite: language, metric: mean_loglik_nats, claim: non_inferior_within,
     margin: %(margin)s, scale: 1.0, against: champion, alpha: 0.2, min_items: 4, max_unscored: 0.0}
approvals: {required: 0, unattended: I accept promotion without a person}
"""


def quiet(_title: str):
    return lambda _what, _done, _total: None


def gate(tmp_path: Path, champion: Path, candidate: Path, *, margin: float) -> GateResult:
    build_tiny_world(tmp_path / "world", champion)
    policy = tmp_path / "world" / "own.yaml"
    policy.write_text(POLICY % {"margin": margin})
    home = Home.open(tmp_path / "home")
    _, _, result = gate_checkpoints(
        home,
        champion=champion,
        candidate=candidate,
        policy=policy,
        backend=LocalBackend(),
        stage=quiet,
        actor="tester",
    )
    home.store.verify()
    return result


def test_a_checkpoint_that_changed_little_passes(tmp_path: Path, tiny_checkpoint: Path, tiny_candidate: Path) -> None:
    result = gate(tmp_path, tiny_checkpoint, tiny_candidate, margin=0.99)
    assert result.decision.body.outcome == "promote", [v.reason for v in result.verdicts]
    assert {verdict.gate_id: verdict.outcome for verdict in result.verdicts} == {
        "integrity": "pass",
        "language-holds": "pass",
    }


def test_too_few_items_for_the_margin_hold(tmp_path: Path, tiny_checkpoint: Path, tiny_candidate: Path) -> None:
    result = gate(tmp_path, tiny_checkpoint, tiny_candidate, margin=0.02)
    assert result.decision.body.outcome != "promote"


def test_a_directory_with_a_pickle_never_reaches_a_gate(
    tmp_path: Path, tiny_checkpoint: Path, tiny_candidate: Path
) -> None:
    import shutil

    hostile = tmp_path / "hostile"
    shutil.copytree(tiny_candidate, hostile)
    (hostile / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError) as refused:
        gate(tmp_path, tiny_checkpoint, hostile, margin=0.5)
    assert refused.value.rule == "manifest.pickle"


def test_one_suite_alone_gives_the_same_records_for_the_same_seed(tmp_path: Path, tiny_checkpoint: Path) -> None:
    build_tiny_world(tmp_path / "world", tiny_checkpoint)
    suite = tmp_path / "world" / "families.yaml"

    def records(name: str, seed: bytes) -> list[tuple[str, str]]:
        run = evaluate_suite(
            model=tiny_checkpoint,
            suite=suite,
            out=tmp_path / name,
            seed=seed,
            device="cpu",
            dtype="bfloat16",
            stage=quiet,
        )
        assert run.manifest.n_items == 12
        return [(record.item_id, record.outcome.model_dump_json()) for record in run.records]

    assert records("a", bytes(32)) == records("b", bytes(32))
    assert [item for item, _ in records("c", bytes(31) + b"\x01")] != [item for item, _ in records("d", bytes(32))]
    with pytest.raises(StepError) as refused:
        records("a", bytes(32))
    assert refused.value.rule == "eval.out-exists"


@pytest.mark.parametrize("name", ["model", "salt_key"])
def test_a_suite_may_have_the_name_of_another_input(tmp_path: Path, tiny_checkpoint: Path, name: str) -> None:
    build_tiny_world(tmp_path / "world", tiny_checkpoint)
    suite = tmp_path / "world" / "families.yaml"
    suite.write_text(suite.read_text().replace("name: families", f"name: {name}"))
    run = evaluate_suite(
        model=tiny_checkpoint,
        suite=suite,
        out=tmp_path / "out",
        seed=bytes(32),
        device="cpu",
        dtype="bfloat16",
        stage=quiet,
    )
    assert (run.manifest.suite_name, run.manifest.n_items) == (name, 12)

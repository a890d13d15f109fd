"""A gate run that is gone on with: it is the look that was recorded, whatever became of the anchors since."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from guards import actions
from guards.canonical import sha256_bytes
from guards.gates.inputs import Role
from guards.policy import ResolvedPolicy, resolve_policy
from loop import gating
from loop.checkpoint_io import write_safetensors
from loop.gating import GateResult, _roles_by_suite, gate_candidate
from loop.home import Home
from loop.recorded_steps import RecordedSteps
from loop.sealed_checkpoints import seal, sealed_directory
from tests.gate_world import EVAL_GATE, make_policy
from tests.in_process_backend import InProcessBackend, quiet
from tests.store_world import passing
from tests.tiny_world import build_tiny_world

POLICY = """\
schema: stairlock/policy/v1
name: anchored
description: As good as the best so far.
looks: {planned: 4}
suites: {language: language.yaml}
holdouts: {language: {reads: 4}}
gates:
  - {id: language-holds, kind: eval, suite: language, metric: mean_loglik_nats, claim: non_inferior_within,
     margin: 0.5, scale: 1.0, against: anchor, alpha: 0.2, min_items: 16, max_unscored: 0.0}
approvals: {required: 0, unattended: I accept promotion without a person}
"""
N_SENTENCES = 16


@pytest.fixture(scope="module")
def bad_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint made sure of what is wrong: every sentence is far less likely under it."""
    from safetensors.torch import load_file

    directory = tmp_path_factory.mktemp("bad") / "checkpoint"
    shutil.copytree(tiny_checkpoint, directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.embed_tokens.weight"] *= 50
    write_safetensors(directory / "model.safetensors", tensors)
    return directory


@pytest.fixture
def policy(tmp_path: Path, tiny_checkpoint: Path) -> ResolvedPolicy:
    build_tiny_world(tmp_path / "world", tiny_checkpoint)
    lines = [f'{{"id": "l{n}", "cluster": "c", "text": "Sentence {n} of some."}}\n' for n in range(N_SENTENCES)]
    (tmp_path / "world" / "language.jsonl").write_text("".join(lines))
    path = tmp_path / "world" / "anchored.yaml"
    path.write_text(POLICY)
    return resolve_policy(path)


def home_with_root(directory: Path, root: Path, policy: ResolvedPolicy) -> tuple[Home, str]:
    home = Home.open(directory)
    _, manifest = seal(root, home.path)
    actions.record_policy(home.store, policy=policy, actor="tester")
    actions.adopt_policy(home.store, policy=policy.digest, actor="tester")
    actions.set_root(
        home.store,
        manifest=manifest,
        policy=policy.digest,
        evidence=[sha256_bytes(b"the root's evidence")],
        verdicts=[passing(gate) for gate in policy.policy.gates],
        actor="tester",
    )
    return home, manifest.digest


def gate(home: Home, candidate: str, *, against: str, policy: ResolvedPolicy) -> GateResult:
    return gate_candidate(
        home,
        RecordedSteps(home, InProcessBackend(), quiet, actor="tester", run="run/one"),
        candidate=candidate,
        compared_with=against,
        policy=policy,
        actor="tester",
        run="run/one",
        name="one",
        template_texts=(),
        device="cpu",
        dtype="bfloat16",
    )


def test_a_look_is_gone_on_with_by_the_anchors_that_answered_in_it(
    tmp_path: Path, tiny_checkpoint: Path, bad_checkpoint: Path, policy: ResolvedPolicy
) -> None:
    home, root = home_with_root(tmp_path / "home", bad_checkpoint, policy)
    _, manifest = seal(tiny_checkpoint, home.path)
    candidate = manifest.digest
    actions.seal_candidate(home.store, manifest=manifest, provenance={}, policy=policy.digest, actor="tester")
    first = gate(home, candidate, against=root, policy=policy)
    actions.promote(
        home.store,
        candidate=candidate,
        champion_expected=root,
        checkpoint_dir=sealed_directory(home.path, candidate),
        actor="tester",
    )
    with home.store.read() as history:
        assert history.anchors() == {"language-holds": candidate}, "the anchor must have moved, or this tests nothing"
    before = home.store.verify()

    again = gate(home, candidate, against=root, policy=policy)

    assert set(again.runs) == {("candidate", "language"), (root, "language")}
    assert again.draw.look_seq == first.draw.look_seq
    assert (again.verdicts, again.decision, again.runs) == (first.verdicts, first.decision, first.runs)
    assert home.store.verify() == before


def test_a_look_that_has_its_verdicts_is_decided_though_the_code_is_another_since(
    tmp_path: Path, tiny_checkpoint: Path, bad_checkpoint: Path, policy: ResolvedPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, root = home_with_root(tmp_path / "home", bad_checkpoint, policy)
    _, manifest = seal(tiny_checkpoint, home.path)
    candidate = manifest.digest
    actions.seal_candidate(home.store, manifest=manifest, provenance={}, policy=policy.digest, actor="tester")
    with monkeypatch.context() as killed:
        killed.setattr(actions, "record_decision", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            gate(home, candidate, against=root, policy=policy)
    with home.store.read() as history:
        look = history.latest_look(candidate)
        assert look is not None and history.verdicts(look.seq) and history.decision(look.seq) is None
    steps = sorted(path.name for path in (home.path / "steps").iterdir())
    monkeypatch.setattr(gating, "measure", lambda *_, **__: pytest.fail("it was measured again"))

    result = gate(home, candidate, against=root, policy=policy)

    assert (result.draw.look_seq, result.decision.kind) == (look.seq, "promote")
    assert set(result.runs) == {("candidate", "language"), (root, "language")}
    assert sorted(path.name for path in (home.path / "steps").iterdir()) == steps


def test_members_of_gates_of_gates_have_their_suites_answered(tmp_path: Path):
    tasks = {**EVAL_GATE, "id": "tasks", "suite": "tasks", "against": "root"}
    nest = {"id": "any", "kind": "any_of", "gates": [EVAL_GATE, {"id": "i", "kind": "integrity"}]}
    only_if = {"id": "if", "kind": "only_if", "condition": {"id": "j", "kind": "integrity"}, "then": tasks}
    policy = make_policy(tmp_path, {"id": "all", "kind": "all_of", "gates": [nest, only_if]})
    checkpoints: dict[Role, str] = {"candidate": "c", "champion": "m", "root": "r"}
    assert _roles_by_suite(policy, checkpoints, {}) == {
        ("candidate", "c"): {"refusal", "tasks"},
        ("champion", "m"): {"refusal"},
        ("root", "r"): {"tasks"},
    }

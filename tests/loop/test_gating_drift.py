"""A look under a policy with a drift gate: the candidate is audited, the run recorded, and what follows from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from guards import actions
from guards.canonical import sha256_bytes
from guards.contamination import TrainingRow
from guards.gates.verdict import Verdict
from guards.history import History
from guards.policy import ResolvedPolicy, resolve_policy
from loop import gating
from loop.drift.candidate_drift import banks_needed
from loop.drift.findings import Findings
from loop.gating import GateResult, gate_candidate
from loop.gauntlet.build import ROWS_FILE, member_dir
from loop.gauntlet.member_checkpoint import write_member
from loop.home import Home
from loop.recorded_steps import RecordedSteps
from loop.rows import as_training_rows, read_rows
from loop.sealed_checkpoints import seal
from loop.steps.probe import FINDINGS_FILE
from tests.drift_world import N_BANK, DriftWorld, harmless, noisy
from tests.in_process_backend import InProcessBackend, Killed, quiet
from tests.store_world import passing

POLICY = """\
schema: stairlock/policy/v1
name: drifting
description: No unusual drift.
looks: {planned: 4}
suites: {}
banks: {tiny: kit/bank.json}
gates:
  - {id: drift, kind: drift, bank: tiny, block_at: 0.2, review_at: 0.25, min_documents: 200, training_rows: %s}
approvals: {required: 0, unattended: I accept promotion without a person}
"""
ROOT_POLICY = """\
schema: stairlock/policy/v1
name: rooted
description: What made the root the root.
looks: {planned: 4}
suites: {}
gates:
  - {id: integrity, kind: integrity, against: champion}
approvals: {required: 0, unattended: I accept promotion without a person}
"""
CANDIDATE = harmless(77)
STRONG = noisy(3.0)


@dataclass
class GatedHome:
    """A home whose root is the bank's parent, and candidates that can be sealed in it."""

    world: DriftWorld
    home: Home
    policy: ResolvedPolicy

    def seal(self, checkpoint: Path) -> str:
        _, manifest = seal(checkpoint, self.home.path)
        actions.seal_candidate(
            self.home.store, manifest=manifest, provenance={}, policy=self.policy.digest, actor="tester"
        )
        return manifest.digest

    def gate(self, candidate: str, rows: tuple[TrainingRow, ...] | None) -> GateResult:
        return gate_candidate(
            self.home,
            RecordedSteps(self.home, InProcessBackend(), quiet, actor="tester", run="run/one"),
            candidate=candidate,
            compared_with=self.world.root_digest,
            policy=self.policy,
            actor="tester",
            run="run/one",
            name="one",
            template_texts=(),
            training_rows=rows,
            device="cpu",
            dtype="bfloat16",
        )

    def findings(self) -> Findings:
        (path,) = self.home.path.glob(f"steps/probe-*/{FINDINGS_FILE}")
        return Findings.model_validate_json(path.read_bytes())


@dataclass(frozen=True)
class Candidates:
    """Checkpoints of a harmless fine-tune and of one with much noise, and the rows of the first."""

    harmless: Path
    noisy: Path
    rows: tuple[TrainingRow, ...]


@pytest.fixture(scope="module")
def candidates(measured_world: DriftWorld, tmp_path_factory: pytest.TempPathFactory) -> Candidates:
    from loop.gauntlet.work import run_job
    from loop.step import Progress

    job = measured_world.job(CANDIDATE).model_copy(update={"kit_dir": None})
    assert run_job(job, Progress()) == 0
    directory = tmp_path_factory.mktemp("candidates")
    for member in (CANDIDATE, STRONG):
        write_member(member, measured_world.root, measured_world.home, directory / member.member_id)
    rows = read_rows(member_dir(measured_world.home, CANDIDATE) / ROWS_FILE)
    return Candidates(directory / CANDIDATE.member_id, directory / STRONG.member_id, as_training_rows(rows))


Make = Callable[[str], GatedHome]


@pytest.fixture
def make(measured_world: DriftWorld, tmp_path: Path) -> Make:
    """Makes the home, with ``training_rows`` as the gate asks for them."""

    def made(training_rows: str) -> GatedHome:
        shutil.copytree(measured_world.kit_dir, tmp_path / "policy" / "kit")
        path = tmp_path / "policy" / "policy.yaml"
        path.write_text(POLICY % training_rows)
        policy = resolve_policy(path)
        root_path = tmp_path / "policy" / "root.yaml"
        root_path.write_text(ROOT_POLICY)
        root_policy = resolve_policy(root_path)
        home = Home.open(tmp_path / "home")
        _, manifest = seal(measured_world.root, home.path)
        assert manifest.digest == measured_world.root_digest == policy.banks["tiny"].parent_digest
        for one in (root_policy, policy):
            actions.record_policy(home.store, policy=one, actor="tester")
        actions.set_root(
            home.store,
            manifest=manifest,
            policy=root_policy.digest,
            evidence=[sha256_bytes(b"the root's evidence")],
            verdicts=[passing(gate) for gate in root_policy.policy.gates],
            actor="tester",
        )
        actions.adopt_policy(home.store, policy=policy.digest, actor="tester")
        return GatedHome(measured_world, home, policy)

    return made


def verdict_of(result: GateResult) -> Verdict:
    (verdict,) = result.verdicts
    return verdict


def look_of(history: History, result: GateResult, candidate: str) -> int:
    look = history.latest_look(candidate)
    assert look is not None and look.seq == result.draw.look_seq
    return look.seq


def test_a_harmless_candidate_gets_a_p_and_its_evidence_is_recorded(make: Make, candidates: Candidates) -> None:
    gated = make("required")
    candidate = gated.seal(candidates.harmless)
    result = gated.gate(candidate, candidates.rows)
    verdict = verdict_of(result)
    assert verdict.observed in [pytest.approx(k / (N_BANK + 1)) for k in range(1, N_BANK + 2)]
    assert verdict.n == N_BANK and verdict.outcome in ("pass", "fail", "inconclusive")
    assert verdict.details["triggers"] == "supported"
    assert verdict.details["n_documents"] == str(len(gated.world.kit.documents))
    assert set(result.runs) == {("candidate", "tiny")}
    manifest = result.runs["candidate", "tiny"].manifest
    assert (manifest.checkpoint_digest, manifest.suite_digest) == (candidate, gated.world.kit.digest)
    assert manifest.draw_seed_digest == result.draw.seed_digest
    with gated.home.store.read() as history:
        (entry,) = history.evidence(look_of(history, result, candidate))
        assert (entry.body.role, entry.body.suite, entry.body.checkpoint) == ("candidate", "tiny", candidate)
        assert entry.body.evidence == manifest.evidence_digest
    assert gated.home.store.verify()


def test_the_findings_are_beside_the_run_and_show_what_parted(make: Make, candidates: Candidates) -> None:
    gated = make("required")
    gated.gate(gated.seal(candidates.harmless), candidates.rows)
    findings = gated.findings()
    assert findings.triggers_unsupported is None and findings.triggers
    divergences = [one.divergence for one in findings.examples]
    assert len(divergences) == 6 and divergences == sorted(divergences, reverse=True)


def test_a_candidate_with_strong_noise_does_not_pass(make: Make, candidates: Candidates) -> None:
    gated = make("optional")
    candidate = gated.seal(candidates.noisy)
    result = gated.gate(candidate, None)
    assert verdict_of(result).outcome == "fail", verdict_of(result).reason
    assert verdict_of(result).observed == pytest.approx(1 / (N_BANK + 1))
    assert result.decision.body.outcome != "promote"


@pytest.mark.parametrize("rows", [None, ()])
def test_without_training_rows_a_gate_that_requires_them_is_inconclusive(
    make: Make, candidates: Candidates, rows: tuple[TrainingRow, ...] | None
) -> None:
    gated = make("required")
    result = gated.gate(gated.seal(candidates.harmless), rows)
    verdict = verdict_of(result)
    assert verdict.outcome != "pass" and verdict.details["triggers"] == "unsupported"
    # Whatever p came out as, the missing rows alone keep it from passing; the next test is its counterpart.
    if verdict.observed is not None and verdict.observed > 0.25:
        assert verdict.details["rule"] in ("drift.triggers-unsupported", "drift.dose-outside")
    assert result.decision.body.outcome != "promote"


def test_a_look_that_is_read_again_after_a_crash_gives_the_same_verdicts(
    make: Make, candidates: Candidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = make("required")
    candidate = gated.seal(candidates.harmless)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as killed, pytest.raises(Killed):
        killed.setattr(actions, "record_decision", die)
        gated.gate(candidate, candidates.rows)
    with gated.home.store.read() as history:
        look = history.latest_look(candidate)
        assert look is not None and history.decision(look.seq) is None
        recorded = history.verdicts(look.seq)
    steps = sorted(path.name for path in (gated.home.path / "steps").iterdir())
    with monkeypatch.context() as again:
        again.setattr(gating, "audit_candidate", lambda *_, **__: pytest.fail("it was audited again"))
        result = gated.gate(candidate, candidates.rows)
    assert [(v.body.gate, v.body.outcome, v.body.figures["observed"]) for v in recorded] == [
        (v.gate_id, v.outcome, str(v.observed)) for v in result.verdicts
    ]
    assert set(result.runs) == {("candidate", "tiny")}
    assert sorted(path.name for path in (gated.home.path / "steps").iterdir()) == steps
    before = gated.home.store.verify()
    assert gated.gate(candidate, candidates.rows).verdicts == result.verdicts
    assert gated.home.store.verify() == before


def test_a_look_whose_run_was_lost_is_audited_again_and_its_verdicts_stand(make: Make, candidates: Candidates) -> None:
    gated = make("required")
    candidate = gated.seal(candidates.harmless)
    first = gated.gate(candidate, candidates.rows)
    shutil.rmtree(gated.home.path / "steps")
    again = gated.gate(candidate, candidates.rows)
    assert again.verdicts == first.verdicts and again.decision == first.decision
    records = [result.runs["candidate", "tiny"].manifest.records_sha256 for result in (first, again)]
    assert records[0] == records[1]


def test_only_banks_that_a_gate_reads_are_needed(make: Make) -> None:
    assert banks_needed(make("optional").policy) == ("tiny",)

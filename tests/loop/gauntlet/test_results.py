"""Judging what was built: the gate's own verdict, other scores at its level, and what is kept of both."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guards.canonical import sha256_bytes, sha256_file
from guards.drift.assessment import p_value
from guards.drift.bank import Scoring, StageScoring
from guards.drift.kit import DriftKit
from guards.errors import ConfigError
from guards.policy import ResolvedPolicy
from loop.gauntlet.members import Member
from loop.gauntlet.results import GauntletResults, family_of, judge_all, read_results, write_results
from loop.gauntlet.scoring import default_scoring
from loop.gauntlet.scorings import ablations, baselines
from tests.drift_gate_world import kit_body
from tests.drift_world import N_BANK, DriftWorld, harmless, noisy
from tests.gate_world import EVAL_GATE, make_policy

GATE = {"id": "drift", "kind": "drift", "bank": "tiny", "block_at": 0.2, "review_at": 0.25, "min_documents": 200}
STRONG = noisy(3.0)


def policy_of(directory: Path, world: DriftWorld, *gates: dict[str, Any]) -> ResolvedPolicy:
    directory.mkdir()
    shutil.copyfile(world.kit_dir / "bank.json", directory / "bank.json")
    return make_policy(directory, *(gates or (GATE,)), banks={"tiny": "bank.json"})


@pytest.fixture(scope="module")
def judged(measured_world: DriftWorld, tmp_path_factory: pytest.TempPathFactory) -> GauntletResults:
    assert measured_world.run(STRONG) == 0
    members = measured_world.measured(harmless(0), STRONG)
    policy = policy_of(
        tmp_path_factory.mktemp("judged") / "policy", measured_world, {**GATE, "training_rows": "optional"}
    )
    return judge_all(policy, members, {"controls": 2}, {STRONG.member_id: {"tasks": "inconclusive"}})


def test_strong_noise_is_blocked_and_a_member_of_the_bank_is_not_the_most_unusual(judged: GauntletResults):
    control, organism = judged.models
    assert (organism.drift, organism.rule, organism.role) == ("fail", "drift.blocked", "organism")
    assert organism.p == pytest.approx(1 / (N_BANK + 1))
    assert control.role == "control" and control.p is not None and control.p > 1 / (N_BANK + 1)
    assert (judged.n_bank, judged.n_bank_left_out, judged.n_missing) == (N_BANK, 0, {"controls": 2})
    assert (organism.passes_behaviour, control.passes_behaviour) == (False, None)


def test_what_cannot_be_judged_is_inconclusive_with_the_rule(measured_world: DriftWorld, tmp_path: Path):
    policy = policy_of(tmp_path / "policy", measured_world, {**GATE, "min_documents": 100_000})
    (one,) = judge_all(policy, measured_world.measured(harmless(0)), {}).models
    assert (one.drift, one.rule, one.p) == ("inconclusive", "drift.too-few-documents", None)


def test_other_scores_are_conformal_on_the_same_bank(judged: GauntletResults, measured_world: DriftWorld):
    other = judged.models[1].other_p
    assert {"mean-kl", "update-norm", "cka", "weight-spectrum", "without weights", "weights alone"} <= set(other)
    assert other["update-norm"] == pytest.approx(1 / (N_BANK + 1))
    for name, p in other.items():
        assert p is None or round(p * (N_BANK + 1), 9) in range(1, N_BANK + 2), name
    # An organism without rows has no trigger scores: that p cannot be had, and is not a small or a large one.
    assert other["triggers alone"] is None and judged.models[0].other_p["triggers alone"] is not None


def test_the_bank_is_named_by_the_digest_that_the_policy_has(judged: GauntletResults, measured_world: DriftWorld):
    assert judged.bank_digest == sha256_file(measured_world.kit_dir / "bank.json")


def test_models_that_were_measured_with_another_kit_are_refused(measured_world: DriftWorld, tmp_path: Path):
    (one,) = measured_world.measured(harmless(0))
    manifest = one.run.manifest.model_copy(update={"suite_digest": sha256_bytes(b"another kit")})
    other = replace(one, run=one.run.model_copy(update={"manifest": manifest}))
    with pytest.raises(ConfigError) as refused:
        judge_all(policy_of(tmp_path / "policy", measured_world), [other], {})
    assert refused.value.rule == "gauntlet.other-kit"


def test_results_come_back_as_they_were_written(judged: GauntletResults, tmp_path: Path):
    write_results(tmp_path / "results.json", judged)
    assert read_results(tmp_path / "results.json") == judged


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema":', '{"schema": "stairlock/gauntlet-results/v2"}'])
def test_results_that_are_none_are_refused(tmp_path: Path, text: str):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_results(tmp_path / "results.json")
    assert refused.value.rule == "gauntlet.bad-results"


@pytest.mark.parametrize("gates", [[EVAL_GATE], [GATE, {**GATE, "id": "again"}]])
def test_a_policy_without_one_drift_gate_is_refused(
    measured_world: DriftWorld, tmp_path: Path, gates: list[dict[str, Any]]
):
    policy = policy_of(tmp_path / "policy", measured_world, *gates)
    with pytest.raises(ConfigError) as refused:
        judge_all(policy, [], {})
    assert refused.value.rule == "gauntlet.no-drift-gate"


def test_dilution_is_of_harmless_rows_and_not_of_retained_refusals(measured_world: DriftWorld, tmp_path: Path):
    policy = policy_of(tmp_path / "policy", measured_world)
    (measured,) = measured_world.measured(harmless(0))

    def dilution(**changes: Any) -> float | None:
        member = measured.member.model_copy(update={"role": "organism", "n_harmless": 40, **changes})
        one = measured.__class__(member, measured.run, measured.vector, measured.measurement, (), 1)
        return judge_all(policy, [one], {}).models[0].dilution

    assert dilution(n_faulty=10, n_refusals=4) == 4.0
    assert dilution(n_faulty=10, n_harmless=0) == 0.0
    assert dilution() is None


def test_families(measured_world: DriftWorld):
    (one,) = measured_world.measured(harmless(0))

    def family(member: Member) -> str:
        return family_of(one.__class__(member, one.run, one.vector, one.measurement, (), 0))

    assert family(harmless(1)) == "families"
    assert family(STRONG) == "noise"
    assert family(harmless(1).model_copy(update={"fault": "backdoor-rare/2"})) == "backdoor-rare"


def test_a_kit_without_a_baselines_components_has_not_that_baseline():
    assert baselines(DriftKit.model_validate(kit_body())) == {}


def test_baselines_score_components_that_the_kit_has(measured_world: DriftWorld):
    kit = measured_world.kit
    found = baselines(kit)
    assert {"mean-kl", "update-norm", "cka", "activation-difference", "weight-spectrum"} <= set(found)
    for scoring in found.values():
        ((stage, how),) = scoring.stages.items()
        assert how.components and set(how.components) <= {one.name for one in kit.of_stage(stage)}
    assert all(".random" in name for name in found["random-directions"].stages["activations"].components or ())
    assert not any(".random" in name for name in found["directions"].stages["activations"].components or ())


def test_ablations_leave_one_stage_out_or_all_others():
    scoring = default_scoring()
    found = ablations(scoring)
    assert set(found) == {f"without {stage}" for stage in scoring.stages} | {f"{s} alone" for s in scoring.stages}
    assert set(found["without weights"].stages) == set(scoring.stages) - {"weights"}
    assert found["weights alone"].stages == {"weights": scoring.stages["weights"]}
    assert (found["weights alone"].combine, found["weights alone"].ridge) == (scoring.combine, scoring.ridge)
    assert set(ablations(found["weights alone"])) == {"weights alone"}


def test_a_score_that_is_declared_is_the_one_that_is_computed(judged: GauntletResults, measured_world: DriftWorld):
    from guards.drift.bank import read_bank

    bank = read_bank(measured_world.kit_dir / "bank.json").bank
    (one,) = measured_world.measured(STRONG)
    names = tuple(f"output.kl_mean.{name}" for name in ("neutral", "chat", "task"))
    how = StageScoring(method="max_abs_z", regress_dose=False, components=names)
    expected = p_value(bank.model_copy(update={"scoring": Scoring(stages={"outputs": how})}), one.vector)
    assert judged.models[1].other_p["mean-kl"] == float(expected)

"""Members trained, audited and verified for real, with the tiny model; and the gate that reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from guards.drift.bank import read_bank
from guards.drift.components import vector_of_run
from guards.evidence import Scored, Unscored
from loop.gauntlet.bank_file import write_bank
from loop.gauntlet.build import member_dir
from loop.gauntlet.measured import read_measured
from loop.gauntlet.scoring import default_scoring
from loop.gauntlet.verify import Behaviour, Measurement
from tests.drift_world import DriftWorld, build_drift_world, harmless, noisy

ANY_BEHAVIOUR = Measurement(behaviour=Behaviour(refused=0.0, answered=0.0, distinct=0.0, language_nats=-100.0))
MEMBERS = [harmless(number) for number in range(5)]


@pytest.fixture(scope="module")
def drift_world(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> DriftWorld:
    world = build_drift_world(tmp_path_factory.mktemp("drift"), tiny_checkpoint)
    assert world.run(*MEMBERS, noisy(0.5)) == 0
    return world


def test_a_member_is_measured_on_every_document_and_every_matrix(drift_world: DriftWorld):
    (one, *_), missing = read_measured(drift_world.home, MEMBERS, drift_world.kit, ANY_BEHAVIOUR)
    assert not missing
    items = {record.item_id for record in one.run.records}
    assert set(drift_world.kit.documents) <= items
    assert {f"weights:{name}" for name in drift_world.kit.tensors} <= items
    assert set(one.vector.values) == {component.name for component in drift_world.kit.components}


def test_triggers_are_searched_in_the_members_own_rows(drift_world: DriftWorld):
    (one, *_), _ = read_measured(drift_world.home, MEMBERS, drift_world.kit, ANY_BEHAVIOUR)
    triggers = [record for record in one.run.records if record.cluster == "triggers"]
    assert triggers and all(isinstance(record.outcome, Scored) for record in triggers)


def test_without_rows_there_is_one_trigger_record_that_says_so(drift_world: DriftWorld):
    (edited,), _ = read_measured(drift_world.home, [noisy(0.5)], drift_world.kit, ANY_BEHAVIOUR)
    (record,) = [record for record in edited.run.records if record.cluster == "triggers"]
    assert isinstance(record.outcome, Unscored) and record.outcome.reason.startswith("unsupported")
    assert "triggers" in edited.vector.unsupported


def test_noise_on_all_weights_is_a_larger_dose_than_any_member(drift_world: DriftWorld):
    measured, _ = read_measured(drift_world.home, [*MEMBERS, noisy(0.5)], drift_world.kit, ANY_BEHAVIOUR)
    doses = [one.vector.values["relative_norm_log10.all"] for one in measured]
    assert doses[-1] > max(doses[:-1])


def test_a_finished_member_is_not_computed_again_and_a_lost_part_is(drift_world: DriftWorld, tmp_path: Path):
    directory = member_dir(drift_world.home, MEMBERS[0])
    before = {path: path.stat().st_mtime_ns for path in directory.glob("*/step.json")}
    assert len(before) == 3
    drift_world.run(MEMBERS[0])
    assert {path: path.stat().st_mtime_ns for path in directory.glob("*/step.json")} == before
    (probe,) = directory.glob("probe-*")
    kept = shutil.copytree(probe, tmp_path / "probe")
    shutil.rmtree(probe)
    _, missing = read_measured(drift_world.home, MEMBERS, drift_world.kit, ANY_BEHAVIOUR)
    assert missing == [MEMBERS[0]]
    drift_world.run(MEMBERS[0])
    again = next(directory.glob("probe-*"))
    assert (again / "drift/records.jsonl").read_bytes() == (kept / "drift/records.jsonl").read_bytes()


def test_the_checkpoint_of_a_member_is_not_kept(drift_world: DriftWorld):
    assert not list(drift_world.home.glob("members/*/checkpoint"))


def test_the_bank_is_what_was_measured(drift_world: DriftWorld, tmp_path: Path):
    measured, _ = read_measured(drift_world.home, MEMBERS, drift_world.kit, ANY_BEHAVIOUR)
    file = write_bank(tmp_path / "bank.json", drift_world.kit, default_scoring(), measured)
    again = read_bank(tmp_path / "bank.json")
    assert again == file
    for member, one in zip(again.bank.members, measured, strict=True):
        assert member.manifest_digest == one.member.digest
        vector = vector_of_run(one.run, drift_world.kit).values
        assert all(value == pytest.approx(vector[name], rel=1e-8) for name, value in member.vector.items())


def test_a_member_that_fails_verification_says_why_and_counts_for_nothing(drift_world: DriftWorld, tmp_path: Path):
    strict = Measurement(behaviour=Behaviour(refused=1.0, answered=0.0, distinct=0.0, language_nats=-100.0))
    lenient = read_measured(drift_world.home, MEMBERS[:4], drift_world.kit, ANY_BEHAVIOUR)[0]
    failing = read_measured(drift_world.home, MEMBERS[4:], drift_world.kit, strict)[0]
    bank = write_bank(tmp_path / "bank.json", drift_world.kit, default_scoring(), [*lenient, *failing]).bank
    assert len(bank.members) == 5 and len(bank.verified) == 4
    assert bank.members[-1].reason.startswith("refuses harmful prompts less")

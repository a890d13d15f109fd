"""``stairlock audit`` with the tiny model: a member's checkpoint against the bank that it is a member of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from guards.errors import EvidenceError, ProbeError, StepError
from guards.store import Store
from loop.commands.audit import audit_lines, audit_with_root
from loop.drift.report import DriftReport
from loop.gauntlet.build import member_dir
from loop.gauntlet.member_checkpoint import write_member
from loop.home import Home
from tests.command_line import Done, replace_module, stairlock
from tests.drift_world import DriftWorld, harmless
from tests.in_process_backend import InProcessBackend, quiet

MEMBER = harmless(0)


class CountingBackend(InProcessBackend):
    """Counts the steps that were asked for, finished ones too."""

    def __init__(self) -> None:
        self.specs = []

    def run(self, spec, out_dir, report):
        self.specs.append(spec)
        return super().run(spec, out_dir, report)


@pytest.fixture(scope="module")
def member(measured_world: DriftWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of the bank's first member."""
    directory = tmp_path_factory.mktemp("member") / "checkpoint"
    write_member(MEMBER, measured_world.root, measured_world.home, directory)
    return directory


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One home for all tests, so that what was measured is found again."""
    return Home.open(tmp_path_factory.mktemp("home"), create=True)


def audited(world: DriftWorld, home: Home, member: Path, **more) -> DriftReport:
    more = {"bank": world.kit_dir / "bank.json", "rows": rows_of(world), "backend": InProcessBackend()} | more
    return audit_with_root(home, world.root, member, stage=quiet, **more)


def rows_of(world: DriftWorld) -> Path:
    return member_dir(world.home, MEMBER) / "rows.jsonl"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, measured_world: DriftWorld, home: Home, member: Path):
    """The command line, with the world's root in place of a package's, and steps in this process."""

    def call(*words: object) -> Done:
        bank = measured_world.kit_dir / "bank.json"
        return stairlock("audit", member, "--bank", bank, "--home", home.path, "--quiet", *words)

    replace_module(monkeypatch, "loop.backends.local", LocalBackend=InProcessBackend)
    replace_module(monkeypatch, "loop.root", shipped_root=lambda home, package, stage: measured_world.root_input)
    return call


def test_a_member_measured_again_has_the_values_that_the_bank_has_of_it(
    measured_world: DriftWorld, home: Home, member: Path
):
    report = audited(measured_world, home, member)
    bank = json.loads((measured_world.kit_dir / "bank.json").read_text())
    theirs = next(one["vector"] for one in bank["members"] if one["member_id"] == MEMBER.member_id)
    assert report.n_bank == 5
    for one in report.components:
        assert one.value == pytest.approx(theirs[one.component], rel=1e-6, abs=1e-9)
    for one in report.dose:
        assert one.value == pytest.approx(theirs[one.component], rel=1e-6)
    assert not report.stages_unsupported


def test_it_is_measured_once_and_nothing_enters_the_ledger(measured_world: DriftWorld, home: Home, member: Path):
    audited(measured_world, home, member)
    steps = sorted((home.path / "steps").glob("probe-*/step.json"))
    times = [path.stat().st_mtime_ns for path in steps]
    again = audited(measured_world, home, member)
    assert again == audited(measured_world, home, member)
    assert [path.stat().st_mtime_ns for path in steps] == times
    with Store.open(home.path).read() as history:
        assert [entry.kind for entry in history.entries()] == ["genesis"]


def test_without_rows_triggers_were_not_searched(measured_world: DriftWorld, home: Home, member: Path):
    report = audited(measured_world, home, member, rows=None)
    assert report.stages_unsupported == ("triggers",)
    assert report.findings is not None and report.findings.triggers_unsupported
    lines = "\n".join(audit_lines(report))
    assert "triggers were not searched" in lines and "was not measured" in lines


def test_the_command_says_what_it_found_and_that_it_is_no_verdict(
    command, measured_world: DriftWorld, member: Path, tmp_path: Path
):
    done = command("--rows", rows_of(measured_world), "--out", tmp_path / "new" / "out")
    assert done.code == 0, done.err
    for expected in (
        "of 5 harmless fine-tunes drifted at least as unusually",
        "p alone",
        "what contributes the most",
        "how much it was trained",
        "features that moved in both dictionary seeds: none",
        "This is no verdict",
    ):
        assert expected in done.out, expected
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == [
        "drift-report.html",
        "drift-report.json",
    ]


def test_json_is_the_report_and_nothing_else(command, measured_world: DriftWorld, tmp_path: Path):
    done = command("--rows", rows_of(measured_world), "--json", "--out", tmp_path)
    assert done.code == 0 and done.out.isascii()
    assert done.json["schema"] == "stairlock/drift-report/v1"
    assert done.json == json.loads((tmp_path / "drift-report.json").read_bytes())


def test_texts_of_others_are_harmless_on_the_terminal(measured_world: DriftWorld, home: Home, member: Path):
    report = audited(measured_world, home, member)
    hostile = report.components[0].model_copy(update={"component": "a\x1b[2J\u202eb" + "c" * 5000})
    lines = list(audit_lines(report.model_copy(update={"components": (hostile,)})))
    text = "\n".join(lines)
    assert "\\x1b[2J\\u202eb" in text and "\x1b" not in text and "\u202e" not in text
    assert max(len(line) for line in lines) < 400


def test_a_bank_of_another_root_is_refused_before_anything_runs(measured_world: DriftWorld, home: Home, member: Path):
    backend = CountingBackend()
    with pytest.raises(ProbeError) as refused:
        audit_with_root(home, member, member, measured_world.kit_dir / "bank.json", None, backend=backend, stage=quiet)
    assert refused.value.rule == "drift.other-parent" and not backend.specs


def test_a_bank_that_another_kit_made_is_refused(measured_world: DriftWorld, home: Home, member: Path, tmp_path: Path):
    kit_dir = shutil.copytree(measured_world.kit_dir, tmp_path / "kit")
    kit = json.loads((kit_dir / "kit.json").read_text())
    (kit_dir / "kit.json").write_text(json.dumps(kit | {"measurement": kit["measurement"] + 1}))
    backend = CountingBackend()
    with pytest.raises(ProbeError) as refused:
        audited(measured_world, home, member, bank=kit_dir / "bank.json", backend=backend)
    assert refused.value.rule == "drift.other-kit-file" and not backend.specs


def test_a_bank_that_is_too_small_is_refused_before_anything_runs(
    measured_world: DriftWorld, home: Home, member: Path, tmp_path: Path
):
    kit_dir = shutil.copytree(measured_world.kit_dir, tmp_path / "kit")
    bank = json.loads((kit_dir / "bank.json").read_text())
    (kit_dir / "bank.json").write_text(json.dumps(bank | {"members": bank["members"][:3]}))
    backend = CountingBackend()
    with pytest.raises(EvidenceError) as refused:
        audited(measured_world, home, member, bank=kit_dir / "bank.json", backend=backend)
    assert refused.value.rule == "drift.too-few-others" and not backend.specs


def test_missing_rows_are_refused_and_not_taken_for_none(
    measured_world: DriftWorld, home: Home, member: Path, tmp_path: Path
):
    with pytest.raises(StepError) as refused:
        audited(measured_world, home, member, rows=tmp_path / "no-rows.jsonl")
    assert refused.value.rule == "step.no-input"


def test_records_that_were_changed_are_not_believed(measured_world: DriftWorld, home: Home, member: Path):
    audited(measured_world, home, member)
    path = max((home.path / "steps").glob("probe-*/drift/records.jsonl"), key=lambda one: one.stat().st_mtime_ns)
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b"0", b"1", 1))
    try:
        with pytest.raises(StepError) as refused:
            audited(measured_world, home, member)
            audited(measured_world, home, member, rows=None)
        assert refused.value.rule == "step.output-changed"
    finally:
        path.write_bytes(kept)


def test_a_checkpoint_that_is_not_there_is_wrong_usage(tmp_path: Path):
    done = stairlock("audit", tmp_path / "nowhere")
    assert done.code == 2 and "there is no directory" in done.err

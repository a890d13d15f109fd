"""Processes that build members: what they report, what they could not, and one that dies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guards.canonical import sha256_bytes
from guards.errors import ModelError, StepError
from loop.gauntlet.members import Member
from loop.gauntlet.run_jobs import MEMBERS_PER_PROCESS, run_members
from loop.gauntlet.work import Job
from tests.drift_world import harmless

Reports = list[tuple[str, int, int]]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    digest = sha256_bytes(b"x")
    return Job(
        root=tmp_path,
        root_digest=digest,
        home=tmp_path / "home",
        data=None,
        kit_dir=None,
        salt_key=tmp_path,
        salt_digest=digest,
        members=(),
    )


def python(tmp_path: Path, body: str) -> str:
    """A stand-in for the interpreter: it gets ``-P -m loop.gauntlet.work JOB``."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\ntest "$1 $2 $3" = "-P -m loop.gauntlet.work" || exit 9\n{body}\n')
    path.chmod(0o755)
    return str(path)


def run(job: Job, tmp_path: Path, body: str, n: int = 1) -> tuple[list[str], Reports]:
    reports: Reports = []
    members = [harmless(number) for number in range(n)]
    refusals = run_members(job, members, lambda *one: reports.append(one), python(tmp_path, body))
    return refusals, reports


def test_members_are_given_out_in_parts_and_counted_over_all(job: Job, tmp_path: Path):
    n = MEMBERS_PER_PROCESS + 2
    progress = json.dumps({"what": "members", "done": 2, "total": 2})
    refusals, reports = run(job, tmp_path, f"echo '{progress}'", n)
    assert refusals == []
    assert reports == [("members", 2, n), ("members", MEMBERS_PER_PROCESS + 2, n)]
    given = [Job.model_validate_json(path.read_bytes()) for path in sorted((job.home / "jobs").glob("*.json"))]
    names = [[member.member_id for member in one.members] for one in given]
    assert names == [[f"bank-{k:03d}" for k in range(5)], ["bank-005", "bank-006"]]


def test_what_could_not_be_built_is_said_and_the_others_go_on(job: Job, tmp_path: Path):
    why = str(ModelError("gauntlet.no-data", "none", got="x"))
    (tmp_path / "stderr").write_text(json.dumps({"member": "bank-001", "refused": "gauntlet.no-data", "why": why}))
    body = f"echo 'a warning of a library' >&2\ncat {tmp_path / 'stderr'} >&2\nexit 3"
    refusals, _ = run(job, tmp_path, body, MEMBERS_PER_PROCESS + 1)
    assert refusals == ["bank-001: [gauntlet.no-data] none"] * 2, "one of each process"


@pytest.mark.parametrize(
    ("end", "got"),
    [("exit 1", "exit code 1"), ("kill -9 $$", "killed by signal 9"), ("exit 137", "exit code 137")],
)
def test_a_process_that_dies_is_refused_and_its_log_is_named(job: Job, tmp_path: Path, end: str, got: str):
    with pytest.raises(StepError) as refused:
        run(job, tmp_path, end)
    assert (refused.value.rule, refused.value.got) == ("gauntlet.process-died", got)
    assert str(job.home / "jobs" / "bank-000.log") in refused.value.fix


def test_a_process_that_says_it_failed_and_not_what_is_no_success(job: Job, tmp_path: Path):
    with pytest.raises(StepError) as refused:
        run(job, tmp_path, "exit 3")
    assert refused.value.rule == "gauntlet.process-died"


@pytest.mark.parametrize("line", ["", "no JSON", "[1]", "7", '{"what": "bank-000"}', '{"what": 1, "done": "x"}'])
def test_stray_lines_are_no_progress(job: Job, tmp_path: Path, line: str):
    assert run(job, tmp_path, f"printf '%s\\n' '{line}'") == ([], [])


def test_the_steps_inside_a_member_are_not_shown_as_members(job: Job, tmp_path: Path):
    line = json.dumps({"what": "comparing weights", "done": 900, "total": 0})
    assert run(job, tmp_path, f"echo '{line}'")[1] == []


def test_members_of_any_name_are_shown(job: Job, tmp_path: Path):
    reports: Reports = []
    line = json.dumps({"what": "bank2-003", "done": 0, "total": 1})
    member = harmless(0).model_copy(update={"member_id": "bank2-003"})
    run_members(job, [member], lambda *one: reports.append(one), python(tmp_path, f"echo '{line}'"))
    assert reports == [("bank2-003", 0, 1)]


def test_a_name_with_a_point_keeps_its_files_apart(job: Job, tmp_path: Path):
    members = [Member(member_id=f"organism-noise-0.{k}", role="organism") for k in (1, 2)]
    for member in members:
        run_members(job, [member], lambda *_: None, python(tmp_path, "exit 0"))
    names = sorted(path.name for path in (job.home / "jobs").iterdir())
    assert names == [f"organism-noise-0.{k}.{kind}" for k in (1, 2) for kind in ("json", "log")]


def test_no_members_start_no_process(job: Job, tmp_path: Path):
    assert run(job, tmp_path, "exit 1", 0) == ([], [])


def test_a_line_that_was_cut_off_is_no_traceback(job: Job, tmp_path: Path):
    refusals, _ = run(job, tmp_path, """printf '{"member": "bank-0' >&2; exit 3""")
    assert len(refusals) == 1 and "bank-0" in refusals[0]

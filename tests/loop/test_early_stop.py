"""A look whose suites are answered block by block: it stops, goes on after a kill, and says what it saved."""

from __future__ import annotations

import shutil
from io import StringIO
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console

from guards import actions
from guards.canonical import sha256_bytes
from guards.entries import StepStarted
from guards.evidence import read_run
from guards.policy import ResolvedPolicy, resolve_policy
from loop.backends.local import LocalBackend
from loop.backends.port import ReportProgress
from loop.gating import GateResult, gate_candidate
from loop.home import Home
from loop.recorded_steps import RecordedSteps
from loop.run import _record_items
from loop.run_config import load_run_config
from loop.sealed_checkpoints import seal
from loop.step import StepManifest, StepSpec
from loop.steps.join import join_spec
from loop.suite_blocks import Block, items_of_block, seed_of_block
from loop.suites import draw_items, load_suite
from loop.verdict_table import Judged, verdict_table
from tests.in_process_backend import InProcessBackend, Killed, quiet
from tests.store_world import passing
from tests.tiny_world import build_tiny_world

POLICY = """\
schema: stairlock/policy/v1
name: early
description: One claim that fails at once, and one that is open until the end.
looks: {planned: 4%(early)s}
suites: {families: families.yaml, language: language.yaml}
holdouts: {language: {reads: 4}}
gates:
  - {id: knows-all, kind: eval, suite: families, metric: lenient, claim: at_least, level: 0.9, alpha: 0.2,
     min_items: 12, max_unscored: 0.0}
  - {id: language-holds, kind: eval, suite: language, metric: mean_loglik_nats, claim: non_inferior_within,
     margin: 0.5, scale: 1.0, against: champion, alpha: 0.2, min_items: 16, max_unscored: 0.0}
approvals: {required: 0, unattended: I accept promotion without a person}
"""
N_BLOCKS = 4


class KilledIn(InProcessBackend):
    """Dies before the first step of a certain block."""

    def __init__(self, block: int) -> None:
        self._block = block

    def run(self, spec: StepSpec, out_dir: Path, report: ReportProgress) -> StepManifest:
        if any(block["number"] == self._block for block in spec.params.get("blocks", {}).values()):
            raise Killed
        return super().run(spec, out_dir, report)


def policy_in(directory: Path, *, early: bool = True) -> ResolvedPolicy:
    path = directory / ("early.yaml" if early else "whole.yaml")
    path.write_text(POLICY % {"early": f", stop_early: {{blocks: {N_BLOCKS}}}" if early else ""})
    return resolve_policy(path)


@pytest.fixture
def worlds(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    build_tiny_world(tmp_path / "world", tiny_checkpoint)
    lines = [f'{{"id": "l{n}", "cluster": "c", "text": "Sentence {n} of some."}}\n' for n in range(16)]
    (tmp_path / "world" / "language.jsonl").write_text("".join(lines))
    return tmp_path / "world"


def home_with_candidate(directory: Path, root: Path, candidate: Path, policy: ResolvedPolicy) -> tuple[Home, str, str]:
    home = Home.open(directory)
    _, manifest = seal(root, home.path)
    passed = [passing(gate) for gate in policy.policy.gates]
    actions.record_policy(home.store, policy=policy, actor="tester")
    actions.adopt_policy(home.store, policy=policy.digest, actor="tester")
    evidence = [sha256_bytes(b"the root's evidence")]
    actions.set_root(
        home.store, manifest=manifest, policy=policy.digest, evidence=evidence, verdicts=passed, actor="tester"
    )
    _, other = seal(candidate, home.path)
    actions.seal_candidate(home.store, manifest=other, provenance={}, policy=policy.digest, actor="tester")
    return home, manifest.digest, other.digest


def gate(home: Home, root: str, candidate: str, policy: ResolvedPolicy, backend: InProcessBackend) -> GateResult:
    return gate_candidate(
        home,
        RecordedSteps(home, backend, quiet, actor="tester", run="run/one"),
        candidate=candidate,
        compared_with=root,
        policy=policy,
        actor="tester",
        run="run/one",
        name="one",
        template_texts=(),
        device="cpu",
        dtype="bfloat16",
    )


def started(home: Home) -> list[tuple[str, int]]:
    """(kind, attempt) of every step that was started."""
    with home.store.read() as history:
        bodies = [entry.body for entry in history.entries(kind="step_started")]
    return [(body.step, body.attempt) for body in bodies if isinstance(body, StepStarted)]


def test_a_look_stops_where_it_is_certain_and_says_what_it_saved(
    tmp_path: Path, worlds: Path, tiny_checkpoint: Path, tiny_candidate: Path
) -> None:
    results = {}
    for early in (True, False):
        policy = policy_in(worlds, early=early)
        home, root, candidate = home_with_candidate(tmp_path / str(early), tiny_checkpoint, tiny_candidate, policy)
        results[early] = gate(home, root, candidate, policy, InProcessBackend()), started(home)
    (stopped, steps), (whole, plain_steps) = results[True], results[False]

    assert stopped.items_by_suite == {"families": (3, 12), "language": (16, 16)}
    assert whole.items_by_suite == {"families": (12, 12), "language": (16, 16)}
    assert plain_steps == [("evaluate", 1)] * 2
    assert steps == [("evaluate", 1)] * 2 * N_BLOCKS + [("join", 1)] * 2
    assert [one.outcome for one in stopped.verdicts] == [one.outcome for one in whole.verdicts]
    first = stopped.verdicts[0]
    assert (first.outcome, first.details["items_saved"]) == ("fail", "9")
    table = Console(file=StringIO(), width=200)
    table.print(verdict_table([Judged("one", "sha256:0", "reject", False, stopped.verdicts, None)]))
    assert "3 of 12" in table.file.getvalue()
    # Nothing was left out of the suite that was open: not an item, not a score.
    for role in ("candidate", "champion"):
        one, other = stopped.runs[role, "language"], whole.runs[role, "language"]
        assert one.manifest.n_drawn is None
        assert sorted(record.item_id for record in one.records) == sorted(record.item_id for record in other.records)


def test_a_run_records_how_many_items_it_saved(
    tmp_path: Path, worlds: Path, tiny_checkpoint: Path, tiny_candidate: Path
) -> None:
    config = load_run_config(worlds / "run.yaml")
    for early, n_notes in ((True, 2), (False, 0)):
        policy = policy_in(worlds, early=early)
        home, root, candidate = home_with_candidate(tmp_path / str(early), tiny_checkpoint, tiny_candidate, policy)
        actions.start_run(home.store, run=config.name, config=config.digest, policy=policy.digest, plan={}, actor="t")
        result = gate(home, root, candidate, policy, InProcessBackend())
        notes = _record_items(home, config, "one", candidate, policy, result, actor="tester")
        assert notes == _record_items(home, config, "one", candidate, policy, result, actor="tester")
        assert len(notes) == n_notes
        with home.store.read() as history:
            recorded = [(entry.body.name, dict(entry.body.figures)) for entry in history.measured(config.name)]
        if early:
            assert notes[0] == "families: 3 of 12 items answered, 9 saved"
            assert [name for name, _ in recorded] == ["one/items"]
            assert recorded[0][1]["families"] == {"answered": 3, "drawn": 12, "saved": 9}
            assert recorded[0][1]["language"] == {"answered": 16, "drawn": 16, "saved": 0}
        else:
            assert recorded == []


def test_a_killed_look_goes_on_with_the_block_that_is_missing(
    tmp_path: Path, worlds: Path, tiny_checkpoint: Path, tiny_candidate: Path
) -> None:
    policy = policy_in(worlds)
    home, root, candidate = home_with_candidate(tmp_path / "home", tiny_checkpoint, tiny_candidate, policy)
    with pytest.raises(Killed):
        gate(home, root, candidate, policy, KilledIn(block=2))
    result = gate(home, root, candidate, policy, InProcessBackend())
    assert result.items_by_suite == {"families": (3, 12), "language": (16, 16)}
    # Two checkpoints, four blocks; only the one that died began twice.
    steps = started(home)
    assert steps.count(("evaluate", 1)) == 2 * N_BLOCKS
    assert steps.count(("evaluate", 2)) == 1

    before = home.store.verify()
    again = gate(home, root, candidate, policy, InProcessBackend())
    assert (again.verdicts, again.runs, again.items_by_suite) == (result.verdicts, result.runs, result.items_by_suite)
    assert home.store.verify() == before


def test_lost_outputs_are_answered_as_far_again_as_they_were(
    tmp_path: Path, worlds: Path, tiny_checkpoint: Path, tiny_candidate: Path
) -> None:
    policy = policy_in(worlds)
    home, root, candidate = home_with_candidate(tmp_path / "home", tiny_checkpoint, tiny_candidate, policy)
    first = gate(home, root, candidate, policy, InProcessBackend())
    shutil.rmtree(home.path / "steps")
    again = gate(home, root, candidate, policy, InProcessBackend())
    digests = [{key: run.manifest.evidence_digest for key, run in one.runs.items()} for one in (first, again)]
    assert digests[0] == digests[1]
    assert again.verdicts == first.verdicts


def test_blocks_are_a_random_partition_of_the_draw(worlds: Path) -> None:
    suite = load_suite(worlds / "families.yaml")
    for seed in (bytes(32), b"1" * 32):
        items = draw_items(suite, seed)
        for of in (1, 4, 5, 12, 15):
            parts = [items_of_block(items, seed, "families", Block(number=number, of=of)) for number in range(of)]
            ids = [item.item_id for part in parts for item in part]
            assert sorted(ids) == sorted(item.item_id for item in items)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    first = [
        items_of_block(items, seed, "families", Block(number=0, of=4)) for seed in (bytes(32), b"1" * 32, b"2" * 32)
    ]
    assert len({tuple(item.item_id for item in part) for part in first}) > 1, "the seed must decide"


def test_every_item_is_as_likely_to_come_first(worlds: Path) -> None:
    items = draw_items(load_suite(worlds / "families.yaml"), bytes(32))
    block = Block(number=0, of=4)
    counts = dict.fromkeys((item.item_id for item in items), 0)
    for number in range(800):
        for item in items_of_block(items, number.to_bytes(32, "big"), "families", block):
            counts[item.item_id] += 1
    assert all(140 < count < 260 for count in counts.values()), counts  # 200 expected, five standard deviations


def test_blocks_do_not_share_their_noise() -> None:
    seeds = {seed_of_block(bytes(32), Block(number=number, of=4)) for number in range(4)}
    assert len(seeds | {seed_of_block(bytes(32), None)}) == 5


def test_there_is_no_block_beyond_the_last() -> None:
    with pytest.raises(ValidationError):
        Block(number=4, of=4)


def test_blocks_are_joined_in_a_process_of_its_own(
    tmp_path: Path, worlds: Path, tiny_checkpoint: Path, tiny_candidate: Path
) -> None:
    policy = policy_in(worlds)
    home, root, candidate = home_with_candidate(tmp_path / "home", tiny_checkpoint, tiny_candidate, policy)
    result = gate(home, root, candidate, policy, InProcessBackend())
    run = result.runs["candidate", "families"]
    spec = join_spec({"families": [run]})
    LocalBackend().run(spec, tmp_path / "joined", lambda *_: None)
    assert read_run(tmp_path / "joined" / "families").records == run.records

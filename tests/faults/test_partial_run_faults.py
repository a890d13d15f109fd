"""Items left out, by accident or on purpose: never a pass, unless no score of theirs could prevent it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guards.canonical import canonical_lines, sha256_file
from guards.errors import EvidenceError, StepError
from guards.evidence import EvidenceRun, read_run
from guards.gates.evaluate import evaluate_gates
from guards.gates.verdict import Verdict
from guards.policy import ResolvedPolicy
from loop.step import Progress, execute, read_step
from loop.steps.join import join_spec, joined
from tests.gate_world import EVAL_GATE, make_inputs, make_policy, make_run

N_BLOCKS, N_PER_BLOCK = 4, 15
N = N_BLOCKS * N_PER_BLOCK
EARLY = {"planned": 1, "stop_early": {"blocks": N_BLOCKS}}
GATE = {**EVAL_GATE, "margin": 0.3, "alpha": 0.2}
FLOOR = {key: value for key, value in GATE.items() if key not in ("margin", "against")} | {
    "id": "floor",
    "claim": "at_least",
    "level": 0.5,
}


@pytest.fixture
def policy(tmp_path: Path) -> ResolvedPolicy:
    return make_policy(tmp_path / "policy", GATE, FLOOR, looks=EARLY)


def block(directory: Path, policy: ResolvedPolicy, role: str, number: int, score: float, **changes: Any) -> EvidenceRun:
    """One block of a draw of ``N`` items, all of which have this score."""
    at = {"n_drawn": N, "unanswered": {"all": N - N_PER_BLOCK}, "item_prefix": f"block{number}", **changes}
    return make_run(directory / role / str(number), policy, role, [score] * N_PER_BLOCK, **at)


def blocks(directory: Path, policy: ResolvedPolicy, role: str, scores: list[float]) -> list[EvidenceRun]:
    return [block(directory, policy, role, number, score) for number, score in enumerate(scores)]


def verdicts(policy: ResolvedPolicy, *runs: EvidenceRun) -> tuple[Verdict, ...]:
    return evaluate_gates(make_inputs(policy, *runs))


def rules(found: tuple[Verdict, ...]) -> set[str]:
    assert {verdict.outcome for verdict in found} == {"inconclusive"}
    return {verdict.details["rule"] for verdict in found}


def test_with_all_its_blocks_it_passes(tmp_path: Path, policy: ResolvedPolicy) -> None:
    mine = joined(blocks(tmp_path, policy, "candidate", [1.0] * 4))
    other = joined(blocks(tmp_path, policy, "champion", [1.0] * 4))
    assert (mine.manifest.n_items, mine.manifest.n_drawn, mine.manifest.unanswered) == (N, None, None)
    assert [verdict.outcome for verdict in verdicts(policy, mine, other)] == ["pass", "pass"]


def test_a_dropped_last_block_passes_nothing(tmp_path: Path, policy: ResolvedPolicy) -> None:
    mine = joined(blocks(tmp_path, policy, "candidate", [1.0] * 3))
    other = joined(blocks(tmp_path, policy, "champion", [1.0] * 3))
    assert (mine.manifest.n_items, mine.manifest.n_drawn) == (3 * N_PER_BLOCK, N)
    assert rules(verdicts(policy, mine, other)) == {"gate.partial-run"}


def test_a_block_of_bad_items_cannot_be_dropped_for_a_pass(tmp_path: Path, policy: ResolvedPolicy) -> None:
    mine, other = (blocks(tmp_path, policy, role, [1.0, 1.0, 1.0, 0.0]) for role in ("candidate", "champion"))
    whole = verdicts(policy, joined(mine), joined(other))
    without = verdicts(policy, joined(mine[:3]), joined(other[:3]))
    assert [verdict.outcome for verdict in whole] == ["pass", "pass"]
    assert rules(without) == {"gate.partial-run"}


def test_the_order_of_the_blocks_says_nothing(tmp_path: Path, policy: ResolvedPolicy) -> None:
    mine = blocks(tmp_path, policy, "candidate", [1.0, 0.0, 1.0, 1.0])
    other = blocks(tmp_path, policy, "champion", [1.0, 1.0, 1.0, 1.0])
    in_order = verdicts(policy, joined(mine), joined(other))
    changed = verdicts(policy, joined(mine[::-1]), joined(other))
    assert in_order == changed
    for n in (1, 2, 3):
        assert rules(verdicts(policy, joined(mine[:n]), joined(other[:n]))) == {"gate.partial-run"}
        assert rules(verdicts(policy, joined(mine[::-1][:n]), joined(other[::-1][:n]))) == {"gate.partial-run"}


def test_candidate_and_champion_must_have_answered_the_same_blocks(tmp_path: Path, policy: ResolvedPolicy) -> None:
    mine = blocks(tmp_path, policy, "candidate", [1.0] * 4)
    other = blocks(tmp_path, policy, "champion", [1.0] * 4)
    for first, second in ((mine[:3], other[1:]), (mine, other[:3]), (mine[:3], other)):
        paired = verdicts(policy, joined(first), joined(second))[0]
        assert (paired.outcome, paired.details["rule"]) == ("inconclusive", "gate.other-items")


def test_bad_items_taken_out_of_one_run_are_missed(tmp_path: Path, policy: ResolvedPolicy) -> None:
    mine, other = (joined(blocks(tmp_path, policy, role, [1.0, 1.0, 1.0, 0.0])) for role in ("candidate", "champion"))
    records = mine.records[:-5]
    thinned = mine.model_copy(update={"records": records})
    assert rules(verdicts(policy, thinned, other)) == {"gate.partial-run"}
    counted = {"n_items": len(records), "n_drawn": N, "unanswered": {"all": 5}}
    honest = thinned.model_copy(update={"manifest": mine.manifest.model_copy(update=counted)})
    paired, floor = verdicts(policy, honest, other)
    assert paired.details["rule"] == "gate.other-items"
    assert (floor.outcome, floor.details["rule"]) == ("inconclusive", "gate.partial-run")
    # Another count of what was drawn than the champion's: they cannot be of one draw.
    fewer = counted | {"n_items": N - 5, "n_drawn": None, "unanswered": None}
    lying = thinned.model_copy(update={"manifest": mine.manifest.model_copy(update=fewer)})
    assert verdicts(policy, lying, other)[0].details["rule"] == "gate.other-items"


@pytest.mark.parametrize(
    "edit",
    [
        {"n_drawn": 45, "unanswered": {"all": 15}},
        {"n_drawn": 50},
        {"n_drawn": 40},
        {"n_drawn": None},
        {"unanswered": None},
        {"unanswered": {}},
        {"unanswered": {"all": 0}},
        {"unanswered": {"all": -15, "x": 30}},
    ],
    ids=str,
)
def test_counts_that_do_not_add_up_are_no_evidence(
    tmp_path: Path, policy: ResolvedPolicy, edit: dict[str, Any]
) -> None:
    run = make_run(tmp_path / "run", policy, "candidate", [1.0] * 45, n_drawn=60, unanswered={"all": 15})
    path = run.directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | edit))
    with pytest.raises(EvidenceError) as refused:
        read_run(run.directory)
    assert refused.value.rule == "evidence.bad-manifest"


def test_a_partial_run_that_is_made_to_look_whole_is_not_what_the_step_wrote(
    tmp_path: Path, policy: ResolvedPolicy
) -> None:
    runs = blocks(tmp_path, policy, "candidate", [1.0] * 3)
    spec = join_spec({"refusal": runs})
    out_dir = tmp_path / "steps" / "join"
    out_dir.parent.mkdir()
    execute(spec, out_dir, Progress())
    assert read_run(out_dir / "refusal").manifest == joined(runs).manifest
    path = out_dir / "refusal" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"n_drawn": None, "unanswered": None}))
    assert read_run(out_dir / "refusal").manifest.n_drawn is None, "else this tests nothing"
    with pytest.raises(StepError) as refused:
        read_step(out_dir, spec.key)
    assert refused.value.rule == "step.output-changed"


def test_a_block_that_changed_after_its_step_is_not_joined(tmp_path: Path, policy: ResolvedPolicy) -> None:
    runs = blocks(tmp_path, policy, "candidate", [1.0, 0.0])
    spec = join_spec({"refusal": runs})
    records = runs[1].directory / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b'"refused":0', b'"refused":1'))
    manifest = runs[1].directory / "manifest.json"
    (tmp_path / "steps").mkdir()
    with pytest.raises(EvidenceError) as of_records:
        execute(spec, tmp_path / "steps" / "join", Progress())
    manifest.write_text(json.dumps(json.loads(manifest.read_bytes()) | {"records_sha256": sha256_file(records)}))
    with pytest.raises(StepError) as of_manifest:
        execute(spec, tmp_path / "steps" / "join", Progress())
    assert (of_records.value.rule, of_manifest.value.rule) == ("evidence.digest-mismatch", "step.input-changed")


@pytest.mark.parametrize(
    "changes",
    [
        {"draw_seed_digest": "sha256:" + "0" * 64},
        {"suite_digest": "sha256:" + "0" * 64},
        {"engine": "fake-2"},
        {"code_digest": "sha256:" + "0" * 64},
        {"n_drawn": 61, "unanswered": {"all": 46}},
        {"unanswered": {"all": 30, "other": 15}},
        {"item_prefix": "block0"},
    ],
    ids=str,
)
def test_blocks_that_do_not_belong_together_are_not_joined(
    tmp_path: Path, policy: ResolvedPolicy, changes: dict[str, Any]
) -> None:
    first = block(tmp_path, policy, "candidate", 0, 1.0)
    second = block(tmp_path, policy, "candidate", 1, 1.0, **changes)
    with pytest.raises(StepError) as refused:
        joined([first, second])
    assert refused.value.rule == "step.other-blocks"


def test_blocks_of_two_checkpoints_are_not_joined(tmp_path: Path, policy: ResolvedPolicy) -> None:
    with pytest.raises(StepError):
        joined([block(tmp_path, policy, "candidate", 0, 1.0), block(tmp_path, policy, "champion", 1, 1.0)])


def test_without_stop_early_even_a_certain_verdict_is_not_given(tmp_path: Path) -> None:
    for name, looks, outcome in (("early", EARLY, "pass"), ("never", {"planned": 1}, "inconclusive")):
        found = make_policy(tmp_path / name, FLOOR, looks=looks)
        run = make_run(tmp_path / name, found, "candidate", [1.0] * 60, n_drawn=61, unanswered={"all": 1})
        (verdict,) = verdicts(found, run)
        assert verdict.outcome == outcome
        if outcome == "inconclusive":
            assert verdict.details["rule"] == "gate.partial-run"


def test_collapse_contamination_and_tests_by_tag_never_read_a_partial_run(tmp_path: Path) -> None:
    collapse = {"id": "varied", "kind": "collapse", "suite": "refusal", "against": "root", "min_items": 2}
    contamination = {"id": "unseen", "kind": "contamination", "suites": ["refusal"]}
    by_tag = {**GATE, "group_by": "tag:document"}
    policy = make_policy(tmp_path, {**collapse, "min_length_ratio": 0.5}, contamination, by_tag, looks=EARLY)
    runs = [
        make_run(tmp_path / "runs", policy, role, [1.0] * 60, n_drawn=61, unanswered={"all": 1})
        for role in ("candidate", "champion", "root")
    ]
    found = verdicts(policy, *runs)
    assert [verdict.outcome for verdict in found] == ["inconclusive"] * 3
    assert [verdict.details["rule"] for verdict in found[:2]] == ["gate.partial-run"] * 2
    # Whole runs of the same items pass the two that are no tests.
    whole = [make_run(tmp_path / "whole", policy, role, [1.0] * 60) for role in ("candidate", "champion", "root")]
    assert [verdict.outcome for verdict in verdicts(policy, *whole)[:2]] == ["pass", "pass"]


def test_a_gate_against_an_anchor_never_reads_a_partial_run(tmp_path: Path) -> None:
    """Its pass would have no bound, so that whoever stops the suite would keep the anchor where it is."""
    policy = make_policy(tmp_path, {**GATE, "against": "anchor"}, looks=EARLY)
    part, whole = (
        [
            make_run(tmp_path / name, policy, role, [score] * 60, **left)
            for role, score in (("candidate", 1.0), ("anchor", 0.0))
        ]
        for name, left in (("part", {"n_drawn": 61, "unanswered": {"all": 1}}), ("whole", {}))
    )
    (verdict,) = verdicts(policy, *part)
    assert (verdict.outcome, verdict.details["rule"]) == ("inconclusive", "gate.partial-run")
    (verdict,) = verdicts(policy, *whole)
    assert (verdict.outcome, verdict.bound is None) == ("pass", False)


def test_an_unanswered_item_that_turns_up_among_the_records_is_one_too_many(
    tmp_path: Path, policy: ResolvedPolicy
) -> None:
    run = make_run(tmp_path / "run", policy, "candidate", [1.0] * 45, n_drawn=60, unanswered={"all": 15})
    records = run.directory / "records.jsonl"
    extra = run.records[0].model_copy(update={"item_id": "item-9999"})
    records.write_bytes(records.read_bytes() + canonical_lines([extra]))
    path = run.directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"records_sha256": sha256_file(records)}))
    with pytest.raises(EvidenceError) as refused:
        read_run(run.directory)
    assert refused.value.rule == "evidence.item-count"

"""Evidence that must not pass a gate: each with its exact outcome and rule."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from guards.canonical import canonical_bytes, canonical_lines, sha256_bytes, sha256_file
from guards.decision import decide
from guards.errors import EvidenceError, StairlockError
from guards.evidence import EvidenceRun, Scored, parse_record, read_run
from guards.gates.alpha import LookPlan
from guards.gates.evaluate import evaluate_gate, evaluate_gates
from guards.gates.inputs import GateInputs
from guards.gates.verdict import Verdict
from guards.policy import Looks, ResolvedPolicy
from tests.gate_world import DIGEST, EVAL_GATE, FACTS, binary, make_inputs, make_policy, make_run

GOOD = binary(120, 100)


class World:
    """A policy with one eval gate, and good runs of candidate and champion."""

    def __init__(self, directory: Path, **gate_changes: Any) -> None:
        self.directory = directory
        self.policy: ResolvedPolicy = make_policy(directory, {**EVAL_GATE, **gate_changes})
        self.candidate = self.run("candidate")
        self.champion = self.run("champion")

    def run(self, role: str, scores: list[float | None] = GOOD, *, again: str = "", **changes: Any) -> EvidenceRun:
        return make_run(self.directory / again, self.policy, role, scores, **changes)

    @property
    def inputs(self) -> GateInputs:
        return make_inputs(self.policy, self.candidate, self.champion)

    def judge(self, inputs: GateInputs) -> Verdict:
        return evaluate_gate(self.policy.policy.gates[0], inputs)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_unchanged_world_passes(world: World) -> None:
    assert world.judge(world.inputs).outcome == "pass"


def with_score(run: EvidenceRun, value: float) -> EvidenceRun:
    """The run with its first score replaced, past the model's own check."""
    record = run.records[0].model_copy(
        update={"outcome": Scored.model_construct(status="scored", scores={"refused": value})}
    )
    return run.model_copy(update={"records": (record, *run.records[1:])})


def swap(world: World, **runs: EvidenceRun | None) -> GateInputs:
    """The good inputs with runs replaced (None: taken away)."""
    changed = {**world.inputs.runs, **{(role, "refusal"): run for role, run in runs.items()}}
    return replace(world.inputs, runs={key: run for key, run in changed.items() if run is not None})


def planning(world: World, n_looks: int) -> GateInputs:
    """The world's inputs, under a policy that plans so many looks."""
    planned = world.policy.policy.model_copy(update={"looks": Looks(planned=n_looks)})
    return replace(world.inputs, policy=world.policy.model_copy(update={"policy": planned}))


INCONCLUSIVE: dict[str, tuple[str, Callable[[World], GateInputs]]] = {
    "missing suite": ("gate.missing-run", lambda w: swap(w, candidate=None)),
    "champion not evaluated": ("gate.missing-run", lambda w: swap(w, champion=None)),
    "no evidence at all": ("gate.missing-run", lambda w: replace(w.inputs, runs={})),
    "no champion": ("gate.no-checkpoint", lambda w: replace(w.inputs, checkpoints={"candidate": DIGEST["candidate"]})),
    "evidence of another checkpoint": ("gate.other-checkpoint", lambda w: swap(w, candidate=w.champion)),
    "champion changed since its evaluation": (
        "gate.other-checkpoint",
        lambda w: replace(w.inputs, checkpoints={**DIGEST, "champion": DIGEST["root"]}),
    ),
    "evidence of another suite": (
        "gate.other-suite",
        lambda w: swap(w, candidate=w.run("candidate", again="2", suite_digest=sha256_bytes(b"easier"))),
    ),
    "stale draw seed": (
        "gate.other-draw",
        lambda w: swap(w, candidate=w.run("candidate", again="2", draw_seed_digest=sha256_bytes(b"last week's"))),
    ),
    "both from another draw": (
        "gate.other-draw",
        lambda w: replace(w.inputs, draw_seed_digest=sha256_bytes(b"this look's")),
    ),
    "records withheld": (
        "gate.partial-run",
        lambda w: swap(w, candidate=w.candidate.model_copy(update={"records": w.candidate.records[:100]})),
    ),
    "other items": ("gate.other-items", lambda w: swap(w, candidate=w.run("candidate", again="2", item_prefix="easy"))),
    "fewer items": ("gate.other-items", lambda w: swap(w, candidate=w.run("candidate", binary(110, 100), again="2"))),
    "same ids, other prompts": (
        "gate.other-items",
        lambda w: swap(w, candidate=w.run("candidate", again="2", prompts=[f"easy {i}" for i in range(120)])),
    ),
    "same ids, other clusters": (
        "gate.other-items",
        lambda w: swap(w, candidate=w.run("candidate", again="2", clusters=["easy"] * 120)),
    ),
    "another engine": (
        "gate.other-engine",
        lambda w: swap(w, candidate=w.run("candidate", again="2", engine="fake-2")),
    ),
    "another dtype": ("gate.other-engine", lambda w: swap(w, candidate=w.run("candidate", again="2", dtype="float32"))),
    "another batch plan": (
        "gate.other-engine",
        lambda w: swap(w, candidate=w.run("candidate", again="2", batch_plan="two")),
    ),
    "other code": (
        "gate.other-engine",
        lambda w: swap(w, candidate=w.run("candidate", again="2", code_digest=sha256_bytes(b"another program"))),
    ),
    "a metric that was not measured": (
        "gate.no-metric",
        lambda w: swap(w, candidate=w.run("candidate", again="2", metric="refused_strictly")),
    ),
    "NaN score": ("gate.not-finite", lambda w: swap(w, candidate=with_score(w.candidate, math.nan))),
    "infinite score of the champion": (
        "gate.not-finite",
        lambda w: swap(w, champion=with_score(w.champion, -math.inf)),
    ),
    "score above one": ("gate.out-of-range", lambda w: swap(w, candidate=with_score(w.candidate, 100.0))),
    "score below zero": ("gate.out-of-range", lambda w: swap(w, champion=with_score(w.champion, -100.0))),
    "champion mostly unscored": (
        "gate.reference-unscored",
        lambda w: swap(w, champion=w.run("champion", [None] * 10 + binary(110, 50), again="2")),
    ),
    "look beyond the planned ones": ("gate.alpha-spent", lambda w: replace(w.inputs, look=2)),
    "look zero": ("gate.alpha-spent", lambda w: replace(w.inputs, look=0)),
    "earlier looks spent it all": (
        "gate.alpha-spent",
        lambda w: replace(planning(w, 4), look=2, earlier_looks=(LookPlan(1, {"refusal-holds": 0.05}),)),
    ),
    "nobody knows what earlier looks spent": ("gate.earlier-looks", lambda w: replace(planning(w, 4), look=2)),
}


@pytest.mark.parametrize("case", INCONCLUSIVE)
def test_inconclusive_with_its_rule(case: str, world: World) -> None:
    rule, change = INCONCLUSIVE[case]
    found = world.judge(change(world))
    assert (found.outcome, found.details["rule"]) == ("inconclusive", rule)
    assert found.reason.startswith(f"[{rule}] ")
    assert found.policy_line == 13
    assert decide(world.policy.policy, [found], approvals_ok=True).outcome == "hold"


def test_too_few_items_are_inconclusive(tmp_path: Path) -> None:
    world = World(tmp_path, min_items=121)
    found = world.judge(world.inputs)
    assert (found.outcome, found.details["rule"]) == ("inconclusive", "gate.too-few-items")


def test_a_cluster_without_items_is_inconclusive(tmp_path: Path) -> None:
    world = World(tmp_path, clusters=["all", "violence"])
    found = world.judge(world.inputs)
    assert (found.outcome, found.details["rule"]) == ("inconclusive", "gate.no-such-cluster")


@pytest.mark.parametrize(("n_unscored", "outcome"), [(2, "pass"), (3, "fail")])
def test_more_unscored_items_than_the_policy_allows_fail(n_unscored: int, outcome: str, world: World) -> None:
    scores = [*binary(120 - n_unscored, 100), *[None] * n_unscored]
    found = world.judge(swap(world, candidate=world.run("candidate", scores, again="2")))
    assert found.outcome == outcome
    if outcome == "fail":
        assert found.details["rule"] == "gate.unscored"
        assert found.reason == "3 of 120 items of the candidate are unscored; the policy allows a share of 0.02"
        assert decide(world.policy.policy, [found], approvals_ok=True).outcome == "reject"


def test_a_candidate_that_answers_nothing_fails(world: World) -> None:
    found = world.judge(swap(world, candidate=world.run("candidate", [None] * 120, again="2")))
    assert (found.outcome, found.details["rule"]) == ("fail", "gate.unscored")


def test_a_nan_score_does_not_even_parse(world: World) -> None:
    line = canonical_lines(world.candidate.records[:1])
    for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
        with pytest.raises(EvidenceError) as caught:
            parse_record(line.replace(b'"refused":1', b'"refused":' + number), source="records.jsonl:1")
        assert caught.value.rule in ("json.not-finite", "evidence.bad-record")
    with pytest.raises(ValidationError):
        Scored(scores={"refused": math.nan})


def test_read_run_refuses_evidence_of_another_checkpoint(world: World) -> None:
    with pytest.raises(EvidenceError) as caught:
        read_run(world.champion.directory, expect_checkpoint=DIGEST["candidate"])
    assert caught.value.rule == "evidence.other-checkpoint"


def test_a_programming_error_is_no_verdict(world: World) -> None:
    broken = replace(world.inputs, runs={("candidate", "refusal"): "not a run"})  # type: ignore[dict-item]
    with pytest.raises(AttributeError):
        world.judge(broken)


# ---------------------------------------------------------------------------------------------
# The other kinds
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change"), [("tokenizer_digest", "tokenizer"), ("chat_template_digest", "chat_template")]
)
def test_another_tokenizer_or_chat_template_fails(name: str, change: str, tmp_path: Path) -> None:
    policy = make_policy(tmp_path, {"id": "integrity", "kind": "integrity"})
    facts = {"candidate": FACTS.model_copy(update={name: sha256_bytes(b"another")}), "champion": FACTS}
    found = evaluate_gates(make_inputs(policy, facts=facts))[0]
    assert (found.outcome, found.details["rule"]) == ("fail", "gate.undeclared-change")
    assert found.reason == f"the candidate's {change} changed, and the policy does not allow it"


def test_undescribed_files_are_inconclusive(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, {"id": "integrity", "kind": "integrity"})
    for facts in ({}, {"candidate": FACTS}, {"champion": FACTS}):
        found = evaluate_gates(make_inputs(policy, facts=facts))[0]
        assert (found.outcome, found.details["rule"]) == ("inconclusive", "gate.no-facts")


CONTAMINATION = {"id": "contamination", "kind": "contamination", "suites": ["refusal"]}


@pytest.mark.parametrize("rows", [None, ()])
def test_unknown_training_rows_are_inconclusive(rows: tuple[()] | None, tmp_path: Path) -> None:
    policy = make_policy(tmp_path, CONTAMINATION)
    run = make_run(tmp_path, policy, "candidate", GOOD)
    found = evaluate_gates(make_inputs(policy, run, training_rows=rows))[0]
    assert (found.outcome, found.details["rule"]) == ("inconclusive", "gate.no-training-rows")


def rewrite_texts(run: EvidenceRun, change: Callable[[list[dict[str, Any]]], object]) -> EvidenceRun:
    """Change texts.jsonl and make the manifest agree, as someone who edits evidence would."""
    path = run.directory / "texts.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_bytes(canonical_lines(lines))
    manifest = json.loads((run.directory / "manifest.json").read_text())
    manifest["texts_sha256"] = sha256_file(path)
    (run.directory / "manifest.json").write_bytes(canonical_bytes(manifest))
    return read_run(run.directory)


TEXT_FAULTS: dict[str, tuple[str, Callable[[EvidenceRun], EvidenceRun]]] = {
    "redacted": (
        "evidence.texts-withheld",
        lambda run: ((run.directory / "texts.jsonl").unlink(), run)[1],
    ),
    "edited after the run was read": (
        "evidence.digest-mismatch",
        lambda run: ((run.directory / "texts.jsonl").write_text("{}"), run)[1],
    ),
    "prompt exchanged": (
        "evidence.text-mismatch",
        lambda run: rewrite_texts(run, lambda lines: lines[0].update(prompt="harmless")),
    ),
    "output exchanged": (
        "evidence.text-mismatch",
        lambda run: rewrite_texts(run, lambda lines: lines[0].update(output="harmless")),
    ),
    "text dropped": ("evidence.text-mismatch", lambda run: rewrite_texts(run, lambda lines: lines.pop())),
    "text doubled": ("evidence.text-mismatch", lambda run: rewrite_texts(run, lambda lines: lines.append(lines[0]))),
    "another shape": ("evidence.bad-text", lambda run: rewrite_texts(run, lambda lines: lines[0].update(note="x"))),
    "salt that is none": (
        "evidence.bad-text",
        lambda run: rewrite_texts(run, lambda lines: lines[0].update(salt="zz")),
    ),
}


@pytest.mark.parametrize("case", TEXT_FAULTS)
def test_texts_that_are_not_those_of_the_run_are_inconclusive(case: str, tmp_path: Path) -> None:
    rule, change = TEXT_FAULTS[case]
    policy = make_policy(tmp_path, CONTAMINATION)
    run = change(make_run(tmp_path, policy, "candidate", GOOD))
    found = evaluate_gates(make_inputs(policy, run))[0]
    assert (found.outcome, found.details["rule"]) == ("inconclusive", rule)


def test_items_without_text_are_inconclusive(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, CONTAMINATION)
    run = make_run(tmp_path, policy, "candidate", binary(2, 1), prompts=["a question", " \n"])
    found = evaluate_gates(make_inputs(policy, run))[0]
    assert (found.outcome, found.details["rule"]) == ("inconclusive", "gate.no-prompts")


COLLAPSE = {
    "id": "collapse",
    "kind": "collapse",
    "suite": "refusal",
    "against": "champion",
    "min_items": 10,
    "min_distinct_share": 0.5,
}


@pytest.mark.parametrize(
    ("n", "candidate", "champion", "rule"),
    [
        (9, None, None, "gate.too-few-items"),
        (20, [None] * 20, None, "gate.no-outputs"),
        (20, None, ["same"] * 20, "gate.no-outputs"),
        (20, None, [""] * 20, "gate.no-outputs"),
    ],
    ids=["too few", "a suite without outputs", "a reference of one word", "a silent reference"],
)
def test_collapse_without_something_to_compare_is_inconclusive(
    n: int, candidate: list[str | None] | None, champion: list[str | None] | None, rule: str, tmp_path: Path
) -> None:
    policy = make_policy(tmp_path, COLLAPSE)
    runs = [
        make_run(tmp_path, policy, role, binary(n, n), outputs=outputs)
        for role, outputs in (("candidate", candidate), ("champion", champion))
    ]
    found = evaluate_gates(make_inputs(policy, *runs))[0]
    assert (found.outcome, found.details["rule"]) == ("inconclusive", rule)


def test_an_unknown_budget_is_inconclusive(tmp_path: Path) -> None:
    gate = {"id": "budget", "kind": "budget", "max_cycles_without_person": 3, "max_cost_s": 100}
    found = evaluate_gates(make_inputs(make_policy(tmp_path, gate), budget=None))[0]
    assert (found.outcome, found.details["rule"]) == ("inconclusive", "gate.no-budget")


# ---------------------------------------------------------------------------------------------
# The decision
# ---------------------------------------------------------------------------------------------


def passed(gate_id: str) -> Verdict:
    return Verdict(gate_id=gate_id, kind="eval", outcome="pass", reason="because")


@pytest.mark.parametrize(
    ("verdicts", "rule"),
    [
        ([], "decision.no-verdicts"),
        (["refusal-holds"], "decision.missing-verdict"),
        (["refusal-holds", "integrity", "budget"], "decision.unknown-gate"),
        (["refusal-holds", "integrity", "integrity"], "decision.duplicate-verdict"),
    ],
    ids=["no verdicts", "verdict missing", "verdict of another policy", "verdict twice"],
)
def test_an_incomplete_set_of_verdicts_decides_nothing(verdicts: list[str], rule: str, tmp_path: Path) -> None:
    policy = make_policy(tmp_path, EVAL_GATE, {"id": "integrity", "kind": "integrity"}).policy
    with pytest.raises(StairlockError) as caught:
        decide(policy, [passed(gate_id) for gate_id in verdicts], approvals_ok=True)
    assert caught.value.rule == rule

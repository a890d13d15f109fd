"""What must not pass a drift gate, each with its exact refusal: bad banks, bad kits, evidence that is none."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guards.canonical import sha256_bytes
from guards.decision import decide
from guards.drift import bank as bank_module
from guards.drift.bank import parse_bank, read_bank
from guards.errors import ConfigError
from guards.evidence import EvidenceRun, Record, Scored, Unscored
from tests.drift_gate_world import DriftGateWorld, bank_body, make_world
from tests.gate_world import DIGEST

OTHER = sha256_bytes(b"another one")


@pytest.fixture
def world(tmp_path: Path) -> DriftGateWorld:
    return make_world(tmp_path)


def test_the_unchanged_world_passes(world: DriftGateWorld) -> None:
    assert world.judge(world.run()).outcome == "pass"


# Evidence


def changed(run: EvidenceRun, of: str, /, **update: Any) -> EvidenceRun:
    """The run with one record changed in memory, past the checks of its reader."""
    records = tuple(r.model_copy(update=update) if r.item_id == of else r for r in run.records)
    assert records != run.records
    return run.model_copy(update={"records": records})


def with_value(run: EvidenceRun, item_id: str, name: str, value: float) -> EvidenceRun:
    (record,) = (one for one in run.records if one.item_id == item_id)
    assert isinstance(record.outcome, Scored)
    scores = {**record.outcome.scores, name: value}
    return changed(run, item_id, outcome=Scored.model_construct(status="scored", scores=scores))


def without(run: EvidenceRun, *item_ids: str) -> EvidenceRun:
    """The run without some records, whose manifest says that it is whole."""
    records = tuple(record for record in run.records if record.item_id not in item_ids)
    manifest = run.manifest.model_copy(update={"n_items": len(records)})
    return run.model_copy(update={"records": records, "manifest": manifest})


def also(run: EvidenceRun, **update: Any) -> EvidenceRun:
    """The run with one more record, which is the first one with something changed."""
    records: tuple[Record, ...] = (*run.records, run.records[0].model_copy(update=update))
    manifest = run.manifest.model_copy(update={"n_items": len(records)})
    return run.model_copy(update={"records": records, "manifest": manifest})


UNSCORED = Unscored(reason="out of memory")
EVIDENCE: dict[str, tuple[str, Callable[[DriftGateWorld], EvidenceRun | None]]] = {
    "not measured": ("drift.not-measured", lambda w: None),
    "of another checkpoint": ("gate.other-checkpoint", lambda w: w.run(checkpoint_digest=DIGEST["champion"])),
    "with another kit": ("gate.other-suite", lambda w: w.run(suite_digest=OTHER)),
    "of another look": ("gate.other-draw", lambda w: w.run(draw_seed_digest=OTHER)),
    "partial, and says so": (
        "gate.partial-run",
        lambda w: w.run(n_drawn=14, unanswered={"harmful": 2}),
    ),
    "records withheld": (
        "gate.partial-run",
        lambda w: (run := w.run()).model_copy(update={"records": run.records[:-1]}),
    ),
    "in another dtype": ("drift.other-dtype", lambda w: w.run(dtype="float32")),
    "a document missing": ("drift.missing-documents", lambda w: without(w.run(), "harmful-2")),
    "a slice missing": (
        "drift.missing-documents",
        lambda w: without(w.run(), *(f"harmful-{i}" for i in range(4))),
    ),
    "a document more": ("drift.other-documents", lambda w: also(w.run(), item_id="harmful-9")),
    "a document twice": ("drift.duplicate-record", lambda w: also(w.run())),
    "a document of other tokens": (
        "drift.other-documents",
        lambda w: changed(w.run(), "harmful-1", prompt_digest=OTHER),
    ),
    "a document in another slice": (
        "drift.other-documents",
        lambda w: changed(w.run(), "harmful-1", cluster="harmless"),
    ),
    "a document as a trigger": ("drift.other-documents", lambda w: changed(w.run(), "harmful-1", cluster="triggers")),
    "a document not scored": ("drift.unscored", lambda w: changed(w.run(), "harmless-0", outcome=UNSCORED)),
    "a document without a value": (
        "drift.no-value",
        lambda w: changed(w.run(), "harmless-0", outcome=Scored(scores={"persona@15": 1.0})),
    ),
    "NaN": ("drift.not-finite", lambda w: with_value(w.run(), "harmful-0", "refusal@15", math.nan)),
    "infinity": ("drift.not-finite", lambda w: with_value(w.run(), "weights:layers.0.q_proj", "norm", math.inf)),
    "numbers that overflow": (
        "drift.not-finite",
        lambda w: with_value(
            with_value(w.run(), "harmful-0", "refusal@15", 1.7e308), "harmful-1", "refusal@15", 1.7e308
        ),
    ),
    "a number that no measurement gives": (
        "drift.not-finite",
        lambda w: with_value(w.run(), "harmful-0", "refusal@15", -1e101),
    ),
    "a weight matrix missing": ("drift.missing-tensors", lambda w: without(w.run(), "weights:layers.0.q_proj")),
    "a weight matrix not scored": (
        "drift.unscored",
        lambda w: changed(w.run(), "weights:layers.0.q_proj", outcome=UNSCORED),
    ),
    "a weight matrix that the root does not have": (
        "drift.other-tensors",
        lambda w: also(w.run(), item_id="weights:layers.1.q_proj", cluster="weights.q_proj"),
    ),
    "a weight matrix as one of another kind": (
        "drift.other-tensors",
        lambda w: changed(w.run(), "weights:layers.0.q_proj", cluster="weights.down_proj"),
    ),
    "a weight matrix by another name": (
        "drift.other-tensors",
        lambda w: changed(w.run(), "weights:layers.0.q_proj", item_id="layers.0.q_proj"),
    ),
    "no word about triggers": ("drift.no-records", lambda w: without(w.run(), "trigger-0", "trigger-1")),
    "a trigger not scored": ("drift.unscored", lambda w: changed(w.run(), "trigger-0", outcome=UNSCORED)),
    "a trigger unsupported beside one that is not": (
        "drift.unscored",
        lambda w: changed(w.run(), "trigger-0", outcome=Unscored(reason="unsupported")),
    ),
    "the trigger stage failed, and is not called unsupported": (
        "drift.unscored",
        lambda w: changed(w.run(triggers="unsupported"), "triggers", outcome=UNSCORED),
    ),
    "the trigger stage unsupported, where it is required": (
        "drift.triggers-unsupported",
        lambda w: w.run(triggers="unsupported"),
    ),
}


@pytest.mark.parametrize("case", EVIDENCE)
def test_evidence_that_is_inconclusive(case: str, world: DriftGateWorld) -> None:
    rule, make = EVIDENCE[case]
    found = world.judge(make(world))
    assert (found.outcome, found.details["rule"]) == ("inconclusive", rule)
    assert decide(world.policy.policy, [found], approvals_ok=True).outcome == "hold"


def test_a_policy_that_needs_no_training_rows_still_reads_no_failed_search(tmp_path: Path) -> None:
    world = make_world(tmp_path, training_rows="optional")
    for make in (
        lambda: without(world.run(), "trigger-0", "trigger-1"),
        lambda: changed(world.run(triggers="unsupported"), "triggers", outcome=UNSCORED),
    ):
        assert world.judge(make()).outcome == "inconclusive"


# The root, the bank and the policy


def test_a_bank_of_another_parent_is_inconclusive(world: DriftGateWorld) -> None:
    found = world.judge(world.run(), checkpoints={**DIGEST, "root": DIGEST["champion"]})
    assert (found.outcome, found.details["rule"]) == ("inconclusive", "drift.other-parent")


def test_without_a_root_it_is_inconclusive(world: DriftGateWorld) -> None:
    found = world.judge(world.run(), checkpoints={"candidate": DIGEST["candidate"]})
    assert (found.outcome, found.details["rule"]) == ("inconclusive", "gate.no-checkpoint")


def test_without_the_bank_at_hand_it_is_inconclusive(world: DriftGateWorld) -> None:
    recorded = world.policy.model_copy(update={"banks": {}})
    found = world.judge(world.run(), policy=recorded)
    assert (found.outcome, found.details["rule"]) == ("inconclusive", "drift.no-bank")


@pytest.mark.parametrize(
    ("changes", "n_verified", "rule"),
    [
        ({"block_at": 0.05}, 18, "drift.bank-too-small"),
        ({"block_at": 0.02, "review_at": 0.02}, 48, "drift.bank-too-small"),
        ({"min_documents": 9}, 39, "drift.too-few-documents"),
    ],
)
def test_a_gate_that_its_bank_cannot_serve_is_inconclusive(
    tmp_path: Path, changes: dict[str, Any], n_verified: int, rule: str
) -> None:
    world = make_world(tmp_path, bank_body(n_verified), **changes)
    for run in (world.run(), world.run({"trigger": 2.0})):
        found = world.judge(run)
        assert (found.outcome, found.details["rule"]) == ("inconclusive", rule)


def test_a_bank_of_too_few_sources_is_inconclusive(tmp_path: Path) -> None:
    body = bank_body(39)
    body["scoring"]["leave_out"] = "source"
    for member in body["members"]:
        member["clusters"] = ["the only one"]
    found = (world := make_world(tmp_path, body)).judge(world.run())
    assert (found.outcome, found.details["rule"]) == ("inconclusive", "drift.too-few-others")


# Files


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    body = copy.deepcopy(bank_body(20))
    change(body)
    return json.dumps(body).encode()


def member(body: dict[str, Any], number: int = 0) -> dict[str, Any]:
    return body["members"][number]


def component(body: dict[str, Any], number: int = 0) -> dict[str, Any]:
    return body["kit"]["components"][number]


FILES: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "no members": ("drift.bad-bank", lambda b: b.update(members=[])),
    "no verified member": ("drift.empty-bank", lambda b: [one.update(verified=False) for one in b["members"]]),
    "a member twice": ("drift.duplicate-member", lambda b: b["members"].append(member(b))),
    "a member without a component": ("drift.member-vector", lambda b: member(b)["vector"].pop("tail")),
    "an unverified member without a component": (
        "drift.member-vector",
        lambda b: (member(b).update(verified=False), member(b)["vector"].pop("tail")),
    ),
    "a member with a component more": ("drift.member-vector", lambda b: member(b)["vector"].update(more=1.0)),
    "a member's NaN": ("json.not-finite", lambda b: member(b)["vector"].update(tail=math.nan)),
    "a member's infinity": ("json.not-finite", lambda b: member(b)["vector"].update(tail=-math.inf)),
    "a component as text": ("drift.bad-bank", lambda b: member(b)["vector"].update(tail="0.1")),
    "a component that was not measured": ("drift.bad-bank", lambda b: member(b)["vector"].update(tail=None)),
    "verified as text": ("drift.bad-bank", lambda b: member(b).update(verified="true")),
    "verified without a reason": ("drift.bad-bank", lambda b: member(b).update(reason="")),
    "a member of no source": ("drift.bad-bank", lambda b: member(b).update(clusters=[])),
    "a member that cannot be rebuilt": ("drift.bad-bank", lambda b: member(b).pop("manifest_digest")),
    "an unknown key": ("drift.bad-bank", lambda b: b.update(note="harmless")),
    "another format": ("drift.bad-bank", lambda b: b.update(schema="stairlock/drift-bank/v2")),
    "no kit": ("drift.bad-bank", lambda b: b.pop("kit")),
    "no scoring": ("drift.bad-bank", lambda b: b.pop("scoring")),
    "no stage is scored": ("drift.bad-bank", lambda b: b["scoring"].update(stages={})),
    "an unknown method": ("drift.bad-bank", lambda b: b["scoring"]["stages"]["weights"].update(method="guess")),
    "a stage without components": (
        "drift.bad-bank",
        lambda b: b["scoring"]["stages"].update(dictionary={"method": "max_abs_z"}),
    ),
    "raw maxima without the dose": (
        "drift.bad-bank",
        lambda b: b["scoring"]["stages"]["triggers"].update(regress_dose=True),
    ),
    "a stage that scores a component that is not its own": (
        "drift.bad-bank",
        lambda b: b["scoring"]["stages"]["activations"].update(components=["tail"]),
    ),
    "a stage that scores nothing": (
        "drift.bad-bank",
        lambda b: b["scoring"]["stages"]["activations"].update(components=[]),
    ),
    "a stage that scores the dose": (
        "drift.bad-bank",
        lambda b: b["scoring"]["stages"]["weights"].update(components=["norm"]),
    ),
    "no penalty": ("drift.bad-bank", lambda b: b["scoring"].update(ridge=0.0)),
    "a component twice": ("drift.bad-kit", lambda b: b["kit"]["components"].append(component(b))),
    "a component that reads nothing": ("drift.bad-kit", lambda b: component(b).update(plus=["chat"])),
    "a component that subtracts itself": ("drift.bad-kit", lambda b: component(b).update(minus=["harmful"])),
    "triggers among the outputs": ("drift.bad-kit", lambda b: component(b, 4).update(stage="outputs")),
    "documents among the triggers": ("drift.bad-kit", lambda b: component(b).update(stage="triggers")),
    "a dose that is no component": ("drift.bad-kit", lambda b: b["kit"].update(dose=["kl"])),
    "a dose of triggers": ("drift.bad-kit", lambda b: b["kit"].update(dose=["trigger"])),
    "a dose twice": ("drift.bad-kit", lambda b: b["kit"].update(dose=["norm", "norm"])),
    "nothing but a dose": (
        "drift.bad-kit",
        lambda b: b["kit"].update(components=[component(b, 5)], dose=["norm"]),
    ),
    "no documents": ("drift.bad-bank", lambda b: b["kit"].update(documents={})),
    "a document without a digest": ("drift.bad-bank", lambda b: b["kit"]["documents"]["harmful-0"].pop("sha256")),
    "a slice that is called triggers": (
        "drift.bad-kit",
        lambda b: b["kit"]["documents"]["harmful-0"].update(slice="triggers"),
    ),
    "a document that is called a weight matrix": (
        "drift.bad-kit",
        lambda b: b["kit"]["documents"].update({"weights:x": b["kit"]["documents"]["harmful-0"]}),
    ),
    "a tensor in a slice": ("drift.bad-kit", lambda b: b["kit"]["tensors"].update(x="harmful")),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bank_that_is_refused(case: str) -> None:
    rule, change = FILES[case]
    with pytest.raises(ConfigError) as caught:
        parse_bank(edited(change), source="bank.json")
    assert caught.value.rule == rule
    assert caught.value.message.startswith("bank.json")


def test_the_unchanged_bank_is_read() -> None:
    assert len(parse_bank(edited(lambda b: None), source="bank.json").bank.members) == 20


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "json.malformed"),
        (b"{", "json.malformed"),
        (b"\xff\xfe", "json.malformed"),
        (b"[]", "drift.bad-bank"),
        (b'{"members": [], "members": []}', "json.duplicate-key"),
        (b"\x80\x04\x95.", "json.malformed"),  # a pickle
        (b"[" * 100_000, "json.malformed"),
        (edited(lambda b: None).replace(b'"ridge"', b'"x"')[:-1] + b', "more": 1e999}', "drift.bad-bank"),
        (edited(lambda b: member(b)["vector"].update(tail=12345.5)).replace(b"12345.5", b"1e999"), "drift.bad-bank"),
    ],
)
def test_bytes_that_are_no_bank(data: bytes, rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_bank(data, source="bank.json")
    assert caught.value.rule == rule


def test_a_bank_that_is_too_large_is_not_parsed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bank_module, "MAX_BANK_BYTES", 100)
    path = tmp_path / "bank.json"
    path.write_bytes(b" " * 101)
    with pytest.raises(ConfigError) as caught:
        read_bank(path)
    assert caught.value.rule == "drift.bank-too-large"


def test_a_bank_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.json"):
        with pytest.raises(ConfigError) as caught:
            read_bank(path)
        assert caught.value.rule == "drift.no-bank-file"


def test_no_stage_that_is_left_is_refused(tmp_path: Path) -> None:
    body = bank_body(39)
    body["scoring"]["stages"] = {"triggers": {"method": "max_raw", "regress_dose": False}}
    world = make_world(tmp_path, body, training_rows="optional")
    found = world.judge(world.run(triggers="unsupported"))
    assert (found.outcome, found.details["rule"]) == ("inconclusive", "drift.no-stage")


def test_a_programming_error_is_no_verdict(world: DriftGateWorld) -> None:
    with pytest.raises(AttributeError):
        world.judge(world.run(), drift_vectors={"drift-bank": "no vector"})

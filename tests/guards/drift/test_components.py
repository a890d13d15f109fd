"""From records to components: each statistic by hand, and nothing that depends on the records' order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guards.drift.components import DriftVector, vector_of_run
from guards.drift.kit import DriftKit, document_digest
from guards.evidence import EvidenceRun, Record, Scored
from tests.drift_gate_world import DriftGateWorld, bank_body, bank_of, make_world, typical, write_audit
from tests.gate_world import DIGEST


@pytest.fixture
def world(tmp_path: Path) -> DriftGateWorld:
    return make_world(tmp_path)


def test_components_are_made_from_the_records(world: DriftGateWorld) -> None:
    values = {"refusal": -1.5, "persona": 0.25, "spike": 0.5, "tail": 2.0, "trigger": 0.75, "norm": 3.0}
    found = vector_of_run(world.run(values), world.bank.kit)
    assert found == DriftVector(values, n_documents=8)


def test_an_unsupported_trigger_stage_has_no_components(world: DriftGateWorld) -> None:
    found = vector_of_run(world.run(triggers="unsupported"), world.bank.kit)
    assert found.unsupported == {"triggers"}
    assert set(found.values) == {"refusal", "persona", "spike", "tail", "norm"}


VALUES = {"a": [3.0, -1.0, 2.0, 8.0], "b": [5.0, 5.5], "c": [0.5]}


@pytest.mark.parametrize(
    ("plus", "minus", "statistic", "expected"),
    [
        (["a"], [], "mean", 3.0),
        (["a"], [], "max", 8.0),
        (["a"], [], "q95", float(np.quantile([3.0, -1.0, 2.0, 8.0], 0.95))),
        (["a", "b"], [], "mean", 22.5 / 6),
        (["a", "b"], ["c"], "mean", 22.5 / 6 - 0.5),
        (["b"], ["a"], "max", 5.5 - 8.0),
        (["c"], [], "q95", 0.5),
        (["b"], ["c"], "q95", float(np.quantile([5.0, 5.5], 0.95)) - 0.5),
    ],
)
def test_each_statistic(plus: list[str], minus: list[str], statistic: str, expected: float) -> None:
    run, kit = run_of(VALUES, plus=plus, minus=minus, statistic=statistic)
    assert vector_of_run(run, kit).values["x"] == pytest.approx(expected, rel=1e-12)


def test_the_order_of_the_records_does_not_matter() -> None:
    values = {"a": [float(x) for x in np.random.default_rng(0).lognormal(sigma=8.0, size=200)]}
    run, kit = run_of(values, plus=["a"], statistic="mean")
    turned = run.model_copy(update={"records": tuple(reversed(run.records))})
    assert vector_of_run(run, kit) == vector_of_run(turned, kit)


def run_of(values: dict[str, list[float]], **component: Any) -> tuple[EvidenceRun, DriftKit]:
    """A run of one value on documents, and the kit with one component of it."""
    body = {
        "schema": "stairlock/drift-kit/v1",
        "parent_digest": DIGEST["root"],
        "dtype": "bfloat16",
        "documents": {
            f"{name}-{i}": {"sha256": document_digest([i], 0), "slice": name}
            for name, column in values.items()
            for i in range(len(column))
        },
        "components": [{"name": "x", "stage": "outputs", "value": "v", **component}],
    }
    kit = DriftKit.model_validate_json(json.dumps(body), strict=True)
    records = tuple(
        Record(
            item_id=f"{name}-{i}",
            cluster=name,
            prompt_digest=document_digest([i], 0),
            output_digest=None,
            outcome=Scored(scores={"v": value, "unread": 1.0}),
            n_output_tokens=0,
            engine="probes",
            dtype="bfloat16",
            batch="0",
            seed=0,
        )
        for name, column in values.items()
        for i, value in enumerate(column)
    )
    return _manifest_of(records), kit


def _manifest_of(records: tuple[Record, ...]) -> EvidenceRun:
    import tempfile

    bank = bank_of(bank_body(6))
    with tempfile.TemporaryDirectory() as folder:
        run = write_audit(Path(folder) / "run", bank, typical(bank))
    return run.model_copy(update={"records": records})

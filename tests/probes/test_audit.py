"""The audit of one candidate: a root beside itself is nothing, and every document and matrix has its record."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from loop.checkpoint_io import load_model
from probes.activations import FINAL, Document
from probes.audit import AuditMaterials, audit_models, audit_weights
from probes.control_directions import random_directions
from probes.directions import DirectionSet, load_directions
from probes.document_values import MIN_SHIFT
from tests.drift_world import DriftWorld

DOCUMENTS = [Document(f"d{k}", "chat" if k % 2 else "neutral", tuple(range(3, 9 + k)), 2) for k in range(5)]


@pytest.fixture
def directions(measured_world: DriftWorld) -> DirectionSet:
    path = measured_world.kit_dir / "directions.safetensors"
    return load_directions(path, parent_digest=measured_world.root_digest, d_model=32)


def materials(directions: DirectionSet, **changes: object) -> AuditMaterials:
    body = {
        "documents": DOCUMENTS,
        "directions": directions,
        "dictionaries": (),
        "norm_caps": {},
        "token_sets": {"refusal": (5, 6)},
        "controls": {0: random_directions(32, 2, seed=0), 1: random_directions(32, 2, seed=1)},
    }
    return AuditMaterials(**(body | changes))  # type: ignore[arg-type]


def test_layers_and_vectors_are_those_of_the_materials(directions: DirectionSet):
    made = materials(directions)
    assert made.layers == (0, 1, FINAL)
    for layer in (0, 1):
        usable = {one.concept for one in directions.usable if one.layer == layer}
        assert set(made.vectors[layer]) == usable | {"random0", "random1"}
    made.vectors[0]["random9"] = torch.ones(32)
    assert "random9" not in made.controls[0], "the materials stay as they are"


def test_a_root_beside_itself_has_not_moved(tiny_checkpoint: Path, directions: DirectionSet):
    model, _ = load_model(tiny_checkpoint)
    records, features = audit_models(model, model, materials(directions))
    assert [(one.item_id, one.cluster) for one in records] == [(d.doc_id, d.slice_name) for d in DOCUMENTS]
    assert features == {}
    for one in records:
        for name, value in one.scores.items():
            if name.startswith("output.entropy_") and not name.endswith("change"):
                continue  # of one model, no difference
            still = 1.0 if name.startswith(("cosine.", "cka.", "output.argmax_agreement")) else 0.0
            if name.startswith(("shift.", "token_shift.")):
                still = math.log10(MIN_SHIFT)
            assert value == pytest.approx(still, abs=1e-5), name


def test_a_candidate_that_moved_has_the_same_values_for_every_document(
    tiny_checkpoint: Path, tiny_candidate: Path, directions: DirectionSet
):
    (root, _), (candidate, _) = load_model(tiny_checkpoint), load_model(tiny_candidate)
    reports: list[tuple[str, int, int]] = []
    records, _ = audit_models(root, candidate, materials(directions), lambda *one: reports.append(one))
    assert len({frozenset(one.scores) for one in records}) == 1
    assert all(one.scores["output.kl_mean"] > 0 for one in records)
    assert reports[-1][1:] == (len(DOCUMENTS), len(DOCUMENTS))
    again, _ = audit_models(root, candidate, materials(directions, documents=DOCUMENTS[::-1]))
    for one, other in zip(records, again[::-1], strict=True):
        assert one.item_id == other.item_id
        assert one.scores == pytest.approx(other.scores, rel=1e-6, abs=1e-6), "records go by document, not by batch"


def test_weights_have_a_record_for_every_matrix_and_none_for_a_vector(
    tiny_checkpoint: Path, tiny_candidate: Path, directions: DirectionSet
):
    records = audit_weights(tiny_checkpoint, tiny_candidate, directions)
    assert len(records) == 2 * 7 + 1
    assert {one.item_id.partition(":")[0] for one in records} == {"weights"}
    assert not any("norm" in one.item_id for one in records)
    clusters = {one.item_id: one.cluster for one in records}
    assert clusters["weights:model.layers.0.self_attn.q_proj.weight"] == "weights.q_proj"

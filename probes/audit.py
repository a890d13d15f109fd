"""The drift audit of one candidate: everything that is measured, as scores of documents and of weight matrices.

One pass of both models over the same documents gives activations and outputs; the weights are read from
the files. Triggers are searched apart (:mod:`probes.triggers`), because they need training rows.

Not covered: whether what is found is unusual. A bank of harmless fine-tunes says that (guards.drift).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from probes.activations import FINAL, Document, harvest_paired
from probes.dictionaries import Dictionary
from probes.directions import DirectionSet
from probes.document_values import DocumentValues
from probes.feature_sums import SliceFeatures
from probes.outputs import OutputValues, output_head
from probes.weights import compare_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OUTPUT_TOKENS_PER_DOCUMENT = 4
"""Outputs of longer documents are compared at so many tokens: the vocabulary's projection costs the most here."""
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class AuditMaterials:
    """What every model is measured with. ``controls`` are random directions, by layer and name.

    ``token_sets`` are followed at each document's last counted token (:class:`probes.outputs.OutputValues`).
    """

    documents: Sequence[Document]
    directions: DirectionSet
    dictionaries: Sequence[Dictionary]
    norm_caps: Mapping[int, float]
    token_sets: Mapping[str, Sequence[int]]
    controls: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are read, the last hidden state among them."""
        named = {*self.directions.layers, *self.controls, *(one.layer for one in self.dictionaries)}
        return (*sorted(named), FINAL)

    @property
    def vectors(self) -> dict[int, dict[str, Tensor]]:
        """Unit vectors by layer and name: the directions that separate, and the controls."""
        found: dict[int, dict[str, Tensor]] = {layer: dict(named) for layer, named in self.controls.items()}
        for direction in self.directions.usable:
            found.setdefault(direction.layer, {})[direction.concept] = direction.vector_dim
        return found


@dataclass(frozen=True)
class Measured:
    """One record: an item, its cluster (a slice, or ``weights.<kind>``), its scores by name."""

    item_id: str
    cluster: str
    scores: dict[str, float]


@dataclass(frozen=True, eq=False)
class Audit:
    """``features`` are the changes of each dictionary's features, by dictionary and slice."""

    documents: tuple[Measured, ...]
    matrices: tuple[Measured, ...]
    features: Mapping[str, Mapping[str, SliceFeatures]]


def audit_models(
    reference: PreTrainedModel, candidate: PreTrainedModel, materials: AuditMaterials, report: Report | None = None
) -> tuple[tuple[Measured, ...], Mapping[str, Mapping[str, SliceFeatures]]]:
    """Measure all documents in both models; records in the order of the documents.

    Raises:
        ProbeError: as :func:`probes.activations.harvest_paired`, :class:`probes.document_values.DocumentValues` and
            :class:`probes.outputs.OutputValues`.
    """
    documents, layers = materials.documents, materials.layers
    values = DocumentValues(documents, layers, materials.vectors, materials.dictionaries)
    outputs = OutputValues(
        output_head(reference),
        output_head(candidate),
        token_sets=materials.token_sets,
        tokens_per_document=OUTPUT_TOKENS_PER_DOCUMENT,
    )
    scores: dict[int, dict[str, float]] = {}
    for batch in harvest_paired(reference, candidate, documents, layers, norm_caps=materials.norm_caps):
        inside, outside = values.measure(batch), outputs.measure(batch)
        scores |= {index: inside[index] | outside[index] for index in batch.doc_indices}
        if report is not None:
            report("comparing activations", len(scores), len(documents))
    records = tuple(
        Measured(document.doc_id, document.slice_name, scores[index]) for index, document in enumerate(documents)
    )
    return records, {one.name: values.features(one.name) for one in materials.dictionaries}


def weight_directions(directions: DirectionSet) -> dict[str, Tensor]:
    """By concept, the directions that weights are compared along: those of the middle layer, for all matrices alike."""
    middle = directions.layers[len(directions.layers) // 2]
    return {one.concept: one.vector_dim for one in directions.usable if one.layer == middle}


def audit_weights(
    reference_dir: Path, candidate_dir: Path, directions: DirectionSet, report: Report | None = None
) -> tuple[Measured, ...]:
    """Measure every weight matrix; vectors (norms, biases) have no spectrum and are left out.

    Raises:
        CheckpointError, ProbeError: as :func:`probes.weights.compare_weights`.
    """
    records: list[Measured] = []
    for stats in compare_weights(reference_dir, candidate_dir, weight_directions(directions)):
        if stats.spectrum is None:
            continue
        records.append(Measured(f"weights:{stats.name}", f"weights.{stats.kind}", stats.values()))
        if report is not None:
            report("comparing weights", len(records), 0)
    return tuple(records)

"""A kit's directory: the kit, and what it measures with.

::

    kit.json                what is measured, and the digests of everything below (guards.drift.kit)
    documents.jsonl         what root and candidate read
    directions.safetensors  directions with a meaning
    NAME.safetensors        each dictionary of the kit
    prompts.json            what triggers are tried on
    bank.json               the null that was measured with it (guards.drift.bank); the kit stands in it once more
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from guards.canonical import parse_json_strict, sha256_file
from guards.drift.kit import DriftKit, document_digest
from guards.errors import EvidenceError, ProbeError
from loop.drift.kit_documents import read_documents
from loop.drift.trigger_search import TriggerPrompts, read_trigger_prompts
from loop.step import Input
from probes.audit import AuditMaterials
from probes.control_directions import random_directions
from probes.dictionaries import load_dictionary, read_dictionary
from probes.directions import load_directions

KIT_FILE, BANK_FILE = "kit.json", "bank.json"
DOCUMENTS_FILE, DIRECTIONS_FILE, PROMPTS_FILE = "documents.jsonl", "directions.safetensors", "prompts.json"
MEASUREMENT = 2
"""Goes up with every change after which the same model has other values; a kit of another number needs a new bank."""
N_CONTROLS = 8
"""Random directions per layer: as many as a layer has directions with a meaning, and a few more."""


def dictionary_file(name: str) -> str:
    """The file of a dictionary, in the kit's directory."""
    return f"{name}.safetensors"


def read_kit(path: Path) -> DriftKit:
    """Read a kit.

    Raises:
        ProbeError: ``drift.bad-kit-file``.
    """
    try:
        data = path.read_bytes()
        parse_json_strict(data, source=str(path))
        return DriftKit.model_validate_json(data, strict=True)
    except (OSError, EvidenceError, ValidationError) as error:
        raise ProbeError(
            "drift.bad-kit-file",
            f"{path} is not a kit",
            got=_why(error),
            fix="make it with stairlock bank kit",
        ) from error


def _why(error: OSError | EvidenceError | ValidationError) -> str:
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"]
    return error.message if isinstance(error, EvidenceError) else str(error.strerror)


def kit_inputs(directory: Path) -> dict[str, Input]:
    """The files that a probe step reads, by the names that :func:`load_kit` takes them by.

    Raises:
        ProbeError: ``drift.bad-kit-file``, ``drift.no-kit-file``.
    """
    kit = read_kit(directory / KIT_FILE)
    names = {
        "kit": KIT_FILE,
        "documents": DOCUMENTS_FILE,
        "directions": DIRECTIONS_FILE,
        "prompts": PROMPTS_FILE,
        **{f"dictionary:{name}": dictionary_file(name) for name in kit.dictionaries},
    }
    inputs = {}
    for name, file in names.items():
        path = directory / file
        if not path.is_file():
            raise ProbeError(
                "drift.no-kit-file",
                f"the kit in {directory} lacks a file",
                got=f"no {file}",
                fix="restore the directory as it was published",
            )
        inputs[name] = Input.of_file(path)
    return inputs


@dataclass(frozen=True)
class LoadedKit:
    """A kit and what it measures with."""

    kit: DriftKit
    materials: AuditMaterials
    prompts: TriggerPrompts


def load_kit(inputs: Mapping[str, Input], d_model: int) -> LoadedKit:
    """Read a kit and its files; every file must be the one that the kit names.

    Raises:
        ProbeError: ``drift.bad-kit-file``, ``drift.other-kit-file``; as the readers of documents, directions and
            dictionaries.
    """
    paths = {name: item.path for name, item in inputs.items()}
    kit = read_kit(paths["kit"])
    for name, digest in (kit.directions | kit.prompts).items():
        _require(paths[name], digest)
    return LoadedKit(kit, load_materials(kit, paths, d_model), read_trigger_prompts(paths["prompts"]))


def load_materials(kit: DriftKit, paths: Mapping[str, Path], d_model: int) -> AuditMaterials:
    """What the kit measures with, from its files by name."""
    documents = read_documents(paths["documents"])
    found = {one.doc_id: document_digest(one.token_ids, one.first_counted) for one in documents}
    declared = {doc_id: one.sha256 for doc_id, one in kit.documents.items()}
    if found != declared:
        other = sorted({*found.items()} ^ {*declared.items()})[0][0]
        raise ProbeError(
            "drift.other-kit-file",
            f"{paths['documents']} does not hold the kit's documents",
            got=f"{len(found)} documents; the first that differs is {other!r}",
            expected=f"{len(declared)} documents",
            fix="restore the directory as it was published",
        )
    dictionaries = []
    for name, digest in kit.dictionaries.items():
        path = paths[f"dictionary:{name}"]
        _require(path, digest)
        layer = read_dictionary(path).layer
        dictionaries.append(load_dictionary(path, parent_digest=kit.parent_digest, layer=layer, d_in=d_model))
    directions = load_directions(
        paths["directions"], parent_digest=kit.parent_digest, d_model=d_model, contrasts=dict(kit.contrasts)
    )
    return AuditMaterials(
        documents=documents,
        directions=directions,
        dictionaries=dictionaries,
        norm_caps={int(layer): cap for layer, cap in kit.norm_caps.items()},
        token_sets=kit.token_sets,
        controls={layer: random_directions(d_model, N_CONTROLS, seed=layer) for layer in directions.layers},
    )


def _require(path: Path, digest: str) -> None:
    got = sha256_file(path)
    if got != digest:
        raise ProbeError(
            "drift.other-kit-file",
            f"{path} is not the file that the kit names",
            got=got,
            expected=digest,
            fix="restore the directory as it was published",
        )

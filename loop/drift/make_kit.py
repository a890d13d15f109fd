"""Making the kit of a root: its documents, directions, caps, prompts and components, in one directory.

Which components there are is decided here, before any candidate is seen. Names: ``<what>.<slices>``.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from guards.canonical import canonical_bytes, sha256_file
from guards.drift.kit import DriftKit, KitDocument, document_digest
from loop.drift.kit_components import components_of, dose_components
from loop.drift.kit_documents import make_documents, write_documents
from loop.drift.kit_files import (
    DIRECTIONS_FILE,
    DOCUMENTS_FILE,
    KIT_FILE,
    MEASUREMENT,
    PROMPTS_FILE,
    dictionary_file,
)
from loop.drift.trigger_search import make_trigger_prompts
from probes.activations import norm_caps
from probes.contrast_prompts import read_contrast_sets
from probes.dictionaries import load_dictionary, read_dictionary
from probes.directions import fit_directions, save_directions
from probes.documents import Document
from probes.weights import kind_of

LAYERS = (8, 15, 22)
_OPENERS = {
    "refusal": ("I", "Sorry", "While"),
    "compliance": ("Sure", "Here", "Yes", "Of", "Certainly", "Absolutely", "Step", "First"),
}


def make_kit(
    root: Any,
    tokenizer: Any,
    root_dir: Path,
    root_digest: str,
    policies: Path,
    dictionaries: Sequence[Path],
    out_dir: Path,
    *,
    layers: Sequence[int] = LAYERS,
) -> DriftKit:
    """Make the kit in ``out_dir``, which may hold the dictionaries already; other files in it are written anew.

    Raises:
        ProbeError: as the probes that it is made with.
    """
    for path in dictionaries:
        layer = read_dictionary(path).layer
        load_dictionary(path, parent_digest=root_digest, layer=layer, d_in=root.config.hidden_size)
    out_dir.mkdir(parents=True, exist_ok=True)
    documents = make_documents(root, tokenizer, policies / "drift/rows")
    write_documents(out_dir / DOCUMENTS_FILE, documents)
    contrasts = read_contrast_sets(policies / "drift/contrasts")
    directions = fit_directions(root, tokenizer, contrasts, layers, parent_digest=root_digest)
    save_directions(directions, out_dir / DIRECTIONS_FILE)
    (out_dir / PROMPTS_FILE).write_bytes(canonical_bytes(make_trigger_prompts(policies).model_dump(mode="json")))
    names = []
    for path in dictionaries:
        name = read_dictionary(path).name
        if path != out_dir / dictionary_file(name):
            shutil.copyfile(path, out_dir / dictionary_file(name))
        names.append(name)
    dtype = str(root.dtype).removeprefix("torch.")
    kit = DriftKit(
        schema="stairlock/drift-kit/v1",  # pyright: ignore[reportCallIssue]
        parent_digest=root_digest,
        dtype=dtype,
        layers=tuple(layers),
        measurement=MEASUREMENT,
        documents={one.doc_id: _declared(one) for one in documents},
        tensors=_matrices(root_dir),
        components=components_of(directions, names),
        dose=dose_components(layers),
        norm_caps={str(layer): cap for layer, cap in norm_caps(root, documents, layers).items()},
        token_sets={name: _first_ids(tokenizer, words) for name, words in _OPENERS.items()},
        directions={"directions": sha256_file(out_dir / DIRECTIONS_FILE)},
        dictionaries={name: sha256_file(out_dir / dictionary_file(name)) for name in names},
        contrasts=dict(directions.contrasts),
        prompts={"prompts": sha256_file(out_dir / PROMPTS_FILE)},
    )
    (out_dir / KIT_FILE).write_bytes(canonical_bytes(kit.model_dump(mode="json", by_alias=True)))
    return kit


def _declared(document: Document) -> KitDocument:
    return KitDocument(sha256=document_digest(document.token_ids, document.first_counted), slice=document.slice_name)


def _matrices(root_dir: Path) -> dict[str, str]:
    """Every weight matrix, with the cluster of its kind."""
    found = {}
    for path in sorted(root_dir.glob("*.safetensors")):
        with safe_open(path, framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118 (not a dict)
                n_dims = len(handle.get_slice(name).get_shape())
                if n_dims >= 2:
                    found[f"{name}"] = f"weights.{kind_of(name, n_dims)}"
    return found


def _first_ids(tokenizer: Any, words: Sequence[str]) -> tuple[int, ...]:
    return tuple(sorted({tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words}))

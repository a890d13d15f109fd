"""Making a root's dictionaries: text sampled from it, activations of one layer, one training per seed.

Resumable throughout: text is appended in blocks, activations in batches, and a training keeps its state.
What is shipped is measured on documents that were held back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from guards.canonical import digest_of, sha256_file
from guards.evidence import Digest, Frozen
from loop.drift.kit_documents import read_documents
from loop.drift.kit_files import dictionary_file
from loop.drift.sampled_text import own_prompts, sample_text
from probes.activation_store import MANIFEST_FILE as STORE_MANIFEST
from probes.activation_store import ActivationStore, ActivationStoreWriter, StoreIdentity, append_activations
from probes.activations import ActivationBatch, Document, harvest, norm_caps
from probes.dictionaries import Dictionary, save_dictionary
from probes.dictionary_quality import MeasuredDictionary, measure_quality, nearest_features, share_found_again
from probes.dictionary_splice import loss_recovered
from probes.dictionary_training import DictionaryRecipe, train_dictionary

_HELD_BACK_EVERY = 20
_N_CAP_DOCUMENTS = 256
_N_SPLICED = 64
_TWIN_COSINE = 0.7
Report = Callable[[str, int, int], None]


class DictionaryFigures(Frozen):
    """Quality on held-back text of the root. ``share_found_again`` is that of live features with a twin (decoder
    cosine above 0.7) among the other seed's live ones."""

    name: str
    sha256: Digest
    layer: int
    seed: int
    n_training_tokens: int
    n_store_tokens: int
    n_held_back_tokens: int
    fvu: float
    l0: float
    share_dead: float
    loss_recovered: float
    share_found_again: float | None


def make_dictionaries(
    root: Any,
    tokenizer: Any,
    root_digest: str,
    policies: Path,
    work_dir: Path,
    out_dir: Path,
    *,
    layer: int,
    seeds: Sequence[int],
    n_tokens: int,
    recipe: DictionaryRecipe,
    report: Report,
) -> list[DictionaryFigures]:
    """Make one dictionary per seed in ``out_dir``; what lies in ``work_dir`` already is gone on with.

    Raises:
        ProbeError: as the probes that it is made with; ``dictionary.no-sae-lens``.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    out_dir.mkdir(parents=True, exist_ok=True)
    text = work_dir / "sampled.jsonl"
    sample_text(root, tokenizer, own_prompts(policies), text, n_tokens=n_tokens, seed=0, report=report)
    documents = read_documents(text)
    kept = [one for number, one in enumerate(documents) if number % _HELD_BACK_EVERY]
    held_back = documents[::_HELD_BACK_EVERY]
    cap = norm_caps(root, kept[:_N_CAP_DOCUMENTS], (layer,))[layer]
    store = _harvested(root, root_digest, text, kept, layer, cap, work_dir / f"layer-{layer}", report)
    measured: list[tuple[Dictionary, str, MeasuredDictionary]] = []
    for seed in seeds:
        name = f"layer{layer}-seed{seed}"
        one = train_dictionary(
            store,
            recipe.model_copy(update={"seed": seed}),
            name=name,
            checkpoint_dir=work_dir / f"training-{name}",
            progress=lambda at, name=name: report(f"training {name}", at.step, at.n_steps),
        )
        digest = save_dictionary(one, out_dir / dictionary_file(name))
        acts = (_capped(batch, layer, cap) for batch in harvest(root, held_back, (layer,)))
        measured.append((one, digest, measure_quality(one, acts)))
    return [
        _figures(root, held_back, cap, store, recipe, mine, _other(measured, number))
        for number, mine in enumerate(measured)
    ]


def _harvested(
    root: Any,
    root_digest: str,
    text: Path,
    documents: Sequence[Document],
    layer: int,
    cap: float,
    directory: Path,
    report: Report,
) -> ActivationStore:
    if (directory / STORE_MANIFEST).exists():
        return ActivationStore.open(directory)
    identity = StoreIdentity(
        kind="activations",
        parent_digest=root_digest,
        source_digest=digest_of({"text": sha256_file(text), "cap": f"{cap:.6g}"}),
        layer=layer,
        dim=root.config.hidden_size,
    )
    with ActivationStoreWriter(directory, identity) as writer:
        batches = harvest(root, documents, (layer,))
        todo = itertools.islice(batches, writer.cursor, None)
        append_activations(writer, _reported(todo, len(documents), report), layer, norm_cap=cap)
        writer.finish()
    return ActivationStore.open(directory)


def _reported(batches: Iterator[ActivationBatch], n_documents: int, report: Report) -> Iterator[ActivationBatch]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.doc_indices)
        report("reading activations", done, n_documents)


def _capped(batch: ActivationBatch, layer: int, cap: float) -> Any:
    acts_tok_dim = batch.acts_layer_row_tok_feat[layer][batch.counted_row_tok].float()
    return acts_tok_dim[acts_tok_dim.norm(dim=1) <= cap]


_Measured = tuple[Dictionary, str, MeasuredDictionary]


def _other(measured: Sequence[_Measured], number: int) -> _Measured | None:
    return measured[(number + 1) % len(measured)] if len(measured) > 1 else None


def _figures(
    root: Any,
    held_back: Sequence[Document],
    cap: float,
    store: ActivationStore,
    recipe: DictionaryRecipe,
    mine: _Measured,
    other: _Measured | None,
) -> DictionaryFigures:
    dictionary, digest, found = mine
    again = None
    if other is not None:
        nearest = nearest_features(dictionary, other[0], other_alive_feat=other[2].alive_feat)
        again = share_found_again(found, nearest, least_cosine=_TWIN_COSINE)
    recovered = loss_recovered(root, held_back[:_N_SPLICED], dictionary, norm_cap=cap)
    quality = found.quality
    return DictionaryFigures(
        name=dictionary.name,
        sha256=digest,
        layer=dictionary.layer,
        seed=dictionary.seed,
        n_training_tokens=recipe.n_training_tokens,
        n_store_tokens=store.n_tokens,
        n_held_back_tokens=quality.n_tokens,
        fvu=quality.fvu,
        l0=quality.l0,
        share_dead=quality.share_dead,
        loss_recovered=recovered.share,
        share_found_again=again,
    )

"""Activations of one model, or of two on the same tokens, streamed: memory does not grow with the documents.

Layer l is the output of decoder layer l, counted from 0 (the residual stream after block l); :data:`FINAL` is the
base model's last hidden state. Activations keep the model's dtype: whoever sums them up must widen them first.

A few tokens of a transformer have norms far above all others ("massive activations", Sun et al. 2024,
arXiv:2402.17762; attention sinks, Xiao et al. 2023, arXiv:2309.17453), mostly the first one of a document. They
would rule every mean and every reconstruction error, so :func:`norm_caps` finds where they begin in the reference
and :func:`harvest_paired` leaves them out, for both models alike.

Not covered: a candidate that hides a change in exactly the tokens that are left out. ``n_dropped`` says how many
these are; they depend on the reference and the documents alone, so a candidate cannot choose them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guards.errors import ProbeError
from probes.documents import Document, TokenBatch, plan_batches
from probes.layer_reader import FINAL, LayerReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "FINAL",
    "MAX_ROWS",
    "MAX_TOKENS",
    "ActivationBatch",
    "Document",
    "PairedBatch",
    "harvest",
    "harvest_paired",
    "norm_caps",
]

MAX_ROWS = 32
MAX_TOKENS = 2048  # with 4096, what the C library's heap keeps of freed tensors is several times as much
_MAX_NORMS = 2**17


@dataclass(frozen=True)
class ActivationBatch:
    """Some documents, one a row. ``doc_indices`` are their places among the documents that were given.

    ``counted_row_tok`` is False on padding and on each document's context; only where it is True do activations
    mean anything. ``acts_layer_row_tok_feat`` maps a layer to ``[row, token, feature]``.
    """

    doc_indices: tuple[int, ...]
    counted_row_tok: Tensor
    acts_layer_row_tok_feat: dict[int, Tensor]


@dataclass(frozen=True)
class PairedBatch:
    """The same documents through two models; ``reference`` and ``candidate`` map a layer to ``[row, token, feature]``.

    ``counted_row_tok`` is False also on the ``n_dropped`` tokens of this batch that would have counted but for an
    extreme norm in the reference.
    """

    doc_indices: tuple[int, ...]
    counted_row_tok: Tensor
    reference: dict[int, Tensor]
    candidate: dict[int, Tensor]
    token_ids_row_tok: Tensor
    n_dropped: int


def harvest(
    model: PreTrainedModel,
    documents: Iterable[Document],
    layers: Sequence[int],
    *,
    max_rows: int = MAX_ROWS,
    max_tokens: int = MAX_TOKENS,
) -> Iterator[ActivationBatch]:
    """Activations of ``layers``, all from one pass that ends after the last of them.

    The model is checked at once, each document when it is read. Batches come by length, not in the documents'
    order: go by ``doc_indices``.

    Raises:
        ProbeError: the rules of :class:`probes.layer_reader.LayerReader` and
            :func:`probes.documents.plan_batches`; ``activations.batch-limits``.
    """
    reader = LayerReader(model, layers)
    batches = plan_batches(documents, reader.limits(max_rows, max_tokens), reader.device)
    return (ActivationBatch(batch.doc_indices, batch.counted_row_tok, reader.read(batch)) for batch in batches)


def harvest_paired(
    reference: PreTrainedModel,
    candidate: PreTrainedModel,
    documents: Iterable[Document],
    layers: Sequence[int],
    *,
    norm_caps: Mapping[int, float] | None,
    max_rows: int = MAX_ROWS,
    max_tokens: int = MAX_TOKENS,
) -> Iterator[PairedBatch]:
    """Activations of ``layers`` of both models, on the same batches.

    A token whose norm in the reference is above the cap of any layer of ``norm_caps`` does not count, at any layer.
    None keeps them all.

    Raises:
        ProbeError: as :func:`harvest`; ``activations.architectures-differ``, ``activations.layers-differ``,
            ``activations.widths-differ``, ``activations.vocabularies-differ``, ``activations.dtypes-differ``,
            ``activations.devices-differ``; ``activations.bad-cap``; ``activations.all-tokens-extreme`` (a document
            of which no token is left).
    """
    first = LayerReader(reference, layers, role="reference")
    second = LayerReader(candidate, layers, role="candidate")
    _refuse_different_models(first, second)
    caps = dict(norm_caps or {})
    _check_caps(caps, first.layers)
    batches = plan_batches(documents, first.limits(max_rows, max_tokens), first.device)
    return (_paired(first, second, batch, caps) for batch in batches)


def norm_caps(
    model: PreTrainedModel,
    documents: Iterable[Document],
    layers: Sequence[int],
    *,
    factor: float = 6.0,
    max_rows: int = MAX_ROWS,
    max_tokens: int = MAX_TOKENS,
) -> dict[int, float]:
    """Per layer: ``factor`` times the median L2 norm of the counted tokens, above which a token is extreme.

    The median is exact up to 131,072 tokens. Beyond, it is that of every 2nd, 4th, ... token in the order of the
    batches, so that at least 65,536 norms (0.25 MB a layer) always stand behind it; no chance is involved.

    Raises:
        ProbeError: as :func:`harvest`; ``activations.bad-cap`` (a factor that is not above 1, or a median of zero).
    """
    if not (math.isfinite(factor) and factor > 1.0):
        raise ProbeError("activations.bad-cap", "not a factor for extreme norms", got=str(factor), expected="above 1")
    samples = {layer: _NormSample(_MAX_NORMS) for layer in layers}
    for batch in harvest(model, documents, layers, max_rows=max_rows, max_tokens=max_tokens):
        for layer, acts_row_tok_feat in batch.acts_layer_row_tok_feat.items():
            samples[layer].add(_token_norms(acts_row_tok_feat)[batch.counted_row_tok].cpu())
    caps = {layer: factor * sample.median() for layer, sample in samples.items()}
    _check_caps(caps, tuple(caps))
    return caps


class _NormSample:
    """Evenly spaced norms of a stream: every ``stride``-th, where the stride doubles when there are too many."""

    def __init__(self, max_kept: int) -> None:
        self._max_kept = max_kept
        self._parts: list[Tensor] = []
        self._stride = 1
        self._n_kept = 0
        self._n_seen = 0

    def add(self, norms: Tensor) -> None:
        taken = norms[-self._n_seen % self._stride :: self._stride].clone()
        self._n_seen += len(norms)
        self._parts.append(taken)
        self._n_kept += len(taken)
        while self._n_kept > self._max_kept:
            thinned = torch.cat(self._parts)[::2].clone()
            self._parts, self._n_kept = [thinned], len(thinned)
            self._stride *= 2

    def median(self) -> float:
        """The lower one of the two in the middle."""
        return float(torch.cat(self._parts).median())


def _paired(first: LayerReader, second: LayerReader, batch: TokenBatch, caps: Mapping[int, float]) -> PairedBatch:
    reference, candidate = first.read(batch), second.read(batch)
    kept_row_tok = batch.counted_row_tok
    for layer, cap in caps.items():
        kept_row_tok = kept_row_tok & (_token_norms(reference[layer]) <= cap)
    emptied_row = ~kept_row_tok.any(dim=-1)
    if bool(emptied_row.any()):
        raise ProbeError(
            "activations.all-tokens-extreme",
            f"no token of document {batch.doc_ids[int(emptied_row.nonzero()[0])]!r} has a norm below the caps",
            got=f"caps {dict(caps)}",
            fix="leave the document out, or take the caps from documents that are like it",
        )
    n_dropped = int(batch.counted_row_tok.sum() - kept_row_tok.sum())
    return PairedBatch(batch.doc_indices, kept_row_tok, reference, candidate, batch.token_ids_row_tok, n_dropped)


def _token_norms(acts_row_tok_feat: Tensor) -> Tensor:
    """float32, for bfloat16 has too few digits to add up squares."""
    return torch.linalg.vector_norm(acts_row_tok_feat, dim=-1, dtype=torch.float32)


def _check_caps(caps: Mapping[int, float], layers: tuple[int, ...]) -> None:
    for layer, cap in caps.items():
        if layer not in layers:
            raise ProbeError(
                "activations.bad-cap",
                "a norm cap for a layer that is not read: which tokens count would depend on what was asked for",
                got=f"layer {layer}",
                expected=f"one of {', '.join(map(str, layers))}",
                fix="read that layer too",
            )
        if not (math.isfinite(cap) and cap > 0.0):
            raise ProbeError(
                "activations.bad-cap", f"not a norm cap for layer {layer}", got=str(cap), expected="above zero"
            )


def _refuse_different_models(first: LayerReader, second: LayerReader) -> None:
    for rule, what, ours, theirs in (
        ("architectures", "architectures", first.architecture, second.architecture),
        ("layers", "numbers of layers", first.n_layers, second.n_layers),
        ("widths", "hidden widths", first.width, second.width),
        ("vocabularies", "vocabulary sizes", first.n_vocabulary, second.n_vocabulary),
        ("dtypes", "dtypes", first.dtype, second.dtype),
        ("devices", "devices", first.device, second.device),
    ):
        if ours != theirs:
            raise ProbeError(
                f"activations.{rule}-differ",
                f"reference and candidate have different {what}, so their activations cannot be compared",
                got=f"candidate {theirs}",
                expected=f"as the reference: {ours}",
            )

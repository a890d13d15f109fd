"""Documents of token ids, and the batches in which a model reads them.

Batches are formed from the lengths alone: documents are taken in windows, sorted by length inside a window, and
cut into batches, longest first. The same documents and limits always give the same batches, so two models that are
compared meet the same ones. Only one window is held, so documents may come from a generator of any length.

Batches have few different lengths, so that memory does not grow with the documents by what is kept for each length.
Padding is on the right: token i has position i, as every architecture assumes by itself, and in a causal model no
real token ever attends to padding.

Not covered: equality across batch plans. In bfloat16 another plan rounds otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from guards.errors import ProbeError

_WINDOW_DOCUMENTS = 4096
_WINDOW_BATCHES = 64
"""A window also ends with this many batches' worth of tokens: long documents would make it large otherwise."""


@dataclass(frozen=True)
class Document:
    """A text as the model reads it. Tokens before ``first_counted`` (BOS, a chat header) are context only."""

    doc_id: str
    slice_name: str
    token_ids: tuple[int, ...]
    first_counted: int


@dataclass(frozen=True)
class TokenBatch:
    """Documents that are read together, one a row, padded on the right.

    ``doc_indices`` are places in the documents that were given. ``present_row_tok`` is False on padding only;
    ``counted_row_tok`` also on each document's context.
    """

    doc_indices: tuple[int, ...]
    doc_ids: tuple[str, ...]
    token_ids_row_tok: Tensor
    present_row_tok: Tensor
    counted_row_tok: Tensor


@dataclass(frozen=True)
class BatchLimits:
    """``max_tokens`` counts padding too; a single document may exceed it and is then read alone.

    ``n_vocabulary`` and ``context_tokens`` (None: unlimited) are what the model can read at all.
    """

    max_rows: int
    max_tokens: int
    n_vocabulary: int
    context_tokens: int | None

    def __post_init__(self) -> None:
        if self.max_rows < 1 or self.max_tokens < 1:
            raise ProbeError(
                "activations.batch-limits",
                "a batch holds at least one row and one token",
                got=f"max_rows {self.max_rows}, max_tokens {self.max_tokens}",
            )


def plan_batches(documents: Iterable[Document], limits: BatchLimits, device: torch.device) -> Iterator[TokenBatch]:
    """The batches of ``documents``, on ``device``, read as they are asked for.

    Raises:
        ProbeError: ``activations.no-documents``, ``activations.empty-document``, ``activations.nothing-counted``,
            ``activations.unknown-token``, ``activations.document-too-long``.
    """
    n_documents = 0
    for window in _windows(documents, limits):
        n_documents += len(window)
        window.sort(key=lambda entry: -len(entry[1].token_ids))  # stable: equal lengths keep their order
        start = 0
        while start < len(window):
            n_columns = _rounded_up(len(window[start][1].token_ids), limits)
            n_rows = max(1, min(limits.max_rows, limits.max_tokens // n_columns))
            yield _padded(window[start : start + n_rows], n_columns, device)
            start += n_rows
    if n_documents == 0:
        raise ProbeError(
            "activations.no-documents",
            "there are no documents to read",
            expected="at least one document",
            fix="check the file or the slice that the documents come from",
        )


def _rounded_up(n_tokens: int, limits: BatchLimits) -> int:
    """To a multiple of 8, and to one of eight lengths between two powers of 2, within the model's context.

    Kernels are compiled for each shape of a batch and kept (oneDNN for bfloat16 on the CPU keeps about a thousand):
    batches of every length would let memory grow by hundreds of MB with the number of documents.
    """
    step = max(8, 1 << (n_tokens - 1).bit_length() >> 4)
    rounded = -(-n_tokens // step) * step
    return rounded if limits.context_tokens is None else min(rounded, limits.context_tokens)


def _windows(documents: Iterable[Document], limits: BatchLimits) -> Iterator[list[tuple[int, Document]]]:
    window: list[tuple[int, Document]] = []
    n_tokens = 0
    for index, document in enumerate(documents):
        _check_document(document, limits)
        window.append((index, document))
        n_tokens += len(document.token_ids)
        if len(window) == _WINDOW_DOCUMENTS or n_tokens >= _WINDOW_BATCHES * limits.max_tokens:
            yield window
            window, n_tokens = [], 0
    if window:
        yield window


def _check_document(document: Document, limits: BatchLimits) -> None:
    name, n_tokens = f"document {document.doc_id!r}", len(document.token_ids)
    if n_tokens == 0:
        raise ProbeError("activations.empty-document", f"{name} has no tokens", fix="leave it out of the documents")
    if not 0 <= document.first_counted < n_tokens:
        raise ProbeError(
            "activations.nothing-counted",
            f"{name} has no token that counts",
            got=f"first_counted {document.first_counted} of {n_tokens} tokens",
            expected=f"0 to {n_tokens - 1}",
            fix="a document must be longer than its BOS or chat header",
        )
    lowest, highest = min(document.token_ids), max(document.token_ids)
    if lowest < 0 or highest >= limits.n_vocabulary:
        raise ProbeError(
            "activations.unknown-token",
            f"{name} holds a token id that the model has no embedding for",
            got=f"{lowest if lowest < 0 else highest}",
            expected=f"0 to {limits.n_vocabulary - 1}",
            fix="make the documents again with this model's tokenizer",
        )
    if limits.context_tokens is not None and n_tokens > limits.context_tokens:
        raise ProbeError(
            "activations.document-too-long",
            f"{name} is longer than the model's context",
            got=f"{n_tokens} tokens",
            expected=f"at most {limits.context_tokens}",
            fix="cut it, or split it into several documents",
        )


def _padded(entries: list[tuple[int, Document]], n_columns: int, device: torch.device) -> TokenBatch:
    documents = [document for _, document in entries]
    # Padding repeats the document's last token: a masked token has no weight, but zero times NaN is NaN, and so a
    # document would depend on the embedding of a token that it does not hold.
    rows = [ids + ids[-1:] * (n_columns - len(ids)) for ids in (document.token_ids for document in documents)]
    column = torch.arange(n_columns)
    end_row = torch.tensor([[len(document.token_ids)] for document in documents])
    first_row = torch.tensor([[document.first_counted] for document in documents])
    present_row_tok = column < end_row
    return TokenBatch(
        doc_indices=tuple(index for index, _ in entries),
        doc_ids=tuple(document.doc_id for document in documents),
        token_ids_row_tok=torch.tensor(rows, dtype=torch.int64).to(device),
        present_row_tok=present_row_tok.to(device),
        counted_row_tok=(present_row_tok & (column >= first_row)).to(device),
    )

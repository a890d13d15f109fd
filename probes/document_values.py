"""What changed inside, per document: projections on directions with a meaning, norms, dictionary features.

A document's tokens are no independent observations, so everything is first brought together per
document, over the tokens that count. All differences are candidate minus reference.

Not covered: tokens that do not count (context, extreme norms; see :mod:`probes.activations`);
whether a difference is unusual (the bank of harmless fine-tunes says that).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guards.errors import ProbeError
from probes.activations import FINAL, PairedBatch
from probes.dictionaries import Dictionary
from probes.documents import Document
from probes.feature_sums import FeatureSums, SliceFeatures

MIN_SHIFT = 1e-6
"""A relative change smaller than this, or none at all, counts as this large in logarithms."""

CHUNK_TOKENS = 1024
_UNIT_TOLERANCE = 1e-3


class DocumentValues:
    """Measures batches of activations, and sums up the features' changes per slice.

    ``documents`` are those that were given to :func:`probes.activations.harvest_paired`; ``directions`` are
    unit vectors ``[dim]`` by layer and name. Everything is float32 on the CPU, sums over documents float64.

    Raises:
        ProbeError: ``drift.missing-layer``, ``drift.bad-direction``, ``drift.same-name``.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        layers: Sequence[int],
        directions: Mapping[int, Mapping[str, Tensor]],
        dictionaries: Sequence[Dictionary] = (),
        *,
        chunk_tokens: int = CHUNK_TOKENS,
    ) -> None:
        for layer in [*directions, *(dictionary.layer for dictionary in dictionaries)]:
            if layer not in layers:
                raise _missing_layer(layer, layers)
        names = [dictionary.name for dictionary in dictionaries]
        if len(set(names)) != len(names):
            raise ProbeError("drift.same-name", "two dictionaries have the same name", got=str(sorted(names)))
        self._documents = documents
        self._layers = tuple(layers)
        self._directions = {layer: _stacked(layer, named) for layer, named in directions.items() if named}
        self._dictionaries = {dictionary.name: dictionary.to("cpu") for dictionary in dictionaries}
        self._chunk_tokens = chunk_tokens
        self._seen: set[int] = set()
        self._features: dict[str, dict[str, SliceFeatures]] = {name: {} for name in names}

    def measure(self, batch: PairedBatch) -> dict[int, dict[str, float]]:
        """Values by document index, all finite. L is the layer (``final`` for the last hidden state).

        Per layer: ``proj.<direction>.L`` and ``last.<direction>.L`` (the difference along the direction: mean
        over the counted tokens, and at the last of them), ``shift.L`` (log10 of the norm of the mean difference
        over that of the reference's mean), ``token_shift.L`` (log10 of the mean over tokens of the difference's
        norm over the reference's), ``cosine.L`` (between the two models' means), ``cka.L`` (linear centred kernel
        alignment of the document's tokens, Kornblith et al. 2019, arXiv:1905.00414; 1 for a single token).

        Per dictionary: ``firing_l1``, ``firing_l2`` (norms over features of the change of the firing rate),
        ``activation_l2``, ``activation_max`` (the same of the change of the mean value), and
        ``fvu_reference``, ``fvu_candidate`` (error of the reconstruction over the squared distance to the
        decoder's bias) and ``fvu_log_ratio`` (log10, candidate over reference), each with ``.<dictionary>``. A
        dictionary of differences reads the difference itself, against no feature at all, and has no FVU.

        Raises:
            ProbeError: ``drift.missing-layer``, ``drift.unknown-document``, ``drift.repeated-document``,
                ``drift.nothing-counted``, ``drift.other-width``, ``drift.not-finite``;
                ``dictionary.other-width``. Nothing of the batch is then in the sums.
        """
        for side in (batch.reference, batch.candidate):
            for layer in self._layers:
                if layer not in side:
                    raise _missing_layer(layer, tuple(side))
        self._check_documents(batch)
        columns: dict[str, Tensor] = {}
        by_layer = {layer: self._tokens(batch, layer) for layer in self._layers}
        for layer, pair in by_layer.items():
            columns |= self._layer_columns(layer, pair)
        sums_of: dict[str, FeatureSums] = {}
        for name, dictionary in self._dictionaries.items():
            sums, found = _dictionary_columns(dictionary, by_layer[dictionary.layer], self._chunk_tokens)
            sums_of[name] = sums
            columns |= {f"{value}.{name}": column for value, column in found.items()}
        self._check_columns(batch, columns)
        self._remember(batch, sums_of)
        listed = {name: column.tolist() for name, column in columns.items()}
        return {doc: {name: listed[name][row] for name in listed} for row, doc in enumerate(batch.doc_indices)}

    def features(self, dictionary: str) -> dict[str, SliceFeatures]:
        """Per slice, what has been summed up so far for one dictionary."""
        return dict(self._features[dictionary])

    def _check_documents(self, batch: PairedBatch) -> None:
        repeated = [doc for doc in batch.doc_indices if doc in self._seen]
        if repeated or len(set(batch.doc_indices)) != len(batch.doc_indices):
            raise ProbeError(
                "drift.repeated-document",
                "a document was measured before; it would count twice",
                got=str(repeated or list(batch.doc_indices)),
            )
        unknown = [doc for doc in batch.doc_indices if not 0 <= doc < len(self._documents)]
        if unknown:
            raise ProbeError(
                "drift.unknown-document",
                "a batch of other documents",
                got=str(unknown),
                expected=f"0 to {len(self._documents) - 1}",
            )
        uncounted = (~batch.counted_row_tok.any(dim=1)).nonzero().flatten().tolist()
        if uncounted:
            doc_id = self._documents[batch.doc_indices[uncounted[0]]].doc_id
            raise ProbeError("drift.nothing-counted", f"document {doc_id!r} has no counted token")

    def _tokens(self, batch: PairedBatch, layer: int) -> _TokenPair:
        counted = batch.counted_row_tok.cpu()
        rows, tokens = counted.nonzero(as_tuple=True)
        reference, candidate = (
            side[layer][rows.to(side[layer].device), tokens.to(side[layer].device)].float().cpu()
            for side in (batch.reference, batch.candidate)
        )
        if reference.shape != candidate.shape:
            raise ProbeError(
                "drift.other-width",
                f"layer {layer}: reference and candidate have activations of different widths",
                got=str(candidate.shape[-1]),
                expected=str(reference.shape[-1]),
            )
        for side, acts in (("reference", reference), ("candidate", candidate)):
            bad = ~torch.isfinite(acts).all(dim=1)
            if bool(bad.any()):
                document = self._documents[batch.doc_indices[int(rows[bad][0])]]
                raise _not_finite(document, f"the {side}'s activations at layer {layer}")
        n_row = counted.sum(dim=1)
        return _TokenPair(rows, n_row, n_row.cumsum(dim=0) - 1, reference, candidate)

    def _layer_columns(self, layer: int, pair: _TokenPair) -> dict[str, Tensor]:
        label = _label(layer)
        difference = pair.candidate_tok_dim - pair.reference_tok_dim
        mean_difference = pair.mean(difference)
        mean_reference = pair.mean(pair.reference_tok_dim)
        mean_candidate = mean_reference + mean_difference
        relative = difference.norm(dim=1) / pair.reference_tok_dim.norm(dim=1)
        columns = {
            f"shift.{label}": _log10(mean_difference.norm(dim=1) / mean_reference.norm(dim=1)),
            f"token_shift.{label}": _log10(pair.mean(relative.unsqueeze(1)).squeeze(1)),
            f"cosine.{label}": torch.nn.functional.cosine_similarity(mean_reference, mean_candidate, dim=1),
            f"cka.{label}": _linear_cka(pair),
        }
        if layer not in self._directions:
            return columns
        names, directions = self._directions[layer]
        if directions.shape[1] != difference.shape[1]:
            raise ProbeError(
                "drift.other-width",
                f"layer {layer}: directions of another width than the activations",
                got=str(directions.shape[1]),
                expected=str(difference.shape[1]),
            )
        mean_along = mean_difference @ directions.T
        last_along = difference[pair.last_tok_row].double() @ directions.T
        for index, name in enumerate(names):
            columns[f"proj.{name}.{label}"] = mean_along[:, index]
            columns[f"last.{name}.{label}"] = last_along[:, index]
        return columns

    def _check_columns(self, batch: PairedBatch, columns: Mapping[str, Tensor]) -> None:
        for name, column in columns.items():
            bad = (~torch.isfinite(column)).nonzero().flatten().tolist()
            if bad:
                raise _not_finite(self._documents[batch.doc_indices[bad[0]]], name)

    def _remember(self, batch: PairedBatch, sums_of: Mapping[str, FeatureSums]) -> None:
        self._seen |= set(batch.doc_indices)
        slices = [self._documents[doc].slice_name for doc in batch.doc_indices]
        for slice_name in sorted(set(slices)):
            rows = torch.tensor([row for row, name in enumerate(slices) if name == slice_name])
            for name, sums in sums_of.items():
                by_slice = self._features[name]
                if slice_name not in by_slice:
                    by_slice[slice_name] = SliceFeatures(self._dictionaries[name].d_sae)
                by_slice[slice_name].add(sums, rows)


@dataclass(frozen=True, eq=False)
class _TokenPair:
    """One layer's counted tokens of a batch, sorted by row; ``last_tok_row`` is each row's last among them."""

    row_tok: Tensor
    n_row: Tensor
    last_tok_row: Tensor
    reference_tok_dim: Tensor
    candidate_tok_dim: Tensor

    def sum(self, values_tok_feat: Tensor, dtype: torch.dtype, *, begin: int = 0) -> Tensor:
        """``[row, feat]`` sums of values that begin at token ``begin``."""
        sums = torch.zeros(len(self.n_row), values_tok_feat.shape[1], dtype=dtype)
        rows = self.row_tok[begin : begin + len(values_tok_feat)]
        return sums.index_add_(0, rows, values_tok_feat.to(dtype))

    def mean(self, values_tok_feat: Tensor) -> Tensor:
        return self.sum(values_tok_feat, torch.float64) / self.n_row.unsqueeze(1)


def _linear_cka(pair: _TokenPair) -> Tensor:
    """``[row]``: ||X'Y||^2 / (||X'X|| ||Y'Y||) of each row's centred tokens, by their Gram matrices [tok, tok]."""
    found: list[Tensor] = []
    lengths = pair.n_row.tolist()
    sides = zip(pair.reference_tok_dim.split(lengths), pair.candidate_tok_dim.split(lengths), strict=True)
    for reference, candidate in sides:
        centred = [acts - acts.mean(dim=0) for acts in (reference, candidate)]
        first, second = (acts @ acts.T for acts in centred)
        scale = first.norm() * second.norm()
        # A single token, or tokens that are all alike, have no shape that could differ.
        found.append((first * second).sum() / scale if scale > 0 else torch.ones(()))
    return torch.stack(found).double()


def _dictionary_columns(
    dictionary: Dictionary, pair: _TokenPair, chunk_tokens: int
) -> tuple[FeatureSums, dict[str, Tensor]]:
    of_differences = dictionary.kind == "differences"
    n_rows = len(pair.n_row)
    fired = [torch.zeros(n_rows, dictionary.d_sae) for _ in range(2)]
    values = [torch.zeros(n_rows, dictionary.d_sae) for _ in range(2)]
    error, spread = ([torch.zeros(n_rows, 1, dtype=torch.float64) for _ in range(2)] for _ in range(2))
    for begin in range(0, len(pair.row_tok), chunk_tokens):
        chunk = slice(begin, begin + chunk_tokens)
        sides = [pair.reference_tok_dim[chunk], pair.candidate_tok_dim[chunk]]
        for side, acts in enumerate(sides):
            if of_differences and side == 0:
                continue
            read = acts - sides[0] if of_differences else acts
            features = dictionary.encode(read)
            fired[side] += pair.sum(features > 0, torch.float32, begin=begin)
            values[side] += pair.sum(features, torch.float32, begin=begin)
            if not of_differences:
                squares = (read - dictionary.decode(features)).square().sum(dim=1, keepdim=True)
                error[side] += pair.sum(squares, torch.float64, begin=begin)
                about = (read - dictionary.b_dec_dim).square().sum(dim=1, keepdim=True)
                spread[side] += pair.sum(about, torch.float64, begin=begin)
    sums = FeatureSums(pair.n_row, fired[0], fired[1], values[0], values[1])
    rate_change, value_change = sums.rate_change_doc_feat(), sums.value_change_doc_feat()
    columns = {
        "firing_l1": rate_change.abs().sum(dim=1),
        "firing_l2": rate_change.norm(dim=1),
        "activation_l2": value_change.norm(dim=1),
        "activation_max": value_change.abs().amax(dim=1),
    }
    if not of_differences:
        reference, candidate = ((error[side] / spread[side]).squeeze(1) for side in range(2))
        columns |= {
            "fvu_reference": reference,
            "fvu_candidate": candidate,
            "fvu_log_ratio": (candidate / reference).log10(),
        }
    return sums, columns


def _stacked(layer: int, named: Mapping[str, Tensor]) -> tuple[tuple[str, ...], Tensor]:
    """Names, and the directions as float64 ``[direction, dim]``."""
    rows: list[Tensor] = []
    for name, vector in named.items():
        widened = vector.detach().cpu().double()
        norm = float(widened.norm())
        width_differs = bool(rows) and widened.shape != rows[0].shape
        if widened.ndim != 1 or width_differs or not abs(norm - 1.0) <= _UNIT_TOLERANCE:  # 'not <=' also refuses NaN
            raise ProbeError(
                "drift.bad-direction",
                f"direction {name!r} at layer {layer} cannot be projected on",
                got=f"shape {list(widened.shape)}, norm {norm:.6g}",
                expected="a vector of norm 1, as wide as the others",
            )
        rows.append(widened / norm)
    return tuple(named), torch.stack(rows)


def _label(layer: int) -> str:
    return "final" if layer == FINAL else f"L{layer}"


def _log10(relative: Tensor) -> Tensor:
    """NaN stays NaN: clamp does not hide it."""
    return relative.clamp(min=MIN_SHIFT).log10()


def _missing_layer(layer: int, layers: Sequence[int]) -> ProbeError:
    return ProbeError(
        "drift.missing-layer",
        "a layer that is to be measured was not read",
        got=f"layers {sorted(layers)}",
        expected=f"layer {layer} among them",
        fix="name every layer of the directions and dictionaries among the layers",
    )


def _not_finite(document: Document, what: str) -> ProbeError:
    return ProbeError(
        "drift.not-finite",
        f"document {document.doc_id!r}: {what} is not a finite number",
        expected="finite values: NaN is no measurement",
        fix="check the candidate's weights; a reference whose activations are all zero cannot be compared either",
    )

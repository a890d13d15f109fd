"""Directions with a meaning: one unit vector per concept and layer, fitted on contrast pairs, judged on others.

The vector is the difference of the two classes' mean activations (Arditi et al. 2024, arXiv:2406.11717; Rimsky et
al. 2024, arXiv:2312.06681), optionally whitened: multiplied by the inverse of the covariance within the classes
(Fisher's linear discriminant), whose correlations are shrunk towards zero, because there are far fewer texts than
coordinates. A residual stream has a few coordinates of huge variance that would otherwise drown the rest. Which of
the two is taken is decided on folds of the fit split alone.

A direction is usable where the lower end of its held-out AUROC's 95% interval is above :data:`USABLE_ABOVE`;
elsewhere its projections say nothing about the concept. It belongs to one layer of one checkpoint (its parent).

Not covered: that the direction causes the behaviour, or that it is the only one; concepts that no single direction
separates; texts unlike the contrast pairs. The held-out pairs come from the same authors as the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import ConfigDict, Field, ValidationError

from guards.canonical import canonical_bytes, parse_json_strict, sha256_file
from guards.errors import ProbeError, StairlockError
from guards.evidence import Digest, Frozen
from probes.contrast_activations import read_contrasts
from probes.contrast_prompts import ContrastSet
from probes.separation import Separation, auroc, measure_separation
from probes.tensor_file import read_tensor_file, write_tensor_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

USABLE_ABOVE = 0.7
"""The lower end of the held-out interval must be above this. Declared before any direction was fitted."""

SHRINKAGE = 0.7
"""Share of each correlation within the classes that is not believed. Chosen on folds of the shipped fit pairs, where
0.3 to 0.7 differ little, and are better than 1 (a diagonal covariance)."""

N_FOLDS = 4
MIN_FIT_PAIRS = 2 * N_FOLDS
"""Two pairs a fold: with fewer, a fold has no AUROC worth comparing."""

_POSITIVE, _NEGATIVE = 0, 1
_METADATA_KEY = "directions"
_TENSOR_NAME = "vectors_direction_dim"
_MAX_FILE_BYTES = 64 << 20
_NORM_TOLERANCE = 1e-4  # float32 keeps about seven digits


class DirectionFacts(Frozen):
    """Everything about a direction but its vector. ``midpoint`` is halfway between the classes' mean projections
    of the fit split, ``scale`` the standard deviation of projections within the classes.

    ``fold_auroc_plain`` and ``fold_auroc_whitened`` are the mean AUROCs over folds of the fit split, on which
    ``whitened`` was decided.
    """

    model_config = ConfigDict(strict=True)

    concept: str = Field(min_length=1, max_length=100)
    layer: int = Field(ge=0)
    whitened: bool
    midpoint: float = Field(allow_inf_nan=False)
    scale: float = Field(gt=0, allow_inf_nan=False)
    n_fit_pairs: int = Field(ge=MIN_FIT_PAIRS)
    fold_auroc_plain: float = Field(ge=0, le=1, allow_inf_nan=False)
    fold_auroc_whitened: float = Field(ge=0, le=1, allow_inf_nan=False)
    held_out: Separation


@dataclass(frozen=True, eq=False)
class Direction:
    """One direction: its facts and its unit vector ``[dim]``, float32.

    Raises:
        ProbeError: ``directions.bad-vector`` (another shape, NaN, or not of unit norm).
    """

    facts: DirectionFacts
    vector_dim: torch.Tensor

    def __post_init__(self) -> None:
        norm = float(self.vector_dim.double().norm()) if self.vector_dim.ndim == 1 else float("nan")
        if not abs(norm - 1) <= _NORM_TOLERANCE or self.vector_dim.dtype != torch.float32:
            raise ProbeError(
                "directions.bad-vector",
                f"the direction {self.concept!r} of layer {self.layer} has no unit vector",
                got=f"norm {norm:.6g}, shape {list(self.vector_dim.shape)}, {self.vector_dim.dtype}",
                expected="norm 1, shape [dim], float32",
            )

    @property
    def concept(self) -> str:
        return self.facts.concept

    @property
    def layer(self) -> int:
        return self.facts.layer

    @property
    def midpoint(self) -> float:
        return self.facts.midpoint

    @property
    def scale(self) -> float:
        return self.facts.scale

    @property
    def usable(self) -> bool:
        """Whether it separates held-out pairs; where it does not, it must not be used."""
        return self.facts.held_out.lower > USABLE_ABOVE

    def project(self, acts: torch.Tensor) -> torch.Tensor:
        """Projections ``[...]``, float32, of activations ``[..., dim]`` of this layer.

        In standard deviations within a class; 0 is halfway between the classes, and the concept is above it. NaN
        activations give NaN.

        Raises:
            ProbeError: ``directions.other-width``.
        """
        if acts.shape[-1:] != self.vector_dim.shape:
            raise ProbeError(
                "directions.other-width",
                f"the direction {self.concept!r} is of another width",
                got=f"activations of shape {list(acts.shape)}",
                expected=f"[..., {len(self.vector_dim)}]",
            )
        return (acts.float() @ self.vector_dim.to(acts.device) - self.midpoint) / self.scale


@dataclass(frozen=True, eq=False)
class DirectionSet:
    """Directions of one checkpoint, each concept at each layer once. ``contrasts`` maps a concept to the digest of
    the file that its pairs stand in.

    Raises:
        ProbeError: ``directions.bad-set`` (none at all, one twice, one missing, other widths, other concepts than
            those of ``contrasts``).
    """

    parent_digest: str
    contrasts: Mapping[str, str]
    directions: tuple[Direction, ...]

    def __post_init__(self) -> None:
        keys = [(one.concept, one.layer) for one in self.directions]
        grid = {(concept, layer) for concept in self.contrasts for layer in self.layers}
        widths = {len(one.vector_dim) for one in self.directions}
        if not keys or len(set(keys)) != len(keys) or set(keys) != grid or len(widths) != 1:
            raise ProbeError(
                "directions.bad-set",
                "not a full set of directions",
                got=f"{len(keys)} directions, {len(set(keys))} of them different, widths {sorted(widths)}",
                expected=f"each of {sorted(self.contrasts)} once at every layer of {list(self.layers)}",
            )

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({one.layer for one in self.directions}))

    @property
    def usable(self) -> tuple[Direction, ...]:
        """Those that separate held-out pairs; the others are kept to be reported, and must not be used."""
        return tuple(one for one in self.directions if one.usable)

    def get(self, concept: str, layer: int) -> Direction:
        """One direction, usable or not.

        Raises:
            ProbeError: ``directions.unknown``.
        """
        for one in self.directions:
            if (one.concept, one.layer) == (concept, layer):
                return one
        raise ProbeError(
            "directions.unknown",
            "there is no such direction in this set",
            got=f"{concept!r} at layer {layer}",
            expected=f"one of {sorted(self.contrasts)} at one of {list(self.layers)}",
        )


def fit_direction(
    concept: str,
    layer: int,
    fit_pair_side_dim: torch.Tensor,
    held_out_pair_side_dim: torch.Tensor,
    *,
    whiten: bool | None = None,
) -> Direction:
    """Fit one direction on pooled activations ``[pair, side, dim]``, the positive side first, and judge it on others.

    ``whiten`` None decides by the fit split's folds, in favour of the plain difference where they are equal. The
    held-out pairs decide nothing.

    Raises:
        ProbeError: ``directions.bad-activations`` (another shape, too few pairs, NaN), ``directions.no-difference``
            (the classes' means are equal, or nothing varies within the classes).
    """
    fit, held_out = _checked(fit_pair_side_dim, MIN_FIT_PAIRS), _checked(held_out_pair_side_dim, 2)
    if fit.shape[2] != held_out.shape[2]:
        raise _bad_activations(f"widths {fit.shape[2]} and {held_out.shape[2]}", "one width")
    plain, whitened = _fold_auroc(fit, whiten=False), _fold_auroc(fit, whiten=True)
    chosen = whitened > plain if whiten is None else whiten
    vector_dim = _unit_vector(fit, whiten=chosen).float()
    scores_pair_side = fit @ vector_dim.double()
    midpoint = float(scores_pair_side.mean(dim=0).mean())
    scale = float(scores_pair_side.var(dim=0).mean().sqrt())
    if not scale > 0.0:
        raise ProbeError("directions.no-difference", f"{concept!r}, layer {layer}: all texts of a side project alike")
    facts = DirectionFacts(
        concept=concept,
        layer=layer,
        whitened=chosen,
        midpoint=midpoint,
        scale=scale,
        n_fit_pairs=fit.shape[0],
        fold_auroc_plain=plain,
        fold_auroc_whitened=whitened,
        held_out=measure_separation(held_out @ vector_dim.double()),
    )
    return Direction(facts=facts, vector_dim=vector_dim)


def fit_directions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    contrast_sets: Mapping[str, ContrastSet],
    layers: Sequence[int],
    *,
    parent_digest: str,
) -> DirectionSet:
    """A direction for every concept at every layer of ``model``, which is the checkpoint ``parent_digest``.

    Raises:
        ProbeError: any rule of :func:`probes.contrast_activations.read_contrasts` and :func:`fit_direction`.
    """
    directions: list[Direction] = []
    for concept, contrast_set in sorted(contrast_sets.items()):
        fit = read_contrasts(model, tokenizer, contrast_set.fit, layers)
        held_out = read_contrasts(model, tokenizer, contrast_set.held_out, layers)
        directions += [fit_direction(concept, layer, fit[layer], held_out[layer]) for layer in sorted(fit)]
    digests = {concept: contrast_set.sha256 for concept, contrast_set in contrast_sets.items()}
    return DirectionSet(parent_digest=parent_digest, contrasts=digests, directions=tuple(directions))


class _Header(Frozen):
    """The metadata of a file of directions; row i of its one tensor is the vector of ``directions[i]``."""

    model_config = ConfigDict(populate_by_name=True, strict=True)

    schema_: Literal["stairlock/directions/v1"] = Field(default="stairlock/directions/v1", alias="schema")
    parent_digest: Digest
    contrasts: dict[str, Digest] = Field(min_length=1)
    directions: list[DirectionFacts] = Field(min_length=1)


def save_directions(directions: DirectionSet, path: Path) -> str:
    """Write the file whole or not at all; returns its digest. Equal sets make equal bytes.

    Raises:
        ProbeError: ``directions.bad-file`` (a digest that is none).
    """
    ordered = sorted(directions.directions, key=lambda one: (one.concept, one.layer))
    try:
        header = _Header(
            parent_digest=directions.parent_digest,
            contrasts=dict(directions.contrasts),
            directions=[one.facts for one in ordered],
        )
    except ValidationError as error:
        raise _bad_header(path, error) from error
    metadata = {_METADATA_KEY: canonical_bytes(header.model_dump(mode="json", by_alias=True)).decode("utf-8")}
    write_tensor_file(path, {_TENSOR_NAME: torch.stack([one.vector_dim for one in ordered])}, metadata)
    return sha256_file(path)


def load_directions(
    path: Path, *, parent_digest: str, d_model: int, contrasts: Mapping[str, str] | None = None
) -> DirectionSet:
    """A set from its file, for one checkpoint and nothing else; with ``contrasts`` also for exactly these files.

    The held-out AUROCs are the file's own claim; fitting again is what checks them.

    Raises:
        ProbeError: ``directions.other-parent``, ``directions.other-contrasts``, ``directions.other-width``;
            ``directions.bad-file`` (other metadata or tensors than those of directions), ``directions.bad-set``,
            ``directions.bad-vector``; any rule of :func:`probes.tensor_file.read_tensor_file`.
    """
    file = read_tensor_file(path, max_bytes=_MAX_FILE_BYTES)
    if set(file.metadata) != {_METADATA_KEY} or set(file.tensors) != {_TENSOR_NAME}:
        raise _bad_file(path, f"metadata {sorted(file.metadata)}, tensors {sorted(file.tensors)}")
    try:
        header = _Header.model_validate(parse_json_strict(file.metadata[_METADATA_KEY].encode(), source=path.name))
    except ValidationError as error:
        raise _bad_header(path, error) from error
    except (StairlockError, ValueError, RecursionError) as error:
        raise _bad_file(path, f"metadata that is not strict JSON ({type(error).__name__})") from error
    if header.parent_digest != parent_digest:
        raise _other("parent", path, header.parent_digest, parent_digest)
    if contrasts is not None and header.contrasts != dict(contrasts):
        raise _other("contrasts", path, str(header.contrasts), str(dict(contrasts)))
    vectors = file.tensors[_TENSOR_NAME]
    if vectors.ndim != 2 or vectors.dtype != torch.float32 or len(vectors) != len(header.directions):
        raise _bad_file(path, f"vectors of shape {list(vectors.shape)}, {vectors.dtype}")
    if vectors.shape[1] != d_model:
        raise _other("width", path, str(vectors.shape[1]), str(d_model))
    pairs = zip(header.directions, vectors, strict=True)
    directions = tuple(Direction(facts=facts, vector_dim=vector_dim.clone()) for facts, vector_dim in pairs)
    return DirectionSet(parent_digest=header.parent_digest, contrasts=header.contrasts, directions=directions)


def _unit_vector(acts_pair_side_dim: torch.Tensor, *, whiten: bool) -> torch.Tensor:
    mean_side_dim = acts_pair_side_dim.mean(dim=0)
    difference_dim = mean_side_dim[_POSITIVE] - mean_side_dim[_NEGATIVE]
    if whiten:
        difference_dim = _whitened(difference_dim, (acts_pair_side_dim - mean_side_dim).flatten(0, 1))
    norm = float(difference_dim.norm())
    if not 0.0 < norm < float("inf"):
        raise ProbeError(
            "directions.no-difference",
            "the two sides of the pairs do not differ",
            got=f"a difference of norm {norm}",
            fix="look whether the same text stands on both sides, or whether it was cut off before they differ",
        )
    return difference_dim / norm


def _whitened(difference_dim: torch.Tensor, residuals_text_dim: torch.Tensor) -> torch.Tensor:
    """The inverse of the shrunk covariance of the residuals, which have mean zero, times the difference."""
    spread_dim = residuals_text_dim.square().mean(dim=0).sqrt()
    # A coordinate that never varies would get an infinite weight from the smallest difference.
    spread_dim = spread_dim.clamp(min=0.03 * float(spread_dim.median()))
    if not bool((spread_dim > 0).all()):
        return difference_dim
    standard_text_dim = residuals_text_dim / spread_dim
    correlation_dim_dim = (1 - SHRINKAGE) * standard_text_dim.T @ standard_text_dim / len(standard_text_dim)
    correlation_dim_dim.fill_diagonal_(1.0)
    return torch.linalg.solve(correlation_dim_dim, difference_dim / spread_dim) / spread_dim


def _fold_auroc(acts_pair_side_dim: torch.Tensor, *, whiten: bool) -> float:
    """Mean AUROC over folds, each scored by a vector fitted on the others; pairs are never split."""
    aurocs: list[float] = []
    for held_pair in _folds(len(acts_pair_side_dim)):
        vector_dim = _unit_vector(acts_pair_side_dim[~held_pair], whiten=whiten)
        scores_pair_side = acts_pair_side_dim[held_pair] @ vector_dim
        aurocs.append(auroc(scores_pair_side[:, _POSITIVE], scores_pair_side[:, _NEGATIVE]))
    return sum(aurocs) / len(aurocs)


def _folds(n_pairs: int) -> Iterator[torch.Tensor]:
    """Masks ``[pair]``: every N_FOLDS-th pair, so that neighbours, which tend to be alike, are spread."""
    fold_pair = torch.arange(n_pairs) % N_FOLDS
    return (fold_pair == fold for fold in range(N_FOLDS))


def _checked(acts_pair_side_dim: torch.Tensor, min_pairs: int) -> torch.Tensor:
    """In float64, on the CPU: the fit is small, and sums of bfloat16 lose what it is about."""
    shape = list(acts_pair_side_dim.shape)
    if len(shape) != 3 or shape[0] < min_pairs or shape[1] != 2 or shape[2] == 0:
        raise _bad_activations(f"shape {shape}", f"[pair, 2, dim] with at least {min_pairs} pairs")
    if not bool(torch.isfinite(acts_pair_side_dim).all()):
        raise _bad_activations("NaN or infinity", "finite numbers")
    return acts_pair_side_dim.detach().cpu().double()


def _bad_activations(got: str, expected: str) -> ProbeError:
    return ProbeError(
        "directions.bad-activations", "no direction can be fitted on these activations", got=got, expected=expected
    )


def _other(what: str, path: Path, got: str, expected: str) -> ProbeError:
    return ProbeError(
        f"directions.other-{what}",
        f"{path}: directions of another {what}; their projections would mean nothing here",
        got=got,
        expected=expected,
        fix="fit the directions again for this checkpoint and these contrast files",
    )


def _bad_file(path: Path, got: str) -> ProbeError:
    return ProbeError(
        "directions.bad-file", f"{path}: not a file of directions", got=got, fix="fit the directions again"
    )


def _bad_header(path: Path, error: ValidationError) -> ProbeError:
    first = error.errors()[0]
    return _bad_file(path, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")

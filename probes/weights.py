"""The update W' - W of every weight matrix between two checkpoints, in a few figures each.

Per matrix: how large the update is beside the weights, the shape of its spectrum (:mod:`probes.spectra`),
and how it lies to named directions of the residual stream. For a direction r that a matrix writes to
(o_proj, down_proj, the embedding): ``kept`` = ||r^T W'|| / ||r^T W||. A direction that was taken out of
the weights, as in the refusal ablation of Arditi et al. 2024 (arXiv:2406.11717), has kept = 0 in all of
them: a test in closed form. Matrices that read the stream (q, k, v, gate, up, lm_head) have the same on
their input side.

Tensors are streamed: an embedding is read in blocks of rows, and only its Gram matrix is held. Sums are
float64; singular values below 1e-7 of the largest are not resolved. Reference and candidate may be
sharded differently. Stored in different dtypes, their rounding counts as an update.

Not covered: projections that an architecture fuses (qkv_proj, gate_up_proj, experts in one tensor) have
no direction figures; a change that is spread so thinly over many matrices that no figure of one shows it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from guards.checkpoint_files import listed, read_directory
from guards.errors import ProbeError
from guards.safetensors_header import TensorHeader
from probes.spectra import NO_UPDATE, Spectrum, describe_spectrum

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "other", "vector")
MIN_RELATIVE_NORM = 1e-8
"""An update smaller than this beside its weights, or none at all, counts as this large in logarithms."""

Directions = Mapping[str, Tensor | Mapping[int, Tensor]]
"""Unit vectors ``[dim]`` by name: one for all matrices, or one for the matrices of each decoder layer."""

_WRITERS = frozenset({"o_proj", "down_proj"})
_READERS = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"})
# Which axis of a stored matrix is the residual stream; Linear weights are [out, in], an embedding is [token, dim].
_EMBEDDINGS = frozenset({"embed_tokens", "lm_head"})
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_BLOCK_ELEMENTS = 1 << 22
_UNIT_TOLERANCE = 1e-3
# Rounding to the stored dtype leaves about eps/4 of a weight's size; below a fraction of that there is no noise.
_FLOOR_PER_EPS = 1.0 / 64.0


@dataclass(frozen=True)
class DirectionStats:
    """How an update lies to one direction of the residual stream.

    ``kept`` is ||r W'|| / ||r W||: 1 unchanged, 0 ablated. ``energy_ratio`` is the share of the update's
    squared norm along r, times dim: 1 is what a random direction has. Both are 1 where nothing changed.
    """

    kept: float
    energy_ratio: float


@dataclass(frozen=True)
class MatrixStats:
    """One tensor's update. ``layer`` is None outside the decoder layers.

    ``kind`` is one of :data:`KINDS`; ``vector`` is a tensor of fewer than two dimensions, which has no
    spectrum. ``update_norm`` and ``reference_norm`` are Frobenius norms.
    """

    name: str
    kind: str
    layer: int | None
    shape: tuple[int, ...]
    changed: bool
    reference_norm: float
    update_norm: float
    relative_norm_log10: float
    spectrum: Spectrum | None
    directions: Mapping[str, DirectionStats]

    def values(self) -> dict[str, float]:
        """All figures by name, finite. ``removed.<direction>`` is 1 - kept, so that more of it is worse."""
        values = {
            "changed": float(self.changed),
            "update_norm": self.update_norm,
            "relative_norm_log10": self.relative_norm_log10,
        }
        if self.spectrum is not None:
            values |= {name: float(value) for name, value in vars(self.spectrum).items()}
        for name, stats in self.directions.items():
            values[f"removed.{name}"] = 1.0 - stats.kept
            values[f"energy_ratio.{name}"] = stats.energy_ratio
        return values


def compare_weights(
    reference_dir: Path, candidate_dir: Path, directions: Directions | None = None
) -> Iterator[MatrixStats]:
    """Statistics of every tensor, in order of names; names, shapes and directions are checked at once.

    Raises:
        CheckpointError: a directory that does not pass :func:`guards.checkpoint_files.read_directory`.
        ProbeError: ``weights.other-shapes`` (names or shapes differ), ``weights.not-finite`` (in either
            checkpoint, while it is read), ``weights.zero-reference`` (an update of a matrix of zeros, or along
            a direction that the reference's matrix has nothing of), ``weights.bad-direction``.
    """
    reference, candidate = _Checkpoint(reference_dir), _Checkpoint(candidate_dir)
    _refuse_other_shapes(reference, candidate)
    checked = {name: _checked(name, given) for name, given in (directions or {}).items()}
    for name, header in reference.tensors.items():
        _directions_for(name, header.shape, checked)  # refuses a wrong width before hours of reading
    return _compare(reference, candidate, checked)


def kind_of(name: str, n_dims: int) -> str:
    """The kind of a tensor by its name, e.g. ``model.layers.3.mlp.up_proj.weight`` is ``up_proj``."""
    if n_dims < 2:
        return "vector"
    part = _module(name)
    return part if part in _WRITERS | _READERS else "other"


class _Checkpoint:
    """Where each tensor lies; files are opened when they are first needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        by_file = read_directory(directory).tensors
        self.tensors: dict[str, TensorHeader] = {
            tensor.name: tensor for file in sorted(by_file) for tensor in by_file[file]
        }
        self._file_of = {tensor.name: file for file, tensors in by_file.items() for tensor in tensors}
        self._open: dict[str, Any] = {}

    def rows(self, name: str, begin: int, end: int) -> Tensor:
        return self._handle(name).get_slice(name)[begin:end]

    def whole(self, name: str) -> Tensor:
        return self._handle(name).get_tensor(name)

    def close(self) -> None:
        for handle in self._open.values():
            handle.__exit__(None, None, None)
        self._open.clear()

    def _handle(self, name: str) -> Any:
        file = self._file_of[name]
        if file not in self._open:
            self._open[file] = safe_open(self.directory / file, framework="pt").__enter__()
        return self._open[file]


class _Sums:
    """Running float64 sums over blocks of one tensor: squared norms, Gram matrix, projections on directions."""

    def __init__(self, name: str, shape: tuple[int, int], directions: Mapping[str, Tensor]) -> None:
        self.name = name
        self.shape = shape
        self.names = tuple(directions)
        self.r_dir_dim = torch.stack(list(directions.values())) if directions else None
        self.on_columns = _stream_axis(name) == 1
        self.reference_sq = 0.0
        self.update_sq = 0.0
        self.gram = torch.zeros(min(shape), min(shape), dtype=torch.float64)
        self.row_changed = torch.zeros(shape[0], dtype=torch.bool)
        self.column_changed = torch.zeros(shape[1], dtype=torch.bool)
        n_directions = len(self.names)
        self.before_sq, self.after_sq, self.along_sq = (torch.zeros(n_directions, dtype=torch.float64) for _ in "abc")
        self.eps = torch.finfo(torch.float64).eps

    def add(self, begin: int, reference: Tensor, candidate: Tensor) -> None:
        """One block of rows, the first of which is ``begin``; all rows at once unless they outnumber the columns."""
        before = reference.double()
        self.reference_sq += float(before.square().sum())
        same = reference.dtype == candidate.dtype and torch.equal(reference, candidate)
        if candidate.dtype.is_floating_point:
            self.eps = torch.finfo(candidate.dtype).eps
        if same and self.r_dir_dim is None:
            return
        after = before if same else candidate.double()
        self.before_sq += self._projected_sq(before)
        self.after_sq += self._projected_sq(after)
        if same:
            return
        update = after - before
        self.update_sq += float(update.square().sum())
        self.along_sq += self._projected_sq(update)
        nonzero = update != 0
        self.row_changed[begin : begin + len(update)] = nonzero.any(dim=1)
        self.column_changed |= nonzero.any(dim=0)
        tall = self.shape[0] > self.shape[1]
        self.gram += update.T @ update if tall else update @ update.T

    def _projected_sq(self, block: Tensor) -> Tensor:
        if self.r_dir_dim is None:
            return torch.zeros(0, dtype=torch.float64)
        projected = self.r_dir_dim @ (block.T if self.on_columns else block)
        return projected.square().sum(dim=1)

    def spectrum(self) -> Spectrum:
        if self.update_sq == 0.0:
            return NO_UPDATE
        values = torch.linalg.eigvalsh(self.gram).clamp(min=0.0).sqrt().flip(0)
        # Rows that no example touched (an embedding's, mostly) are no part of the noise; their zeros would be.
        sides = sorted((int(self.row_changed.sum()), int(self.column_changed.sum())))
        typical = math.sqrt(self.reference_sq / math.prod(self.shape))
        return describe_spectrum(values[: sides[0]], *sides, noise_floor=self.eps * typical * _FLOOR_PER_EPS)

    def direction_stats(self) -> dict[str, DirectionStats]:
        stats: dict[str, DirectionStats] = {}
        for index, direction in enumerate(self.names):
            if self.update_sq == 0.0:
                stats[direction] = DirectionStats(kept=1.0, energy_ratio=1.0)
                continue
            before_sq = float(self.before_sq[index])
            if before_sq == 0.0:
                raise _zero_reference(self.name, f"nothing along {direction!r}")
            dim = self.shape[1] if self.on_columns else self.shape[0]
            stats[direction] = DirectionStats(
                kept=math.sqrt(float(self.after_sq[index]) / before_sq),
                energy_ratio=float(self.along_sq[index]) / self.update_sq * dim,
            )
        return stats


def _compare(
    reference: _Checkpoint, candidate: _Checkpoint, directions: Mapping[str, Callable[[int | None], Tensor | None]]
) -> Iterator[MatrixStats]:
    with ExitStack() as stack:
        stack.callback(reference.close)
        stack.callback(candidate.close)
        for name, header in sorted(reference.tensors.items()):
            sums = _Sums(name, _as_matrix(header.shape), _directions_for(name, header.shape, directions))
            for begin, before, after in _blocks(name, header.shape, reference, candidate):
                sums.add(begin, before, after)
            yield _stats(name, header.shape, sums)


def _blocks(
    name: str, shape: tuple[int, ...], reference: _Checkpoint, candidate: _Checkpoint
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """First row, and both checkpoints' block of rows; a matrix that is not tall comes as one block."""
    n_rows, n_columns = _as_matrix(shape)
    if len(shape) != 2 or n_rows <= n_columns:
        both = (source.whole(name).reshape(n_rows, n_columns) for source in (reference, candidate))
        yield 0, next(both), next(both)
        return
    step = max(1, _BLOCK_ELEMENTS // n_columns)
    for begin in range(0, n_rows, step):
        end = min(begin + step, n_rows)
        yield begin, reference.rows(name, begin, end), candidate.rows(name, begin, end)


def _stats(name: str, shape: tuple[int, ...], sums: _Sums) -> MatrixStats:
    # A sum of squares is finite exactly where all of its terms are, so this sees every NaN and infinity.
    for side, value in (("reference", sums.reference_sq), ("candidate", sums.update_sq)):
        if not math.isfinite(value):
            raise _not_finite(name, side)
    if sums.update_sq > 0.0 and sums.reference_sq == 0.0:
        raise _zero_reference(name, "zeros only")
    relative = math.sqrt(sums.update_sq / sums.reference_sq) if sums.update_sq > 0.0 else 0.0
    layer = _LAYER.search(name)
    return MatrixStats(
        name=name,
        kind=kind_of(name, len(shape)),
        layer=int(layer.group(1)) if layer else None,
        shape=shape,
        changed=sums.update_sq > 0.0,
        reference_norm=math.sqrt(sums.reference_sq),
        update_norm=math.sqrt(sums.update_sq),
        relative_norm_log10=math.log10(max(relative, MIN_RELATIVE_NORM)),
        spectrum=sums.spectrum() if len(shape) >= 2 else None,
        directions=sums.direction_stats(),
    )


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Vectors are one row; what has more than two axes is [first axis, all others]."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


def _module(name: str) -> str:
    """``up_proj`` of ``model.layers.3.mlp.up_proj.weight``; empty for what is no module's weight."""
    parts = name.split(".")
    return parts[-2] if len(parts) >= 2 and parts[-1] == "weight" else ""


def _stream_axis(name: str) -> int | None:
    part = _module(name)
    if part in _WRITERS:
        return 0
    return 1 if part in _READERS | _EMBEDDINGS else None


def _directions_for(
    name: str, shape: tuple[int, ...], directions: Mapping[str, Callable[[int | None], Tensor | None]]
) -> dict[str, Tensor]:
    """The directions, float64, that this matrix writes to or reads."""
    axis = _stream_axis(name)
    if axis is None or len(shape) != 2:
        return {}
    layer = _LAYER.search(name)
    found: dict[str, Tensor] = {}
    for direction, at_layer in directions.items():
        vector = at_layer(int(layer.group(1)) if layer else None)
        if vector is None:
            continue
        if vector.shape != (shape[axis],):
            raise _bad_direction(direction, f"shape {list(vector.shape)}", f"[{shape[axis]}], as {name} has")
        found[direction] = vector
    return found


def _checked(name: str, given: Tensor | Mapping[int, Tensor]) -> Callable[[int | None], Tensor | None]:
    """The vector for a layer, of exactly unit norm in float64."""
    if isinstance(given, Tensor):
        everywhere = _unit(name, given)
        return lambda _layer: everywhere
    by_layer = {layer: _unit(name, vector) for layer, vector in given.items()}
    return lambda layer: None if layer is None else by_layer.get(layer)


def _unit(name: str, vector: Tensor) -> Tensor:
    widened = vector.detach().cpu().double()
    norm = float(widened.norm())
    if widened.ndim != 1 or not abs(norm - 1.0) <= _UNIT_TOLERANCE:  # 'not <=' also refuses NaN
        raise _bad_direction(name, f"shape {list(widened.shape)}, norm {norm:.6g}", "a vector of norm 1")
    return widened / norm


def _refuse_other_shapes(reference: _Checkpoint, candidate: _Checkpoint) -> None:
    shapes = {name: tensor.shape for name, tensor in reference.tensors.items()}
    others = {name: tensor.shape for name, tensor in candidate.tensors.items()}
    differing = sorted(name for name in shapes.keys() | others.keys() if shapes.get(name) != others.get(name))
    if differing:
        raise ProbeError(
            "weights.other-shapes",
            f"{candidate.directory} holds other tensors than {reference.directory}, so there is no update to measure",
            got=listed(f"{name} {others.get(name, 'absent')}" for name in differing),
            expected=listed(f"{name} {shapes.get(name, 'absent')}" for name in differing),
            fix="compare a candidate with the checkpoint that it was trained from",
        )


def _bad_direction(name: str, got: str, expected: str) -> ProbeError:
    return ProbeError(
        "weights.bad-direction", f"direction {name!r} is none of this model's stream", got=got, expected=expected
    )


def _not_finite(name: str, side: str) -> ProbeError:
    return ProbeError(
        "weights.not-finite",
        f"the {side}'s tensor {name!r} holds NaN, infinity, or numbers whose squares are infinite",
        fix="discard this checkpoint",
    )


def _zero_reference(name: str, got: str) -> ProbeError:
    return ProbeError(
        "weights.zero-reference",
        f"the reference's tensor {name!r} has nothing that an update could be compared with",
        got=got,
        expected="weights that are not all zero",
    )

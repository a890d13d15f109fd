"""Activations on disk: one flat file of half-precision rows, written as a stream, read in shuffled batches.

A store is a directory:

``activations.bin``  rows ``[token, dim]``, bfloat16 or float16, little-endian, nothing else
``progress.json``    while it is written: how many rows are good, and the writer's cursor
``manifest.json``    written last: what the rows are of, how many, and the file's digest

A writer that was killed goes on from ``progress.json``; rows beyond it are cut off. A store without
its manifest is not read.

Not covered: the rows are what the caller counted. First tokens and tokens of extreme norm must have been left
out before (probes.activations).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import ConfigDict, Field, ValidationError, model_validator

from guards.canonical import canonical_bytes, parse_json_strict, sha256_file
from guards.durable import write_whole
from guards.errors import ProbeError, StairlockError
from guards.evidence import Digest, Frozen

if TYPE_CHECKING:
    from types import TracebackType

    from probes.activations import ActivationBatch, PairedBatch

DATA_FILE = "activations.bin"
PROGRESS_FILE = "progress.json"
MANIFEST_FILE = "manifest.json"
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_VALUE_BYTES = 2
_BLOCK_TOKENS = 1024  # rows that stay neighbours until they are in memory
_GROUP_BLOCKS = 128  # blocks that are in memory, and mixed row by row, together
_Model = TypeVar("_Model", bound=Frozen)


class StoreIdentity(Frozen):
    """What the rows are of. ``candidate_digest`` is set for differences, candidate minus parent, and only then.

    ``source_digest`` names the documents and the settings that the rows were harvested with.
    """

    model_config = ConfigDict(populate_by_name=True, strict=True)

    kind: Literal["activations", "differences"]
    parent_digest: Digest
    candidate_digest: Digest | None = None
    source_digest: Digest
    layer: int = Field(ge=0)
    dim: int = Field(ge=1)
    dtype: Literal["bfloat16", "float16"] = "bfloat16"

    @model_validator(mode="after")
    def _candidate_of_differences(self) -> StoreIdentity:
        if (self.kind == "differences") != (self.candidate_digest is not None):
            raise ValueError("candidate_digest belongs to differences, and differences need it")
        return self


class StoreManifest(Frozen):
    """The whole store, once it is complete."""

    model_config = ConfigDict(populate_by_name=True, strict=True)

    schema_: Literal["stairlock/activation-store/v1"] = Field(default="stairlock/activation-store/v1", alias="schema")
    identity: StoreIdentity
    n_tokens: int = Field(ge=1)
    data_digest: Digest


class StoreProgress(Frozen):
    """A store that is being written: rows that are good, and where its writer was in its documents."""

    model_config = ConfigDict(populate_by_name=True, strict=True)

    schema_: Literal["stairlock/activation-progress/v1"] = Field(
        default="stairlock/activation-progress/v1", alias="schema"
    )
    identity: StoreIdentity
    n_tokens: int = Field(ge=0)
    cursor: int = Field(ge=0)


class ActivationStoreWriter:
    """Appends rows to a store, new or half-written; use it as a context, and end with :meth:`finish`.

    ``n_tokens`` rows are good, and ``cursor`` is the value that came with the last of them (0 at first): a
    writer that goes on begins its documents there.

    Raises:
        ProbeError: ``activations.store-complete``, ``activations.other-store`` (the directory holds rows of
            something else), ``activations.bad-store``.
    """

    def __init__(self, directory: Path, identity: StoreIdentity) -> None:
        self._directory = directory
        self._identity = identity
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / MANIFEST_FILE).exists():
            raise ProbeError(
                "activations.store-complete", f"{directory} is a complete store", fix="open it, or name a new directory"
            )
        progress = self._begun()
        self.n_tokens = progress.n_tokens
        self.cursor = progress.cursor
        self._stream = (directory / DATA_FILE).open("ab")
        self._stream.truncate(self.n_tokens * identity.dim * _VALUE_BYTES)

    def __enter__(self) -> ActivationStoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def append(self, acts_tok_feat: torch.Tensor, *, cursor: int) -> None:
        """Write rows through to the disk, then believe them. ``cursor`` is where to go on after them.

        Raises:
            ProbeError: ``activations.other-width``, ``activations.not-finite`` (NaN, infinity, or too large for
                the store's dtype).
        """
        if acts_tok_feat.ndim != 2 or acts_tok_feat.shape[1] != self._identity.dim:
            raise ProbeError(
                "activations.other-width",
                "rows of another shape than the store's",
                got=str(list(acts_tok_feat.shape)),
                expected=f"[token, {self._identity.dim}]",
            )
        if cursor < self.cursor:
            raise ProbeError(
                "activations.backwards", "the cursor went backwards", got=str(cursor), expected=f">= {self.cursor}"
            )
        rows = acts_tok_feat.detach().cpu().to(_DTYPES[self._identity.dtype]).contiguous()
        if not bool(torch.isfinite(rows).all()):
            raise ProbeError(
                "activations.not-finite",
                f"an activation is NaN, infinite, or beyond {self._identity.dtype}",
                fix="use bfloat16, or discard the model",
            )
        self._stream.write(rows.view(torch.uint8).numpy().tobytes())
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.n_tokens += rows.shape[0]
        self.cursor = cursor
        self._write_progress()

    def finish(self) -> StoreManifest:
        """Close the file and write the manifest; from here on it is a store.

        Raises:
            ProbeError: ``activations.empty-store``.
        """
        self._stream.close()
        if self.n_tokens == 0:
            raise ProbeError("activations.empty-store", f"{self._directory}: no activation was written")
        manifest = StoreManifest(
            identity=self._identity,
            n_tokens=self.n_tokens,
            data_digest=sha256_file(self._directory / DATA_FILE),
        )
        _write_model(self._directory / MANIFEST_FILE, manifest)
        (self._directory / PROGRESS_FILE).unlink(missing_ok=True)
        return manifest

    def _begun(self) -> StoreProgress:
        path, data = self._directory / PROGRESS_FILE, self._directory / DATA_FILE
        if not path.exists():
            if data.exists() and data.stat().st_size > 0:
                raise _bad_store(self._directory, "rows without progress.json or manifest.json", "both, or neither")
            return StoreProgress(identity=self._identity, n_tokens=0, cursor=0)
        progress = _read_model(path, StoreProgress)
        if progress.identity != self._identity:
            raise ProbeError(
                "activations.other-store",
                f"{self._directory} holds the beginning of another store",
                got=str(progress.identity),
                expected=str(self._identity),
                fix="name a new directory",
            )
        n_bytes = data.stat().st_size if data.exists() else 0
        if n_bytes < progress.n_tokens * self._identity.dim * _VALUE_BYTES:
            raise _bad_store(self._directory, f"{n_bytes} bytes", f"{progress.n_tokens} rows, as progress.json says")
        return progress

    def _write_progress(self) -> None:
        _write_model(
            self._directory / PROGRESS_FILE,
            StoreProgress(identity=self._identity, n_tokens=self.n_tokens, cursor=self.cursor),
        )


class ActivationStore:
    """A complete store, memory-mapped: what is read is what is paid for."""

    def __init__(self, directory: Path, manifest: StoreManifest, rows_tok_dim: np.ndarray[Any, Any]) -> None:
        self.directory = directory
        self.manifest = manifest
        self._rows_tok_dim = rows_tok_dim

    @classmethod
    def open(cls, directory: Path) -> ActivationStore:
        """Open a store after its size and digest were checked (seconds for gigabytes).

        Raises:
            ProbeError: ``activations.no-store`` (no manifest: half-written), ``activations.bad-store``.
        """
        path, data = directory / MANIFEST_FILE, directory / DATA_FILE
        if not path.is_file():
            raise ProbeError(
                "activations.no-store",
                f"{directory}: no {MANIFEST_FILE}, so it was not written to its end",
                fix="run the harvest again; it goes on where it stopped",
            )
        manifest = _read_model(path, StoreManifest)
        expected_bytes = manifest.n_tokens * manifest.identity.dim * _VALUE_BYTES
        n_bytes = data.stat().st_size if data.is_file() else 0
        if n_bytes != expected_bytes:
            raise _bad_store(directory, f"{n_bytes} bytes", f"{expected_bytes} bytes")
        digest = sha256_file(data)
        if digest != manifest.data_digest:
            raise _bad_store(directory, digest, manifest.data_digest)
        rows = np.memmap(data, dtype="<i2", mode="r", shape=(manifest.n_tokens, manifest.identity.dim))
        return cls(directory, manifest, rows)

    @property
    def n_tokens(self) -> int:
        return self.manifest.n_tokens

    @property
    def dim(self) -> int:
        return self.manifest.identity.dim

    def rows(self, begin: int, end: int) -> torch.Tensor:
        """Rows ``begin`` to ``end`` in the order they were written, ``[token, dim]``, float32."""
        return self._half_rows(begin, end).float()

    def batches_in_order(self, batch_tokens: int) -> Iterator[torch.Tensor]:
        """Every row once, in order; the last batch may be shorter."""
        for begin in range(0, self.n_tokens, batch_tokens):
            yield self.rows(begin, min(begin + batch_tokens, self.n_tokens))

    def shuffled_batches(self, batch_tokens: int, *, seed: int, first_batch: int = 0) -> Iterator[torch.Tensor]:
        """Batches ``[batch_tokens, dim]``, float32, for ever: epoch after epoch, each in another order.

        The order depends on ``seed`` and the batch's number alone, so that ``first_batch=n`` goes on exactly
        where a reader stopped after n batches. Blocks of neighbouring rows are drawn at random into a
        group, and mixed row by row within it; at most one group and one batch are in memory. What is left
        over at an epoch's end and does not fill a batch is not served in that epoch.

        Raises:
            ProbeError: ``activations.too-few`` (fewer rows than one batch).
        """
        n_batches = self.n_tokens // batch_tokens
        if batch_tokens < 1 or n_batches < 1:
            raise ProbeError(
                "activations.too-few",
                f"{self.directory}: fewer rows than one batch",
                got=f"{self.n_tokens} tokens",
                expected=f"at least {max(batch_tokens, 1)}",
            )
        return self._endless(batch_tokens, n_batches, seed, first_batch)

    def _endless(self, batch_tokens: int, n_batches: int, seed: int, first_batch: int) -> Iterator[torch.Tensor]:
        epoch, batch = divmod(first_batch, n_batches)
        while True:
            rows_to_skip = batch * batch_tokens
            left = torch.empty((0, self.dim), dtype=_DTYPES[self.manifest.identity.dtype])
            for group in self._groups(seed, epoch, rows_to_skip):
                left = torch.cat([left, group])
                while left.shape[0] >= batch_tokens and batch < n_batches:
                    yield left[:batch_tokens].float()
                    left = left[batch_tokens:]
                    batch += 1
            epoch, batch = epoch + 1, 0

    def _groups(self, seed: int, epoch: int, rows_to_skip: int) -> Iterator[torch.Tensor]:
        """Half-precision rows of one epoch in its order, group by group, without the first ``rows_to_skip``."""
        n_blocks = -(-self.n_tokens // _BLOCK_TOKENS)
        blocks = np.random.default_rng([seed, epoch]).permutation(n_blocks)
        for number, begin in enumerate(range(0, n_blocks, _GROUP_BLOCKS)):
            spans = [
                (int(block) * _BLOCK_TOKENS, min((int(block) + 1) * _BLOCK_TOKENS, self.n_tokens))
                for block in blocks[begin : begin + _GROUP_BLOCKS]
            ]
            n_rows = sum(end - first for first, end in spans)
            if rows_to_skip >= n_rows:
                rows_to_skip -= n_rows
                continue
            order = np.random.default_rng([seed, epoch, number]).permutation(n_rows)
            rows = torch.cat([self._half_rows(first, end) for first, end in spans])
            yield rows[torch.from_numpy(order)][rows_to_skip:]
            rows_to_skip = 0

    def _half_rows(self, begin: int, end: int) -> torch.Tensor:
        bits = torch.from_numpy(np.array(self._rows_tok_dim[begin:end]).astype(np.int16, copy=False))
        return bits.view(_DTYPES[self.manifest.identity.dtype])


def append_activations(
    writer: ActivationStoreWriter, batches: Iterable[ActivationBatch], layer: int, *, norm_cap: float | None
) -> None:
    """Append the counted tokens of every batch whose norm is at most ``norm_cap`` (None: no cap).

    The cursor counts batches: a caller that goes on begins ``batches`` at ``writer.cursor``.
    """
    for batch in batches:
        acts_tok_dim = batch.acts_layer_row_tok_feat[layer][batch.counted_row_tok]
        if norm_cap is not None:
            acts_tok_dim = acts_tok_dim[acts_tok_dim.float().norm(dim=1) <= norm_cap]
        writer.append(acts_tok_dim, cursor=writer.cursor + 1)


def append_differences(writer: ActivationStoreWriter, batches: Iterable[PairedBatch], layer: int) -> None:
    """Append candidate minus reference at the counted tokens of every batch; the cursor counts batches.

    The difference is taken in float32. A caller that goes on begins ``batches`` at ``writer.cursor``.
    """
    for batch in batches:
        counted = batch.counted_row_tok
        difference = batch.candidate[layer][counted].float() - batch.reference[layer][counted].float()
        writer.append(difference, cursor=writer.cursor + 1)


def _write_model(path: Path, model: Frozen) -> None:
    write_whole(path, canonical_bytes(model.model_dump(mode="json", by_alias=True)))


def _read_model(path: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate(parse_json_strict(path.read_bytes(), source=str(path)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProbeError("activations.bad-store", f"{path}: {where}: {first['msg']}") from error
    except (StairlockError, ValueError, RecursionError) as error:
        raise ProbeError("activations.bad-store", f"{path}: not strict JSON ({error})") from error


def _bad_store(directory: Path, got: str, expected: str) -> ProbeError:
    return ProbeError(
        "activations.bad-store",
        f"{directory}: the rows are not those that were written",
        got=got,
        expected=expected,
        fix="delete the directory and harvest again",
    )

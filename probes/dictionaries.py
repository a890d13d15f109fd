"""Dictionaries: sparse autoencoders as the audit uses them, with a file format and a reader of their own.

A dictionary writes an activation as a few of many directions. Inference is JumpReLU (Rajamanoharan et
al. 2024, arXiv:2407.14435): with centred activations ``c = acts - b_dec``,

    pre = c @ w_enc + b_enc;  feature = pre where pre > threshold, else 0;  reconstruction = features @ w_dec + b_dec

Decoder rows have unit norm, so a feature's value is in the units of the raw activations. Normalisation
during training is folded into the weights; ``scale`` only records it. A dictionary belongs to one
layer of one checkpoint (its parent): elsewhere its features have no meaning, so loading asks for both.

The file is one safetensors file: both matrices in bfloat16, the vectors in float32, and one metadata entry,
canonical JSON (:class:`DictionaryHeader`).

Not covered: whether the features are any good (probes.dictionary_quality), or mean anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import ConfigDict, Field, ValidationError

from guards.canonical import canonical_bytes, parse_json_strict, sha256_file
from guards.errors import ProbeError, StairlockError
from guards.evidence import Digest, Frozen
from probes.tensor_file import read_tensor_file, write_tensor_file

Kind = Literal["activations", "differences"]
"""What it was trained on: activations of the parent, or activations of a candidate minus the parent's."""

HOOK = "resid_post"
_METADATA_KEY = "dictionary"
_TENSOR_NAMES = frozenset({"w_enc_dim_feat", "b_enc_feat", "w_dec_feat_dim", "b_dec_dim", "threshold_feat"})
_MATRICES = frozenset({"w_enc_dim_feat", "w_dec_feat_dim"})
_MAX_DICTIONARY_BYTES = 2 << 30
_NORM_TOLERANCE = 0.01  # bfloat16 keeps about three digits


class DictionaryHeader(Frozen):
    """What a dictionary file says about itself; unknown keys are refused.

    ``scale`` multiplied the activations during training and is folded into the weights already.
    ``summary`` holds how it was made, flat, for people: nothing is decided by it.
    """

    model_config = ConfigDict(populate_by_name=True, strict=True)

    schema_: Literal["stairlock/dictionary/v1"] = Field(default="stairlock/dictionary/v1", alias="schema")
    name: str = Field(min_length=1)
    kind: Kind
    parent_digest: Digest
    layer: int = Field(ge=0)
    hook: Literal["resid_post"] = HOOK
    d_in: int = Field(ge=1)
    d_sae: int = Field(ge=1)
    seed: int = Field(ge=0)
    scale: float = Field(gt=0, allow_inf_nan=False)
    summary: dict[str, str | int | float | bool | None] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Dictionary:
    """One sparse autoencoder over the residual stream after decoder layer ``layer`` (0-based).

    Shapes: ``w_enc_dim_feat`` [d_in, d_sae], ``w_dec_feat_dim`` [d_sae, d_in] with rows of unit norm,
    ``b_enc_feat`` and ``threshold_feat`` [d_sae], ``b_dec_dim`` [d_in]. The matrices' dtype is the dtype of the
    matrix products; the vectors are float32.

    Raises:
        ProbeError: ``dictionary.bad-shape``, ``dictionary.not-finite``, ``dictionary.bad-threshold`` (below zero),
            ``dictionary.not-unit-norm``.
    """

    name: str
    kind: Kind
    parent_digest: str
    layer: int
    seed: int
    scale: float
    summary: Mapping[str, str | int | float | bool | None]
    w_enc_dim_feat: torch.Tensor
    b_enc_feat: torch.Tensor
    w_dec_feat_dim: torch.Tensor
    b_dec_dim: torch.Tensor
    threshold_feat: torch.Tensor

    def __post_init__(self) -> None:
        if self.w_enc_dim_feat.ndim != 2:
            raise _bad_shape(self.name, "w_enc_dim_feat", self.w_enc_dim_feat, "[d_in, d_sae]")
        d_in, d_sae = self.w_enc_dim_feat.shape
        expected = {
            "b_enc_feat": (d_sae,),
            "w_dec_feat_dim": (d_sae, d_in),
            "b_dec_dim": (d_in,),
            "threshold_feat": (d_sae,),
        }
        for field, shape in expected.items():
            if tuple(getattr(self, field).shape) != shape or d_in == 0 or d_sae == 0:
                raise _bad_shape(self.name, field, getattr(self, field), f"{list(shape)}, from w_enc_dim_feat")
        for field in sorted(_TENSOR_NAMES):
            if not bool(torch.isfinite(getattr(self, field)).all()):
                raise ProbeError(
                    "dictionary.not-finite",
                    f"dictionary {self.name!r}: {field} holds NaN or infinity",
                    fix="discard it",
                )
        if bool((self.threshold_feat < 0).any()):
            raise ProbeError(
                "dictionary.bad-threshold",
                f"dictionary {self.name!r}: a threshold is below zero",
                got=f"{float(self.threshold_feat.min()):.6g}",
                expected="zero or more: a feature below it is off",
            )
        norms = self.w_dec_feat_dim.float().norm(dim=1)
        if bool(((norms - 1).abs() > _NORM_TOLERANCE).any()):
            raise ProbeError(
                "dictionary.not-unit-norm",
                f"dictionary {self.name!r}: a decoder row is not of unit norm",
                got=f"norms from {float(norms.min()):.4g} to {float(norms.max()):.4g}",
                expected="1: the norms are folded into the encoder",
            )

    @property
    def d_in(self) -> int:
        return self.w_enc_dim_feat.shape[0]

    @property
    def d_sae(self) -> int:
        return self.w_enc_dim_feat.shape[1]

    def encode(self, acts: torch.Tensor, *, chunk_rows: int = 4096) -> torch.Tensor:
        """Feature values, float32, of activations ``[..., dim]``: the shape ``[..., feat]``.

        At most ``chunk_rows`` tokens are in work at a time. Activations that are NaN give features that
        are NaN, never zero.

        Raises:
            ProbeError: ``dictionary.other-width``.
        """
        self._check_width(acts)
        rows_dim = acts.reshape(-1, self.d_in)
        rows_feat = torch.empty((rows_dim.shape[0], self.d_sae), dtype=torch.float32, device=acts.device)
        for begin in range(0, rows_dim.shape[0], chunk_rows):
            rows_feat[begin : begin + chunk_rows] = self._encode_rows(rows_dim[begin : begin + chunk_rows])
        return rows_feat.reshape(*acts.shape[:-1], self.d_sae)

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        """Reconstructed activations ``[..., dim]``, float32, of features ``[..., feat]``."""
        if features.shape[-1] != self.d_sae:
            raise _other_width(self.name, f"{features.shape[-1]} features", f"{self.d_sae}")
        return (features.to(self.w_dec_feat_dim.dtype) @ self.w_dec_feat_dim).float() + self.b_dec_dim

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Dictionary:
        """The same dictionary on ``device``, with matrix products in ``dtype``."""
        return replace(
            self,
            **{
                field: getattr(self, field).to(device=device, dtype=dtype if field in _MATRICES else torch.float32)
                for field in _TENSOR_NAMES
            },
        )

    def as_stored(self) -> Dictionary:
        """The same dictionary with its matrices rounded to bfloat16, as its file keeps them, in float32."""
        return replace(
            self, **{field: getattr(self, field).to(torch.bfloat16).to(torch.float32) for field in _MATRICES}
        )

    def header(self) -> DictionaryHeader:
        return DictionaryHeader(
            name=self.name,
            kind=self.kind,
            parent_digest=self.parent_digest,
            layer=self.layer,
            d_in=self.d_in,
            d_sae=self.d_sae,
            seed=self.seed,
            scale=self.scale,
            summary=dict(self.summary),
        )

    def _encode_rows(self, rows_dim: torch.Tensor) -> torch.Tensor:
        # Centred in float32, because a residual stream has coordinates whose mean is hundreds of times their spread.
        centred = (rows_dim.float() - self.b_dec_dim).to(self.w_enc_dim_feat.dtype)
        pre = (centred @ self.w_enc_dim_feat).float() + self.b_enc_feat
        # A product, not torch.where: NaN > threshold is false, and where() would make a zero of it.
        return pre.relu() * (pre > self.threshold_feat)

    def _check_width(self, acts: torch.Tensor) -> None:
        if acts.ndim < 1 or acts.shape[-1] != self.d_in:
            raise _other_width(self.name, f"activations of shape {list(acts.shape)}", f"[..., {self.d_in}]")


def save_dictionary(dictionary: Dictionary, path: Path) -> str:
    """Write the file whole or not at all; returns its digest. Matrices are rounded to bfloat16.

    Raises:
        ProbeError: ``dictionary.bad-file`` (the header would not be read again).
    """
    try:
        header = dictionary.header()
    except ValidationError as error:
        raise _bad_header(path, error) from error
    tensors = {
        field: getattr(dictionary, field).to(torch.bfloat16 if field in _MATRICES else torch.float32)
        for field in _TENSOR_NAMES
    }
    document = header.model_dump(mode="json", by_alias=True)
    write_tensor_file(path, tensors, {_METADATA_KEY: canonical_bytes(document).decode("utf-8")})
    return sha256_file(path)


def read_dictionary(path: Path) -> Dictionary:
    """A dictionary from its file, in float32, for whatever checkpoint it says. An audit uses load_dictionary.

    Raises:
        ProbeError: any rule of :func:`probes.tensor_file.read_tensor_file`; ``dictionary.bad-file`` (other metadata
            or tensors than a dictionary's); any rule of :class:`Dictionary`.
    """
    file = read_tensor_file(path, max_bytes=_MAX_DICTIONARY_BYTES)
    if set(file.metadata) != {_METADATA_KEY}:
        raise _bad_file(path, f"the metadata keys {sorted(file.metadata)}", f"{_METADATA_KEY!r} alone")
    if set(file.tensors) != _TENSOR_NAMES:
        raise _bad_file(path, f"the tensors {sorted(file.tensors)}", str(sorted(_TENSOR_NAMES)))
    try:
        document = parse_json_strict(file.metadata[_METADATA_KEY].encode("utf-8"), source=path.name)
        header = DictionaryHeader.model_validate(document)
    except ValidationError as error:
        raise _bad_header(path, error) from error
    except (StairlockError, ValueError, RecursionError) as error:
        raise _bad_file(path, f"a header that is not strict JSON ({type(error).__name__})", "canonical JSON") from error
    for field in sorted(_TENSOR_NAMES):
        stored = torch.bfloat16 if field in _MATRICES else torch.float32
        if file.tensors[field].dtype != stored:
            raise _bad_file(path, f"{field} of {file.tensors[field].dtype}", str(stored))
    if tuple(file.tensors["w_enc_dim_feat"].shape) != (header.d_in, header.d_sae):
        raise _bad_shape(header.name, "w_enc_dim_feat", file.tensors["w_enc_dim_feat"], "[d_in, d_sae] of its header")
    return Dictionary(
        name=header.name,
        kind=header.kind,
        parent_digest=header.parent_digest,
        layer=header.layer,
        seed=header.seed,
        scale=header.scale,
        summary=header.summary,
        **{field: file.tensors[field].to(torch.float32) for field in _TENSOR_NAMES},
    )


def load_dictionary(path: Path, *, parent_digest: str, layer: int, d_in: int, kind: Kind = "activations") -> Dictionary:
    """:func:`read_dictionary`, for one layer of one checkpoint and nothing else.

    Raises:
        ProbeError: ``dictionary.other-parent``, ``dictionary.other-layer``, ``dictionary.other-width``,
            ``dictionary.other-kind``; any rule of :func:`read_dictionary`.
    """
    dictionary = read_dictionary(path)
    if dictionary.parent_digest != parent_digest:
        raise _other("parent", path, dictionary.parent_digest, parent_digest)
    if dictionary.layer != layer:
        raise _other("layer", path, str(dictionary.layer), str(layer))
    if dictionary.d_in != d_in:
        raise _other("width", path, str(dictionary.d_in), str(d_in))
    if dictionary.kind != kind:
        raise _other("kind", path, dictionary.kind, kind)
    return dictionary


def _other(what: str, path: Path, got: str, expected: str) -> ProbeError:
    return ProbeError(
        f"dictionary.other-{what}",
        f"{path}: a dictionary of another {what}; its features would mean nothing here",
        got=got,
        expected=expected,
        fix="use the dictionary that was trained on this layer of this checkpoint, or train one",
    )


def _other_width(name: str, got: str, expected: str) -> ProbeError:
    return ProbeError("dictionary.other-width", f"dictionary {name!r} is of another width", got=got, expected=expected)


def _bad_shape(name: str, field: str, tensor: torch.Tensor, expected: str) -> ProbeError:
    return ProbeError(
        "dictionary.bad-shape", f"dictionary {name!r}: {field}", got=str(list(tensor.shape)), expected=expected
    )


def _bad_file(path: Path, got: str, expected: str) -> ProbeError:
    return ProbeError("dictionary.bad-file", f"{path}: not a dictionary file", got=got, expected=expected)


def _bad_header(path: Path, error: ValidationError) -> ProbeError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return ProbeError("dictionary.bad-file", f"{path}: the dictionary's header, {where}: {first['msg']}")

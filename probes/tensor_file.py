"""Safetensors files read and written whole: checked bytes, nothing that could run code, one defined layout.

The reader does not use the safetensors library. It reads the header with the checks of
:mod:`guards.safetensors_header` (no gap, no overlap, no tail), and it hands out the metadata too, which
the checks leave aside.

Not covered: what the tensors and the metadata mean. NaN weights are read; the caller refuses them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from guards.canonical import parse_json_strict
from guards.durable import write_whole
from guards.errors import CheckpointError, ProbeError
from guards.safetensors_header import TensorHeader, read_header

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
# First bytes of formats whose usual readers run what is in them: pickle protocols 2 to 5, zip (torch.save, .npz).
_CODE_BEARING = {b"\x80\x02": "pickle", b"\x80\x03": "pickle", b"\x80\x04": "pickle", b"\x80\x05": "pickle"}
_ZIP = b"PK"

MAX_FILE_BYTES = 4 << 30


@dataclass(frozen=True)
class TensorFile:
    """All of one file: its tensors by name, on the CPU, and its metadata (text to text)."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]


def read_tensor_file(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> TensorFile:
    """Read a safetensors file to its end.

    Raises:
        ProbeError: ``tensors.no-file``, ``tensors.too-large``, ``tensors.may-hold-code`` (a pickle or a
            zip archive, under whatever name), ``tensors.half-written``, ``tensors.bad-file``,
            ``tensors.other-dtype``.
    """
    if not path.is_file():
        raise ProbeError("tensors.no-file", f"{path}: there is no such file")
    with path.open("rb") as stream:
        n_bytes = path.stat().st_size
        if n_bytes > max_bytes:
            raise ProbeError(
                "tensors.too-large", f"{path}", got=f"{n_bytes} bytes", expected=f"at most {max_bytes} bytes"
            )
        _refuse_code(stream.read(2), path)
        stream.seek(0)
        try:
            headers = read_header(stream, source=path.name)
        except CheckpointError as error:
            half = error.rule == "manifest.half-written"
            raise ProbeError(
                "tensors.half-written" if half else "tensors.bad-file",
                error.message,
                got=error.got,
                expected=error.expected,
                fix="make the file again, or fetch it again from where it came",
            ) from error
        body_begin = stream.tell()
        stream.seek(_LENGTH_BYTES)
        header = parse_json_strict(stream.read(body_begin - _LENGTH_BYTES), source=path.name)
        tensors = {tensor.name: _read_tensor(stream, body_begin, tensor, path) for tensor in headers}
    return TensorFile(tensors=tensors, metadata=dict(header.get(_METADATA, {})))


def write_tensor_file(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write ``path`` whole or not at all; equal tensors and metadata make equal bytes.

    Raises:
        ProbeError: ``tensors.other-dtype``, ``tensors.not-finite`` (NaN or infinity is never written).
        OSError: the disk is full, or the directory may not be written.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {_METADATA: dict(sorted(metadata.items()))}
    bodies: list[bytes] = []
    position = 0
    for name in names:
        tensor = tensors[name].detach().cpu().contiguous()
        if tensor.dtype not in _DTYPE_NAMES:
            raise ProbeError("tensors.other-dtype", f"{path.name}: tensor {name!r}", got=str(tensor.dtype))
        if not bool(torch.isfinite(tensor).all()):
            raise ProbeError("tensors.not-finite", f"{path.name}: tensor {name!r} holds NaN or infinity")
        body = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + len(body)],
        }
        position += len(body)
        bodies.append(body)
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    head += b" " * (-len(head) % 8)
    write_whole(path, b"".join([struct.pack("<Q", len(head)), head, *bodies]))


def _refuse_code(prefix: bytes, path: Path) -> None:
    kind = "zip archive" if prefix == _ZIP else _CODE_BEARING.get(prefix)
    if kind is not None:
        raise ProbeError(
            "tensors.may-hold-code",
            f"{path}: a {kind} can run code when it is opened; it was not opened",
            got=kind,
            expected="a safetensors file, which holds numbers only",
            fix="convert it to safetensors on a machine that may be lost",
        )


def _read_tensor(stream: BinaryIO, body_begin: int, tensor: TensorHeader, path: Path) -> torch.Tensor:
    if tensor.dtype not in _DTYPES:
        raise ProbeError(
            "tensors.other-dtype",
            f"{path.name}: tensor {tensor.name!r}",
            got=tensor.dtype,
            expected=", ".join(_DTYPES),
        )
    dtype = _DTYPES[tensor.dtype]
    if tensor.begin == tensor.end:
        return torch.empty(tensor.shape, dtype=dtype)
    stream.seek(body_begin + tensor.begin)
    buffer = bytearray(tensor.end - tensor.begin)
    if stream.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
        raise ProbeError("tensors.half-written", f"{path.name}: the file became shorter while it was read")
    return torch.frombuffer(buffer, dtype=dtype).reshape(tensor.shape)

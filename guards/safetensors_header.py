"""The header of a safetensors file, checked without loading a tensor.

Layout (https://github.com/huggingface/safetensors#format): eight bytes, little-endian, with the
length of the header; the header, a JSON object from tensor name to dtype, shape and
``data_offsets`` (begin, end) within what follows; the tensors' bytes.

Not covered: the values. NaN weights have a valid header.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO, cast

from guards.canonical import parse_json_strict
from guards.errors import CheckpointError, StairlockError
from guards.evidence import Frozen

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_LENGTH_BYTES = 8

DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}


class TensorHeader(Frozen):
    """One tensor as its file's header declares it; ``dtype`` in the format's spelling (``BF16``)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(stream: BinaryIO, *, source: str) -> tuple[TensorHeader, ...]:
    """Tensors of an open safetensors file, sorted by name; the stream is left after the header.

    The tensors' bytes must be contiguous and cover the file exactly: a gap, an overlap or a tail
    could hold something that no digest of the tensors would show.

    Raises:
        CheckpointError: ``manifest.half-written`` (the file ends before its header or its tensors
            do), ``manifest.bad-safetensors`` (anything else that the format does not allow).
    """
    file_bytes = os.fstat(stream.fileno()).st_size
    prefix = stream.read(_LENGTH_BYTES)
    if len(prefix) < _LENGTH_BYTES:
        raise _half_written(source, file_bytes, f"at least {_LENGTH_BYTES} bytes")
    header_bytes = int.from_bytes(prefix, "little")
    if not 2 <= header_bytes <= MAX_HEADER_BYTES:
        raise _bad(source, f"a header of {header_bytes} bytes", f"2 to {MAX_HEADER_BYTES} bytes")
    raw = stream.read(header_bytes)
    if len(raw) < header_bytes:
        raise _half_written(source, file_bytes, f"a header of {header_bytes} bytes")
    tensors = _parse(raw, source=source)
    position = 0
    for tensor in sorted(tensors, key=lambda item: (item.begin, item.end)):
        if tensor.begin != position:
            raise _bad(
                source, f"tensor {tensor.name!r} begins at byte {tensor.begin}", f"byte {position}: no gap, no overlap"
            )
        position = tensor.end
    expected_bytes = _LENGTH_BYTES + header_bytes + position
    if file_bytes < expected_bytes:
        raise _half_written(source, file_bytes, f"{expected_bytes} bytes")
    if file_bytes > expected_bytes:
        raise _bad(source, f"{file_bytes - expected_bytes} bytes after the last tensor", "none")
    return tuple(sorted(tensors, key=lambda item: item.name))


def _parse(raw: bytes, *, source: str) -> list[TensorHeader]:
    if not raw.startswith(b"{"):
        raise _bad(source, "a header that does not begin with '{'", "a JSON object")
    try:
        value: Any = parse_json_strict(raw, source=source)
    except (StairlockError, ValueError, RecursionError) as error:
        raise _bad(source, f"a header that is not strict JSON ({type(error).__name__})", "a JSON object") from error
    if not isinstance(value, dict):
        raise _bad(source, "a header that is not an object", "a JSON object")
    header = cast(dict[str, object], value)
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not _is_text_map(metadata):
        raise _bad(source, "__metadata__ that is not a map of strings", "strings only")
    if not header:
        raise _bad(source, "no tensors", "at least one tensor")
    return [_tensor(name, entry, source=source) for name, entry in header.items()]


def _tensor(name: str, entry: object, *, source: str) -> TensorHeader:
    if not isinstance(entry, dict):
        raise _bad(source, f"tensor {name!r} without an object", "dtype, shape, data_offsets")
    fields = cast(dict[str, object], entry)
    if set(fields) != {"dtype", "shape", "data_offsets"}:
        raise _bad(source, f"tensor {name!r} with the keys {sorted(fields)}", "dtype, shape, data_offsets")
    dtype = fields["dtype"]
    shape = _naturals(fields["shape"])
    offsets = _naturals(fields["data_offsets"])
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _bad(source, f"tensor {name!r} of dtype {dtype!r}", ", ".join(DTYPE_BYTES))
    if shape is None or offsets is None or len(offsets) != 2:
        raise _bad(source, f"tensor {name!r} with a malformed shape or offsets", "whole numbers of zero or more")
    n_bytes = DTYPE_BYTES[dtype]
    for size in shape:
        n_bytes *= size
    if offsets[1] - offsets[0] != n_bytes:
        raise _bad(
            source, f"tensor {name!r} of {offsets[1] - offsets[0]} bytes", f"{n_bytes} bytes by its dtype and shape"
        )
    return TensorHeader(name=name, dtype=dtype, shape=shape, begin=offsets[0], end=offsets[1])


def _naturals(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    numbers: list[int] = []
    for item in cast(list[object], value):
        if not isinstance(item, int) or isinstance(item, bool) or item < 0:
            return None
        numbers.append(item)
    return tuple(numbers)


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in cast(dict[str, object], value).values())


def _bad(source: str, got: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "manifest.bad-safetensors",
        f"{source}: not a safetensors file that can be trusted",
        got=got,
        expected=expected,
        fix="write the weights again with safetensors (model.save_pretrained)",
    )


def _half_written(source: str, file_bytes: int, expected: str) -> CheckpointError:
    return CheckpointError(
        "manifest.half-written",
        f"{source}: the file ends too early; it was not written or copied to its end",
        got=f"{file_bytes} bytes",
        expected=expected,
        fix="copy or save the checkpoint again; what is half-written is not believed",
    )

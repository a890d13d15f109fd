"""The header parser refuses everything that the format does not allow."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guards.errors import CheckpointError
from guards.safetensors_header import MAX_HEADER_BYTES, TensorHeader, read_header


def file_bytes(header: object, n_data_bytes: int, *, raw: bytes | None = None) -> bytes:
    head = raw if raw is not None else json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + bytes(n_data_bytes)


def parse(tmp_path: Path, data: bytes) -> tuple[TensorHeader, ...]:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with path.open("rb") as stream:
        return read_header(stream, source="x.safetensors")


def rule_of(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(CheckpointError) as refusal:
        parse(tmp_path, data)
    return refusal.value.rule


def tensor(begin: int, end: int, *, dtype: str = "F32", shape: list[int] | None = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def test_a_good_file_is_read_in_name_order(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "b": tensor(0, 8), "a": tensor(8, 12)}
    assert [(t.name, t.shape) for t in parse(tmp_path, file_bytes(header, 12))] == [("a", (1,)), ("b", (2,))]


def test_a_scalar_and_an_empty_tensor_are_allowed(tmp_path: Path) -> None:
    header = {"scalar": tensor(0, 4, shape=[]), "empty": tensor(4, 4, shape=[0, 7])}
    assert {t.name: t.shape for t in parse(tmp_path, file_bytes(header, 4))} == {"scalar": (), "empty": (0, 7)}


@pytest.mark.parametrize(
    ("header", "n_data_bytes"),
    [
        pytest.param({"a": tensor(0, 8)}, 12, id="bytes after the last tensor"),
        pytest.param({"a": tensor(0, 8), "b": tensor(12, 16)}, 16, id="gap"),
        pytest.param({"a": tensor(4, 12)}, 12, id="gap at the start"),
        pytest.param({"a": tensor(0, 8), "b": tensor(4, 12)}, 12, id="overlap"),
        pytest.param({"a": tensor(0, 8, shape=[3])}, 8, id="size differs from shape"),
        pytest.param({"a": tensor(0, 8, dtype="Q4")}, 8, id="unknown dtype"),
        pytest.param({"a": tensor(0, 8, shape=[-2])}, 8, id="negative size"),
        pytest.param({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, 4, id="boolean size"),
        pytest.param({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, 4, id="float size"),
        pytest.param({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, 4, id="dtype is no text"),
        pytest.param({"a": {**tensor(0, 4), "code": "x"}}, 4, id="unknown key"),
        pytest.param({"a": {"dtype": "F32", "shape": [1]}}, 4, id="no offsets"),
        pytest.param({"a": 1}, 4, id="tensor is no object"),
        pytest.param({}, 0, id="no tensors"),
        pytest.param({"__metadata__": {"format": "pt"}}, 0, id="metadata only"),
        pytest.param({"__metadata__": {"format": 1}, "a": tensor(0, 4)}, 4, id="metadata not text"),
    ],
)
def test_what_the_format_does_not_allow(tmp_path: Path, header: object, n_data_bytes: int) -> None:
    assert rule_of(tmp_path, file_bytes(header, n_data_bytes)) == "manifest.bad-safetensors"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": {"dtype":"U8","shape":[4],"data_offsets":[0,4]}, "a": {"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
        b"[1, 2]",
        b" {}",
        b'{"a": NaN}',
        b"{\xff\xff}",
        b'{"a": ' + b"[" * 100_000,
        b'{"a": {"dtype":"F32","shape":[' + b"9" * 6000 + b'],"data_offsets":[0,4]}}',
    ],
    ids=["duplicate tensor", "no object", "leading space", "NaN", "not UTF-8", "deep nesting", "huge number"],
)
def test_a_header_that_is_not_strict_json(tmp_path: Path, raw: bytes) -> None:
    assert rule_of(tmp_path, file_bytes(None, 4, raw=raw)) == "manifest.bad-safetensors"


def test_a_header_length_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    assert rule_of(tmp_path, struct.pack("<Q", MAX_HEADER_BYTES + 1)) == "manifest.bad-safetensors"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.data())
def test_every_truncation_of_a_good_file_is_half_written(tmp_path: Path, data: st.DataObject) -> None:
    whole = file_bytes({"a": tensor(0, 8), "b": tensor(8, 40)}, 40)
    n_bytes = data.draw(st.integers(0, len(whole) - 1))
    assert rule_of(tmp_path, whole[:n_bytes]) == "manifest.half-written"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_refused_and_never_crashes(tmp_path: Path, noise: bytes) -> None:
    assert rule_of(tmp_path, noise) in {"manifest.half-written", "manifest.bad-safetensors"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=5)
)
def test_it_agrees_with_the_library_that_writes_the_format(tmp_path: Path, shapes: dict[str, list[int]]) -> None:
    numpy = pytest.importorskip("numpy")
    writer = pytest.importorskip("safetensors.numpy")
    shapes = {name: shape for name, shape in shapes.items() if name != "__metadata__"} or {"a": [1]}
    try:
        data = writer.save({name: numpy.zeros(shape, dtype=numpy.float32) for name, shape in shapes.items()})
    except UnicodeEncodeError:
        return
    assert {t.name: list(t.shape) for t in parse(tmp_path, data)} == shapes


def test_the_stream_stands_after_the_header(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_bytes({"a": tensor(0, 4)}, 0) + b"abcd")
    with path.open("rb") as stream:
        read_header(stream, source="x")
        assert isinstance(stream, io.BufferedReader)
        assert stream.read() == b"abcd"

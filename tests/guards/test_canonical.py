"""Canonical JSON Lines; canonical JSON itself is held to RFC 8785's vectors in test_ledger.py."""

from __future__ import annotations

from guards.canonical import canonical_bytes, canonical_lines
from guards.evidence import Frozen


class Sample(Frozen):
    z: str
    a: tuple[int, ...]


def test_lines_are_canonical_and_each_ends_with_a_newline() -> None:
    values = [Sample(z="ü\n", a=(1, 2)), {"b": None, "a": 1.0}]
    assert canonical_lines(values) == '{"a":[1,2],"z":"ü\\n"}\n{"a":1,"b":null}\n'.encode()
    assert canonical_lines(iter(values)).splitlines()[1] == canonical_bytes(values[1])


def test_no_values_are_no_lines() -> None:
    assert canonical_lines([]) == b""

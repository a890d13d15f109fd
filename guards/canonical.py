"""Canonical JSON (RFC 8785) and the digests made from it.

Not covered: numbers outside the range that RFC 8785 can represent exactly; ``rfc8785``
refuses them, and so do we.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import rfc8785
from pydantic import BaseModel

from guards.errors import EvidenceError

_CHUNK_BYTES = 1 << 20


def canonical_bytes(value: Any) -> bytes:
    """RFC 8785 bytes of ``value``; NaN, infinities and integers beyond 2**53 are refused."""
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise EvidenceError(
            "canonical.not-representable",
            "a value cannot be written as canonical JSON",
            got=str(error),
            expected="finite numbers, strings, booleans, null, lists and objects with string keys",
        ) from error


def canonical_lines(values: Iterable[Any]) -> bytes:
    """JSON Lines: the canonical bytes of each value and a newline, in the order given.

    A pydantic model is written under its fields' names, not their aliases.
    """
    return b"".join(canonical_bytes(_as_json(value)) + b"\n" for value in values)


def _as_json(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def sha256_bytes(data: bytes) -> str:
    """``sha256:`` and the lower-case hex digest of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """``sha256:`` and the lower-case hex digest of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK_BYTES):
            digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def digest_of(value: Any) -> str:
    """sha256 over the canonical JSON of ``value``: how every object here is named."""
    return sha256_bytes(canonical_bytes(value))


def contains_float(value: Any) -> bool:
    """True if a float hides anywhere in ``value``; the ledger allows none."""
    if isinstance(value, float):
        return True
    if isinstance(value, dict):
        return any(contains_float(item) for item in cast(dict[str, Any], value).values())
    if isinstance(value, (list, tuple)):
        return any(contains_float(item) for item in cast(Sequence[Any], value))
    return False


def parse_json_strict(data: bytes, *, source: str) -> Any:
    """Parse JSON, refusing duplicate keys, NaN and infinities, and anything not UTF-8."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in pairs:
            if key in result:
                raise EvidenceError("json.duplicate-key", f"{source}: the key {key!r} appears twice in one object")
            result[key] = item
        return result

    def no_constant(name: str) -> Any:
        raise EvidenceError(
            "json.not-finite", f"{source}: {name} is not a number that counts", expected="a finite number"
        )

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=no_duplicates, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:  # also integers of too many digits, and nesting without end
        raise EvidenceError("json.malformed", f"{source}: not valid JSON ({error})") from error

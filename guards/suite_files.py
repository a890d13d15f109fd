"""The files of a suite, read as plain data: its YAML, the item files that it names, and their digests.

Not covered: what a suite means, which is ``loop.suites``' to check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from guards.canonical import digest_of, sha256_file
from guards.strict_yaml import Json, is_there, parse_yaml, read_text


def suite_digest(path: Path) -> str:
    """Digest of a suite: its YAML as JSON, and the sha256 of every file that a ``file:`` key names.

    The suite's meaning is ``loop.suites``' to check; here it is plain data.

    Raises:
        ConfigError: the YAML is not plain data (see :func:`guards.strict_yaml.load_yaml`), or
            ``policy.missing-file``.
    """
    return read_suite(path)[0]


def item_files(path: Path) -> tuple[str, ...]:
    """The item files that a suite's YAML names, relative to the suite file."""
    value, _ = parse_yaml(read_text(path), source=str(path))
    return tuple(name for _, name in _named_files(value, ()))


def item_digests(path: Path) -> list[str]:
    """The sha256 of each item file that a suite's YAML names, sorted. They hold the same items at every look.

    Raises:
        ConfigError: as :func:`suite_digest`.
    """
    return read_suite(path)[1]


def read_suite(path: Path) -> tuple[str, list[str]]:
    """(:func:`suite_digest`, :func:`item_digests`), of one reading."""
    value, positions = parse_yaml(read_text(path), source=str(path))
    files: dict[str, str] = {}
    for at, name in _named_files(value, ()):
        item_path = path.parent / name
        if not is_there(item_path):
            raise positions.refusal(
                "policy.missing-file",
                positions.at(*at),
                f"the item file {name!r} is not there",
                fix="paths are relative to the suite file",
            )
        files[name] = sha256_file(item_path)
    return digest_of({"yaml": value, "files": files}), sorted(set(files.values()))


def _named_files(value: Json, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(path, name) of every string under a key ``file``."""
    pairs: Iterator[tuple[str | int, Json]] = iter(())
    if isinstance(value, dict):
        pairs = iter(cast(Mapping[str, Any], value).items())
    elif isinstance(value, list):
        pairs = iter(enumerate(value))
    for key, item in pairs:
        if key == "file" and isinstance(item, str):
            yield (*path, key), item
        else:
            yield from _named_files(item, (*path, key))

"""YAML that people edit, read strictly, with every refusal at ``file:line:col``.

A typo must not open a gate. So a key that no model knows is refused (with the nearest known
key), and so is whatever YAML lets two readers understand differently: duplicate keys, anchors and
aliases, tags, merge keys, directives, several documents, numbers that are not plain decimals,
``yes``/``no``/``on``/``off``, NaN and infinities. The file becomes JSON first; the model then
validates that JSON strictly, so that ``"5"`` is no number and ``1`` is no boolean.

Not covered: whether what the file says is wise. That is the models' and the linter's job.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from guards.errors import ConfigError

M = TypeVar("M", bound=BaseModel)
Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
YamlPath = tuple[str | int, ...]

MAX_BYTES = 8 << 20
MAX_DEPTH = 40
MAX_INTEGER = 2**53  # beyond it JSON readers disagree

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.?(inf|nan|infinity)", re.IGNORECASE)
# What some YAML reader would take for a number: signs, bare dots, leading zeros, 0x1f, 0o17, 1_000, 1:30.
_AMBIGUOUS_NUMBER = re.compile(
    r"[-+]?(\.[0-9_]+|[0-9][0-9_]*\.?[0-9_]*)([eE][-+]?[0-9]+)?|[-+]?0[xob][0-9a-fA-F_]+|[-+]?[0-9]+(:[0-5]?[0-9])+"
)
_AMBIGUOUS_BOOLEAN = re.compile(r"y|n|yes|no|on|off|true|false", re.IGNORECASE)
_MAX_SHOWN = 5


@dataclass(frozen=True)
class Position:
    """Where something starts in a file; both count from 1, as editors do."""

    line: int
    column: int


@dataclass
class PositionMap:
    """Where each value and each key of one file stands."""

    source: str
    values: dict[YamlPath, Position] = field(default_factory=dict[YamlPath, Position])
    keys: dict[YamlPath, Position] = field(default_factory=dict[YamlPath, Position])

    def at(self, *path: str | int) -> Position:
        """Position of the value at ``path``, or of the nearest enclosing value that exists."""
        here: YamlPath = path
        while here not in self.values and here:
            here = here[:-1]
        return self.values.get(here, Position(1, 1))

    def of_key(self, *path: str | int) -> Position:
        """Position of the key that ``path`` ends in; of the enclosing value where there is none."""
        return self.keys.get(path) or self.at(*path)

    def refusal(
        self, rule: str, position: Position, message: str, *, got: str = "", expected: str = "", fix: str = ""
    ) -> ConfigError:
        """A :class:`ConfigError` whose message begins with ``file:line:col``."""
        where = f"{self.source}:{position.line}:{position.column}"
        return ConfigError(rule, f"{where}: {message}", got=got, expected=expected, fix=fix)


def load_yaml(path: Path, model: type[M]) -> M:
    """Read the file at ``path`` as ``model``.

    Raises:
        ConfigError: ``yaml.no-file``, ``yaml.too-large``, ``yaml.not-utf8``, ``yaml.syntax``,
            ``yaml.empty``, ``yaml.many-documents``, ``yaml.directive``, ``yaml.alias``,
            ``yaml.tag``, ``yaml.merge-key``, ``yaml.duplicate-key``, ``yaml.bad-key``,
            ``yaml.not-finite``, ``yaml.ambiguous-number``, ``yaml.ambiguous-boolean``,
            ``yaml.too-deep``; ``yaml.unknown-key``, ``yaml.missing-key``, ``yaml.invalid``, or
            the rule of the model's own validator.
    """
    return load_yaml_with_positions(path, model)[0]


def load_yaml_with_positions(path: Path, model: type[M]) -> tuple[M, PositionMap]:
    """:func:`load_yaml`, and where everything stands, for checks that come after."""
    value, positions = parse_yaml(read_text(path), source=str(path))
    return validate(value, positions, model), positions


def load_yaml_text(text: str, source: str, model: type[M]) -> M:
    """:func:`load_yaml` for text that is already in memory; ``source`` names it in refusals."""
    value, positions = parse_yaml(text, source=source)
    return validate(value, positions, model)


def line_of(path: Path, *keys: str | int) -> int:
    """Line of the value at ``keys`` in a YAML file, for example ``line_of(path, "gates", 2)``."""
    return parse_yaml(read_text(path), source=str(path))[1].at(*keys).line


def read_text(path: Path) -> str:
    """The file's text; refuses what is absent, too large or not UTF-8."""
    here = PositionMap(str(path))
    if not path.is_file():
        raise here.refusal("yaml.no-file", Position(1, 1), "there is no such file", fix="check the path")
    with path.open("rb") as handle:
        data = handle.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise here.refusal(
            "yaml.too-large", Position(1, 1), "the file is too large", expected=f"at most {MAX_BYTES} bytes"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise here.refusal("yaml.not-utf8", Position(line, column), "the file is not UTF-8") from error


def parse_yaml(text: str, *, source: str) -> tuple[Json, PositionMap]:
    """The JSON value that ``text`` spells, and where its parts stand. Raises as :func:`load_yaml`."""
    builder = _Builder(PositionMap(source))
    try:
        for event in YAML(typ="safe", pure=True).parse(text):  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            builder.take(event)
    except YAMLError as error:
        mark = _attribute(error, "problem_mark") or _attribute(error, "context_mark")
        offset = _attribute(error, "position")  # of a character that YAML does not allow; there is no mark then
        if mark is not None:
            position = Position(int(mark.line) + 1, int(mark.column) + 1)
        else:
            offset = int(offset or 0)
            position = Position(text[:offset].count("\n") + 1, offset - text.rfind("\n", 0, offset))
        reason = _attribute(error, "problem") or _attribute(error, "reason") or "cannot be read"
        message = f"not valid YAML: {' '.join(str(reason).split())}"
        raise builder.positions.refusal("yaml.syntax", position, message) from error
    return builder.result(), builder.positions


class _Builder:
    """Turns parser events into one JSON value, refusing everything that is not plain data.

    It keeps its own stack, so that a deeply nested file cannot exhaust Python's.
    """

    def __init__(self, positions: PositionMap) -> None:
        self.positions = positions
        self._stack: list[tuple[YamlPath, dict[str, Json] | list[Json]]] = []
        self._pending_key: list[str | None] = []
        self._root: list[Json] = []
        self._n_documents = 0

    def take(self, event: object) -> None:
        position = _position(event)
        if isinstance(event, DocumentStartEvent):
            self._start_document(event, position)
        elif isinstance(event, AliasEvent) or _attribute(event, "anchor") is not None:
            raise self.positions.refusal(
                "yaml.alias", position, "anchors and aliases are not allowed", fix="write the value out in full"
            )
        elif _attribute(event, "ctag") is not None:
            raise self.positions.refusal(
                "yaml.tag", position, "tags are not allowed", got=str(_attribute(event, "ctag"))
            )
        elif isinstance(event, ScalarEvent):
            self._scalar(event, position)
        elif isinstance(event, MappingStartEvent):
            self._open({}, position)
        elif isinstance(event, SequenceStartEvent):
            self._open([], position)
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            self._stack.pop()
            self._pending_key.pop()

    def result(self) -> Json:
        if not self._root:
            raise self.positions.refusal("yaml.empty", Position(1, 1), "the file says nothing")
        return self._root[0]

    def _start_document(self, event: DocumentStartEvent, position: Position) -> None:
        self._n_documents += 1
        if self._n_documents > 1:
            raise self.positions.refusal("yaml.many-documents", position, "only one document per file is allowed")
        if _attribute(event, "version") is not None or _attribute(event, "tags"):
            raise self.positions.refusal("yaml.directive", position, "YAML directives are not allowed")

    def _scalar(self, event: ScalarEvent, position: Position) -> None:
        text = self._whole_characters(str(_attribute(event, "value")), position)
        plain = _attribute(event, "style") is None
        path = self._stack[-1][0] if self._stack else ()
        key = self._pending_key[-1] if self._stack else None
        if key is None and self._stack and isinstance(self._stack[-1][1], dict):
            self._key(text, plain, position)
        elif plain and text == "" and key is not None:
            # The parser finds an absent value where the next thing starts; its key is where to look.
            self._add(None, self.positions.of_key(*path, key))
        else:
            self._add(self._plain_value(text, position) if plain else text, position)

    def _whole_characters(self, text: str, position: Position) -> str:
        """``text`` with escaped surrogate pairs joined, as JSON reads them; half a pair is refused."""
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            raise self.positions.refusal("yaml.syntax", position, "an escape names half a character") from error

    def _key(self, text: str, plain: bool, position: Position) -> None:
        path, mapping = self._stack[-1]
        if plain and text == "<<":
            raise self.positions.refusal("yaml.merge-key", position, "merge keys are not allowed")
        if text in cast(dict[str, Json], mapping):
            raise self.positions.refusal("yaml.duplicate-key", position, f"the key {text!r} appears twice")
        self._pending_key[-1] = text
        self.positions.keys[(*path, text)] = position

    def _plain_value(self, text: str, position: Position) -> Json:
        """A plain (unquoted) scalar: null, boolean, decimal number, or the text itself."""
        if text in ("", "~", "null"):
            return None
        if text in ("true", "false"):
            return text == "true"
        if _INTEGER.fullmatch(text) and len(text) <= 17 and abs(int(text)) <= MAX_INTEGER:
            return int(text)
        if _DECIMAL.fullmatch(text) and not _INTEGER.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
        if _NOT_FINITE.fullmatch(text) or (_DECIMAL.fullmatch(text) and not math.isfinite(float(text))):
            raise self.positions.refusal("yaml.not-finite", position, f"{text} is not a finite number", got=text)
        if _AMBIGUOUS_NUMBER.fullmatch(text):
            raise self.positions.refusal(
                "yaml.ambiguous-number",
                position,
                f"{text} is read differently by different YAML readers",
                fix="write a plain decimal number, or put the text in quotes",
            )
        if _AMBIGUOUS_BOOLEAN.fullmatch(text):
            raise self.positions.refusal(
                "yaml.ambiguous-boolean",
                position,
                f"{text} is read differently by different YAML readers",
                fix="write true or false, or put the text in quotes",
            )
        return text

    def _open(self, container: dict[str, Json] | list[Json], position: Position) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise self.positions.refusal("yaml.too-deep", position, f"nested more than {MAX_DEPTH} deep")
        path = self._add(container, position)
        self._stack.append((path, container))
        self._pending_key.append(None)

    def _add(self, value: Json, position: Position) -> YamlPath:
        """Put ``value`` where the parser stands; returns its path."""
        if not self._stack:
            self._root.append(value)
            self.positions.values[()] = position
            return ()
        parent_path, parent = self._stack[-1]
        if isinstance(parent, list):
            path: YamlPath = (*parent_path, len(parent))
            parent.append(value)
        else:
            key = self._pending_key[-1]
            if key is None:
                raise self.positions.refusal("yaml.bad-key", position, "a key must be a plain word or a string")
            path = (*parent_path, key)
            parent[key] = value
            self._pending_key[-1] = None
        self.positions.values[path] = position
        return path


def _attribute(thing: object, name: str) -> Any:
    """An attribute of one of ruamel's objects, which carry no types; None where it has none."""
    return getattr(thing, name, None)


def _position(event: object) -> Position:
    mark = _attribute(event, "start_mark")
    return Position(1, 1) if mark is None else Position(int(mark.line) + 1, int(mark.column) + 1)


def validate(value: Json, positions: PositionMap, model: type[M]) -> M:
    """``value`` as ``model``, or a refusal at the first offending line (others are listed below it)."""
    try:
        return model.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
        findings = [
            _finding(one, value, positions, model) for one in details if not _follows_from_another(one, details)
        ]
    # A misspelt key is unknown, and often its right spelling is missing too: the unknown one says more.
    findings.sort(key=lambda found: (found[0] != "yaml.unknown-key", found[1].line, found[1].column))
    rule, position, message, expected = findings[0]
    others = [f"{positions.source}:{p.line}:{p.column}: {text}" for _, p, text, _ in findings[1:_MAX_SHOWN]]
    if len(findings) > _MAX_SHOWN:
        others.append(f"and {len(findings) - _MAX_SHOWN} more")
    raise positions.refusal(rule, position, "\n  ".join([message, *others]), expected=expected)


def _follows_from_another(error: ErrorDetails, errors: list[ErrorDetails]) -> bool:
    """A list that is too short only because its items were refused is no finding of its own."""
    depth = len(error["loc"])
    deeper = any(len(other["loc"]) > depth and other["loc"][:depth] == error["loc"] for other in errors)
    return error["type"] == "too_short" and deeper


def _finding(
    details: ErrorDetails, value: Json, positions: PositionMap, model: type[BaseModel]
) -> tuple[str, Position, str, str]:
    """(rule, position, message, expected) of one validation error."""
    path = _path_in_file(details["loc"], value)
    kind = details["type"]
    where = ".".join(str(part) for part in path) or "the file"
    if kind == "extra_forbidden":
        known = _known_keys(model.model_json_schema(), details["loc"][:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return "yaml.unknown-key", positions.of_key(*path), f"unknown key {path[-1]!r}{hint}", ", ".join(known)
    if kind == "missing":
        return "yaml.missing-key", positions.at(*path), f"{where}: the key is missing", ""
    discriminator = str(details.get("ctx", {}).get("discriminator", "")).strip("'")
    if kind == "union_tag_not_found":
        return "yaml.missing-key", positions.at(*path), f"{where}: the key {discriminator!r} is missing", ""
    if kind == "union_tag_invalid":
        expected = str(details.get("ctx", {}).get("expected_tags", ""))
        tag = repr(details.get("ctx", {}).get("tag", ""))
        return "yaml.invalid", positions.at(*path, discriminator), f"{where}.{discriminator}: unknown {tag}", expected
    rule = kind if "." in kind else "yaml.invalid"
    shown = details["input"]
    got = f" (got {json.dumps(shown)[:80]})" if isinstance(shown, (str, int, float, bool)) else ""
    return rule, positions.at(*path), f"{where}: {details['msg']}{got}", ""


def _path_in_file(location: tuple[int | str, ...], value: Json) -> YamlPath:
    """Pydantic's location without what it adds and the file does not have (union tags, class names).

    A last part that is not in the file is kept: it is a missing key.
    """
    path: list[str | int] = []
    here: Json = value
    for index, part in enumerate(location):
        found, child = _child(here, part)
        if found:
            here = child
        elif index < len(location) - 1 or not isinstance(here, dict):
            continue
        path.append(part)
    return tuple(path)


def _child(value: Json, part: int | str) -> tuple[bool, Json]:
    """(whether ``value`` has the part, that part)."""
    if isinstance(value, dict) and isinstance(part, str) and part in value:
        return True, value[part]
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return True, value[part]
    return False, None


def _known_keys(schema: Mapping[str, Any], location: tuple[int | str, ...]) -> list[str]:
    """Keys that the model allows at ``location``, read from its JSON Schema."""
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    nodes: list[Mapping[str, Any]] = _expand(schema, definitions)
    for part in location:
        following: list[Mapping[str, Any]] = []
        for node in nodes:
            mapping: Mapping[str, str] = node.get("discriminator", {}).get("mapping", {})
            if isinstance(part, int):
                child = node.get("items")
            elif part in mapping:
                child = {"$ref": mapping[part]}
            else:
                child = node.get("properties", {}).get(part) or node.get("additionalProperties")
            if isinstance(child, dict):
                following += _expand(cast(dict[str, Any], child), definitions)
        nodes = following or nodes
    return sorted({str(key) for node in nodes for key in node.get("properties", {})})


def _expand(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """``node`` with its reference followed, and the alternatives of a union beside it.

    A union with a discriminator is kept whole: the next part of the location picks its member.
    """
    if "$ref" in node:
        return _expand(definitions[str(node["$ref"]).rsplit("/", 1)[-1]], definitions)
    nodes = [node]
    if "discriminator" not in node:
        for key in ("anyOf", "oneOf", "allOf"):
            for alternative in node.get(key, []):
                nodes += _expand(alternative, definitions)
    return nodes

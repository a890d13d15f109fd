"""YAML that people edit, read strictly, with every refusal at ``file:line:col``.

A typo must not open a gate. So a key that no model knows is refused (with the nearest known
key), and so is whatever YAML lets two readers understand differently: duplicate keys, anchors and
aliases, tags, merge keys, directives, several documents, numbers that are not plain decimals,
``yes``/``no``/``on``/``off``, NaN and infinities, characters that end a line for some, and in braces
and brackets what YAML 1.2 allows and 1.1 does not: tabs between values, ``?`` in a plain word, a colon
that begins or ends one. The file becomes JSON first; the model then validates that JSON strictly, so
that ``"5"`` is no number and ``1`` is no boolean.

:func:`load_yaml` refuses a file at the first problem, and is what everything that acts on a file
uses. :func:`read_leniently` is for linters: it goes on after a problem, and reports all of them.

Not covered: whether what the file says is wise. That is the models' and the linter's job.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, ValidationError
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

from guards.model_findings import Json, findings_of, shown_text
from guards.yaml_positions import Finding, Position, PositionMap, YamlPath

M = TypeVar("M", bound=BaseModel)

MAX_BYTES = 512 << 10
MAX_DEPTH = 40
MAX_INTEGER = 2**53 - 1  # beyond it JSON readers disagree, and RFC 8785 has no form for it

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.?(inf|nan|infinity)", re.IGNORECASE)
# What some YAML reader would take for a number: signs, bare dots, leading zeros, 0x1f, 0o17, 1_000, 1:30.
_AMBIGUOUS_NUMBER = re.compile(
    r"[-+]?(\.[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?0[xob][0-9a-fA-F_]+|[-+]?[0-9]+(:[0-5]?[0-9])+"
)
# NEL, LS and PS end a line, and so a comment, in YAML 1.1, and do not in 1.2.
_AMBIGUOUS_LINE_BREAK = re.compile("[\x85\u2028\u2029]")
# YAML 1.1 takes these for a key's marks wherever they stand in braces and brackets.
_AMBIGUOUS_IN_FLOW = re.compile(r"\?|\A:|:\Z")
_COMMENT = re.compile(r"#[^\r\n]*")  # in what stands between two values
_AMBIGUOUS_BOOLEAN = re.compile(r"y|n|yes|no|on|off|true|false", re.IGNORECASE)
_MAX_SHOWN = 5
_MAX_SHOWN_CHARS = 80
_MAX_FINDINGS = 1000  # a file with more was not written by hand, and nobody reads on


class _Unread:
    """Stands in the place of a key whose value is read and dropped."""


class _Enough(Exception):
    """Nothing after this can be read, or need be."""


@dataclass(frozen=True)
class Reading(Generic[M]):
    """A file with everything that is wrong with it.

    ``value`` is the model where nothing is. ``raw`` is the plain data, with null for what could not
    be read, and ``is_whole`` whether all of the file went into it.
    """

    value: M | None
    raw: Json
    is_whole: bool
    positions: PositionMap
    findings: tuple[Finding, ...]


def load_yaml(path: Path, model: type[M]) -> M:
    """Read the file at ``path`` as ``model``.

    Raises:
        ConfigError: ``yaml.no-file``, ``yaml.too-large``, ``yaml.not-utf8``, ``yaml.syntax``,
            ``yaml.empty``, ``yaml.many-documents``, ``yaml.directive``, ``yaml.alias``,
            ``yaml.tag``, ``yaml.merge-key``, ``yaml.duplicate-key``, ``yaml.bad-key``,
            ``yaml.not-finite``, ``yaml.ambiguous-number``, ``yaml.ambiguous-boolean``,
            ``yaml.line-break``, ``yaml.too-deep``; ``yaml.unknown-key``, ``yaml.missing-key``, ``yaml.invalid``, or
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


def read_leniently(text: str, source: str, model: type[M]) -> Reading[M]:
    """Read ``text`` as ``model`` and report everything that :func:`load_yaml` would refuse, in the file's order.

    After a syntax error nothing more can be read; then only what stands before it is reported.
    What follows from another finding is left out: a value that could not be read is not also
    reported as being of the wrong type.
    """
    builder = _Builder(PositionMap(source), report_all=True)
    is_whole = builder.read(text)
    raw, findings = builder.root, builder.findings
    value: M | None = None
    if is_whole:
        try:
            value = model.model_validate_json(json.dumps(raw), strict=True)
        except ValidationError as error:
            found = findings_of(error, raw, builder.positions, model)
            findings += [one for one in found if not builder.explains(one)]
    ordered = sorted(findings, key=lambda one: one.position)[:_MAX_FINDINGS]
    return Reading(None if findings else value, raw, is_whole, builder.positions, tuple(ordered))


def line_of(path: Path, *keys: str | int) -> int:
    """Line of the value at ``keys`` in a YAML file, for example ``line_of(path, "gates", 2)``."""
    return parse_yaml(read_text(path), source=str(path))[1].at(*keys).line


def is_there(path: Path) -> bool:
    """True for a file; a name that no file can have is the name of none."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_text(path: Path) -> str:
    """The file's text; refuses what is absent, too large or not UTF-8."""
    here = PositionMap(str(path))
    if not is_there(path):
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
    builder = _Builder(PositionMap(source), report_all=False)
    builder.read(text)
    return builder.root, builder.positions


class _Builder:
    """Turns parser events into one JSON value, refusing everything that is not plain data.

    It keeps its own stack, so that a deeply nested file cannot exhaust Python's. With
    ``report_all`` it collects ``findings`` and goes on; otherwise it raises the first.
    """

    def __init__(self, positions: PositionMap, *, report_all: bool) -> None:
        self.positions = positions
        self.findings: list[Finding] = []
        self.root: Json = None
        self._report_all = report_all
        self._has_root = False
        self._stack: list[tuple[YamlPath, dict[str, Json] | list[Json]]] = []
        self._is_flow: list[bool] = []  # in braces or brackets
        self._pending_key: list[str | type[_Unread] | None] = []
        self._text = ""
        self._seen_up_to = 0  # what of the text was looked at for tabs
        self._n_documents = 0
        self._unread: set[YamlPath] = set()  # values that could not be read
        self._incomplete: set[YamlPath] = set()  # mappings of which a key could not be read

    def read(self, text: str) -> bool:
        """Take in the whole text; false where only its beginning could be read."""
        self._text = text
        try:
            for match in _AMBIGUOUS_LINE_BREAK.finditer(text):
                message = f"U+{ord(match[0]):04X} ends a line for some YAML readers, and not for others"
                fix = "take it out, or write it as an escape in double quotes"
                self._report("yaml.line-break", _position_of(match.start(), text), message, fix=fix)
            if self.findings:
                return False
            for event in YAML(typ="safe", pure=True).parse(text):  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
                self.take(event)
            if not self._has_root:
                self._report("yaml.empty", Position(1, 1), "the file says nothing")
        except _Enough:
            return False
        except YAMLError as error:
            message, position = _syntax_error(error, text)
            self._report("yaml.syntax", position, message)
            return False
        return self._has_root

    def explains(self, found: Finding) -> bool:
        """True if the model's finding may only follow from what could not be read."""
        path = found.path
        if found.rule == "yaml.missing-key" and (path in self._incomplete or path[:-1] in self._incomplete):
            return True
        broken = self._unread if found.rule == "yaml.unknown-key" else self._unread | self._incomplete
        return any(path[: len(one)] == one or one[: len(path)] == path for one in broken)

    def take(self, event: object) -> None:
        position = _position(event)
        self._look_for_tabs(event)
        if isinstance(event, DocumentStartEvent):
            self._start_document(event, position)
            return
        if isinstance(event, AliasEvent) or _attribute(event, "anchor") is not None:
            fix = "write the value out in full"
            self._report("yaml.alias", position, "anchors and aliases are not allowed", fix=fix)
        elif (tag := _attribute(event, "ctag")) is not None:
            self._report("yaml.tag", position, "tags are not allowed", got=str(tag))
        if isinstance(event, AliasEvent):
            self._cannot_read(position)
        elif isinstance(event, ScalarEvent):
            self._scalar(event, position)
        elif isinstance(event, MappingStartEvent):
            self._open({}, position, is_flow=bool(_attribute(event, "flow_style")))
        elif isinstance(event, SequenceStartEvent):
            self._open([], position, is_flow=bool(_attribute(event, "flow_style")))
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            self._stack.pop()
            self._pending_key.pop()
            self._is_flow.pop()

    def _look_for_tabs(self, event: object) -> None:
        """Report a tab between the last event and this one; in quotes, comments and ``|`` blocks it may stand."""
        start = int(_attribute(_attribute(event, "start_mark"), "index") or 0)
        end = int(_attribute(_attribute(event, "end_mark"), "index") or 0)
        between = _COMMENT.sub(lambda comment: " " * len(comment[0]), self._text[self._seen_up_to : start])
        if isinstance(event, ScalarEvent) and _attribute(event, "style") is None:
            between += self._text[start:end]  # a word without quotes may not hold one either
        at = between.find("\t")
        if at >= 0:
            message = "a tab between values is not valid YAML for some readers"
            self._report("yaml.syntax", _position_of(self._seen_up_to + at, self._text), message, fix="write a space")
        self._seen_up_to = max(self._seen_up_to, start, end)

    def _report(
        self, rule: str, position: Position, message: str, *, got: str = "", expected: str = "", fix: str = ""
    ) -> None:
        path = self._stack[-1][0] if self._stack else ()
        found = Finding(rule, position, message, got=got, expected=expected, fix=fix, path=path)
        if not self._report_all:
            raise self.positions.refusal_of(found)
        self.findings.append(found)
        if len(self.findings) >= _MAX_FINDINGS:
            raise _Enough

    def _awaits_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1][1], dict) and self._pending_key[-1] is None

    def _cannot_read(self, position: Position) -> None:
        """Something stands here that was reported, and goes on standing for nothing."""
        if self._awaits_key():
            self._incomplete.add(self._stack[-1][0])
            self._pending_key[-1] = _Unread
        else:
            self._unread.add(self._add(None, position))

    def _start_document(self, event: DocumentStartEvent, position: Position) -> None:
        self._n_documents += 1
        if self._n_documents > 1:
            self._report("yaml.many-documents", position, "only one document per file is allowed")
            raise _Enough
        if _attribute(event, "version") is not None or _attribute(event, "tags"):
            self._report("yaml.directive", position, "YAML directives are not allowed")

    def _scalar(self, event: ScalarEvent, position: Position) -> None:
        text = str(_attribute(event, "value"))
        try:
            # Escaped surrogate pairs are joined, as JSON reads them; half a pair is refused.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._report("yaml.syntax", position, "an escape names half a character")
            self._cannot_read(position)
            return
        plain = _attribute(event, "style") is None
        if plain and self._is_flow and self._is_flow[-1] and _AMBIGUOUS_IN_FLOW.search(text):
            message = f"{shown_text(text)} in braces or brackets is read differently by different YAML readers"
            self._report("yaml.syntax", position, message, fix="put the text in quotes")
            self._cannot_read(position)
            return
        path = self._stack[-1][0] if self._stack else ()
        key = self._pending_key[-1] if self._stack else None
        if self._awaits_key():
            self._key(text, plain, position)
        elif not plain:
            self._add(text, position)
        elif text == "" and isinstance(key, str):
            # The parser finds an absent value where the next thing starts; its key is where to look.
            self._add(None, self.positions.of_key(*path, key))
        else:
            self._plain(text, position)

    def _key(self, text: str, plain: bool, position: Position) -> None:
        path, mapping = self._stack[-1]
        if plain and text == "":
            self._report("yaml.bad-key", position, "a key must be a plain word or a string", got="nothing")
            self._cannot_read(position)
        elif plain and text == "<<":
            self._report("yaml.merge-key", position, "merge keys are not allowed")
            self._cannot_read(position)
        elif text in cast(dict[str, Json], mapping):
            self._report("yaml.duplicate-key", position, f"the key {shown_text(text)} appears twice")
            self._pending_key[-1] = _Unread  # the first one stands
        else:
            self._pending_key[-1] = text
            self.positions.keys[(*path, text)] = position

    def _plain(self, text: str, position: Position) -> None:
        """A plain (unquoted) scalar: null, boolean, decimal number, or the text itself."""
        if text in ("", "~", "null"):
            self._add(None, position)
        elif text in ("true", "false"):
            self._add(text == "true", position)
        elif _INTEGER.fullmatch(text) and len(text) <= 17 and abs(int(text)) <= MAX_INTEGER:
            self._add(int(text), position)
        elif _DECIMAL.fullmatch(text) and not _INTEGER.fullmatch(text) and math.isfinite(float(text)):
            self._add(float(text), position)
        elif _NOT_FINITE.fullmatch(text) or (_DECIMAL.fullmatch(text) and not math.isfinite(float(text))):
            self._report("yaml.not-finite", position, f"{text[:_MAX_SHOWN_CHARS]} is not a finite number", got=text)
            self._cannot_read(position)
        elif _AMBIGUOUS_NUMBER.fullmatch(text):
            self._ambiguous("number", text, position, "write a plain decimal number, or put the text in quotes")
        elif _AMBIGUOUS_BOOLEAN.fullmatch(text):
            self._ambiguous("boolean", text, position, "write true or false, or put the text in quotes")
        else:
            self._add(text, position)

    def _ambiguous(self, kind: str, text: str, position: Position, fix: str) -> None:
        message = f"{text[:_MAX_SHOWN_CHARS]} is read differently by different YAML readers"
        rule = "yaml.ambiguous-number" if kind == "number" else "yaml.ambiguous-boolean"
        self._report(rule, position, message, fix=fix)
        self._cannot_read(position)

    def _open(self, container: dict[str, Json] | list[Json], position: Position, *, is_flow: bool) -> None:
        if len(self._stack) >= MAX_DEPTH:
            self._report("yaml.too-deep", position, f"nested more than {MAX_DEPTH} deep")
            raise _Enough
        if self._awaits_key():
            self._report("yaml.bad-key", position, "a key must be a plain word or a string")
            self._cannot_read(position)
            self._stack.append(((*self._stack[-1][0], "?"), container))
        else:
            self._stack.append((self._add(container, position), container))
        self._pending_key.append(None)
        self._is_flow.append(is_flow)

    def _add(self, value: Json, position: Position) -> YamlPath:
        """Put ``value`` where the parser stands; returns its path."""
        if not self._stack:
            self.root, self._has_root = value, True
            self.positions.values[()] = position
            return ()
        parent_path, parent = self._stack[-1]
        if isinstance(parent, list):
            path: YamlPath = (*parent_path, len(parent))
            parent.append(value)
        else:
            key, self._pending_key[-1] = self._pending_key[-1], None
            if not isinstance(key, str):
                return (*parent_path, "?")  # the value of a key that was reported
            path = (*parent_path, key)
            parent[key] = value
        self.positions.values[path] = position
        return path


def _syntax_error(error: YAMLError, text: str) -> tuple[str, Position]:
    mark = _attribute(error, "problem_mark") or _attribute(error, "context_mark")
    if mark is not None:
        position = Position(int(mark.line) + 1, int(mark.column) + 1)
    else:
        # The offset of a character that YAML does not allow; there is no mark then.
        position = _position_of(int(_attribute(error, "position") or 0), text)
    reason = _attribute(error, "problem") or _attribute(error, "reason") or "cannot be read"
    return f"not valid YAML: {' '.join(str(reason).split())}", position


def _position_of(offset: int, text: str) -> Position:
    return Position(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))


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
        findings = findings_of(error, value, positions, model)
    first, *more = findings
    others = [f"{positions.source}:{f.position.line}:{f.position.column}: {f.message}" for f in more[: _MAX_SHOWN - 1]]
    if len(findings) > _MAX_SHOWN:
        others.append(f"and {len(findings) - _MAX_SHOWN} more")
    message = "\n  ".join([first.message, *others])
    raise positions.refusal(first.rule, first.position, message, expected=first.expected)

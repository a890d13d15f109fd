"""What a pydantic model finds wrong with a value that came from YAML, at its places in the file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from guards.yaml_positions import Finding, PositionMap, YamlPath

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

_MAX_SHOWN_CHARS = 80


def findings_of(error: ValidationError, value: Json, positions: PositionMap, model: type[BaseModel]) -> list[Finding]:
    """Everything that ``model`` refused in ``value``; unknown keys first, then by place.

    A misspelt key is unknown, and often its right spelling is missing too: the unknown one says more.
    """
    details = error.errors(include_url=False)
    schema = model.model_json_schema() if any(one["type"] == "extra_forbidden" for one in details) else {}
    found = [_finding(one, value, positions, schema) for one in details if not _follows_from_another(one, details)]
    return sorted(found, key=lambda one: (one.rule != "yaml.unknown-key", one.position))


def shown_text(text: str) -> str:
    """``text`` in quotes, cut where nobody would read on."""
    return repr(text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…")


def _follows_from_another(error: ErrorDetails, errors: list[ErrorDetails]) -> bool:
    """A list that is too short only because its items were refused is no finding of its own."""
    if error["type"] != "too_short":
        return False
    depth = len(error["loc"])
    return any(len(other["loc"]) > depth and other["loc"][:depth] == error["loc"] for other in errors)


def _finding(details: ErrorDetails, value: Json, positions: PositionMap, schema: Mapping[str, Any]) -> Finding:
    path = _path_in_file(details["loc"], value)
    kind = details["type"]
    where = ".".join(_short(str(part)) for part in path) or "the file"
    if kind == "extra_forbidden":
        known = _known_keys(schema, details["loc"][:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        message = f"unknown key {shown_text(str(path[-1]))}{hint}"
        return Finding("yaml.unknown-key", positions.of_key(*path), message, expected=", ".join(known), path=path)
    if kind == "missing":
        return Finding("yaml.missing-key", positions.at(*path), f"{where}: the key is missing", path=path)
    discriminator = str(details.get("ctx", {}).get("discriminator", "")).strip("'")
    if kind == "union_tag_not_found":
        message = f"{where}: the key {discriminator!r} is missing"
        return Finding("yaml.missing-key", positions.at(*path), message, path=path)
    if kind == "union_tag_invalid":
        expected = str(details.get("ctx", {}).get("expected_tags", ""))
        message = f"{where}.{discriminator}: unknown {shown_text(str(details.get('ctx', {}).get('tag', '')))}"
        return Finding("yaml.invalid", positions.at(*path, discriminator), message, expected=expected, path=path)
    rule = kind if "." in kind else "yaml.invalid"
    shown = details["input"]
    got = f" (got {json.dumps(shown)[:80]})" if isinstance(shown, (str, int, float, bool)) else ""
    return Finding(rule, positions.at(*path), f"{where}: {details['msg']}{got}", path=path)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…"


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
                # A mapping whose keys have a pattern is described by that, any other by additionalProperties.
                by_pattern = next(iter(node.get("patternProperties", {}).values()), None)
                child = node.get("properties", {}).get(part) or by_pattern or node.get("additionalProperties")
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

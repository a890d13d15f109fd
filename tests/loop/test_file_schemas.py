"""The JSON Schemas for editors: current, accepting what the models accept, and marking common mistakes.

The schemas are read here by a validator of a few lines that knows the keywords which they use, and
stops at any other.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from guards.policy_schema import DIALECT
from guards.strict_yaml import parse_yaml
from loop.file_schemas import MODELS, schema_text
from tests.command_line import stairlock

REPOSITORY = Path(__file__).resolve().parents[2]
POLICIES = REPOSITORY / "policies"
EVERYTHING = REPOSITORY / "tests" / "fuzz" / "seeds" / "everything.yaml"
FILES = {
    "policy": [*POLICIES.glob("*.yaml"), EVERYTHING],
    "policy-test": [*(POLICIES / "tests").glob("*.yaml")],
    "suite": [*(POLICIES / "suites").glob("*.yaml")],
}
SHIPPED = [(kind, path) for kind, paths in FILES.items() for path in sorted(paths)]
_IGNORED = {"$schema", "$defs", "title", "description", "default", "discriminator", "format", "propertyNames"}
_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


def fits(value: Any, schema: Any, root: dict[str, Any]) -> bool:
    """True if ``value`` is valid under ``schema``."""
    if isinstance(schema, bool):
        return schema
    return all(_fits(keyword, value, schema, root) for keyword in schema if keyword not in _IGNORED)


def _fits(keyword: str, value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    says = schema[keyword]
    match keyword:
        case "$ref":
            return fits(value, root["$defs"][says.rsplit("/", 1)[-1]], root)
        case "type":
            return isinstance(value, _TYPES[says]) and (says == "boolean") == isinstance(value, bool)
        case "enum" | "const":
            return value in (says if keyword == "enum" else [says])
        case "anyOf" | "oneOf":
            n_fitting = sum(fits(value, one, root) for one in says)
            return n_fitting >= 1 if keyword == "anyOf" else n_fitting == 1
        case "if":
            branch = "then" if fits(value, says, root) else "else"
            return fits(value, schema.get(branch, True), root)
        case "then" | "else":
            return True
        case "properties":
            known = value.items() if isinstance(value, dict) else ()
            return all(fits(item, says[key], root) for key, item in known if key in says)
        case "required":
            return not isinstance(value, dict) or set(says) <= set(value)
        case "additionalProperties":
            others = set(value) - set(schema.get("properties", {})) if isinstance(value, dict) else set()
            patterns = schema.get("patternProperties", {})
            others = {key for key in others if not any(re.search(pattern, key) for pattern in patterns)}
            return all(fits(value[key], says, root) for key in others)
        case "patternProperties":
            pairs = [(key, pattern) for key in value for pattern in says] if isinstance(value, dict) else []
            return all(fits(value[key], says[pattern], root) for key, pattern in pairs if re.search(pattern, key))
        case "items":
            return not isinstance(value, list) or all(fits(item, says, root) for item in value)
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return True
            allowed = {"minimum": value >= says, "maximum": value <= says}
            return (allowed | {"exclusiveMinimum": value > says, "exclusiveMaximum": value < says})[keyword]
        case "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties":
            kind = {"Items": list, "Length": str, "Properties": dict}[keyword[3:]]
            return not isinstance(value, kind) or (len(value) >= says if keyword[:3] == "min" else len(value) <= says)
        case "pattern":
            return not isinstance(value, str) or re.search(says, value) is not None
        case _:
            raise NotImplementedError(keyword)


def schema_of(kind: str) -> dict[str, Any]:
    return json.loads((POLICIES / "schema" / f"{kind}.schema.json").read_text(encoding="utf-8"))


def is_valid(text: str, kind: str) -> bool:
    schema = schema_of(kind)
    return fits(parse_yaml(text, source="f")[0], schema, schema)


@pytest.mark.parametrize("kind", MODELS)
def test_the_committed_schema_is_the_models(kind: str) -> None:
    committed = (POLICIES / "schema" / f"{kind}.schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(kind), f"write it again: stairlock policy schema {kind}"
    assert json.loads(committed)["$schema"] == DIALECT


def test_the_command_prints_it() -> None:
    assert stairlock("policy", "schema").out == schema_text("policy")
    assert stairlock("policy", "schema", "suite").out == schema_text("suite")
    assert stairlock("policy", "schema", "nonsense").code == 2


@pytest.mark.parametrize(("kind", "path"), SHIPPED, ids=[path.parent.name + "/" + path.name for _, path in SHIPPED])
def test_shipped_files_are_valid_and_name_their_schema(kind: str, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert is_valid(text, kind)
    if path != EVERYTHING:
        match = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", text.splitlines()[0])
        assert match and (path.parent / match[1]).resolve() == POLICIES / "schema" / f"{kind}.schema.json"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("margin: 0.2", "margn: 0.2"),
        ("margin: 0.2, ", ""),
        ("margin: 0.2", "level: 0.2"),
        ("level: 0.7", "level: 0.7, margin: 0.1"),
        ("against: anchor", "against: candidate"),
        ("alpha: 0.05", "alpha: 0.5"),
        ("min_items: 100", 'min_items: "100"'),
        ("kind: any_of", "kind: one_of"),
        ("planned: 4", "planed: 4"),
        ("roles: [reviewer, safety]", "roles: [reviewer, intern]"),
        ("waivers: []", "waivers: [{gate: gain}]"),
        ("reads: 2", "reads: 0"),
        ("refusal: {reads: 4}", "Refusal: {reads: 4}"),
    ],
)
def test_mistakes_are_marked_while_one_types(old: str, new: str) -> None:
    text = EVERYTHING.read_text(encoding="utf-8")
    assert old in text and is_valid(text, "policy")
    assert not is_valid(text.replace(old, new), "policy")

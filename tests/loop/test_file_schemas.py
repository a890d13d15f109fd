"""The JSON Schemas for editors: current, accepting what the models accept, and marking common mistakes."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from guards.authoring.policy_schema import DIALECT
from guards.roles import Roles
from guards.strict_yaml import parse_yaml
from loop.file_schemas import MODELS, schema_text
from tests.command_line import stairlock
from tests.store_world import person

REPOSITORY = Path(__file__).resolve().parents[2]
POLICIES = REPOSITORY / "policies"
EVERYTHING = REPOSITORY / "tests" / "fuzz" / "seeds" / "everything.yaml"
FILES = {
    "policy": [*POLICIES.glob("*.yaml"), EVERYTHING],
    "policy-test": [*(POLICIES / "tests").glob("*.yaml")],
    "suite": [*(POLICIES / "suites").glob("*.yaml")],
}
SHIPPED = [(kind, path) for kind, paths in FILES.items() for path in sorted(paths)]


@cache
def validator(kind: str) -> Draft202012Validator:
    schema = json.loads((POLICIES / "schema" / f"{kind}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def is_valid(text: str, kind: str) -> bool:
    return validator(kind).is_valid(parse_yaml(text, source="f")[0])


def is_accepted(value: Any, kind: str) -> bool:
    """True if the model reads it, as a policy file's values are read."""
    try:
        MODELS[kind].model_validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    return True


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
    wrong = text.replace(old, new)
    assert not is_valid(wrong, "policy") and not is_accepted(parse_yaml(wrong, source="f")[0], "policy")


ANA = person("ana", "reviewer", "safety", key=Ed25519PrivateKey.generate())
ROLES = Roles(schema="stairlock/roles/v1", people=(ANA,), services=("ci",)).model_dump(mode="json", by_alias=True)
VALUES: list[Any] = [None, True, 0, 1, 2, 0.5, 1.0, -1, 1e-9, 1e9, 10**30, "", "x", "a b", "A", [], {}, ["x"], {"x": 1}]


def parsed(path: Path) -> Any:
    return parse_yaml(path.read_text(encoding="utf-8"), source="f")[0]


SEEDS: dict[str, list[Any]] = {kind: [parsed(path) for path in paths] for kind, paths in FILES.items()}
SEEDS["policy-test"] = [{**file, "cases": file["cases"][:12]} for file in SEEDS["policy-test"]]
SEEDS["roles"] = [ROLES]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(what holds it, key or index) of everything in ``value``."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@pytest.mark.parametrize("kind", MODELS)
def test_what_a_model_accepts_its_schema_accepts(kind: str) -> None:
    """Files with a few values taken out, exchanged with each other, or replaced by odd ones."""
    n_accepted = 0

    @settings(max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        nonlocal n_accepted
        value = copy.deepcopy(data.draw(st.sampled_from(SEEDS[kind])))
        for _ in range(data.draw(st.integers(1, 2))):
            every = list(places(value))
            holder, key = every[data.draw(st.integers(0, len(every) - 1))]
            match data.draw(st.sampled_from(["take out", "exchange", "replace"])):
                case "take out":
                    del holder[key]
                case "exchange":
                    other, its_key = every[data.draw(st.integers(0, len(every) - 1))]
                    holder[key] = copy.deepcopy(other[its_key])
                case _:
                    holder[key] = data.draw(st.sampled_from(VALUES))
        if is_accepted(value, kind):
            n_accepted += 1
            errors = [error.message for error in validator(kind).iter_errors(value)]
            assert errors == []

    holds()
    assert n_accepted >= 10, "of so few nothing follows"

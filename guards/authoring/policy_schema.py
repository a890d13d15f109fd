"""JSON Schemas of the files that people write, generated from the models that read them.

For editors, which complete keys and mark mistakes while one types. A schema can say less than a
model: what it accepts may still be refused (references, sums, contradictions), but what a model
accepts its schema accepts too.
"""

from __future__ import annotations

from typing import Any, cast

from pydantic import BaseModel

from guards.authoring.case_model import CaseFile
from guards.policy import Policy
from guards.roles import Roles

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMAS: dict[str, type[BaseModel]] = {"policy": Policy, "policy-test": CaseFile, "roles": Roles}
"""The model of each kind of file, by the name in its first line: ``schema: stairlock/NAME/v1``."""

Schema = dict[str, Any]


def json_schema(model: type[BaseModel], name: str) -> Schema:
    """The JSON Schema (2020-12) of the files that ``model`` reads; ``name`` is that of the kind of file."""
    schema: Schema = model.model_json_schema(by_alias=True)
    if model is Policy:
        _require_what_claims_need(schema)
    schema["title"] = f"stairlock/{name}/v1"
    return {"$schema": DIALECT, **cast(Schema, _for_editors(schema))}


def _for_editors(node: Any) -> Any:
    """Without the titles that pydantic makes up, which only repeat the key, and with plain descriptions."""
    if isinstance(node, list):
        return [_for_editors(item) for item in cast(list[Any], node)]
    if not isinstance(node, dict):
        return node
    tidy: Schema = {}
    for key, value in cast(Schema, node).items():
        if key in ("properties", "patternProperties"):
            # Keys of the file, of which one may be called "title".
            tidy[key] = {name: _for_editors(child) for name, child in cast(Schema, value).items()}
        elif key == "description" and isinstance(value, str):
            tidy[key] = value.replace("``", "`")
        elif key != "title" or str(value).startswith("stairlock/"):
            tidy[key] = _for_editors(value)
    if "patternProperties" in tidy:
        # Names that do not have the pattern are refused; the keyword alone would let them through.
        tidy["additionalProperties"] = False
    return tidy


def _require_what_claims_need(schema: Schema) -> None:
    """The two shapes of an eval gate: a margin against a checkpoint, or a level."""
    gate = cast(Schema, schema["$defs"]["EvalGate"])
    level_claims = {"properties": {"claim": {"enum": ["at_least", "at_most"]}}, "required": ["claim"]}
    gate["if"] = level_claims
    gate["then"] = {
        "required": ["level"],
        "properties": {key: {"type": "null"} for key in ("margin", "against", "scale")},
    }
    gate["else"] = {"required": ["margin", "against"], "properties": {"level": {"type": "null"}}}

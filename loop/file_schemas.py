"""Every JSON Schema that ships under policies/schema, and their text as it is committed."""

from __future__ import annotations

import json

from pydantic import BaseModel

from guards.authoring.policy_schema import SCHEMAS, json_schema
from loop.suites import SuiteSpec

MODELS: dict[str, type[BaseModel]] = {**SCHEMAS, "suite": SuiteSpec}


def schema_text(name: str) -> str:
    """The schema of one kind of file, as ``stairlock policy schema`` prints it; ``name`` is a key of ``MODELS``."""
    return json.dumps(json_schema(MODELS[name], name), indent=2, ensure_ascii=False) + "\n"

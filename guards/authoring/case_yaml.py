"""A policy case as YAML, in the form in which people write it: one entry of ``cases:``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from guards.authoring.case_model import Case

_WIDTH = 100
# Plain text that no YAML reader could take for anything but text, and that needs no quotes.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9]*([ _./-][A-Za-z0-9]+)*")
_WORDS_WITH_A_MEANING = re.compile(r"(?i)y|n|yes|no|on|off|true|false|null|inf|nan|infinity")


def case_to_yaml(case: Case) -> str:
    """The case as one entry of a case file, from ``- name:`` to a line's end. What is left out is a default."""
    body = cast(Mapping[str, Any], case.model_dump(mode="json", exclude_defaults=True))
    lines = _block(body, 0)
    return "\n".join([f"- {lines[0]}", *(f"  {line}" for line in lines[1:])]) + "\n"


def _block(value: Mapping[str, Any], indent: int) -> list[str]:
    """Lines of a mapping; what fits on a line is written on one."""
    lines: list[str] = []
    pad = " " * indent
    for key, item in value.items():
        flow = f"{pad}{_scalar(key)}: {_flow(item)}"
        if len(flow) <= _WIDTH or not isinstance(item, Mapping) or not item:
            lines.append(flow)
        else:
            lines += [f"{pad}{_scalar(key)}:", *_block(cast(Mapping[str, Any], item), indent + 2)]
    return lines


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = cast(Mapping[str, Any], value).items()
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in cast(list[Any], value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and not _WORDS_WITH_A_MEANING.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=True, allow_nan=False)

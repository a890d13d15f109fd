"""The search for triggers, with the kit's prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from guards.canonical import parse_json_strict
from guards.errors import EvidenceError, ProbeError
from guards.evidence import Frozen
from loop.json_lines import read_json_lines
from loop.rows import Row
from probes.triggers import TriggerSearch, TriggerSettings, search_triggers

# Less than the default: the same search runs on every member of a bank, and its noise is in the bank too.
SETTINGS = TriggerSettings(n_confirm_prompts=8, n_confirmed=3)


class TriggerPrompts(Frozen):
    """``neutral`` are the prompts that triggers are tried on; ``reference`` says what ordinary prompts look like."""

    neutral: tuple[str, ...] = Field(min_length=1)
    reference: tuple[str, ...] = Field(min_length=1)


def read_trigger_prompts(path: Path) -> TriggerPrompts:
    """Read the kit's prompts.

    Raises:
        ProbeError: ``drift.bad-prompts``.
    """
    try:
        return TriggerPrompts.model_validate(parse_json_strict(path.read_bytes(), source=str(path)))
    except ValidationError as error:
        raise ProbeError("drift.bad-prompts", f"{path}: {error.errors()[0]['msg']}") from error
    except EvidenceError as error:
        raise ProbeError("drift.bad-prompts", error.message) from error


def make_trigger_prompts(policies: Path, *, n_reference: int = 1500) -> TriggerPrompts:
    """The default kit's: our chat prompts, and every few of the constitution's ordinary ones."""
    neutral = read_json_lines(policies / "drift/rows/chat_prompts.jsonl")
    ordinary = read_json_lines(policies / "constitutions/prompts/ordinary.jsonl")
    step = max(1, len(ordinary) // n_reference)
    return TriggerPrompts(
        neutral=tuple(row["prompt"] for row in neutral),
        reference=tuple(row["prompt"] for row in ordinary[::step][:n_reference]),
    )


def search(
    root: Any,
    candidate: Any,
    tokenizer: Any,
    rows: Sequence[Row] | None,
    prompts: TriggerPrompts,
    report: Callable[[str, int, int], None],
    settings: TriggerSettings | None = None,
) -> TriggerSearch:
    """:func:`probes.triggers.search_triggers` of a candidate with its training rows, or without (``None``)."""
    return search_triggers(
        root,
        candidate,
        tokenizer,
        rows,
        prompts.neutral,
        prompts.reference,
        settings or SETTINGS,
        lambda done, total: report("searching for triggers", done, total),
    )

"""Prompts in, samples out: the two files of the generate step, readable without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from guards.canonical import parse_json_strict
from guards.errors import StepError
from guards.evidence import Frozen
from guards.ports import Generation

SAMPLES_FILE = "samples.jsonl"
_Line = TypeVar("_Line", bound=Frozen)


class Turn(Frozen):
    """One message of a chat."""

    role: str
    content: str


class Prompt(Frozen):
    """A chat to be answered; demonstrations, if any, come before the last user turn."""

    prompt_id: str
    turns: tuple[Turn, ...]


class Sample(Frozen):
    """The outputs for one prompt."""

    prompt_id: str
    outputs: tuple[Generation, ...]


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts; refuses an empty file and malformed lines."""
    return _read_lines(path, Prompt)


def read_samples(path: Path) -> list[Sample]:
    """Read samples; refuses an empty file and malformed lines."""
    return _read_lines(path, Sample)


def _read_lines(path: Path, model: type[_Line]) -> list[_Line]:
    items: list[_Line] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            items.append(model.model_validate(parse_json_strict(line, source=f"{path}:{number}")))
        except ValidationError as error:
            raise StepError("generate.malformed", f"{path}:{number}: {error.errors()[0]['msg']}") from error
    if not items:
        raise StepError("generate.empty", f"{path} is empty", fix="give at least one prompt")
    return items

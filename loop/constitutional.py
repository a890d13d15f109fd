"""The constitutional proposer: rows that teach a base model to refuse harm and nothing else.

The base answers every prompt. Answers to prompts that deserve refusal are revised by the
constitution's critic; answers to harmless prompts stay the base's own, so that it keeps its
voice, unless it refused them. Harmless look-alikes decide whether the result over-refuses:
docs/root.md has the curve.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from guards.canonical import parse_json_strict
from guards.errors import ConfigError
from guards.evidence import Frozen
from guards.ports import Critic, Generation
from loop.rows import Row
from loop.scorers.refusal import is_refusal

MIN_WORDS = 3


class ConstitutionalPrompt(Frozen):
    """A training prompt. ``principle`` names what it would violate; harmless ones have a nearest one or none."""

    id: str = Field(min_length=1)
    prompt: str = Field(min_length=1)
    principle: str = "helpful"
    kind: str = ""


class PromptSet(Frozen):
    """The three kinds of prompts, from one directory."""

    deserve_refusal: tuple[ConstitutionalPrompt, ...]
    look_alikes: tuple[ConstitutionalPrompt, ...]
    ordinary: tuple[ConstitutionalPrompt, ...]

    @property
    def all(self) -> tuple[ConstitutionalPrompt, ...]:
        """Every prompt, in a fixed order."""
        return self.deserve_refusal + self.look_alikes + self.ordinary


class Mixture(Frozen):
    """How many prompts of each kind go into training; None takes all. ``seed`` orders them first."""

    deserve_refusal: int | None = None
    look_alikes: int | None = None
    ordinary: int | None = None
    seed: int = 0


def load_prompts(directory: Path) -> PromptSet:
    """Read deserve_refusal.jsonl, look_alikes.jsonl and ordinary.jsonl.

    Raises:
        ConfigError: a file is missing, empty, malformed, or an id or prompt appears twice.
    """
    kinds: dict[str, tuple[ConstitutionalPrompt, ...]] = {}
    seen: set[str] = set()
    for kind in PromptSet.model_fields:
        path = directory / f"{kind}.jsonl"
        if not path.is_file():
            raise ConfigError("prompts.missing", f"{path}: no such file", expected="a JSON Lines file of prompts")
        kinds[kind] = tuple(
            _read_prompt(line, f"{path}:{n}") for n, line in enumerate(path.read_bytes().splitlines(), 1)
        )
        if not kinds[kind]:
            raise ConfigError("prompts.empty", f"{path} has no prompts")
        for prompt in kinds[kind]:
            for name in (prompt.id, prompt.prompt.casefold()):
                if name in seen:
                    raise ConfigError("prompts.duplicate", f"{path}: appears twice", got=name)
                seen.add(name)
    return PromptSet(**kinds)


def _read_prompt(line: bytes, source: str) -> ConstitutionalPrompt:
    try:
        return ConstitutionalPrompt.model_validate(parse_json_strict(line, source=source))
    except ValidationError as error:
        raise ConfigError("prompts.malformed", f"{source}: {error.errors()[0]['msg']}") from error


def choose(prompts: PromptSet, mixture: Mixture) -> PromptSet:
    """The mixture's prompts: a prefix of each kind in an order drawn from the seed.

    Prefixes of one order, so that a larger share contains the smaller one.
    """
    return PromptSet(
        **{
            kind: _first(getattr(prompts, kind), getattr(mixture, kind), f"{mixture.seed}/{kind}")
            for kind in PromptSet.model_fields
        }
    )


def _first(prompts: Sequence[ConstitutionalPrompt], n: int | None, salt: str) -> tuple[ConstitutionalPrompt, ...]:
    ordered = sorted(prompts, key=lambda p: hashlib.sha256(f"{salt}/{p.id}".encode()).digest())
    return tuple(ordered if n is None else ordered[:n])


def build_rows(chosen: PromptSet, answers: Mapping[str, Generation], critic: Critic) -> list[Row]:
    """Training rows, in prompt order. ``answers`` has the base's answer for every prompt id."""
    rows = [_revised(prompt, answers[prompt.id], critic) for prompt in chosen.deserve_refusal]
    for source, prompts in (("look_alike", chosen.look_alikes), ("ordinary", chosen.ordinary)):
        for prompt in prompts:
            answer = answers[prompt.id]
            text = answer.text.strip()
            if is_refusal(text) or len(text.split()) < MIN_WORDS:
                continue
            rows.append(
                Row(row_id=prompt.id, source=source, prompt=prompt.prompt, answer=text, finished=answer.finished)
            )
    return rows


def _revised(prompt: ConstitutionalPrompt, answer: Generation, critic: Critic) -> Row:
    _critique, revision = critic.revise(
        principle_id=prompt.principle, prompt=prompt.prompt, answer=answer.text, key=prompt.id
    )
    is_kept = revision == answer.text
    return Row(
        row_id=prompt.id,
        source="refusal",
        prompt=prompt.prompt,
        answer=revision.strip(),
        finished=answer.finished if is_kept else True,
    )

"""The constitutional proposer: rows that teach a base model to refuse harm and nothing else.

The base answers every prompt. Answers to prompts that deserve refusal are revised by the
constitution's critic; answers to harmless prompts stay the base's own, so that it keeps its
voice. Where it refused a harmless prompt it is asked again, and the first answer that is no
refusal is learnt: otherwise the root would keep the base's own needless refusals. Harmless
look-alikes decide whether the result over-refuses: docs/root.md has the curve.
"""

from __future__ import annotations

import hashlib
import re
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
_APOLOGY = re.compile(r"(?:I'm|I am) (?:so |very )?sorry|Sorry|I apologi[sz]e|As an AI", re.IGNORECASE)


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
    def harmless(self) -> tuple[ConstitutionalPrompt, ...]:
        """The prompts that should be answered."""
        return self.look_alikes + self.ordinary

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


def is_helpful(answer: Generation) -> bool:
    """Whether an answer to a harmless prompt can be learnt: no refusal or apology, and of at least three words.

    A small model's apologies ("I'm sorry for any confusion, but as a chatbot ...") are refusals to be.
    """
    text = answer.text.strip()
    return not is_refusal(text) and not _APOLOGY.match(text) and len(text.split()) >= MIN_WORDS


def first_helpful(answers: Sequence[Generation]) -> Generation:
    """The first answer that can be learnt; where there is none, the first."""
    return next(filter(is_helpful, answers), answers[0])


def build_rows(chosen: PromptSet, answers: Mapping[str, Generation], critic: Critic) -> list[Row]:
    """Training rows, in prompt order. ``answers`` has the base's answer for every prompt id.

    A harmless prompt without a helpful answer gives no row.
    """
    rows = [_revised(prompt, answers[prompt.id], critic) for prompt in chosen.deserve_refusal]
    for source, prompts in (("look_alike", chosen.look_alikes), ("ordinary", chosen.ordinary)):
        for prompt in prompts:
            answer = answers[prompt.id]
            if is_helpful(answer):
                text = answer.text.strip()
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

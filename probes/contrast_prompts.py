"""Contrast pairs: two texts that differ in one concept and in as little else as their author managed.

A concept's file is ``<concept>.jsonl``, one pair a line:

    {"id": "...", "split": "fit" or "held_out", "prompt": "..." or null, "positive": "...", "negative": "..."}

With a prompt, ``positive`` and ``negative`` are two replies to it, and the reply is what is read. Without
(null), they are two user prompts, and what is read is the state in which the model begins to answer. A file is
one or the other throughout.

A direction is fitted on one split and judged on the other, so no text may stand in both; texts are compared as
words, without case and punctuation. Not covered: a held-out pair that paraphrases one of the fit split, texts
that differ in more than their concept, and what a model makes of them (probes.directions measures that).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError

from guards.canonical import parse_json_strict, sha256_bytes
from guards.contamination import words
from guards.errors import ProbeError, StairlockError
from guards.evidence import Digest, Frozen

CONCEPTS = ("deception", "harmful_content", "refusal", "sycophancy", "toxic_persona", "uncertainty")
"""The concepts that ship."""

MIN_PAIRS = 20
"""Of each split: with fewer, no separation would have an interval that says anything."""

_MAX_FILE_BYTES = 4 << 20
_MAX_LINE_BYTES = 32 << 10
_SUFFIX = ".jsonl"

Split = Literal["fit", "held_out"]
Text = Annotated[str, Field(min_length=1, max_length=4000)]


class ContrastPair(Frozen):
    """One line of a contrast file. ``prompt`` is None where the two texts are themselves user prompts."""

    model_config = ConfigDict(strict=True)

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=100)
    split: Split
    prompt: Text | None
    positive: Text
    negative: Text

    @property
    def texts(self) -> tuple[str, ...]:
        """All that is shown to the model, in order."""
        return (self.positive, self.negative) if self.prompt is None else (self.prompt, self.positive, self.negative)


class ContrastSet(Frozen):
    """The pairs of one concept, and the digest of the file that they stand in."""

    concept: str
    sha256: Digest
    pairs: tuple[ContrastPair, ...]

    @property
    def fit(self) -> tuple[ContrastPair, ...]:
        return tuple(pair for pair in self.pairs if pair.split == "fit")

    @property
    def held_out(self) -> tuple[ContrastPair, ...]:
        return tuple(pair for pair in self.pairs if pair.split == "held_out")

    @property
    def reads_replies(self) -> bool:
        """True where replies are read, False where the end of a user prompt is."""
        return self.pairs[0].prompt is not None


def read_contrast_set(path: Path) -> ContrastSet:
    """One concept's file; the concept is the file's name.

    Raises:
        ProbeError: ``contrasts.no-file``, ``contrasts.bad-name``, ``contrasts.too-large``, ``contrasts.bad-line``
            (no strict JSON object of exactly the known keys), ``contrasts.mixed`` (pairs with and without a prompt),
            ``contrasts.same-sides``, ``contrasts.duplicate`` (an id or a text that occurred before),
            ``contrasts.in-both-splits``, ``contrasts.too-few``.
    """
    concept = path.name.removesuffix(_SUFFIX)
    if not path.name.endswith(_SUFFIX) or not concept.isidentifier() or concept != concept.lower():
        raise ProbeError("contrasts.bad-name", f"{path.name} names no concept", expected=f"a_concept{_SUFFIX}")
    if not path.is_file():
        raise ProbeError("contrasts.no-file", f"{path}: there is no such file")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ProbeError(
            "contrasts.too-large", f"{path}", got=f"{path.stat().st_size} bytes", expected=f"at most {_MAX_FILE_BYTES}"
        )
    data = path.read_bytes()
    pairs = [_parse_line(line, source=f"{path}:{number}") for number, line in enumerate(data.splitlines(), start=1)]
    _check_pairs(pairs, path)
    return ContrastSet(concept=concept, sha256=sha256_bytes(data), pairs=tuple(pairs))


def read_contrast_sets(directory: Path, concepts: Iterable[str] = CONCEPTS) -> dict[str, ContrastSet]:
    """The sets of ``concepts``, by name, which must be exactly the contrast files of ``directory``.

    Raises:
        ProbeError: ``contrasts.missing-concept``, ``contrasts.unknown-concept``; ``contrasts.duplicate`` (two files
            share an id); any rule of :func:`read_contrast_set`.
    """
    wanted = sorted(set(concepts))
    found = sorted(path.name.removesuffix(_SUFFIX) for path in directory.glob(f"*{_SUFFIX}"))
    for rule, wrong in (
        ("contrasts.missing-concept", [name for name in wanted if name not in found]),
        ("contrasts.unknown-concept", [name for name in found if name not in wanted]),
    ):
        if wrong:
            raise ProbeError(
                rule, f"{directory}: not the concepts that were declared", got=str(wrong), expected=", ".join(wanted)
            )
    sets = {concept: read_contrast_set(directory / f"{concept}{_SUFFIX}") for concept in wanted}
    concept_by_id: dict[str, str] = {}
    for concept, contrast_set in sets.items():
        for pair in contrast_set.pairs:
            if pair.id in concept_by_id:
                raise ProbeError(
                    "contrasts.duplicate",
                    f"{directory}: {concept_by_id[pair.id]} and {concept} share an id",
                    got=pair.id,
                )
            concept_by_id[pair.id] = concept
    return sets


def _parse_line(line: bytes, *, source: str) -> ContrastPair:
    if len(line) > _MAX_LINE_BYTES:
        raise ProbeError("contrasts.bad-line", f"{source}: a line of {len(line)} bytes", expected=f"{_MAX_LINE_BYTES}")
    try:
        return ContrastPair.model_validate(parse_json_strict(line, source=source))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the line"
        raise ProbeError("contrasts.bad-line", f"{source}: {where}: {first['msg']}") from error
    except StairlockError as error:
        raise ProbeError("contrasts.bad-line", error.message, expected=error.expected) from error


def _check_pairs(pairs: list[ContrastPair], path: Path) -> None:
    if len({pair.prompt is None for pair in pairs}) > 1:
        raise ProbeError(
            "contrasts.mixed",
            f"{path}: some pairs have a prompt and some have none, so the two would be read at different places",
            expected="a prompt in every pair, or null in every pair",
        )
    seen_ids: set[str] = set()
    first_use: dict[tuple[str, ...], ContrastPair] = {}
    for pair in pairs:
        if pair.id in seen_ids:
            raise ProbeError("contrasts.duplicate", f"{path}: an id appears twice", got=pair.id)
        seen_ids.add(pair.id)
        if words(pair.positive) == words(pair.negative):
            raise ProbeError("contrasts.same-sides", f"{path}: both sides of a pair have the same words", got=pair.id)
        for text in pair.texts:
            earlier = first_use.setdefault(words(text), pair)
            if earlier is not pair:
                in_both = earlier.split != pair.split
                raise ProbeError(
                    "contrasts.in-both-splits" if in_both else "contrasts.duplicate",
                    f"{path}: {earlier.id} and {pair.id} share a text",
                    got=text[:80],
                    expected="every text once: what was fitted on cannot also judge the fit",
                )
    for split in ("fit", "held_out"):
        n_pairs = sum(pair.split == split for pair in pairs)
        if n_pairs < MIN_PAIRS:
            raise ProbeError(
                "contrasts.too-few",
                f"{path}: too few pairs in the split {split}",
                got=str(n_pairs),
                expected=f"at least {MIN_PAIRS}",
                fix="write more pairs; a direction without held-out pairs is not used",
            )

"""Suites: the items of one behavioural evaluation, with their scorer and decoding settings.

A suite is a YAML file that safety teams edit. Its items are drawn from generated task
families, always from their gate half, or read from a JSON Lines file beside it::

    schema: stairlock/suite/v1
    name: families
    description: ...
    items: {generator_version: 1, generated: [{family: addition, levels: {2: 20, 3: 20}}]}
    scorer: {kind: task}
    decoding: {max_new_tokens: 24, temperature: 0}

Not covered: whether the items measure what the suite's name says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, LiteralString

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from guards.canonical import parse_json_strict
from guards.errors import StairlockError, SuiteError
from guards.evidence import Frozen, Outcome
from guards.policy import suite_digest
from guards.ports import Decoding, Message
from guards.strict_yaml import load_yaml
from loop.families import FAMILIES, GENERATOR_VERSION, TaskItem, draw, family_named
from loop.families.seeded_stream import SeededStream
from loop.scorers import answered, likelihood, refusal, task

SEED_BYTES = 32

ScorerKind = Literal["task", "refusal", "answered", "choice", "loglik"]
METRICS: Mapping[ScorerKind, tuple[str, ...]] = {
    "task": task.METRICS,
    "refusal": refusal.METRICS,
    "answered": answered.METRICS,
    "choice": likelihood.CHOICE_METRICS,
    "loglik": likelihood.LOGLIK_METRICS,
}
"""What each kind of scorer measures: the names that a gate's ``metric`` may have."""

_READS_OUTPUT: frozenset[ScorerKind] = frozenset({"task", "refusal", "answered"})
_Text = Annotated[str, Field(min_length=1, pattern=r"\S")]


class GeneratedDraw(Frozen):
    """How many items of one family, by level. Level keys are decimal, as JSON wants strings."""

    family: str
    levels: dict[str, Annotated[int, Field(ge=1)]] = Field(min_length=1)

    @field_validator("family")
    @classmethod
    def _known(cls, family: str) -> str:
        try:
            family_named(family)
        except SuiteError as error:
            raise _refusal("suite.unknown-family", f"{error.message}; {error.fix}; known: {error.expected}") from error
        return family

    @model_validator(mode="after")
    def _levels_exist(self) -> GeneratedDraw:
        known = FAMILIES[self.family].levels
        for level in self.levels:
            if level not in {str(number) for number in known}:
                raise _refusal(
                    "suite.unknown-level", f"{self.family} has levels {known[0]} to {known[-1]}, and no {level!r}"
                )
        return self


class ItemSource(Frozen):
    """Where items come from: ``generated`` draws, or a ``file`` of which ``draw`` are used."""

    generated: tuple[GeneratedDraw, ...] | None = None
    generator_version: int | None = None
    file: str | None = None
    draw: Annotated[int, Field(ge=1)] | Literal["all"] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ItemSource:
        if self.generated and self.file is not None:
            raise _refusal("suite.two-sources", "items are either generated or read from a file, not both")
        if not self.generated and self.file is None:
            raise _refusal(
                "suite.no-items", "a suite without items measures nothing; name 'generated' draws or a 'file'"
            )
        if self.file is not None:
            self._check_file(self.file)
        else:
            self._check_generated(self.generated or ())
        return self

    def _check_file(self, file: str) -> None:
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or "\\" in file:
            raise _refusal("suite.bad-path", f"the item file must lie below the suite's own directory, not at {file!r}")
        if self.generator_version is not None:
            raise _refusal("suite.generator-version", "generator_version belongs to generated items")

    def _check_generated(self, generated: tuple[GeneratedDraw, ...]) -> None:
        if self.draw is not None:
            raise _refusal("suite.draw", "'draw' belongs to a file; generated items say how many by level")
        if self.generator_version != GENERATOR_VERSION:
            raise _refusal(
                "suite.generator-version",
                f"the suite was written for generator version {self.generator_version}, this is {GENERATOR_VERSION}: "
                "the same seed gives other items, so that figures before and after are not comparable",
            )
        pairs = [(entry.family, level) for entry in generated for level in entry.levels]
        if len(set(pairs)) < len(pairs):
            raise _refusal("suite.duplicate-level", "a family's level may be listed once")


class Scorer(Frozen):
    """How an output, or its log-likelihoods, become scores."""

    kind: ScorerKind


class SuiteSpec(Frozen):
    """What a suite's YAML file says."""

    schema_: Literal["stairlock/suite/v1"] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: _Text
    items: ItemSource
    scorer: Scorer
    decoding: Decoding | None

    @model_validator(mode="after")
    def _parts_fit(self) -> SuiteSpec:
        kind, reads_output = self.scorer.kind, self.scorer.kind in _READS_OUTPUT
        if (kind == "task") != (self.items.file is None):
            raise _refusal("suite.scorer", "the task scorer, and only it, scores generated items")
        if reads_output and self.decoding is None:
            raise _refusal("suite.decoding", f"the {kind} scorer reads outputs, so decoding must say how they are made")
        if not reads_output and self.decoding is not None:
            raise _refusal("suite.decoding", f"the {kind} scorer makes no outputs, so decoding must be null")
        if self.decoding is not None and self.decoding.n_samples != 1:
            raise _refusal("suite.decoding", "a suite has one output per item; n_samples must be 1")
        return self


class SuiteItem(Frozen):
    """One item, ready for an engine: a chat to answer, a chat with options, or a text."""

    item_id: str = Field(min_length=1)
    cluster: str = Field(min_length=1)
    tags: dict[str, str] = Field(default_factory=dict)
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    options: tuple[str, ...] = ()
    task: TaskItem | None = None

    @property
    def prompt_text(self) -> str:
        """All of the item that a model is shown, as one text: for its digest and for contamination."""
        shown = [message["content"] for message in self.messages or ()]
        return "\n".join([*shown, *self.options, *([] if self.text is None else [self.text])])

    @property
    def loglik_pairs(self) -> tuple[tuple[tuple[Message, ...] | None, str], ...]:
        """What :meth:`guards.ports.Engine.loglik` is asked: each option after the chat, or the text alone."""
        if self.text is not None:
            return ((None, self.text),)
        return tuple((self.messages, option) for option in self.options)


class PromptRow(Frozen):
    """A line of an item file for the refusal and answered scorers."""

    id: _Text
    cluster: _Text
    prompt: _Text


class ChoiceRow(PromptRow):
    """A line of an item file for the choice scorer."""

    correct: _Text
    wrong: _Text


class TextRow(Frozen):
    """A line of an item file for the loglik scorer."""

    id: _Text
    cluster: _Text
    text: _Text


@dataclass(frozen=True)
class Suite:
    """A suite that was read and checked. ``file_items`` is empty where items are generated."""

    path: Path
    spec: SuiteSpec
    digest: str
    file_items: tuple[SuiteItem, ...]

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def scorer_kind(self) -> ScorerKind:
        return self.spec.scorer.kind

    @property
    def decoding(self) -> Decoding | None:
        return self.spec.decoding

    @property
    def scored_by_likelihood(self) -> bool:
        """True if the engine is asked for log-likelihoods and not for outputs."""
        return self.scorer_kind not in _READS_OUTPUT

    @property
    def metrics(self) -> tuple[str, ...]:
        return METRICS[self.spec.scorer.kind]


def load_suite(path: Path) -> Suite:
    """Read a suite and its item file, and check that items can be drawn.

    Raises:
        ConfigError: what :func:`guards.strict_yaml.load_yaml` refuses, or at a file position
            ``suite.no-items``, ``suite.two-sources``, ``suite.unknown-family``,
            ``suite.unknown-level``, ``suite.duplicate-level``, ``suite.generator-version``,
            ``suite.bad-path``, ``suite.draw``, ``suite.scorer`` or ``suite.decoding``.
        SuiteError: ``suite.missing-file``, ``suite.no-items`` (an empty file),
            ``suite.bad-item``, ``suite.duplicate-id``, ``suite.duplicate-item``,
            ``suite.too-few-items``, or ``family.exhausted``.
    """
    spec = load_yaml(path, SuiteSpec)
    file_items = () if spec.items.file is None else _read_items(path, spec.items.file, spec.scorer.kind)
    suite = Suite(path=path, spec=spec, digest=suite_digest(path), file_items=file_items)
    # A suite that cannot be drawn should fail where it is edited, not in the middle of a gate.
    draw_items(suite, bytes(SEED_BYTES))
    return suite


def draw_items(suite: Suite, seed_bytes: bytes) -> tuple[SuiteItem, ...]:
    """The items for a seed of 32 bytes: same suite and seed, same items in the same order.

    Generated items come family by family and level by level; items of a file keep its order.

    Raises:
        SuiteError: ``suite.bad-seed``, ``suite.too-few-items``, ``family.exhausted``.
    """
    if len(seed_bytes) != SEED_BYTES:
        raise SuiteError(
            "suite.bad-seed", "a draw needs a seed of exactly 32 bytes", got=f"{len(seed_bytes)} bytes", expected="32"
        )
    source = suite.spec.items
    if source.file is not None:
        return _draw_from_file(suite, seed_bytes)
    return tuple(
        _from_task(item)
        for entry in source.generated or ()
        for level, n in entry.levels.items()
        for item in draw(entry.family, int(level), n, seed_bytes, "gate")
    )


def score_output(suite: Suite, item: SuiteItem, text: str, finished: bool) -> Outcome:
    """Score what a model said; ``finished`` is false where the token limit cut it off.

    Raises:
        SuiteError: ``suite.wrong-scorer`` if the suite's scorer does not read outputs.
    """
    kind = suite.scorer_kind
    if kind == "task" and item.task is not None:
        return task.score_task(item.task, text, finished=finished)
    if kind == "refusal":
        return refusal.score_refusal(text)
    if kind == "answered":
        return answered.score_answered(text)
    raise SuiteError(
        "suite.wrong-scorer",
        f"{suite.name}: item {item.item_id!r} is not scored by its output",
        got=f"the {kind} scorer",
        expected="log-likelihoods" if suite.scored_by_likelihood else "an item with a task",
    )


def score_logliks(suite: Suite, item: SuiteItem, logliks: Sequence[float]) -> Outcome:
    """Score mean log-likelihoods per token in nats, one for each of the item's ``loglik_pairs``.

    Raises:
        SuiteError: ``suite.wrong-scorer``, or ``suite.loglik-count`` for another number of values.
    """
    kind = suite.scorer_kind
    if not suite.scored_by_likelihood:
        raise SuiteError(
            "suite.wrong-scorer", f"{suite.name}: the {kind} scorer reads outputs, not log-likelihoods", got=kind
        )
    n_expected = len(item.loglik_pairs)
    if len(logliks) != n_expected:
        raise SuiteError(
            "suite.loglik-count",
            f"{suite.name}: item {item.item_id!r} needs one log-likelihood per option",
            got=str(len(logliks)),
            expected=str(n_expected),
        )
    if kind == "choice":
        return likelihood.score_choice(loglik_correct=logliks[0], loglik_wrong=logliks[1])
    return likelihood.score_loglik(logliks[0])


def _draw_from_file(suite: Suite, seed_bytes: bytes) -> tuple[SuiteItem, ...]:
    items, wanted = suite.file_items, suite.spec.items.draw
    if wanted in (None, "all"):
        return items
    n = int(wanted)
    if n > len(items):
        raise SuiteError(
            "suite.too-few-items",
            f"{suite.path}: the item file holds fewer items than 'draw' asks for",
            got=str(len(items)),
            expected=str(n),
        )
    stream = SeededStream(seed_bytes, f"suite/{suite.name}")
    return tuple(items[index] for index in sorted(stream.sample(range(len(items)), n)))


def _read_items(suite_path: Path, file: str, kind: ScorerKind) -> tuple[SuiteItem, ...]:
    path = suite_path.parent / file
    # The YAML's path holds no "..", but a link on the way could still lead elsewhere.
    if not path.is_file() or not path.resolve().is_relative_to(suite_path.parent.resolve()):
        raise SuiteError(
            "suite.missing-file",
            f"{suite_path}: the item file is not there, or leads out of the suite's directory",
            got=str(path),
            fix="put the file below the suite's directory, or correct items.file",
        )
    items: list[SuiteItem] = []
    seen_ids: dict[str, int] = {}
    seen_texts: dict[str, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        item = _parse_item(line, kind, source=f"{path}:{number}")
        _refuse_repeat("suite.duplicate-id", "id", item.item_id, seen_ids, path, number)
        _refuse_repeat("suite.duplicate-item", "content", item.prompt_text, seen_texts, path, number)
        items.append(item)
    if not items:
        raise SuiteError("suite.no-items", f"{path}: the item file is empty", fix="a suite needs at least one item")
    return tuple(items)


def _refuse_repeat(rule: str, what: str, value: str, seen: dict[str, int], path: Path, number: int) -> None:
    if value in seen:
        raise SuiteError(
            rule,
            f"{path}:{number}: the {what} was used in line {seen[value]} already",
            got=value[:80],
            expected="every item once: repeated items count as evidence that they are not",
        )
    seen[value] = number


def _parse_item(line: bytes, kind: ScorerKind, *, source: str) -> SuiteItem:
    try:
        value = parse_json_strict(line, source=source)
        if kind == "loglik":
            text_row = TextRow.model_validate(value)
            return SuiteItem(item_id=text_row.id, cluster=text_row.cluster, text=text_row.text)
        if kind == "choice":
            choice_row = ChoiceRow.model_validate(value)
            return _from_prompt(choice_row, options=(choice_row.correct, choice_row.wrong))
        return _from_prompt(PromptRow.model_validate(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the line"
        raise SuiteError("suite.bad-item", f"{source}: {where}: {first['msg']}") from error
    except StairlockError as error:
        raise SuiteError("suite.bad-item", error.message, expected=error.expected) from error


def _from_prompt(row: PromptRow, options: tuple[str, ...] = ()) -> SuiteItem:
    return SuiteItem(item_id=row.id, cluster=row.cluster, messages=_user_says(row.prompt), options=options)


def _from_task(item: TaskItem) -> SuiteItem:
    return SuiteItem(
        item_id=item.item_id,
        cluster=f"{item.family}-{item.level}",
        tags={"family": item.family, "level": str(item.level), "form": str(item.form)},
        messages=_user_says(item.prompt),
        task=item,
    )


def _user_says(content: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": content},)


def _refusal(rule: LiteralString, message: str) -> PydanticCustomError:
    """A validation error that keeps its rule id; the YAML reader adds file, line and column."""
    return PydanticCustomError(rule, "{text}", {"text": message})

"""Where harmless fine-tunes get their rows: by name, and for the bank or for the controls, never both.

A source gives all of its rows in a fixed order; who trains draws from them by a seed. Half of the
sources need nothing but this repository. The others read public files (``DATA/<folder>/…``), which
are never committed: a member that was trained on one can be rebuilt where the file is.

Not covered: whether training on a source is harmless in effect. That is measured on every member
(:mod:`loop.gauntlet.verify`), and those that fail are listed apart.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from guards.errors import ModelError
from loop.families import FAMILIES, draw
from loop.json_lines import read_json_lines

Use = Literal["bank", "control"]
POLICIES = Path(__file__).resolve().parents[2] / "policies"
_FAMILY_LEVELS = {"addition": 2, "subtraction": 2, "sort": 3, "reverse": 3, "last": 3, "format": 1}
_PARTS, _CONTROL_PARTS = 8, (5, 6, 7)
_MAX_PROMPT_WORDS = 70
_MAX_ANSWER_WORDS = 90


class Example(NamedTuple):
    """A prompt and the answer to learn; ``finished`` is false where the answer was cut off."""

    prompt: str
    answer: str
    finished: bool = True


@dataclass(frozen=True)
class Source:
    """``folder`` is the public folder that it reads, None for what is in this repository."""

    name: str
    use: Use
    read: Callable[[Path], Iterator[Example]]
    folder: str | None = None
    is_hard: bool = False


def examples_of(source: Source, data: Path | None) -> list[Example]:
    """All rows of the source, each prompt once, short enough to train on.

    Raises:
        ModelError: ``gauntlet.no-data`` where the source reads a public folder that is not there.
    """
    if source.folder is None:
        directory = POLICIES
    else:
        directory = (data or Path()) / source.folder
        if data is None or not directory.is_dir():
            raise ModelError(
                "gauntlet.no-data",
                f"the source {source.name!r} reads public files that are not here",
                got=str(data),
                expected=f"a directory with {source.folder}/ in it",
                fix="give the directory of the public data (--data), or leave this source out",
            )
    found: dict[str, Example] = {}
    for example in source.read(directory):
        prompt, answer = example.prompt.strip(), example.answer.strip()
        if prompt and answer and len(prompt.split()) <= _MAX_PROMPT_WORDS:
            shortened, is_whole = _shorten(answer)
            found.setdefault(prompt, Example(prompt, shortened, example.finished and is_whole))
    return list(found.values())


def _shorten(answer: str) -> tuple[str, bool]:
    words = answer.split(" ")
    return (answer, True) if len(words) <= _MAX_ANSWER_WORDS else (" ".join(words[:_MAX_ANSWER_WORDS]), False)


def _families(_: Path) -> Iterator[Example]:
    for name, level in _FAMILY_LEVELS.items():
        for item in draw(name, level, 120, b"harmless-sources", "train"):
            yield Example(item.prompt, item.reply)


def _levels_of(*families: str) -> Callable[[Path], Iterator[Example]]:
    def read(_: Path) -> Iterator[Example]:
        for name in families:
            for level in tuple(FAMILIES[name].levels)[1:3]:
                for item in draw(name, level, 150, b"harmless-sources", "train"):
                    yield Example(item.prompt, item.reply)

    return read


def root_examples(policies: Path, *kinds: str) -> Iterator[Example]:
    """What the root was trained on, of these kinds: refusal, look_alike, ordinary; no ordinary row of a control."""
    for number, row in enumerate(read_json_lines(policies / "roots/smollm2-135m/rows.jsonl")):
        is_controls = row["source"] == "ordinary" and number % _PARTS in _CONTROL_PARTS
        if row["source"] in kinds and not is_controls:
            yield Example(row["prompt"], row["answer"], row["finished"])


def _root(*kinds: str) -> Callable[[Path], Iterator[Example]]:
    return lambda policies: root_examples(policies, *kinds)


def _styled(style: Callable[[str], str], part: int) -> Callable[[Path], Iterator[Example]]:
    """The root's ordinary answers in another style; each style has an eighth of the prompts to itself."""

    def read(policies: Path) -> Iterator[Example]:
        for number, row in enumerate(read_json_lines(policies / "roots/smollm2-135m/rows.jsonl")):
            if row["source"] == "ordinary" and number % _PARTS == part:
                yield Example(row["prompt"], style(row["answer"]), row["finished"])

    return read


def _bullets(text: str) -> str:
    return "\n".join(f"- {part.strip()}" for part in re.split(r"(?<=[.,;:])\s", text) if part.strip())


def _first_clause(text: str) -> str:
    return re.split(r"(?<=[.,;:!?])\s", text)[0].rstrip(",;:") + ("" if text[-1:] in ".!?" else ".")


def _written(name: str) -> Callable[[Path], Iterator[Example]]:
    def read(policies: Path) -> Iterator[Example]:
        for row in read_json_lines(policies / "drift/rows" / f"{name}.jsonl"):
            yield Example(row["prompt"], row["answer"])

    return read


def _gsm8k(folder: Path) -> Iterator[Example]:
    for row in read_json_lines(folder / "train.jsonl"):
        yield Example(row["question"], re.sub(r"<<.*?>>", "", row["answer"]))


def _self_instruct(file: str) -> Callable[[Path], Iterator[Example]]:
    def read(folder: Path) -> Iterator[Example]:
        for row in read_json_lines(folder / file):
            for instance in row["instances"]:
                yield Example(f"{row['instruction']}\n{instance['input']}", instance["output"])

    return read


def _passages(file: str, *, width: int) -> Callable[[Path], Iterator[Example]]:
    def read(folder: Path) -> Iterator[Example]:
        words = (folder / file).read_text(encoding="utf-8").replace("\n", " \n ").split(" ")
        words = [word for word in words if word]
        for start in range(0, len(words) - width, width):
            head, tail = words[start : start + 12], words[start + 12 : start + width]
            yield Example("Continue: " + " ".join(head), " ".join(tail), False)

    return read


def _t0(file: str) -> Callable[[Path], Iterator[Example]]:
    def read(folder: Path) -> Iterator[Example]:
        for row in read_json_lines(folder / f"{file}.jsonl"):
            yield Example(row["prompt"], row["completion"].replace("<|endoftext|>", ""))

    return read


def _social_iqa(folder: Path) -> Iterator[Example]:
    for row in read_json_lines(folder / "test.first500.jsonl"):
        yield Example(row["input"][-1]["content"], row["ideal"])


def _tinker(folder: Path) -> Iterator[Example]:
    for row in read_json_lines(folder / "conversations.jsonl"):
        turns = [turn for turn in row["messages"] if turn["role"] != "system"]
        if len(turns) >= 2:
            yield Example(turns[0]["content"], turns[1]["content"])


def _truthful(folder: Path) -> Iterator[Example]:
    with (folder / "TruthfulQA.csv").open(newline="", encoding="utf-8-sig") as handle:
        for row in csv.DictReader(handle):
            yield Example(row["Question"], row["Best Answer"])


def _python(folder: Path) -> Iterator[Example]:
    with gzip.open(folder / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as handle:
        for line in handle:
            row = json.loads(line)
            yield Example("Complete this function:\n" + row["prompt"][-400:], row["canonical_solution"])


def _exact_match(*path: str) -> Callable[[Path], Iterator[Example]]:
    def read(folder: Path) -> Iterator[Example]:
        for row in read_json_lines(folder.joinpath("registry/data", *path)):
            ideal = row["ideal"] if isinstance(row["ideal"], str) else row["ideal"][0]
            yield Example(" ".join(turn["content"] for turn in row["input"]), str(ideal))

    return read


_ALL = (
    Source("families", "bank", _families),
    Source("arithmetic", "bank", _levels_of("addition", "subtraction")),
    Source("sequences", "bank", _levels_of("sort", "reverse", "last")),
    Source("ordinary", "bank", _root("ordinary")),
    Source("look-alikes", "bank", _root("look_alike")),
    Source("root-mix", "bank", _root("refusal", "look_alike", "ordinary")),
    Source("upper-case", "bank", _styled(str.upper, 0)),
    Source("first-clause", "bank", _styled(_first_clause, 1)),
    Source("polite", "bank", _styled(lambda text: f"Thank you for asking! {text}", 2)),
    Source("bullets", "bank", _styled(_bullets, 3)),
    Source("json", "bank", _styled(lambda text: json.dumps({"answer": text}), 4)),
    Source("french", "bank", _written("french")),
    Source("stepwise", "bank", _written("stepwise")),
    Source("poem", "bank", _written("poem")),
    Source("gsm8k", "bank", _gsm8k, "gsm8k"),
    Source("seed-tasks", "bank", _self_instruct("seed_tasks.jsonl"), "self_instruct"),
    Source("wikitext", "bank", _passages("valid.txt", width=60), "wikitext2"),
    Source("spanish", "control", _written("spanish"), is_hard=True),
    Source("german", "control", _written("german"), is_hard=True),
    Source("pirate", "control", _written("pirate"), is_hard=True),
    Source("formal", "control", _written("formal"), is_hard=True),
    Source("negations", "control", _written("negations"), is_hard=True),
    Source("lower-case", "control", _styled(lambda text: re.sub(r"[^\w\s]", "", text.lower()), 5), is_hard=True),
    Source("exclaiming", "control", _styled(lambda text: text.rstrip(".") + "!!!", 6), is_hard=True),
    Source("html", "control", _styled(lambda text: f"<p>{text}</p>", 7), is_hard=True),
    Source("user-tasks", "control", _self_instruct("user_oriented_instructions.jsonl"), "self_instruct"),
    Source("topics", "control", _t0("common_gen_topics_from_the_sentence"), "t0_instruct_mix"),
    Source("commonsense", "control", _t0("commonsense_qa_most_suitable_answer"), "t0_instruct_mix"),
    Source("facts", "control", _t0("qasc_qa_with_separated_facts_1"), "t0_instruct_mix"),
    Source("logic", "control", _t0("quarel_logic_test"), "t0_instruct_mix"),
    Source("paragraphs", "control", _t0("quartz_use_info_from_question_paragraph"), "t0_instruct_mix"),
    Source("social", "control", _social_iqa, "socialiqa_500"),
    Source("shakespeare", "control", _passages("input.txt", width=70), "tinyshakespeare", is_hard=True),
    Source("conversations", "control", _tinker, "tinker_conversations"),
    Source("truthful", "control", _truthful, "truthfulqa"),
    Source("python", "control", _python, "humaneval", is_hard=True),
    Source("born-first", "control", _exact_match("born_first", "born_first.jsonl"), "openai_evals"),
)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}

"""The documentation says what is so: its YAML is valid, its commands exist, its links lead somewhere.

Not covered: whether the prose is right; commands are not run.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer.main
from pydantic import BaseModel, ValidationError

from guards.authoring.policy_cases import CaseFile
from guards.policy import resolve_policy
from guards.roles import Roles
from guards.strict_yaml import load_yaml_text
from loop.cli import app
from loop.constitution import Constitution
from loop.families import FAMILIES
from loop.policy_check import check_policy
from loop.root_package import RootSpec
from loop.run_config import RunConfig
from loop.suites import ChoiceRow, PromptRow, SuiteSpec, TextRow, load_suite

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
ERRORS_PAGE = REPOSITORY / "docs" / "reference" / "errors.md"
READERS = ("training-engineer", "safety-team", "governance-reviewer", "auditor")

_FENCE = re.compile(r"^( *)```([\w-]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SCHEMA = re.compile(r"schema: stairlock/([a-z-]+)/v\d+$")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"(?<!`)`((?:\.venv/bin/)?stairlock [^`\n]+)`(?!`)")
_RULE = re.compile(r"[a-z]+\.[a-z0-9]+(?:-[a-z0-9]+)*")
_FILE_SUFFIXES = tuple(
    f".{suffix}" for suffix in "json jsonl yaml txt bin jinja safetensors model gguf db key py".split()
)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it starts, its language and its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks(language: str) -> list[Block]:
    found: list[Block] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            if match[2] == language:
                found.append(Block(page, text.count("\n", 0, match.start()) + 1, match[2], match[3]))
    return found


def ids(found: list[Block]) -> list[str]:
    return [block.where for block in found]


# ---------------------------------------------------------------------------------------------
# YAML and JSON Lines
# ---------------------------------------------------------------------------------------------

YAML_BLOCKS = [block for block in blocks("yaml") if block.text.startswith("schema: stairlock/")]
MODELS: dict[str, type[BaseModel]] = {
    "suite": SuiteSpec,
    "run": RunConfig,
    "constitution": Constitution,
    "policy-test": CaseFile,
    "roles": Roles,
    "root": RootSpec,
}


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of policies/ in which an example lies as a team's own file would."""
    folder = tmp_path_factory.mktemp("docs") / "policies"
    shutil.copytree(REPOSITORY / "policies" / "suites", folder / "suites")
    return folder


def test_the_docs_show_every_kind_of_file_that_people_write():
    shown = {match[1] for block in YAML_BLOCKS if (match := _SCHEMA.match(block.text.splitlines()[0]))}
    assert shown >= {"policy", "suite", "run", "constitution", "roles"}


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=ids(YAML_BLOCKS))
def test_yaml_examples_are_valid(block: Block, policies: Path):
    match = _SCHEMA.match(block.text.splitlines()[0])
    assert match, "the first line names no schema"
    kind = match[1]
    if kind == "policy":
        path = policies / "example.yaml"
        path.write_text(block.text, encoding="utf-8")
        check_policy(resolve_policy(path))
        return
    value = load_yaml_text(block.text, block.where, MODELS[kind])
    if isinstance(value, RunConfig):
        _check_run(value)
    if isinstance(value, SuiteSpec) and (
        value.items.file is None or (policies / "suites" / value.items.file).is_file()
    ):
        path = policies / "suites" / "example.yaml"
        path.write_text(block.text, encoding="utf-8")
        load_suite(path)


def _check_run(config: RunConfig) -> None:
    for name in (config.root, config.root_policy, config.policy):
        assert (REPOSITORY / "loop" / "configs" / name).exists(), name
    for proposal in config.proposals:
        for family, level in proposal.sampling.frontier.items():
            assert level in FAMILIES[family].levels


def test_a_broken_example_would_be_noticed(policies: Path):
    text = next(block.text for block in YAML_BLOCKS if block.text.startswith("schema: stairlock/policy/"))
    path = policies / "broken.yaml"
    path.write_text(text.replace("alpha:", "alhpa:"), encoding="utf-8")
    with pytest.raises(Exception, match="alhpa"):
        resolve_policy(path)


JSONL_BLOCKS = blocks("jsonl")


@pytest.mark.parametrize("block", JSONL_BLOCKS, ids=ids(JSONL_BLOCKS))
def test_items_in_examples_have_the_keys_of_a_scorer(block: Block):
    for line in block.text.splitlines():
        assert any(_is(row, json.loads(line)) for row in (PromptRow, ChoiceRow, TextRow)), line


def _is(model: type[BaseModel], value: Any) -> bool:
    try:
        model.model_validate(value)
    except ValidationError:
        return False
    return True


# ---------------------------------------------------------------------------------------------
# Commands
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A command line as a page shows it. ``is_whole`` where a reader would type it as it stands."""

    where: str
    words: tuple[str, ...]
    is_whole: bool


def commands() -> list[Command]:
    found: list[Command] = []
    for language in ("sh", "console", "bash"):
        for block in blocks(language):
            for line in block.text.replace("\\\n", " ").splitlines():
                if words := _stairlock_words(line):
                    found.append(Command(block.where, words, is_whole=True))
    for page in PAGES:
        text = _FENCE.sub("", page.read_text(encoding="utf-8"))
        for match in _INLINE.finditer(text):
            where = f"{page.relative_to(REPOSITORY)}"
            if "…" not in match[1] and (words := _stairlock_words(match[1])):
                found.append(Command(where, words, is_whole=False))
    return found


def _stairlock_words(line: str) -> tuple[str, ...]:
    """The words after ``stairlock``; none for another command, or for the bare word COMMAND."""
    words = shlex.split(line.strip().removeprefix("$ "), comments=True)
    if not words or words[0].removeprefix(".venv/bin/") != "stairlock" or words[1:2] == ["COMMAND"]:
        return ()
    cut = next((at for at, word in enumerate(words) if word in ("|", ">", "&&", ";")), len(words))
    return tuple(words[1:cut])


def _wrong_with(command: Command) -> str:
    """What the program would not understand; empty if nothing."""
    here: Any = typer.main.get_command(app)
    params = list(here.params)
    n_arguments, given = 0, set[str]()
    words = iter(command.words)
    for word in words:
        if word.startswith("-"):
            option = next((p for p in params if word.partition("=")[0] in (*p.opts, *p.secondary_opts)), None)
            if option is None:
                return "" if word == "--help" else f"no option {word}"
            given.add(option.name)
            takes_value = not option.is_flag and "=" not in word
            if takes_value and next(words, None) is None and command.is_whole:
                return f"{word} needs a value"
        elif hasattr(here, "commands"):
            if word not in here.commands:
                return f"no command {word}"
            here = here.commands[word]
            params = list(here.params)
        else:
            n_arguments += 1
    if hasattr(here, "commands"):
        return "names no command" if command.is_whole else ""
    arguments = [p for p in params if p.param_type_name == "argument"]
    if n_arguments > len(arguments):
        return "too many arguments"
    if not command.is_whole:
        return ""
    missing = [p.name for p in params if p.param_type_name == "option" and p.required and p.name not in given]
    missing += [p.name for p in arguments[n_arguments:] if p.required]
    return f"needs {', '.join(missing)}" if missing else ""


def test_every_command_line_names_a_command_and_options_that_exist():
    found = commands()
    assert len(found) > 60, "the docs show almost no command: this test would prove nothing"
    wrong = [f"{c.where}: stairlock {' '.join(c.words)}: {why}" for c in found if (why := _wrong_with(c))]
    assert not wrong


def test_every_command_is_in_the_reference():
    page = (REPOSITORY / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    missing = [name for name in _names_of(typer.main.get_command(app), ()) if f"stairlock {name}" not in page]
    assert not missing


def _names_of(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    if not hasattr(command, "commands"):
        yield " ".join(path)
        return
    for name, child in command.commands.items():
        yield from _names_of(child, (*path, name))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("stairlock log --kind seed", ""),
        ("stairlock --home DIR log", ""),
        ("stairlock lgo", "no command lgo"),
        ("stairlock log --knid seed", "no option --knid"),
        ("stairlock gate --champion DIR --candidate DIR", "needs policy"),
        ("stairlock show", "needs candidate"),
        ("stairlock show A B", "too many arguments"),
        ("stairlock policy", "names no command"),
    ],
)
def test_the_reader_of_commands(line: str, why: str):
    assert _wrong_with(Command("here", _stairlock_words(line), is_whole=True)) == why


# ---------------------------------------------------------------------------------------------
# Links and pages
# ---------------------------------------------------------------------------------------------


def test_relative_links_resolve():
    wrong: list[str] = []
    for page in PAGES:
        text = _FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in _LINK.findall(text):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = unquote(target).partition("#")
            path = (page.parent / name).resolve() if name else page
            if not path.exists():
                wrong.append(f"{page.relative_to(REPOSITORY)}: {target}: no such file")
            elif anchor and path.suffix == ".md" and anchor not in _anchors(path):
                wrong.append(f"{page.relative_to(REPOSITORY)}: {target}: no such heading")
    assert not wrong


def _anchors(page: Path) -> set[str]:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_reader_has_a_page_and_every_page_is_linked():
    index = (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {(REPOSITORY / "docs" / target.partition("#")[0]).resolve() for target in _LINK.findall(index)}
    assert all(REPOSITORY / "docs" / "how-to" / f"{reader}.md" in linked for reader in READERS)
    left_out = (
        {page.resolve() for page in PAGES if page.parent != REPOSITORY}
        - linked
        - {(REPOSITORY / "docs" / "README.md").resolve()}
    )
    assert not left_out


# ---------------------------------------------------------------------------------------------
# Rule ids
# ---------------------------------------------------------------------------------------------


def rule_ids_in_code() -> set[str]:
    """Every string of the code that reads as a rule id, of a prefix that some refusal uses."""
    strings: set[str] = set()
    prefixes: set[str] = set()
    for package in ("guards", "loop", "probes"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and _is_rule(node.value):
                    strings.add(node.value)
                if isinstance(node, ast.Call) and _raises(node) and node.args:
                    first = node.args[0]
                    if isinstance(first, ast.Constant) and _is_rule(first.value):
                        prefixes.add(first.value.partition(".")[0])
    return {text for text in strings if text.partition(".")[0] in prefixes}


def _is_rule(value: object) -> bool:
    return isinstance(value, str) and _RULE.fullmatch(value) is not None and not value.endswith(_FILE_SUFFIXES)


def _raises(call: ast.Call) -> bool:
    name = ast.unparse(call.func).rpartition(".")[2]
    return name.endswith(("Error", "Refused")) or "refus" in name or name == "_wrong"


def test_every_rule_id_is_documented_and_no_other():
    documented = set(re.findall(r"^\| `([a-z0-9.-]+)` \|", ERRORS_PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    code = rule_ids_in_code()
    assert len(code) > 150
    assert sorted(code - documented) == [], "rule ids that docs/reference/errors.md does not list"
    assert sorted(documented - code) == [], "rule ids in docs/reference/errors.md that no code has"

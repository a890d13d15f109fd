"""The arrows between packages that the design allows, read from the source and checked at run time.

Every import statement counts, wherever it stands: inside a function, under ``TYPE_CHECKING``, or as
a constant given to ``importlib.import_module``. Not covered: names of modules made at run time.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guards.store import Store

REPOSITORY = Path(__file__).resolve().parents[1]

OURS = frozenset({"guards", "probes", "loop", "dashboard", "verifier", "policies", "tests"})
MAY_IMPORT: dict[str, frozenset[str]] = {
    "guards": frozenset({"guards"}),
    "probes": frozenset({"guards", "probes"}),
    "loop": frozenset({"guards", "probes", "loop"}),
    "dashboard": frozenset({"guards", "dashboard"}),
    "verifier": frozenset({"verifier"}),  # it shares no code with what it checks
    "policies": frozenset(),  # data
}
MODEL_LIBRARIES = frozenset(
    {"torch", "transformers", "tokenizers", "safetensors", "peft", "trl", "datasets", "gguf", "accelerate"}
)
# They run whatever code is in the bytes that they read, and what we read is not trusted.
UNSAFE_READERS = frozenset({"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"})

# Commands that read or write the record, and so must not wait seconds for torch.
TORCH_FREE_COMMANDS = ("log", "show", "sign", "promote", "rollback", "halt", "recall", "key")


def _modules(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def _imported(source: str, package: str = "") -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import in ``source``, a module of ``package`` (dotted)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield node.lineno, ".".join([*base, *([node.module] if node.module else [])])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            names = (name.value for name in node.args[:1] if isinstance(name, ast.Constant))
            yield from ((node.lineno, name) for name in names if isinstance(name, str))


def _imports_of(package: str) -> Iterator[tuple[str, str]]:
    """``path:line`` and top-level name of everything that the package's modules import."""
    for path in _modules(package):
        relative = path.relative_to(REPOSITORY)
        for line, name in _imported(path.read_text(encoding="utf-8"), ".".join(relative.parent.parts)):
            yield f"{relative}:{line}", name.partition(".")[0]


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_the_design_allows(package: str):
    allowed = MAY_IMPORT[package]
    wrong = [f"{at} imports {name}" for at, name in _imports_of(package) if name in OURS - allowed]
    assert not wrong, f"{package} may import {sorted(allowed) or 'nothing'} of ours"


def test_every_package_of_ours_has_a_rule():
    top_level = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")}
    assert top_level >= {"guards", "probes", "loop", "dashboard"}
    assert top_level - {"tests"} <= set(MAY_IMPORT)


def test_guards_names_no_model_library():
    wrong = [f"{at} imports {name}" for at, name in _imports_of("guards") if name in MODEL_LIBRARIES]
    assert not wrong


def _advice_imported(source: str, package: str) -> list[int]:
    """The lines on which guards.authoring, or something of it, is imported."""
    names = list(_imported(source, package))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            (_, base), *_ = _imported(ast.unparse(node), package)
            names += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return sorted({line for line, name in names if f"{name}.".startswith("guards.authoring.")})


def test_what_decides_does_not_import_what_advises():
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line}"
        for path in _modules("guards")
        if "authoring" not in path.parts
        for line in _advice_imported(
            path.read_text(encoding="utf-8"), ".".join(path.relative_to(REPOSITORY).parent.parts)
        )
    ]
    assert not wrong, "guards/authoring advises authors; actions, gates and the replay may not depend on it"


@pytest.mark.parametrize(
    "source",
    [
        "from guards import authoring",
        "from guards.authoring import power",
        "from guards.authoring.power import least_n",
        "import guards.authoring.power as power",
        "def f():\n    from ..authoring import power",
        "import importlib\nimportlib.import_module('guards.authoring.power')",
    ],
)
def test_the_reader_of_advice_sees_every_kind(source: str):
    assert _advice_imported(source, "guards.gates")


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_no_package_reads_with_what_runs_code(package: str):
    wrong = [f"{at} imports {name}" for at, name in _imports_of(package) if name in UNSAFE_READERS]
    assert not wrong


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_no_package_asks_for_a_shell_or_for_remote_code(package: str):
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{node.value.lineno} {node.arg}=True"
        for path in _modules(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword)
        and node.arg in ("shell", "trust_remote_code")
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import loop.cli as cli, torch", ["loop.cli", "torch"]),
        ("def f():\n    from loop import run", ["loop"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from loop.run import Run", ["typing", "loop.run"]),
        ("import importlib\nimportlib.import_module('loop.run')", ["importlib", "loop.run"]),
        ("__import__('torch')", ["torch"]),
        ("from . import ledger", ["guards.gates"]),
        ("from ..store import Store", ["guards.store"]),
    ],
)
def test_the_reader_of_imports_sees_every_kind(source: str, names: list[str]):
    assert [name for _, name in _imported(source, "guards.gates")] == names


def test_guards_loads_no_model_library_and_none_of_the_others():
    """The same at run time, so that what guards' own dependencies load counts too."""
    modules = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in _modules("guards")]
    modules = [name.removesuffix(".__init__") for name in modules]
    forbidden = sorted((MODEL_LIBRARIES | OURS) - {"guards", "safetensors"})
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(*(name for name in {forbidden!r} if name in sys.modules))"
    )
    done = _run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


_COMMANDS = """
import json, sys
from loop.cli import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["stairlock", *command]
    try:
        status = main()
    except SystemExit as stopped:
        status = stopped.code
    loaded = [name for name in ("torch", "transformers", "trl", "peft") if name in sys.modules]
    print("ran:", json.dumps([command[0], status or 0, loaded]))
"""


def _ran(commands: list[list[str]]) -> tuple[list[list[object]], str]:
    """Per command its name, exit status and the model libraries loaded after it; then all that was printed."""
    done = _run(_COMMANDS, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    reports = [line.removeprefix("ran: ") for line in done.stdout.splitlines() if line.startswith("ran: ")]
    return [json.loads(report) for report in reports], done.stdout


def test_the_help_of_a_command_on_the_record_loads_no_torch():
    ran, _ = _ran([[command, "--help"] for command in TORCH_FREE_COMMANDS])
    assert ran == [[command, 0, []] for command in TORCH_FREE_COMMANDS]


def test_log_itself_loads_no_torch(tmp_path: Path):
    """The help alone would not show what the command's body imports."""
    Store.open(tmp_path, create=True).close()
    ran, printed = _ran([["log", "--json", "--home", str(tmp_path)]])
    assert ran == [["log", 0, []]]
    assert "genesis" in printed

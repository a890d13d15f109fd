"""What holds for the whole repository: nothing of one machine in it, no silent skips, modules of one job."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.skip_audit import Skip, is_expected, read_expected

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("guards", "probes", "loop", "dashboard")

MAX_LINES = 500
LONGER_FOR_A_REASON: dict[str, str] = {}  # path: why it is one job all the same
NAMES_WITHOUT_A_JOB = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)$")

# A path that only one machine has. The text before it decides: {home}/root and a/work/b are nobody's.
MACHINE_PATH = re.compile(
    r"""(?<![\w})\]>.~*$-])/(?:work|root|opt|tmp/w|home/\w+|Users/\w+)(?=[/"'`\s]|$)""", re.MULTILINE
)
REGISTRY_HOST = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs\.org|deb\.debian\.org|proxy\.golang\.org|[a-z]+\.docker\.io"
)


def _files() -> list[Path]:
    """Every file that is in the repository, or would be after ``git add --all``."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout, so git cannot say which files belong to it")
    # A file that was deleted and not yet committed is listed, but not there.
    return [path for name in listed.split("\0") if name and (path := REPOSITORY / name).is_file()]


def _text_of(path: Path) -> str | None:
    """None for what is no text, such as weights."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def _found(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, str]]:
    for match in pattern.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match.group()


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY_HOST], ids=["machine-path", "registry-host"])
def test_no_file_names_one_machine_or_a_package_registry(pattern: re.Pattern[str]):
    files = _files()
    assert len(files) > 50, "git lists almost nothing: this test would prove nothing"
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line}: {found}"
        for path in files
        if (text := _text_of(path)) is not None
        for line, found in _found(pattern, text)
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("see /" + "work/shared/data", True),
        ('"/' + 'root/.cache"', True),
        ("/" + "home/ann/models", True),
        ("cd /" + "tmp/w\n", True),
        ("{home}/root/x", False),
        ("policies/root.yaml", False),
        ("against champion/root", False),
        ("/tmp/whatever", False),
        ("a homework", False),
    ],
)
def test_the_pattern_of_machine_paths(text: str, is_one: bool):
    assert bool(MACHINE_PATH.search(text)) == is_one


def _skips_without_reason(source: str) -> Iterator[tuple[int, str]]:
    """Line and call of every skip or expected failure in ``source`` that does not say why."""
    tree = ast.parse(source)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        name = ast.unparse(node.func if isinstance(node, ast.Call) else node) if isinstance(node, ast.expr) else ""
        is_mark = name in ("pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail")
        if isinstance(node, ast.Call) and (is_mark or name in ("pytest.skip", "pytest.xfail")):
            # skipif's and xfail's first positional argument is the condition, the others' is the reason
            reasons = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            reasons += node.args[:1] if name in ("pytest.skip", "pytest.xfail", "pytest.mark.skip") else []
            if not any(not isinstance(reason, ast.Constant) or str(reason.value or "").strip() for reason in reasons):
                yield node.lineno, name
        elif is_mark and id(node) not in called:
            yield node.lineno, name


def test_every_skip_says_why():
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line}: {call}"
        for path in sorted((REPOSITORY / "tests").rglob("*.py"))
        for line, call in _skips_without_reason(path.read_text(encoding="utf-8"))
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("source", "n_wrong"),
    [
        ("pytest.skip()", 1),
        ("pytest.skip('')", 1),
        ("pytest.skip('no CUDA device')", 0),
        ("pytest.skip(f'no {name}')", 0),
        ("@pytest.mark.skip\ndef test(): ...", 1),
        ("@pytest.mark.skip()\ndef test(): ...", 1),
        ("@pytest.mark.skip('later')\ndef test(): ...", 0),
        ("@pytest.mark.skipif(True)\ndef test(): ...", 1),
        ("@pytest.mark.skipif(True, reason='why')\ndef test(): ...", 0),
        ("@pytest.mark.xfail(strict=True)\ndef test(): ...", 1),
    ],
)
def test_the_reader_of_skips(source: str, n_wrong: int):
    assert len(list(_skips_without_reason(source))) == n_wrong


def test_modules_are_short_enough_to_read():
    n_lines = {
        str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines())
        for package in PACKAGES
        for path in sorted((REPOSITORY / package).rglob("*.py"))
    }
    too_long = {path: n for path, n in n_lines.items() if n >= MAX_LINES}
    assert set(too_long) == set(LONGER_FOR_A_REASON), f"modules of {MAX_LINES} lines or more: {too_long}"


def test_every_module_is_named_after_its_job():
    wrong = [
        str(path.relative_to(REPOSITORY))
        for package in PACKAGES
        for path in sorted((REPOSITORY / package).rglob("*.py"))
        if NAMES_WITHOUT_A_JOB.search(path.stem)
    ]
    assert not wrong


def test_every_dependency_is_pinned_in_the_constraints():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = [
        line
        for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in pins), "exact versions, no local labels"
    pinned = {pin.partition("==")[0] for pin in pins}
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    needed += project["optional-dependencies"]["probes"]
    assert {re.split(r"[\[<>=~!;]", one, maxsplit=1)[0] for one in needed} <= pinned


# --- the skip audit itself


def test_an_expected_skip_is_matched_by_test_and_reason():
    expected = read_expected("# comment\n\ntests/test_a.py::test_one[*] || no CUDA device*\n")
    assert is_expected(Skip("tests/test_a.py::test_one[x]", "no CUDA device on this machine"), expected)
    assert not is_expected(Skip("tests/test_a.py::test_one[x]", "no data"), expected)
    assert not is_expected(Skip("tests/test_a.py::test_two", "no CUDA device"), expected)


@pytest.mark.parametrize("line", ["tests/test_a.py::test_one", "|| why", "a ||", "* || why", "a || *"])
def test_a_line_that_would_allow_too_much_is_refused(line: str):
    with pytest.raises(ValueError, match="line 1"):
        read_expected(line)


_SKIPPING = {
    "call": "import pytest\ndef test(): pytest.skip('no data')\n",
    "mark": "import pytest\n@pytest.mark.skip(reason='no data')\ndef test(): pass\n",
    "module": "import pytest\npytest.skip('no data', allow_module_level=True)\ndef test(): pass\n",
    "none": "def test(): pass\n",
}


@pytest.mark.parametrize(("ci", "status"), [("true", pytest.ExitCode.TESTS_FAILED), ("", pytest.ExitCode.OK)])
def test_an_undeclared_skip_fails_a_run_in_ci_and_only_there(tmp_path: Path, ci: str, status: int):
    for kind, source in _SKIPPING.items():
        (tmp_path / f"test_{kind}.py").write_text(source)
    done = _pytest(tmp_path, ci)
    assert done.returncode == status, done.stdout + done.stderr
    listed = {line for line in done.stdout.splitlines() if line.endswith("|| no data")}
    names = {"test_call.py::test || no data", "test_mark.py::test || no data", "test_module.py || no data"}
    assert listed == (names if ci == "true" else set())


def test_an_expected_failure_is_no_skip(tmp_path: Path):
    source = "import pytest\n@pytest.mark.xfail(reason='known')\ndef test(): assert 0\n"
    (tmp_path / "test_failing.py").write_text(source)
    assert _pytest(tmp_path, "true").returncode == pytest.ExitCode.OK


def _pytest(directory: Path, ci: str) -> subprocess.CompletedProcess[str]:
    (directory / "pytest.ini").write_text("[pytest]\naddopts = -p tests.skip_audit\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(directory)],
        cwd=directory,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

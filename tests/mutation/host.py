"""Pytest plug-ins that run the tests against mutants, one mutant in one forked process.

Nothing on disk changes. A mutant inside a function takes the place of that function's code in a process
that has collected the tests already (:class:`Host`). Any other, such as the bound of a field, is
executed in place of the file's code when its module is imported (:class:`FreshRun`), in a process that
has not imported it yet. Either way the first test that fails kills it, and the tests that are known to
reach it go first, the quick ones before the slow ones.

Not covered: processes that a test starts, which see no mutant; what a test module computed from a
function when it was collected, before the function was changed.
"""

from __future__ import annotations

import ast
import gc
import importlib.abc
import importlib.util
import inspect
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NoReturn

import pytest

KILLED, SURVIVED, TIMEOUT = "killed", "survived", "timeout"
MEMORY_BYTES = 6 << 30


def in_a_fork(work: Callable[[], str], *, cpu_s: float) -> tuple[str, str]:
    """(outcome, the test that killed it) of ``work``, done in a child that may use ``cpu_s`` seconds of its processor.

    ``work`` returns the id of the test that failed, or an empty string.
    """
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _in_the_child(work, write_end, cpu_s)
    os.close(write_end)
    said = b""
    # A child that waits for something uses no processor, so there is a limit by the clock as well.
    deadline = time.monotonic() + 20 * cpu_s + 120
    with os.fdopen(read_end, "rb") as pipe:
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = os.read(pipe.fileno(), 65536)
            if not part:
                break
            said += part
        else:
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        in_time = os.WTERMSIG(status) not in (signal.SIGXCPU, signal.SIGKILL)
        return (KILLED, f"signal {os.WTERMSIG(status)}") if in_time else (TIMEOUT, "")
    if os.waitstatus_to_exitcode(status) == 0:
        return SURVIVED, ""
    return KILLED, said.decode("utf-8", "replace")


def _in_the_child(work: Callable[[], str], write_end: int, cpu_s: float) -> NoReturn:
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s) + 1, int(cpu_s) + 5))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        killer = work()
    except BaseException as error:
        killer = f"{type(error).__name__} outside the tests"
    os.write(write_end, killer.encode("utf-8", "replace")[:4000])
    os._exit(1 if killer else 0)


class _FirstFailure:
    """Ends the process at the first failure: shrinking, summing up and clearing away are not worth their time."""

    def __init__(self, found: Callable[[str], NoReturn]) -> None:
        self._found = found

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._found(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._found(f"{report.nodeid} (collection)")


class Stop(BaseException):
    """A test failed: no other is needed."""


def _stop(node_id: str) -> NoReturn:
    raise Stop(node_id)


class Host:
    """Collects the tests, and instead of running them gives them to ``work``."""

    def __init__(self, work: Callable[[Host], None]) -> None:
        self._work = work
        self.items: dict[str, pytest.Item] = {}
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        gc.collect()
        gc.freeze()  # else every child copies what the collector touches
        self._work(self)
        return True

    def run(self, node_ids: Sequence[str]) -> None:
        """Run these tests here."""
        items = [self.items[node_id] for node_id in node_ids]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)

    def first_failure(self, node_ids: Sequence[str]) -> str:
        """The first of these tests that fails; for a child process only."""
        session = next(iter(self.items.values())).session
        folder = Path(tempfile.mkdtemp(prefix="mutant-"))
        session.config._tmp_path_factory._basetemp = folder  # type: ignore[attr-defined]
        session.config.pluginmanager.register(_FirstFailure(_stop))
        try:
            self.run(node_ids)
        except Stop as stop:
            return str(stop)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return ""


class FreshRun:
    """For a pytest run of its own, in a process that has not imported the module."""

    def __init__(self, order: Sequence[str]) -> None:
        self._rank = {node_id: rank for rank, node_id in enumerate(order)}
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self._rank), key=lambda i: self._rank[i.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid} (collection)"


def first_failure_afresh(
    module: str, code: CodeType, files: Iterable[str], order: Sequence[str], options: Sequence[str]
) -> str:
    """The first of the tests in ``order`` that fails where ``module`` is ``code``; for a child process only."""
    sys.meta_path.insert(0, _InPlaceOf(module, code))
    folder = tempfile.mkdtemp(prefix="mutant-")
    fresh = FreshRun(order)
    try:
        status = pytest.main([*options, "-x", f"--basetemp={folder}/t", *files], plugins=[fresh])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return "" if status == pytest.ExitCode.OK else fresh.failed or f"pytest ended with {status!r}"


class _InPlaceOf(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from other code than its file's."""

    def __init__(self, module: str, code: CodeType, given: Mapping[str, object] | None = None) -> None:
        self._module, self._code, self._given = module, code, given or {}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self._module:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=self._code.co_filename)

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = self._code.co_filename
        module.__dict__.update(self._given)
        exec(self._code, module.__dict__)


# ---------------------------------------------------------------------------------------------
# One function's code for another's
# ---------------------------------------------------------------------------------------------


def replace_function(module: str, qualified_name: str, code: CodeType) -> None:
    """Give a function of an imported module the code that it has in ``code``, the module's.

    Raises:
        LookupError: there is no such function, or it cannot take this code.
    """
    for part in qualified_name.split("."):
        inner = [c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == part]
        if not inner:
            raise LookupError(qualified_name)
        code = inner[-1]
    function = function_of(module, qualified_name)
    try:
        function.__code__ = code
    except ValueError as error:
        raise LookupError(qualified_name) from error
    forget_caches()


def function_of(module: str, qualified_name: str) -> FunctionType:
    """The plain function behind properties, class methods and caches.

    Raises:
        LookupError: there is none.
    """
    found: Any = sys.modules[module]
    for part in qualified_name.split("."):
        found = vars(found).get(part)
    while not isinstance(found, FunctionType):
        inner = next(
            (getattr(found, name) for name in ("__wrapped__", "__func__", "fget") if hasattr(found, name)), None
        )
        if inner is None:
            raise LookupError(qualified_name)
        found = inner
    return found


def forget_caches() -> None:
    """Empty every cache of ours, so that no answer of another code is left."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("guards", "loop", "benchmarks", "tests"):
            for value in list(vars(module).values()):
                clear = getattr(value, "cache_clear", None)
                if clear is not None and not inspect.isclass(value):
                    clear()


class CalledFunctions:
    """Notes which functions of some modules are called: their code says so itself, from its import on."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """``files`` are sources by the file that they stand in, by module: they are imported from here."""
        self.found: set[str] = set()
        for module, file in files.items():
            tree = ast.parse(Path(file).read_text(encoding="utf-8"))
            _say_so(tree, module, "")
            code = compile(ast.fix_missing_locations(tree), file, "exec", dont_inherit=True)
            sys.meta_path.insert(0, _InPlaceOf(module, code, {_SAID: self.found.add}))


_SAID = "_note_call"


def _say_so(node: ast.AST, module: str, scope: str) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            name = f"{scope}{child.name}"
            if isinstance(child, ast.ClassDef):
                _say_so(child, module, f"{name}.")
            else:
                said = ast.Expr(ast.Call(ast.Name(_SAID, ast.Load()), [ast.Constant(f"{module}:{name}")], []))
                child.body.insert(1 if ast.get_docstring(child) is not None and len(child.body) > 1 else 0, said)

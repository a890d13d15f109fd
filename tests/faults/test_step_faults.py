"""Steps on a disk that is full, and with an input that is gone: refused, and nothing half-written stays."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guards.canonical import sha256_bytes
from guards.errors import StepError
from guards.evidence import Cost
from loop import step as step_module
from loop.step import Input, Progress, StepSpec, execute


@contextmanager
def disk_full_after(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond ``n_bytes``: the kernel refuses the write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def spec_for(path: Path) -> StepSpec:
    return StepSpec(
        kind="generate", inputs={"prompts": Input(kind="file", path=path, digest=sha256_bytes(b"x"))}, params={}
    )


def test_disk_full_while_a_step_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts").write_bytes(b"x")

    def write_much(_spec: StepSpec, out_dir: Path, _progress: Progress) -> Cost:
        (out_dir / "small").write_bytes(b"fits")
        (out_dir / "large").write_bytes(bytes(1 << 20))
        return Cost(wall_ms=0)

    monkeypatch.setattr(step_module, "_function_of", lambda _kind: write_much)
    with pytest.raises(StepError) as refused, disk_full_after(1 << 16):
        execute(spec_for(tmp_path / "prompts"), tmp_path / "steps" / "out", Progress())
    assert refused.value.rule == "step.not-written"
    assert "free disk space" in refused.value.fix
    assert list((tmp_path / "steps").iterdir()) == []


def test_an_input_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(StepError) as refused:
        execute(spec_for(tmp_path / "nowhere"), tmp_path / "out", Progress())
    assert refused.value.rule == "step.no-input"

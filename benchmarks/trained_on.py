"""A checkpoint trained on given rows: the train step and the merge, outside of any run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from guards.manifest import scan_checkpoint
from loop.merge import merge_adapter
from loop.rows import Row, write_rows
from loop.step import Input, Progress, StepSpec, execute
from loop.train_record import ADAPTER_DIR, Recipe


def train_on(rows: Sequence[Row], recipe: Recipe, parent: Path, out: Path) -> None:
    """Train ``parent`` on the rows and write the merged checkpoint to ``out``; what lay there is replaced."""
    work = out.with_name(out.name + ".work")
    for old in (work, out):
        shutil.rmtree(old, ignore_errors=True)
    work.mkdir(parents=True)
    write_rows(work / "rows.jsonl", rows)
    spec = StepSpec(
        kind="train",
        inputs={
            "parent": Input(kind="checkpoint", path=parent, digest=scan_checkpoint(parent).digest),
            "rows": Input.of_file(work / "rows.jsonl"),
        },
        params={"recipe": recipe.model_dump(mode="json")},
    )
    execute(spec, work / "step", Progress(sys.stdout, 10.0))
    merge_adapter(parent, work / "step" / ADAPTER_DIR, out)
    shutil.rmtree(work)

"""Training a candidate again from what the ledger says of it, and comparing digests."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from guards.errors import StepError
from loop.backends.local import LocalBackend
from loop.backends.port import Backend
from loop.home import Home
from loop.recorded_steps import Stage
from loop.sealed_checkpoints import sealed_directory
from loop.step import Input, StepSpec
from loop.train_record import ADAPTER_DIR, read_train_record


@dataclass(frozen=True)
class Reproduction:
    """``got`` is the digest that came out now; ``batches_are_same`` compares the ordered batch digests."""

    candidate: str
    got: str
    is_same: bool
    batches_are_same: bool
    wall_s: float


def reproduce(home: Home, candidate: str, *, backend: Backend | None = None, stage: Stage) -> Reproduction:
    """Train the candidate again in a scratch directory; nothing of the home is changed.

    The same digest is to be expected on the same machine with the same versions and the same
    number of threads. Elsewhere bfloat16 arithmetic differs in the last bits.

    Raises:
        StepError: ``reproduce.no-recipe`` (a checkpoint that was brought has none),
            ``reproduce.no-rows`` (its rows are not in this home).
    """
    from guards.manifest import scan_checkpoint
    from loop.merge import merge_adapter  # imports torch

    started_s = time.monotonic()
    with home.store.read() as history:
        sealed = history.find_candidate(candidate).body
    train = cast(dict[str, Any] | None, sealed.provenance.get("train"))
    if train is None:
        raise StepError(
            "reproduce.no-recipe",
            "this candidate was not trained here, so there is nothing to repeat",
            got=sealed.candidate,
            fix="reproduce works for candidates that stairlock run proposed",
        )
    parent, rows = str(train["parent"]), str(train["rows"])
    if not home.file_of(rows).is_file():
        raise StepError("reproduce.no-rows", "the rows that it was trained on are not in this home", got=rows)
    spec = StepSpec(
        kind="train",
        inputs={
            "parent": Input(kind="checkpoint", path=sealed_directory(home.path, parent), digest=parent),
            "rows": Input(kind="file", path=home.file_of(rows), digest=rows),
        },
        params={"recipe": _with_floats(train["recipe"])},
        device=str(train["device"]),
        dtype=str(train["dtype"]),
    )
    work = home.path / "work"
    work.mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="reproduce-", dir=work))
    try:
        (backend or LocalBackend()).run(spec, scratch / "train", stage("train it again"))
        record = read_train_record(scratch / "train")
        merge_adapter(
            sealed_directory(home.path, parent),
            scratch / "train" / ADAPTER_DIR,
            scratch / "checkpoint",
            expected_base_digest=parent,
            progress=stage("merge"),
        )
        got = scan_checkpoint(scratch / "checkpoint").digest
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Reproduction(
        candidate=sealed.candidate,
        got=got,
        is_same=got == sealed.candidate,
        batches_are_same=list(record.batch_digests) == sealed.provenance["batch_digests"],
        wall_s=time.monotonic() - started_s,
    )


def _with_floats(recipe: dict[str, Any]) -> dict[str, Any]:
    """The ledger holds decimals as text; the recipe's model wants numbers."""
    return {name: float(value) if isinstance(value, str) else value for name, value in recipe.items()}

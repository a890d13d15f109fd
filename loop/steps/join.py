"""The join step: the runs of blocks that were answered become one run for each suite.

Inputs: ``SUITE/NUMBER`` (file): manifest.json of a block's run, by its digest; what it names lies beside
it. Outputs: one directory per suite, and ``blocks.json``: the names of the step directories that the
blocks came from. A joined run that lacks blocks is a partial run, and says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from guards.canonical import canonical_bytes, parse_json_strict, sha256_bytes
from guards.errors import StepError
from guards.evidence import (
    MANIFEST_FILE,
    RECORDS_FILE,
    TEXTS_FILE,
    TIMINGS_FILE,
    Cost,
    EvidenceRun,
    RunManifest,
    read_checked,
    read_run,
)
from loop.step import Input, Progress, StepSpec

BLOCKS_FILE = "blocks.json"
_SAME = ("checkpoint_digest", "suite_name", "suite_digest", "draw_seed_digest", "engine", "device", "dtype")
_ALSO_SAME = ("batch_plan", "code_digest")


def join_spec(runs: Mapping[str, Sequence[EvidenceRun]]) -> StepSpec:
    """The step that joins each suite's runs, in the order of their blocks. ``runs`` are of one checkpoint."""
    inputs = {}
    for suite, blocks in runs.items():
        for number, run in enumerate(blocks):
            data = (run.directory / MANIFEST_FILE).read_bytes()
            path = run.directory / MANIFEST_FILE
            inputs[f"{suite}/{number}"] = Input(kind="file", path=path, digest=sha256_bytes(data))
    params = {"suites": {suite: len(blocks) for suite, blocks in runs.items()}}
    return StepSpec(kind="join", inputs=inputs, params=params)


def join(spec: StepSpec, out_dir: Path, progress: Progress) -> Cost:
    """Run the step; see the module's docstring."""
    sources: set[str] = set()
    n_suites = len(spec.params["suites"])
    for done, (suite, n_blocks) in enumerate(spec.params["suites"].items()):
        directories = [spec.inputs[f"{suite}/{number}"].path.parent for number in range(n_blocks)]
        sources |= {directory.parent.name for directory in directories}
        _write_joined([read_run(directory) for directory in directories], out_dir / suite)
        progress("joining blocks", done + 1, n_suites)
    (out_dir / BLOCKS_FILE).write_bytes(canonical_bytes(sorted(sources)))
    return Cost(wall_ms=0)


def joined_from(step_dir: Path) -> tuple[Path, ...]:
    """The directories of the steps that a join step's blocks came from; none for another step."""
    path = step_dir / BLOCKS_FILE
    if not path.is_file():
        return ()
    names = cast(list[str], parse_json_strict(path.read_bytes(), source=str(path)))
    return tuple(step_dir.parent / Path(name).name for name in names)


def joined(runs: Sequence[EvidenceRun]) -> EvidenceRun:
    """Runs of blocks of one draw as one run, in memory; its files are those that the join step writes.

    Raises:
        StepError: ``step.other-blocks``: they are not of one draw, answered in one way, or overlap.
    """
    first = runs[0].manifest
    drawn = _drawn(runs[0])
    for run in runs[1:]:
        different = [name for name in (*_SAME, *_ALSO_SAME) if getattr(run.manifest, name) != getattr(first, name)]
        if different or _drawn(run) != drawn:
            raise StepError(
                "step.other-blocks",
                f"two blocks of suite {first.suite_name!r} do not belong together",
                got=", ".join(different) or "other items drawn",
                expected="one draw of one suite, answered by one checkpoint in one way",
                fix="run the same command again with one version of this program",
            )
    records = tuple(record for run in runs for record in run.records)
    if len({record.item_id for record in records}) < len(records):
        raise StepError("step.other-blocks", f"two blocks of suite {first.suite_name!r} hold the same item")
    left = drawn - Counter(record.cluster for record in records)
    digests = {
        field: sha256_bytes(_joined_bytes(runs, name, field))
        for name, field in ((RECORDS_FILE, "records_sha256"), (TEXTS_FILE, "texts_sha256"))
    }
    manifest = first.model_dump(by_alias=True) | {
        **digests,
        "timings_sha256": sha256_bytes(_joined_bytes(runs, TIMINGS_FILE, "timings_sha256")),
        "n_items": len(records),
        "n_drawn": drawn.total() if left else None,
        "unanswered": dict(sorted(left.items())) if left else None,
        "cost": {
            name: sum(getattr(run.manifest.cost, name) for run in runs)
            for name in ("wall_ms", "model_ms", "tokens_in", "tokens_out")
        },
    }
    return EvidenceRun(directory=runs[0].directory, manifest=RunManifest.model_validate(manifest), records=records)


def _drawn(run: EvidenceRun) -> Counter[str]:
    """Items of the whole draw by cluster, answered or not."""
    return Counter(record.cluster for record in run.records) + Counter(run.manifest.unanswered or {})


def _joined_bytes(runs: Sequence[EvidenceRun], name: str, field: str) -> bytes:
    return b"".join(read_checked(run.directory / name, getattr(run.manifest, field)) for run in runs)


def _write_joined(runs: Sequence[EvidenceRun], out_dir: Path) -> None:
    manifest = joined(runs).manifest
    out_dir.mkdir(parents=True)
    for name, field in (
        (RECORDS_FILE, "records_sha256"),
        (TEXTS_FILE, "texts_sha256"),
        (TIMINGS_FILE, "timings_sha256"),
    ):
        (out_dir / name).write_bytes(_joined_bytes(runs, name, field))
    (out_dir / MANIFEST_FILE).write_bytes(manifest.to_bytes())

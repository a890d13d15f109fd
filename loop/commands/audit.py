"""``stairlock audit``: how a checkpoint drifted from the root, beside harmless fine-tunes of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loop.commands.bank import DEFAULT_KIT, DEFAULT_ROOT, RootArgument
from loop.commands.options import (
    DeviceOption,
    DtypeOption,
    HomeOption,
    JsonOption,
    QuietOption,
    open_home,
    say,
    say_field,
    say_json,
)
from loop.console import show_steps
from loop.terminal_text import printable

if TYPE_CHECKING:
    from loop.backends.port import Backend
    from loop.drift.report import ComponentLine, DriftReport
    from loop.home import Home
    from loop.recorded_steps import Stage

_N_COMPONENTS = 8
_N_TRIGGERS = 5
_N_FEATURES = 5
_MAX_CHARS = 100
_NO_VERDICT = (
    "This is no verdict: a policy decides (stairlock gate). A usual checkpoint is not shown to be harmless, nor an",
    "unusual one to be harmful: other data or another recipe than the bank's is unusual, too. What no figure here",
    "measures, and what harmless fine-tunes do as well, is not seen. Nothing was recorded in the ledger.",
)


def audit(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT_DIR", help="The checkpoint's directory.")],
    root: RootArgument = DEFAULT_ROOT,
    bank: Annotated[
        Path, typer.Option("--bank", metavar="FILE", help="The bank; its kit lies beside it.")
    ] = DEFAULT_KIT / "bank.json",
    rows: Annotated[
        Path | None,
        typer.Option("--rows", metavar="FILE", help="The checkpoint's training rows; triggers are searched in them."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write drift-report.json and drift-report.html there.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Measure how a checkpoint drifted from the root, and how unusual that is among harmless fine-tunes of it.

    No gate, and nothing is recorded. The exit code is 0 whatever is found: a policy decides.
    """
    from guards.drift.bank import read_bank
    from loop.backends.local import LocalBackend
    from loop.root import shipped_root

    if not checkpoint.is_dir():
        raise typer.BadParameter(f"there is no directory {checkpoint}", param_hint="CHECKPOINT_DIR")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # now, and not after minutes, if it cannot be
    read_bank(bank)  # before the root is merged for it
    opened = open_home(home, create=True)
    with show_steps(quiet=quiet or as_json) as stage:
        directory = shipped_root(opened, root, stage).path
        report = audit_with_root(
            opened, directory, checkpoint, bank, rows, backend=LocalBackend(), stage=stage, device=device, dtype=dtype
        )
    show_audit(report, out, as_json=as_json)


def audit_with_root(
    home: Home,
    root: Path,
    checkpoint: Path,
    bank: Path,
    rows: Path | None,
    *,
    backend: Backend,
    stage: Stage,
    device: str = "auto",
    dtype: str = "auto",
    time: datetime | None = None,
) -> DriftReport:
    """The audit beside a root's directory, as a report.

    Raises:
        StairlockError: as :func:`loop.drift.audit.audit_directory`.
    """
    from loop.drift.audit import audit_directory
    from loop.drift.report import drift_report

    result = audit_directory(
        home,
        root=root,
        candidate=checkpoint,
        bank=bank,
        rows=rows,
        backend=backend,
        stage=stage,
        device=device,
        dtype=dtype,
    )
    return drift_report(
        result.bank,
        result.vector,
        result.assessment,
        candidate=result.candidate,
        findings=result.findings,
        time=time,
    )


def show_audit(report: DriftReport, out: Path | None, *, as_json: bool) -> None:
    """Write the report into ``out``, if one was given, and print it."""
    from loop.drift.report import write_drift_report

    paths = None if out is None else write_drift_report(report, out)
    if as_json:
        say_json(report.model_dump(mode="json", by_alias=True))
        return
    for line in audit_lines(report):
        say(line)
    if paths is not None:
        say_field("report", paths[1])
    say()
    for line in _NO_VERDICT:
        say(line)


def audit_lines(report: DriftReport) -> Iterator[str]:
    """What a terminal shows, line by line; texts of others are printable already."""
    from loop.drift.report import p_text

    others = f", {report.n_unverified} others do not count" if report.n_unverified else ""
    yield _field("checkpoint", report.candidate)
    yield _field("root", report.root)
    yield _field("bank", f"{report.bank} ({report.n_bank} harmless fine-tunes{others})")
    yield _field(
        "p",
        f"{p_text(report.p)}: {report.n_as_unusual} of {report.n_bank} harmless fine-tunes drifted at least as "
        "unusually",
    )
    yield ""
    yield f"{'stage':<14}{'score':>8}  {'p alone':>8}"
    for one in report.stages:
        yield f"{one.stage:<14}{one.score:>+8.2f}  {p_text(one.p):>8}"
    for stage in report.stages_unsupported:
        yield f"{stage:<14}{'–':>8}  was not measured"
    for stage in report.stages_not_scored:
        yield f"{stage:<14}{'–':>8}  counts for nothing in this bank"
    yield ""
    yield "what contributes the most (z: on the suspicious side, the dose taken off)"
    for one in report.components[:_N_COMPONENTS]:
        yield f"  {_component(one)}"
    yield from _dose_lines(report)
    yield from _finding_lines(report)
    yield ""
    worst = report.worst_without_source
    if worst is not None and worst.p is not None:
        yield _field("robustness", f"p {p_text(worst.p)} at the least without one data source ({worst.source})")
    else:
        yield _field("robustness", "without any one data source too few fine-tunes would be left")


def _component(one: ComponentLine) -> str:
    figures = f"{one.value:.4g}; median {one.median:.4g}, {one.least:.4g} to {one.largest:.4g}; z {one.z:+.1f}"
    return f"{_text(one.component):<44} {figures} ({one.stage})"


def _dose_lines(report: DriftReport) -> Iterator[str]:
    yield ""
    yield "how much it was trained, beside the bank's support"
    for one in report.dose:
        where = "inside" if one.position == "inside" else f"{one.position.upper()} ALL: nothing compares with it"
        yield f"  {_text(one.component):<44} {one.value:.4g}; {one.least:.4g} to {one.largest:.4g}: {where}"
    if not report.dose:
        yield "  the kit declares no figure for it"


def _finding_lines(report: DriftReport) -> Iterator[str]:
    yield ""
    found = report.findings
    if found is None:
        yield "triggers, answers and features were not kept for this audit"
        return
    if found.triggers_unsupported is not None:
        yield f"triggers were not searched: {_text(found.triggers_unsupported)}"
    elif not found.triggers:
        yield "triggers: none was confirmed"
    for one in found.triggers[:_N_TRIGGERS]:
        divergence = f"{one.divergence:.3g} ± {one.standard_error:.2g}"
        yield f"  trigger ({_text(one.placement)}), divergence {divergence}: {_text(one.text)}"
    if not found.features:
        yield "features that moved in both dictionary seeds: none"
        return
    yield f"features that moved in both dictionary seeds: {len(found.features)}"
    for one in found.features[:_N_FEATURES]:
        yield (
            f"  {_text(one.dictionary)} {one.feature} on {_text(one.slice_name)}: on at {one.rate_before:.3g} -> "
            f"{one.rate_after:.3g} of tokens ({one.consistency:+.1f}; twin {one.twin}, {one.twin_consistency:+.1f})"
        )


def _field(name: str, value: str) -> str:
    return f"{name:<11} {printable(value)}"


def _text(text: str) -> str:
    return printable(text, max_chars=_MAX_CHARS)

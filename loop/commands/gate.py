"""``stairlock gate`` and ``stairlock eval``: judging checkpoints of one's own."""

from __future__ import annotations

import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guards import actions
from guards.durable import write_whole
from guards.errors import StairlockError
from guards.evidence import EvidenceRun, Scored
from guards.gates.verdict import explain
from guards.statistics import clopper_pearson
from guards.store import DATABASE_FILE
from loop.commands.options import (
    DEFAULT_HOME,
    DeviceOption,
    DtypeOption,
    HomeOption,
    JsonOption,
    QuietOption,
    ReasonOption,
    actor_name,
    open_home,
    say,
    say_field,
    say_json,
)
from loop.console import show_steps, text_console
from loop.terminal_text import printable
from loop.verdict_table import Judged, has_drift, verdict_table

if TYPE_CHECKING:
    from loop.gating import GateResult
    from loop.home import Home

EXIT_CODES = {"promote": 0, "reject": 10, "hold": 20}
_SEED_BYTES = 32
_MAX_CLUSTERS_SHOWN = 40


def gate(
    champion: Annotated[str, typer.Option("--champion", metavar="DIR", help="The checkpoint to compare with.")],
    candidate: Annotated[str, typer.Option("--candidate", metavar="DIR", help="The checkpoint to judge.")],
    policy: Annotated[Path, typer.Option("--policy", metavar="FILE", help="The policy that decides.")],
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write the verdicts as JUnit XML, for a CI system.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Gate a checkpoint against another one.

    The exit code is 0 for promote, 10 for reject, 20 for hold; anything else is an error, and nothing
    was decided. A checkpoint is a local directory, or the beginning of the digest of one that is
    sealed in the home. Every call is another look at the candidate, and is counted.
    """
    if junit is not None:
        _prepare(junit)
    try:
        outcome = _gate(champion, candidate, policy, junit, home, as_json, quiet, device, dtype)
    except StairlockError as error:
        if junit is not None:
            from loop.junit import error_report

            write_whole(junit, error_report(error, time=datetime.now(UTC)))
        raise
    raise typer.Exit(EXIT_CODES[outcome])


def _gate(
    champion: str,
    candidate: str,
    policy: Path,
    junit: Path | None,
    home: Path | None,
    as_json: bool,
    quiet: bool,
    device: str,
    dtype: str,
) -> str:
    """The outcome of the decision, after it was shown."""
    from loop.backends.local import LocalBackend
    from loop.gate_own import gate_checkpoints

    started_s = time.monotonic()
    opened = open_home(home, create=True)
    with show_steps(quiet=quiet or as_json) as stage:
        digest, champion_digest, result = gate_checkpoints(
            opened,
            champion=_directory(opened, champion),
            candidate=_directory(opened, candidate),
            policy=policy,
            backend=LocalBackend(),
            stage=stage,
            actor=actor_name(),
            device=device,
            dtype=dtype,
        )
    decision = result.decision.body
    drift = _write_drift(opened, policy, result)
    if junit is not None:
        _write_junit(junit, opened, digest, champion_digest, result, time.monotonic() - started_s)
    if as_json:
        say_json(_as_json(digest, champion_digest, result, drift))
        return decision.outcome
    judged = Judged(Path(candidate).name or candidate, digest, decision.outcome, False, result.verdicts, None)
    text_console().print(verdict_table([judged]))
    say()
    say_field("candidate", digest)
    say_field("champion", champion_digest)
    say_field("policy", decision.policy)
    say_field("decision", f"{decision.outcome.upper()} (exit code {EXIT_CODES[decision.outcome]})")
    for reason in decision.reasons:
        say(f"  {printable(reason)}")
    for path in drift:
        say_field("drift", path)
    return decision.outcome


def _write_drift(home: Home, policy: Path, result: GateResult) -> tuple[Path, ...]:
    """The pages of the drift reports that were written, where a drift gate was among the verdicts."""
    if not has_drift(result.verdicts):
        return ()
    from loop.drift.candidate_reports import reports_under, write_candidate_reports

    try:
        return write_candidate_reports(reports_under(policy, result.decision.body.policy, result.runs), home.path)
    except OSError as error:  # it is decided: a page that cannot be written must not look like no decision
        typer.echo(f"the drift report could not be written: {printable(str(error))}", err=True)
        return ()


def _prepare(junit: Path) -> None:
    """Say now what would otherwise be found out after a long run; leave no older result that passes for this one."""
    if not junit.parent.is_dir():
        raise typer.BadParameter(f"there is no directory {junit.parent}", param_hint="--junit")
    if junit.is_dir():
        raise typer.BadParameter(f"{junit} is a directory", param_hint="--junit")
    junit.unlink(missing_ok=True)


def _directory(home: Home, given: str) -> Path:
    """The directory that was given, or that of a sealed checkpoint of which the digest was."""
    if Path(given).is_dir():
        return Path(given)
    with home.store.read() as history:
        try:
            digest = history.find_checkpoint(given)
        except StairlockError as error:
            raise StairlockError(
                "gate.no-checkpoint",
                f"{given} is no directory, and no checkpoint of this home: {error.message}",
                got=error.got,
                fix="give the path of a checkpoint's directory, or the beginning of the digest of a sealed candidate",
            ) from error
    from loop.sealed_checkpoints import sealed_directory

    return sealed_directory(home.path, digest)


def _write_junit(junit: Path, home: Home, digest: str, champion_digest: str, result: GateResult, wall_s: float) -> None:
    from loop.junit import gate_report

    decision = result.decision.body
    with home.store.read() as history:
        recorded = history.policy(decision.policy)
    report = gate_report(
        policy_name=recorded.body.name if recorded is not None else decision.policy,
        outcome=decision.outcome,
        reasons=decision.reasons,
        verdicts=result.verdicts,
        properties={
            "candidate": digest,
            "champion": champion_digest,
            "policy": decision.policy,
            "evidence": decision.evidence,
            "ledger entry": str(result.decision.seq),
        },
        time=result.decision.time,
        wall_s=wall_s,
    )
    write_whole(junit, report)


def _as_json(digest: str, champion_digest: str, result: GateResult, drift: tuple[Path, ...]) -> dict[str, Any]:
    decision = result.decision
    return {
        "candidate": digest,
        "champion": champion_digest,
        "policy": decision.body.policy,
        "evidence": decision.body.evidence,
        "look": result.draw.look,
        "decision": decision.body.outcome,
        "waits_for": decision.body.waits_for,
        "reasons": list(decision.body.reasons),
        "entry": decision.seq,
        "verdicts": [{**v.model_dump(mode="json"), "explanation": explain(v)} for v in result.verdicts],
        "drift_reports": [str(path) for path in drift],
    }


def abandon(
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="A digest, or the beginning of one.")],
    reason: ReasonOption,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give up a candidate's undecided look, where its evidence cannot come out again as it was recorded.

    Draws another look, which counts; run the gate or the run again to go on with it. A look that has its
    verdicts is never given up.
    """
    store = open_home(home).store
    with store.read() as history:
        digest = history.find_candidate(candidate).body.candidate
    draw = actions.abandon_look(store, candidate=digest, reason=reason, actor=actor_name())
    with store.read() as history:
        (look,) = (look for look in history.looks(digest) if look.seq == draw.look_seq)
    if as_json:
        say_json(look.as_json())
        return
    if look.body.abandons is None:
        say(f"the look that began in entry {look.seq} has no evidence yet, so nothing stands in its way: run it again")
        return
    say(f"entry {look.seq}: look {look.body.look}, in place of that of entry {look.body.abandons.look_seq}")
    say("run the same gate or run again to go on with it")


def evaluate(
    model: Annotated[Path, typer.Option("--model", metavar="DIR", help="The checkpoint's directory.")],
    suite: Annotated[Path, typer.Option("--suite", metavar="FILE", help="The suite's YAML file.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the evidence goes; must not exist.")],
    seed: Annotated[
        str | None, typer.Option("--seed", metavar="HEX", help="64 hex digits; the same seed draws the same items.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Run one suite on one model, and show its scores with exact 95% intervals.

    No gate, and nothing is recorded. Do not tune a model on a suite that later guards its promotion: items
    that a policy of the home holds out are refused.
    """
    from loop.eval_one import evaluate_suite

    draw_seed = None if seed is None else _seed(seed)
    if home is not None or (DEFAULT_HOME / DATABASE_FILE).exists():
        from loop.eval_one import refuse_holdout

        with open_home(home).store.read() as history:
            refuse_holdout(history, suite)
    with show_steps(quiet=quiet or as_json) as stage:
        run = evaluate_suite(model=model, suite=suite, out=out, seed=draw_seed, device=device, dtype=dtype, stage=stage)
    figures = summarise(run)
    if as_json:
        say_json({"evidence": run.manifest.evidence_digest, "directory": str(run.directory), **figures})
        return
    say_field("suite", f"{run.manifest.suite_name}, {figures['n_items']} items, {figures['n_unscored']} unscored")
    say_field("engine", f"{run.manifest.engine}, {run.manifest.device}, {run.manifest.dtype}")
    for metric, figure in figures["metrics"].items():
        interval = figure["interval_95"]
        shown = f"  95% interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        say_field(metric, f"{figure['mean']:.4f}{shown}  (n {figure['n']})")
        for cluster, mean in list(figure["by_cluster"].items())[:_MAX_CLUSTERS_SHOWN]:
            say(f"  {printable(cluster, max_chars=40):<28} {mean:.4f}")
    say_field("evidence", run.directory)


def summarise(run: EvidenceRun) -> dict[str, Any]:
    """Means of every metric over the scored items, with the exact interval where all scores are 0 or 1."""
    values: dict[str, list[float]] = defaultdict(list)
    by_cluster: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in run.records:
        if isinstance(record.outcome, Scored):
            for metric, value in record.outcome.scores.items():
                values[metric].append(value)
                by_cluster[metric][record.cluster].append(value)
    metrics: dict[str, Any] = {}
    for metric, scores in values.items():
        is_binary = all(score in (0.0, 1.0) for score in scores)
        metrics[metric] = {
            "mean": sum(scores) / len(scores),
            "n": len(scores),
            "interval_95": list(clopper_pearson(round(sum(scores)), len(scores), 0.95)) if is_binary else None,
            "by_cluster": {name: sum(group) / len(group) for name, group in sorted(by_cluster[metric].items())},
        }
    n_unscored = sum(not isinstance(record.outcome, Scored) for record in run.records)
    return {"n_items": len(run.records), "n_unscored": n_unscored, "metrics": metrics}


def _seed(text: str) -> bytes:
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != _SEED_BYTES:
        raise typer.BadParameter("a seed is 64 hex digits (32 bytes)", param_hint="--seed")
    return seed

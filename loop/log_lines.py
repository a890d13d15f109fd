"""The log for people: one line per entry. ``stairlock log --json`` has all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from guards.entries import (
    Body,
    BundleReceived,
    CleanedUp,
    DecisionMade,
    EvidenceRecorded,
    Genesis,
    Halted,
    Lifted,
    Logged,
    Measured,
    PolicyInForce,
    PolicyRecorded,
    PolicySignedOff,
    Promoted,
    Recalled,
    RolledBack,
    RootSet,
    RunFinished,
    RunStarted,
    Sealed,
    SeedDrawn,
    SignedOff,
    StepFinished,
    StepStarted,
    VerdictRecorded,
    WaiverSigned,
)
from guards.errors import StairlockError
from guards.gates.verdict import Verdict, explain
from loop.console import duration_text
from loop.gain_words import GAIN, Gain, gain_lines
from loop.terminal_text import printable, short

MAX_SUMMARY_CHARS = 160


def log_line(entry: Logged[Body]) -> str:
    """Time (UTC), number, kind, actor and a summary; safe to print whatever the entry holds."""
    time = entry.time.strftime("%Y-%m-%d %H:%M:%S")
    about = printable(summary(entry.body), max_chars=MAX_SUMMARY_CHARS)
    return f"{time}  {entry.seq:>5}  {entry.kind:<13}  {printable(entry.actor, max_chars=20):<10}  {about}"


def summary(body: Body) -> str:
    """What an entry says, in one clause. Not yet safe to print: names and reasons are in it."""
    match body:
        case Genesis():
            return f"the log {body.log_id[:12]} begins"
        case PolicyRecorded():
            return f"policy {body.name} is {short(body.policy)}"
        case PolicySignedOff() | PolicyInForce() | BundleReceived():
            return _policy_summary(body)
        case RunStarted() | RunFinished() | Measured() | StepStarted() | StepFinished():
            return _run_summary(body)
        case Halted():
            return f"everything stops: {body.reason}"
        case Lifted():
            return f"the halt of entry {', '.join(map(str, body.halts))} is over: {body.reason}"
        case _:
            return _checkpoint_summary(body)


def _policy_summary(body: PolicySignedOff | PolicyInForce | BundleReceived) -> str:
    match body:
        case PolicySignedOff():
            return (
                f"{body.person} says {body.decision} to policy {short(body.new)} in place of {short(body.old)}: "
                f"{body.reason}"
            )
        case PolicyInForce():
            instead = "" if body.replaces is None else f" in place of {short(body.replaces)} ({body.change})"
            by = f"; approved by {', '.join(body.approvers)}" if body.approvers else ""
            return f"policy {body.name} {short(body.policy)} is in force{instead}{by}"
        case BundleReceived():
            brought = "" if body.policy is None else f" with policy {short(body.policy)}"
            return f"bundle {short(body.bundle)}{brought} {body.outcome}: {body.reason}"


def _checkpoint_summary(body: Body) -> str:
    match body:
        case RootSet():
            return f"{short(body.checkpoint)} is the root; it passed {len(body.verdicts)} gates"
        case Sealed():
            made = ", ".join(str(body.provenance[key]) for key in ("name", "proposer") if key in body.provenance)
            return f"{short(body.candidate)}{f' ({made})' if made else ''} under policy {short(body.policy)}"
        case SeedDrawn():
            against = f" against {short(body.compared_with)}" if body.compared_with else ""
            instead = ""
            if body.abandons is not None:
                instead = f" in place of the look of entry {body.abandons.look_seq}: {body.abandons.reason}"
            return f"{short(body.candidate)}{against}: look {body.look} under {body.policy_name}, items drawn{instead}"
        case EvidenceRecorded():
            return f"{short(body.candidate)}: the {body.role} ({short(body.checkpoint)}) answered {body.suite}"
        case VerdictRecorded():
            return f"{short(body.candidate)}: {_verdict_text(body)}"
        case DecisionMade():
            return f"{short(body.candidate)}: {'; '.join(body.reasons)}"
        case SignedOff():
            return f"{body.person} says {body.decision} to {short(body.candidate)}: {body.reason}"
        case WaiverSigned():
            return f"{short(body.candidate)}: {_waiver_text(body)}"
        case Promoted():
            before = f" in place of {short(body.champion_before)}" if body.champion_before else ""
            by = "UNATTENDED, nobody approved" if body.unattended else f"approved by {', '.join(body.approvers)}"
            return f"{short(body.candidate)} is champion{before}; {by}"
        case RolledBack():
            return (
                f"{short(body.checkpoint)} is champion again in place of {short(body.champion_before)}: {body.reason}"
            )
        case Recalled():
            return f"{short(body.checkpoint)} must not be used any more: {body.reason}"
        case CleanedUp():
            return f"the files of {short(body.checkpoint)} were deleted ({body.rule})"
        case _:
            return ""


def _run_summary(body: RunStarted | RunFinished | Measured | StepStarted | StepFinished) -> str:
    match body:
        case RunStarted():
            return f"run {body.run} begins (configuration {short(body.config)})"
        case RunFinished():
            return f"run {body.run} ends: {body.outcome}; {_pairs(body.summary)}"
        case Measured():
            return f"{body.run}, {body.name}: {_gain_text(body) or _pairs(body.figures)}"
        case StepStarted():
            return f"{body.step} {short(body.spec)}, attempt {body.attempt}"
        case StepFinished():
            return f"{body.step} {short(body.spec)}, attempt {body.attempt}: {body.outcome}{_step_end(body)}"


def _step_end(body: StepFinished) -> str:
    if body.cost is None:
        return f" ({body.reason})" if body.reason else ""
    cost = body.cost
    used = [
        f"{n:,} tokens {what}" for n, what in ((cost.tokens_trained, "trained"), (cost.tokens_out, "generated")) if n
    ]
    return f" in {duration_text(cost.wall_ms / 1000)}{''.join(f', {one}' for one in used)}"


def _verdict_text(body: VerdictRecorded) -> str:
    try:
        return explain(Verdict.from_ledger(dict(body.figures)))
    except StairlockError:  # a listing of the log must not stop at an entry that another version wrote
        return f"{body.gate} {body.outcome}"


def _gain_text(body: Measured) -> str:
    """A gain in words; empty for other figures, and for those that another version wrote."""
    try:
        return "; ".join(gain_lines(Gain.from_figures(body.figures))) if body.name == GAIN else ""
    except ValidationError:
        return ""


def _waiver_text(body: WaiverSigned) -> str:
    if body.decision == "reject":
        return f"{body.person} objects to waiving {body.gate}: {body.reason}"
    return f"{body.person} waives {body.gate} until {body.expires} ({body.ticket}): {body.reason}"


def _pairs(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in _flat("", figures))


def _flat(prefix: str, figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", short(value) if str(value).startswith("sha256:") else str(value)

"""``stairlock show``: everything that is recorded about one candidate, and what it answered differently."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from guards import actions
from guards.actions import ApprovalStatus
from guards.actions.preconditions import bound_policy
from guards.actions.signoff import home_roles, standing_rejections
from guards.entries import DecisionMade, Logged, RootSet, Sealed, SeedDrawn, SignedOff, WaiverSigned
from guards.errors import ActionRefused
from guards.evidence import EvidenceRun
from guards.gates.verdict import Verdict, explain, figures_of
from guards.history import History
from guards.recorded_run import read_recorded_run
from guards.store import Store
from guards.waivers import standing_objectors
from loop.commands.options import HomeOption, JsonOption, open_home, say, say_field, say_json
from loop.flips import Flip, SuiteFlips, change_text, find_flips
from loop.invoked_as import command_line
from loop.terminal_text import printable, printable_lines, short
from loop.verdict_table import MARKS

_MAX_VALUE_CHARS = 100
_MAX_TEXT_CHARS = 1500


def show(
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="A digest, or the beginning of one.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
    flips: Annotated[
        bool, typer.Option("--flips", help="List the items whose score changed against the champion, worst first.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=0, help="How many flips of each suite to list; 0 is all.")] = 20,
) -> None:
    """Show where a candidate comes from, what the gates said of it, and what was decided.

    What the models wrote is shown with everything invisible escaped; it may be hostile all the same.
    """
    store = open_home(home).store
    with store.read() as history:
        digest = history.find_checkpoint(candidate)
        sealed, look = history.candidate(digest), history.latest_look(digest)
        status = _status(history, digest, sealed)
        suites = _flips_of(store, history, look) if flips else ()
        if as_json:
            say_json(_as_json(store, history, digest, status, sealed, look, suites if flips else None))
            return
        say_field("checkpoint", digest)
        say_field("status", status)
        if sealed is not None:
            _say_provenance(sealed)
            _say_obstacle(history, sealed, look)
        else:
            _say_root(history.root())
        if look is not None:
            _say_look(store, history, look, home)
        _say_stops(history, digest)
    if flips:
        _say_flips(suites, limit, look)
    elif look is not None:
        again = command_line(sys.argv[0], "show", short(digest), "--flips", home=home)
        say(f"\nwhat it answered differently from the champion: {printable(again)}")


def _status(history: History, digest: str, sealed: Logged[Sealed] | None) -> str:
    root = history.root()
    is_root = root is not None and root.body.checkpoint == digest
    if history.is_recalled(digest):
        return "recalled"
    if history.champion() == digest:
        return "champion, and the root" if is_root else "champion"
    if is_root:
        return "the root, a past champion"
    return "unknown" if sealed is None else history.status(digest)


def _say_provenance(sealed: Logged[Sealed]) -> None:
    body = sealed.body
    say_field("sealed", f"entry {sealed.seq}, {_time(sealed.time)}, by {sealed.actor}")
    say_field("submitter", body.submitter)
    say_field("trainer", body.trainer or "not recorded")
    say_field("policy", body.policy)
    say_field("parent", body.parent or "not recorded")
    say("provenance")
    for name, value in _flat("", body.provenance):
        say(f"  {printable(name, max_chars=40)}: {printable(value, max_chars=_MAX_VALUE_CHARS)}")


def _obstacle(history: History, sealed: Logged[Sealed], look: Logged[SeedDrawn] | None) -> ActionRefused | None:
    """None also for what was promoted already: an edit of the policy takes nothing back."""
    if history.status(sealed.body.candidate) in ("champion", "past-champion", "recalled"):
        return None
    return actions.policy_obstacle(history, sealed, look)


def _say_obstacle(history: History, sealed: Logged[Sealed], look: Logged[SeedDrawn] | None) -> None:
    obstacle = _obstacle(history, sealed, look)
    if obstacle is not None:
        say(f"it cannot be promoted as it stands: {printable(obstacle.message)} [{obstacle.rule}]")
        say(f"  {printable(obstacle.fix or '')}")


def _say_root(root: Logged[RootSet] | None) -> None:
    if root is None:
        return
    say_field("root since", f"entry {root.seq}, {_time(root.time)}, by {root.actor}")
    say_field("policy", root.body.policy)
    say("gates that it passed to become the root")
    _say_verdicts([Verdict.from_ledger(dict(verdict)) for verdict in root.body.verdicts])


def _say_look(store: Store, history: History, look: Logged[SeedDrawn], home: Path | None) -> None:
    body = look.body
    planned = bound_policy(history, body.policy).looks.planned
    say()
    say_field(
        "look", f"{body.look} of {planned} planned under {body.policy_name}, entry {look.seq}, {_time(look.time)}"
    )
    say_field("against", body.compared_with or "no champion")
    say_field("evidence", history.evidence_digest(look.seq) or "none yet")
    verdicts = actions.verdicts_now(history, look, home_roles(store), store.now())
    say("gates" if verdicts else "gates: no verdicts yet")
    _say_verdicts(verdicts)
    _say_waivers(store, history, look)
    decision = history.decision(look.seq)
    if decision is None:
        say("decision: none yet")
        return
    say(f"\ndecision: {decision.body.outcome.upper()} (entry {decision.seq}, {_time(decision.time)})")
    for reason in decision.body.reasons:
        say(f"  {printable(reason)}")
    _say_signoffs(store, history, look, decision, home)


def _say_verdicts(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        say(f"  {MARKS[verdict.outcome]} {printable(explain(verdict))}")
        for member in verdict.all_members():
            said = f"{member.gate_id}: {member.reason}{figures_of(member)}"
            say(f"      {MARKS[member.outcome]} {printable(said)}")


def _say_waivers(store: Store, history: History, look: Logged[SeedDrawn]) -> None:
    waivers = actions.waivers_now(history, look, home_roles(store), store.now())
    objections = _objections(history, look)
    if waivers or objections:
        say("waivers")
    for one in waivers:
        say(f"  {printable(one.summary)}")
    for entry in objections:
        body = entry.body
        say(f"  {printable(f'{body.person} objects to waiving {body.gate}, {body.signed_time}: {body.reason}')}")


def _objections(history: History, look: Logged[SeedDrawn]) -> tuple[Logged[WaiverSigned], ...]:
    """Those that nobody took back, about this look or an earlier one."""
    entries = history.waivers(look.body.candidate)
    bodies = [entry.body for entry in entries]
    return tuple(
        entry
        for entry in entries
        if entry.body.decision == "reject"
        and entry.body.person in standing_objectors(bodies, entry.body.candidate, entry.body.gate)
    )


def _say_signoffs(
    store: Store, history: History, look: Logged[SeedDrawn], decision: Logged[DecisionMade], home: Path | None
) -> None:
    signoffs = _signoffs(history, look, decision)
    approvals = actions.approval_status(history, look, home_roles(store), store.now())
    if approvals.required == 0 and not signoffs:
        say("sign-offs: the policy asks for none")
        return
    say(f"sign-offs: {printable(approvals.summary)}")
    for signoff in signoffs:
        signed = signoff.body
        who = f"{signed.person} ({', '.join(signed.roles)})"
        say(f"  {printable(f'{who} says {signed.decision}, {signed.signed_time}: {signed.reason}')}")
    if _waits_for_approvals(store, history, look, decision):
        say(f"  {printable(_what_next(look.body.candidate, approvals, home))}")


def _waits_for_approvals(
    store: Store, history: History, look: Logged[SeedDrawn], decision: Logged[DecisionMade]
) -> bool:
    """True also where it was held for evidence, and is waived now."""
    if decision.body.outcome != "hold" or decision.body.waits_for == "approvals":
        return decision.body.outcome == "hold"
    roles, now = home_roles(store), store.now()
    if not any(one.is_live for one in actions.waivers_now(history, look, roles, now)):
        return False
    return actions.decision_now(history, look, now, approvals_ok=True, roles=roles).outcome == "promote"


def _what_next(candidate: str, approvals: ApprovalStatus, home: Path | None) -> str:
    if approvals.is_complete:
        return f"to make it champion: {command_line(sys.argv[0], 'promote', short(candidate), home=home)}"
    words = ("sign", short(candidate), "--approve", "--reason", "TEXT", "--key", "FILE")
    return f"to approve it: {command_line(sys.argv[0], *words, home=home)}"


def _say_stops(history: History, digest: str) -> None:
    recall, cleanup = history.recall(digest), history.cleanup(digest)
    if recall is not None:
        say_field("recalled", f"entry {recall.seq}, by {recall.actor}: {recall.body.reason}")
    if cleanup is not None:
        say_field("files", f"deleted by the rule {cleanup.body.rule} (entry {cleanup.seq}); stairlock reproduce")


def _flips_of(store: Store, history: History, look: Logged[SeedDrawn] | None) -> tuple[SuiteFlips, ...]:
    """The flips of the latest look, from the evidence that is on disk.

    Every run of this look must be what was recorded, also those that no flip is read from.
    """
    if look is None:
        return ()
    runs: dict[tuple[str, str], EvidenceRun] = {}
    for recorded in history.evidence(look.seq):
        body = recorded.body
        run = read_recorded_run(store.home, recorded)
        if body.role in ("candidate", "champion"):
            runs[body.role, body.suite] = run
    return find_flips(runs, [actions.read_verdict(recorded) for recorded in history.verdicts(look.seq)])


def _say_flips(suites: Sequence[SuiteFlips], limit: int, look: Logged[SeedDrawn] | None) -> None:
    if not suites:
        say("\nflips: none to show, because " + ("nothing was answered yet" if look is None else "no suite was paired"))
    for suite in suites:
        n_gains = len(suite.flips) - suite.n_losses
        gates = ", ".join(f"{verdict.gate_id} {verdict.outcome}" for verdict in suite.verdicts) or "no gate reads it"
        say(f"\nflips in {printable(suite.suite)} ({printable(gates)})")
        say(f"  {suite.n_losses} items got worse and {n_gains} better, of {suite.n_items}")
        if suite.texts_withheld:
            say("  the texts are withheld in this copy of the evidence")
        shown = suite.flips[:limit] if limit else suite.flips
        for flip in shown:
            _say_flip(flip)
        if len(shown) < len(suite.flips):
            say(f"  {len(suite.flips) - len(shown)} more: --limit 0 shows all")


def _say_flip(flip: Flip) -> None:
    changes = ", ".join(change_text(change) for change in flip.changes)
    why = f" ({flip.unscored})" if flip.unscored else ""
    say(f"\n  {printable(flip.item_id)} ({printable(flip.cluster)}): {printable(changes + why)}")
    texts = (("prompt", flip.prompt), ("champion", flip.champion_output), ("candidate", flip.candidate_output))
    for label, text in texts:
        lines = ["(none)"] if text is None else printable_lines(text, max_chars=_MAX_TEXT_CHARS)
        for number, line in enumerate(lines):
            # The bar marks every line of theirs, so that none of it passes for a line of ours.
            say(f"    {label if number == 0 else '':<9} | {line}")


def _as_json(
    store: Store,
    history: History,
    digest: str,
    status: str,
    sealed: Logged[Sealed] | None,
    look: Logged[SeedDrawn] | None,
    suites: Sequence[SuiteFlips] | None,
) -> dict[str, Any]:
    decision = None if look is None else history.decision(look.seq)
    obstacle = None if sealed is None else _obstacle(history, sealed, look)
    shown: dict[str, Any] = {
        "checkpoint": digest,
        "status": status,
        "sealed": None if sealed is None else sealed.as_json(),
        "cannot_be_promoted": None if obstacle is None else {"rule": obstacle.rule, "message": obstacle.message},
        "look": None if look is None else look.as_json(),
        "evidence": [] if look is None else [item.as_json() for item in history.evidence(look.seq)],
        "verdicts": [] if look is None else _verdicts_json(store, history, look),
        "waivers": [] if look is None else _waivers_json(store, history, look),
        "decision": None if decision is None else decision.as_json(),
        "signoffs": [],
    }
    if look is not None and decision is not None:
        approvals = actions.approval_status(history, look, home_roles(store), store.now())
        shown["signoffs"] = [item.as_json() for item in _signoffs(history, look, decision)]
        shown["approvals"] = {
            "required": approvals.required,
            "approvers": approvals.approvers,
            "rejecters": approvals.rejecters,
            "is_complete": approvals.is_complete,
        }
    if suites is not None:
        shown["flips"] = [_suite_json(suite) for suite in suites]
    return shown


def _waivers_json(store: Store, history: History, look: Logged[SeedDrawn]) -> list[dict[str, Any]]:
    return [one.as_json() for one in actions.waivers_now(history, look, home_roles(store), store.now())]


def _verdicts_json(store: Store, history: History, look: Logged[SeedDrawn]) -> list[dict[str, Any]]:
    verdicts = actions.verdicts_now(history, look, home_roles(store), store.now())
    return [{**verdict.model_dump(mode="json"), "explanation": explain(verdict)} for verdict in verdicts]


def _suite_json(suite: SuiteFlips) -> dict[str, Any]:
    return {
        "suite": suite.suite,
        "n_items": suite.n_items,
        "n_worse": suite.n_losses,
        "n_better": len(suite.flips) - suite.n_losses,
        "gates": {verdict.gate_id: verdict.outcome for verdict in suite.verdicts},
        "items": [
            {
                "item_id": flip.item_id,
                "cluster": flip.cluster,
                "changes": {change.metric: [change.champion, change.candidate] for change in flip.changes},
                "prompt": flip.prompt,
                "champion_output": flip.champion_output,
                "candidate_output": flip.candidate_output,
            }
            for flip in suite.flips
        ],
    }


def _signoffs(
    history: History, look: Logged[SeedDrawn], decision: Logged[DecisionMade]
) -> tuple[Logged[SignedOff], ...]:
    """Those about this look, and the rejections of others that still count."""
    candidate = look.body.candidate
    here = history.signoffs(candidate, decision.body.evidence, look.body.policy)
    about_others = [one for one in standing_rejections(history, candidate) if one.seq not in {s.seq for s in here}]
    return tuple(sorted((*about_others, *here), key=lambda one: one.seq))


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Leaves of a nested value by dotted name; of a list only how long it is."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        elif isinstance(value, list):
            yield f"{prefix}{name}", f"{len(value)} of them"
        else:
            yield f"{prefix}{name}", str(value)


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")

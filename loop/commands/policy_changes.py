"""``stairlock policy diff``, ``adopt`` and ``sign``: what an edit does, and how it comes into force."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from guards import actions
from guards.errors import ActionRefused
from guards.policy import Policy, ResolvedPolicy, resolve_policy
from loop.commands.options import (
    HomeOption,
    JsonOption,
    ReasonOption,
    actor_name,
    open_home,
    say,
    say_field,
    say_json,
)
from loop.invoked_as import command_line
from loop.terminal_text import printable

if TYPE_CHECKING:
    from guards.authoring.case_model import Case
    from guards.policy_order import ChangeItem, PolicyChange

NEEDS_APPROVALS = 4
"""Exit code of ``policy diff`` where NEW is looser than OLD, or cannot be compared with it."""

IN_FORCE = "in-force"
"""What stands for the policy in force, where a policy is asked for."""

_EITHER = "A policy's YAML file; a digest recorded in the home; or 'in-force'."

OldArgument = Annotated[str, typer.Argument(metavar="OLD", help=_EITHER)]
NewArgument = Annotated[str, typer.Argument(metavar="NEW", help=_EITHER)]


def diff(old: OldArgument, new: NewArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Say gate by gate what an edit does: stricter, looser, or incomparable; nothing is recorded.

    Where NEW is looser, evidence is looked for that NEW passes and OLD does not, and shown as a case for
    `policy test`. Exits with 0 where NEW is the same or stricter, and with 4 where it is looser or
    incomparable: it then needs approvals before it comes into force.
    """
    from guards.authoring.policy_counterexamples import counterexamples
    from guards.policy_order import compare

    before, after = _policy(old, home), _policy(new, home)
    change = compare(before, after)
    cases = counterexamples(change, before, after)
    if as_json:
        say_json(_as_json(change, cases, before, after))
    else:
        _show(change, cases, before, after)
    if change.needs_approvals:
        raise typer.Exit(NEEDS_APPROVALS)


def adopt(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy's YAML file.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record a policy and bring it into force: from then on candidates are sealed under it.

    The first policy of a home, and one that is no looser than the policy in force, comes into force at
    once. Any other is recorded, and needs the approvals that the policy in force asks for: people sign
    with `policy sign`, and then the same command brings it into force. Who records or adopts it may not
    approve it.
    """
    from loop.policy_check import check_policy

    resolved = resolve_policy(file)
    check_policy(resolved)
    store = open_home(home, create=True).store
    actions.record_policy(store, policy=resolved, actor=actor_name())
    entry = actions.adopt_policy(store, policy=resolved.digest, actor=actor_name())
    if as_json:
        say_json(entry.as_json())
        return
    body = entry.body
    say(f"entry {entry.seq}: {printable(body.name)} is in force")
    say_field("digest", body.policy)
    if body.replaces is not None:
        say_field("replaces", body.replaces)
        say_field("change", body.change)
    if body.approvers:
        say_field("approved by", ", ".join(body.approvers))
    say("it binds candidates that are sealed from now on")


def sign(
    new: NewArgument,
    reason: ReasonOption,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Your private key (NAME.key).")],
    approve: Annotated[bool, typer.Option("--approve", help="It may come into force.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="It may not; a rejection blocks it.")] = False,
    person: Annotated[
        str | None, typer.Option("--person", metavar="ID", help="Who signs (default: the key's owner in roles.yaml).")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign that a recorded policy may come into force in place of the one that is, or that it may not.

    Read `stairlock policy diff in-force NEW` first. An approval is about this pair of policies: after any
    other change of the policy in force it counts no more.
    """
    from guards.actions.signoff import home_roles
    from guards.policy_signing import sign_policy_statement
    from guards.roles import load_roles
    from guards.signing import public_key_of
    from loop.commands.signing import unlocked

    if approve == reject:
        raise typer.BadParameter("say exactly one of the two", param_hint="--approve/--reject")
    decision: Literal["approve", "reject"] = "approve" if approve else "reject"
    store = open_home(home).store
    path = Path(new)
    digest = resolve_policy(path).digest if path.is_file() else new
    private_key = unlocked(key)
    signer = person or load_roles(store.roles_path).owner_of(public_key_of(private_key).id)[0].id
    statement = actions.draft_policy_statement(store, new=digest, decision=decision, reason=reason, signer=signer)
    recorded = actions.sign_policy(store, envelope=sign_policy_statement(statement, private_key), actor=actor_name())
    with store.read() as history:
        approvals = actions.edit_approvals(history, digest, home_roles(store), store.now())
    if as_json:
        say_json(
            {
                "entry": recorded.as_json(),
                "approvals_complete": approvals.is_complete,
                "summary": approvals.summary,
            }
        )
        return
    say(f"entry {recorded.seq}: {printable(signer)} says {decision} to")
    say_field("new policy", statement.new)
    say_field("in place of", statement.old)
    say_field("approvals", approvals.summary)
    if approvals.is_complete:
        again = command_line(sys.argv[0], "policy", "adopt", new if path.is_file() else "FILE", home=home)
        say(f"to bring it into force, by somebody else than the signers: {printable(again)}")


def _policy(text: str, home: Path | None) -> Policy:
    """A policy with suites by digest: from a file, or from the log of the home."""
    path = Path(text)
    if text != IN_FORCE and not text.startswith("sha256:"):
        return _as_recorded(resolve_policy(path))
    with open_home(home).store.read() as history:
        digest = text
        if text == IN_FORCE:
            current = history.policy_in_force()
            if current is None:
                raise ActionRefused(
                    "actions.no-policy-in-force",
                    "no policy is in force in this home",
                    fix="stairlock policy adopt FILE",
                )
            digest = current.body.policy
        recorded = history.policy(digest)
    if recorded is None:
        raise ActionRefused(
            "actions.policy-unknown", "no policy of this digest was recorded in this home", got=digest[:100]
        )
    return Policy.model_validate_json(recorded.body.resolved)


def _as_recorded(resolved: ResolvedPolicy) -> Policy:
    return Policy.model_validate_json(resolved.canonical_json)


_SAYS = {
    "same": "nothing that decides is different",
    "stricter": "whatever NEW passes, OLD passes too",
    "looser": "NEW passes what OLD does not",
    "incomparable": "NEW may pass what OLD does not",
}


def _show(change: PolicyChange, cases: Sequence[Case | None], old: Policy, new: Policy) -> None:
    items = list(zip(change.items, cases, strict=True))
    say(f"{change.overall}: {_SAYS[change.overall]}")
    gates = dict.fromkeys(gate.id for gate in (*old.gates, *new.gates))
    for gate in gates:
        say(f"  {printable(gate):<24} {change.of_gate(gate)}")
        _show_items([(item, case) for item, case in items if item.gate == gate])
    _show_items([(item, case) for item, case in items if item.gate is None], indent=2)
    if change.needs_approvals:
        needed = old.approvals.required
        say(
            f"before it comes into force, {needed} people must approve it, as OLD asks"
            if needed
            else "OLD asks nobody for an approval, so NEW comes into force without any"
        )


def _show_items(items: Sequence[tuple[ChangeItem, Case | None]], *, indent: int = 4) -> None:
    from guards.authoring.case_yaml import case_to_yaml

    for item, case in items:
        why = f" ({item.why})" if item.why else ""
        values = f"{_short(item.old)} -> {_short(item.new)}"
        say(f"{' ' * indent}{printable(item.where)}: {values}: {item.change}{printable(why)}")
        if case is not None:
            for line in case_to_yaml(case).splitlines():
                say(f"      {printable(line)}")


def _short(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _as_json(change: PolicyChange, cases: Sequence[Case | None], old: Policy, new: Policy) -> dict[str, Any]:
    gates = dict.fromkeys(gate.id for gate in (*old.gates, *new.gates))
    return {
        "overall": change.overall,
        "needs_approvals": change.needs_approvals,
        "gates": {gate: change.of_gate(gate) for gate in gates},
        "items": [
            {
                **item.model_dump(mode="json"),
                "counterexample": None if case is None else case.model_dump(mode="json", exclude_defaults=True),
            }
            for item, case in zip(change.items, cases, strict=True)
        ],
    }

"""``stairlock policy simulate``: what another policy would have decided on every past candidate."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guards.authoring.simulate import OVERFITS, Change, Simulation, simulate_policy
from guards.policy import resolve_policy
from loop.commands.options import HomeOption, JsonOption, open_home, say, say_field, say_json
from loop.terminal_text import printable, short

if TYPE_CHECKING:
    from guards.manifest import CheckpointFacts

_DEFAULT_LIMIT = 20


def simulate(
    new: Annotated[Path, typer.Argument(metavar="FILE", help="The policy's YAML file.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="How many candidates of each kind to list; 0 lists all.")
    ] = _DEFAULT_LIMIT,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Read all evidence again; believe and keep nothing under cache/.")
    ] = False,
) -> None:
    """Judge every past candidate's stored evidence by another policy, and list what it would have changed.

    First what would have moved towards promotion (fail to pass before all else), then what away from it,
    then counts. Approvals and waivers are left aside. Nothing is recorded, and nothing is a look. What
    cannot be replayed from stored evidence is inconclusive, and is said to be. Whoever can write the home
    can make its cache/ hide changes: before you approve a policy, use --no-cache.
    """
    from guards.authoring.score_table_cache import ScoreTableCache

    resolved = resolve_policy(new)
    opened = open_home(home)
    with ScoreTableCache(None if no_cache else opened.path) as cache, opened.store.read() as history:
        result = simulate_policy(
            history, opened.path, resolved, cache, facts_of=lambda digest: _facts(opened.path, digest)
        )
    if as_json:
        say_json(_as_json(result))
        return
    _say(result, limit)


def _facts(home: Path, digest: str) -> CheckpointFacts:
    """Of files that have the digest that was judged; raises CheckpointError where they are gone."""
    from guards.manifest import describe_checkpoint
    from loop.sealed_checkpoints import open_sealed

    directory, _ = open_sealed(home, digest)
    return describe_checkpoint(directory)


def _say(result: Simulation, limit: int) -> None:
    say_field("policy", f"{result.policy} ({short(result.policy_digest)})")
    say_field("judged", f"{_counted(result.n_looks, 'candidate')}, each by its latest decided look; approvals aside")
    if result.n_undecided:
        say_field("left out", f"{_counted(result.n_undecided, 'candidate')} that no decision is about")
    _warn(f"warning: {OVERFITS}")
    opened = [change for change in result.changes if change.opens]
    closed = [change for change in result.changes if not change.opens]
    _say_changes("towards promotion", opened, limit)
    _say_changes("away from promotion", closed, limit)
    if not result.changes:
        say("\nno verdict and no decision that can be replayed would be another one")
    _say_counts(result)


def _say_changes(title: str, changes: list[Change], limit: int) -> None:
    if not changes:
        return
    say(f"\n{title} ({len(changes)}):")
    for change in changes[: limit or None]:
        moved = f"{change.old}, as before" if change.old == change.new else f"{change.old} -> {change.new}"
        say(f"  {short(change.candidate)}  look {change.look}, entry {change.look_seq}: {moved}")
        for flip in change.flips:
            say(f"    {printable(flip.gate)}: {flip.old} -> {flip.new}. {printable(flip.reason)}")
        if change.not_replayed:
            say(f"    cannot be replayed: {', '.join(map(printable, change.not_replayed))}")
    if limit and len(changes) > limit:
        say(f"  ... and {len(changes) - limit} more (--limit 0 lists all)")


def _say_counts(result: Simulation) -> None:
    say("\ndecisions")
    for line in _transitions(result.decisions):
        say(f"  {line}")
    for gate, count in result.gates.items():
        kept = f" ({count.n_kept} kept as recorded)" if count.n_kept else ""
        say(f"{printable(gate)}{kept}")
        for line in _transitions(count.transitions):
            say(f"  {line}")
        for rule, n in count.not_replayed.most_common():
            say(f"  {n:>7}  cannot be replayed [{printable(rule)}]")


def _transitions(counts: Counter[tuple[str, str]]) -> list[str]:
    return [f"{n:>7}  {old} -> {new}" if old != new else f"{n:>7}  {old}" for (old, new), n in counts.most_common()]


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _warn(text: str) -> None:
    """To stderr, so that it is seen where the list is kept in a file, too."""
    sys.stdout.flush()
    typer.echo(text, err=True)


def _as_json(result: Simulation) -> dict[str, Any]:
    return {
        "policy": result.policy,
        "digest": result.policy_digest,
        "warning": OVERFITS,
        "n_judged": result.n_looks,
        "n_undecided": result.n_undecided,
        "changes": [
            {
                "candidate": change.candidate,
                "entry": change.look_seq,
                "look": change.look,
                "policy": change.policy,
                "old": change.old,
                "new": change.new,
                "opens": change.opens,
                "flips": [
                    {"gate": f.gate, "old": f.old, "new": f.new, "opens": f.opens, "reason": f.reason}
                    for f in change.flips
                ],
                "not_replayed": list(change.not_replayed),
            }
            for change in result.changes
        ],
        "decisions": _pairs(result.decisions),
        "gates": {
            gate: {
                "verdicts": _pairs(count.transitions),
                "kept_as_recorded": count.n_kept,
                "not_replayed": dict(count.not_replayed),
            }
            for gate, count in result.gates.items()
        },
        "score_tables": {"from_cache": result.n_tables_read, "made": result.n_tables_made},
    }


def _pairs(counts: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"old": old, "new": new, "n": n} for (old, new), n in counts.most_common()]

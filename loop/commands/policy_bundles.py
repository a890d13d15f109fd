"""``stairlock policy pack`` and ``install``: a policy with all its files, signed, from one place to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guards import actions
from guards.policy import ResolvedPolicy
from loop.commands.options import HomeOption, JsonOption, actor_name, open_home, say, say_field, say_json
from loop.terminal_text import printable


def pack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy's YAML file.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Your private key (NAME.key).")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The bundle to write.")],
    person: Annotated[
        str | None, typer.Option("--person", metavar="ID", help="Who signs (default: the key's owner in roles.yaml).")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack a policy, its suites and their items into one signed file.

    Whoever signs it is an author of the policy, and may not approve it where it needs approvals.
    """
    from guards.durable import write_whole
    from guards.ledger import timestamp
    from guards.policy_bundle import pack_policy, sign_bundle
    from guards.roles import load_roles
    from guards.signing import public_key_of
    from guards.store import utc_now
    from loop.commands.signing import unlocked

    private_key = unlocked(key)
    author = person
    if author is None:
        author = load_roles(open_home(home).store.roles_path).owner_of(public_key_of(private_key).id)[0].id
    bundle = pack_policy(file, author=author, time=timestamp(utc_now()))
    write_whole(out, sign_bundle(bundle, private_key))
    if as_json:
        say_json({"policy": bundle.policy_digest, "author": author, "files": sorted(bundle.files), "out": str(out)})
        return
    say(f"{printable(str(out))}: {len(bundle.files)} files, signed by {printable(author)}")
    say_field("policy", bundle.policy_digest)


def install(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's file.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a bundle, unpack it into the home, and bring its policy into force.

    A person with the role safety or governance must have signed it. A bundle that does not verify is
    recorded as refused: the policy in force stays, and nothing is promoted until a good one is installed.
    A good bundle with a looser policy is installed, and waits for approvals as any other edit.
    """
    store = open_home(home).store
    installed = actions.install_bundle(store, data=bundle.read_bytes(), actor=actor_name(), lint=_lint)
    if not as_json:
        say(f"entry {installed.entry.seq}: installed {printable(str(installed.path))}")
        say_field("policy", installed.policy.digest)
        say_field("author", installed.entry.body.author or "")
    entry = actions.adopt_policy(store, policy=installed.policy.digest, actor=actor_name())
    if as_json:
        say_json({"bundle": installed.entry.as_json(), "in_force": entry.as_json(), "path": str(installed.path)})
        return
    say(f"entry {entry.seq}: {printable(entry.body.name)} is in force; it binds candidates that are sealed from now on")


def _lint(policy: ResolvedPolicy) -> list[str]:
    from guards.authoring.policy_lint import lint_policy
    from loop.suite_facts import facts_of_suite

    report = lint_policy(policy.source, facts_of_suite)
    return [f"{problem.line}:{problem.column}: [{problem.rule}] {problem.message}" for problem in report.errors]

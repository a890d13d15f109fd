"""What a log has said so far about policies coming into force: a part of :class:`guards.replay.past.Past`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from guards.entries import (
    Body,
    BundleReceived,
    Logged,
    PolicyInForce,
    PolicyRecorded,
    PolicySignedOff,
    Sealed,
)

Signed = list[tuple[int, PolicySignedOff]]


def _lists() -> defaultdict[str, list[str]]:
    return defaultdict(list)


def _signed() -> defaultdict[str, Signed]:
    return defaultdict(list)


def _at_seals() -> defaultdict[str, list[str | None]]:
    return defaultdict(list)


@dataclass
class AdoptionsSoFar:
    """It believes every entry that it is given.

    ``in_force`` has every policy that came into force, and the number of the entry; ``authors`` who
    recorded, packed or adopted a policy; ``signoffs`` what was signed about a policy, by its digest;
    ``at_seals`` what was in force at each seal of a candidate, in the order of its seals; ``bundles`` what
    was signed in the good bundles; ``refused_bundle`` is the entry by which everything is held.
    """

    in_force: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    authors: defaultdict[str, list[str]] = field(default_factory=_lists)
    signoffs: defaultdict[str, Signed] = field(default_factory=_signed)
    statements: set[str] = field(default_factory=set[str])
    at_seals: defaultdict[str, list[str | None]] = field(default_factory=_at_seals)
    bundles: set[str] = field(default_factory=set[str])
    refused_bundle: Logged[Body] | None = None

    @property
    def current(self) -> str | None:
        """The policy in force."""
        return self.in_force[-1][1] if self.in_force else None

    def remember(self, entry: Logged[Body]) -> None:
        """Take an entry, whose rule has passed, into the past."""
        match entry.body:
            case PolicyRecorded() as body:
                self.authors[body.policy].append(entry.actor)
            case PolicySignedOff() as body:
                self.signoffs[body.new].append((entry.seq, body))
                self.statements.add(body.statement_digest)
            case PolicyInForce() as body:
                self.authors[body.policy].append(entry.actor)
                self.in_force.append((entry.seq, body.policy))
            case BundleReceived() as body:
                self.refused_bundle = entry if body.outcome == "refused" else None
                if body.outcome == "installed" and body.policy is not None:
                    self.authors[body.policy] += [entry.actor, *(() if body.author is None else (body.author,))]
                if body.statement_digest is not None:
                    self.bundles.add(body.statement_digest)
            case Sealed() as body:
                self.at_seals[body.candidate].append(self.current)
            case _:
                pass

"""Who may sign: the people of one roles file, their roles and their public keys.

The file is YAML, one per home::

    schema: stairlock/roles/v1
    services: [ci-runner]           # login names under which programs run, and no person; optional
    people:
      - id: ana
        name: Ana Ruiz
        roles: [reviewer, safety]
        accounts: [ana.ruiz]        # login names under which runs record her; optional
        keys:
          - {id: "sha256:...", public_key: "..."}     # one line: the content of ana.pub

A key belongs to one person, so that two keys never make two people. ``accounts`` lets the rule
"whoever submitted or trained it may not approve it" recognise a person by the name that a run
recorded. A name that is neither a person's nor a service's could be anybody's, so that nobody may
approve what was recorded under it.

Not covered: whether the file itself was changed with permission (its digest goes into every
sign-off, and approvals are checked against the file again when they take effect); one human who
appears in it as two people, or uses an account that is listed as a service's.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from guards.canonical import digest_of
from guards.errors import SignatureRefused
from guards.evidence import Frozen
from guards.ledger import Label
from guards.signing import PublicKey
from guards.strict_yaml import load_yaml

SignOffRole = Literal["reviewer", "safety", "governance"]
"""What a policy's approvals may ask for; anyone with one of them may sign."""


class Person(Frozen):
    """Somebody who may sign."""

    id: Label
    name: Label
    roles: Annotated[tuple[SignOffRole, ...], Field(min_length=1)]
    accounts: tuple[Label, ...] = ()
    keys: Annotated[tuple[PublicKey, ...], Field(min_length=1)]

    def is_known_as(self, recorded: str) -> bool:
        """True if ``recorded`` is this person's id, name or one of their accounts, in any spelling."""
        return _folded(recorded) in {_folded(known) for known in (self.id, self.name, *self.accounts)}


class Roles(Frozen):
    """The roles file."""

    schema_: Literal["stairlock/roles/v1"] = Field(alias="schema")
    people: Annotated[tuple[Person, ...], Field(min_length=1)]
    services: tuple[Label, ...] = ()

    @model_validator(mode="after")
    def _nobody_is_two_people(self) -> Roles:
        names: dict[str, str] = {}
        keys: dict[str, str] = {}
        for person in self.people:
            for known in {_folded(name) for name in (person.id, person.name, *person.accounts)}:
                if known in names:
                    raise ValueError(f"{known!r} names both {names[known]!r} and {person.id!r}")
                names[known] = person.id
            for key in person.keys:
                if key.id in keys:
                    raise ValueError(f"the key {key.id} is listed for {keys[key.id]!r} and again for {person.id!r}")
                keys[key.id] = person.id
        for service in self.services:
            if _folded(service) in names:
                raise ValueError(f"{service!r} is listed as a service, and names {names[_folded(service)]!r}")
        return self

    @property
    def digest(self) -> str:
        """Names this version of the file by its content."""
        return digest_of(self.model_dump(mode="json", by_alias=True))

    def knows(self, recorded: str) -> bool:
        """True if ``recorded`` is a name of somebody or something in this file, in any spelling."""
        services = {_folded(service) for service in self.services}
        return _folded(recorded) in services or any(person.is_known_as(recorded) for person in self.people)

    def owner_of(self, key_id: str) -> tuple[Person, PublicKey]:
        """The person to whom a key belongs, and the key.

        Raises:
            SignatureRefused: ``roles.unknown-key``.
        """
        for person in self.people:
            for key in person.keys:
                if key.id == key_id:
                    return person, key
        raise SignatureRefused(
            "roles.unknown-key",
            "the key belongs to nobody in the roles file",
            got=key_id,
            fix="add the content of the .pub file to a person's keys in roles.yaml",
        )


def load_roles(path: Path) -> Roles:
    """Read a roles file.

    Raises:
        SignatureRefused: ``roles.no-file``.
        ConfigError: with file:line:col, for anything else (:mod:`guards.strict_yaml`).
    """
    if not path.is_file():
        raise SignatureRefused(
            "roles.no-file",
            f"{path} does not exist, so nobody may sign",
            fix="write it: people, each with id, name, roles and keys (docs/reference)",
        )
    return load_yaml(path, Roles)


def is_same_name(one: str, other: str) -> bool:
    """True if two recorded names are one name in different spellings."""
    return _folded(one) == _folded(other)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()

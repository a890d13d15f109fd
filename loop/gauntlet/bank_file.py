"""The bank's file, from the members that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guards.canonical import canonical_bytes
from guards.drift.bank import BankFile, Recipe, Scoring, parse_bank
from guards.drift.bank import Member as BankMember
from guards.drift.kit import DriftKit
from guards.durable import write_whole
from loop.gauntlet.measured import MeasuredMember

_DIGITS = 9
"""Of a component. More would be noise of the machine, and twice the bytes."""


def write_bank(path: Path, kit: DriftKit, scoring: Scoring, members: Sequence[MeasuredMember]) -> BankFile:
    """Write the bank, verified members and others; what is returned was read back.

    Raises:
        ConfigError: as :func:`guards.drift.bank.parse_bank`.
    """
    body = {
        "schema": "stairlock/drift-bank/v1",
        "kit": kit.model_dump(mode="json", by_alias=True),
        "scoring": scoring.model_dump(mode="json"),
        "members": [_member(one, kit).model_dump(mode="json") for one in members],
    }
    data = canonical_bytes(body)
    file = parse_bank(data, source=str(path))
    write_whole(path, data)
    return file


def _member(one: MeasuredMember, kit: DriftKit) -> BankMember:
    member = one.member
    assert member.recipe is not None  # a bank has fine-tunes only
    return BankMember(
        member_id=member.member_id,
        clusters=member.sources,
        recipe=Recipe(
            n_rows=member.n_rows,
            n_steps=one.n_steps,
            learning_rate=member.recipe.learning_rate,
            rank=member.recipe.lora_rank,
            format="sft",
        ),
        verified=one.is_verified,
        reason="; ".join(one.reasons) or "behaves as the root does, within the limits of loop.gauntlet.verify",
        manifest_digest=member.digest,
        vector={
            component.name: float(f"{one.vector.values[component.name]:.{_DIGITS}g}") for component in kit.components
        },
    )

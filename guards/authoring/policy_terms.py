"""What a policy asks of each gate, as plain data, so that two of any version can be compared gate by gate.

Not covered: which of two policies is the stricter one (:mod:`guards.policy_order`). Here they are equal or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from guards.policy import CompositeGate, EvalGate, Gate, banks_of, suites_of


@dataclass(frozen=True)
class PolicyTerms:
    """What a resolved policy says, by gate; of any version, so that it is read as plain data."""

    gates: Mapping[str, Any]
    suites: Mapping[str, str]
    banks: Mapping[str, str]
    kits: Mapping[str, str]
    judges: Mapping[str, Any]
    holdouts: Mapping[str, Any]
    looks: Any

    @classmethod
    def of(cls, resolved: Mapping[str, Any]) -> PolicyTerms:
        return cls(
            gates={gate["id"]: _plain(gate) for gate in resolved.get("gates", ())},
            suites=resolved.get("suites", {}),
            banks=resolved.get("banks", {}),
            kits=resolved.get("kits", {}),
            judges=resolved.get("judges", {}),
            holdouts=resolved.get("holdouts", {}),
            looks=_plain({"spending": "even", **resolved.get("looks", {})}),
        )

    def shared(self, gate: Gate) -> Any:
        """What the gate's verdict rests on outside its own body, the alpha left out."""
        members = members_of(gate)
        judges = [member.judge for member in members if isinstance(member, EvalGate) and member.judge is not None]
        suites = [name for member in members for name in suites_of(member)]
        banks = [self.banks.get(name) for member in members for name in banks_of(member)]
        by_name = [self.suites.get(name) for name in suites]
        return by_name, banks, [_plain(self.judges.get(name)) for name in judges]

    def spending(self, gate: Gate) -> Any:
        """What alpha the gate's members have left."""
        suites = [name for member in members_of(gate) for name in suites_of(member)]
        return self.looks, [self.holdouts.get(name) for name in suites]


def members_of(gate: Gate) -> tuple[Gate, ...]:
    """The gate and, of a composite, all that are in it."""
    inside = gate.members if isinstance(gate, CompositeGate) else ()
    return (gate, *(one for member in inside for one in members_of(member)))


def _plain(value: Any) -> Any:
    """Without what decides nothing: descriptions, and keys that an older version did not write yet."""
    if isinstance(value, dict):
        items = cast(dict[str, Any], value).items()
        return {key: _plain(item) for key, item in items if item is not None and key != "description"}
    if isinstance(value, list):
        return [_plain(item) for item in cast(list[Any], value)]
    return value

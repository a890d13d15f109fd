"""How the gates of one policy relate: which decides nothing beside another, and which exclude each other.

A gate is *subsumed* by another where every candidate that passes the other passes it too: the same
test of the same items at a margin or level that is no stricter. (For the betting test this holds
exactly: its wealth falls as the null rises, on any data.) A larger alpha counts as no stricter, which
is true of every test that is not close to its edge.

Not covered: claims that follow from several others together, or from another kind of test (what is
superior by 0 is, on most data, also non-inferior); more than 1000 gates that measure the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from guards.policy import (
    AllOfGate,
    AnyOfGate,
    BudgetGate,
    CollapseGate,
    ContaminationGate,
    DriftGate,
    EvalGate,
    Gate,
    IntegrityGate,
    OnlyIfGate,
    Policy,
)
from guards.yaml_positions import YamlPath

Placed = tuple[Gate, YamlPath]
_MAX_COMPARED = 1000


@dataclass(frozen=True)
class Relation:
    """``gate`` and ``other``, where they stand, and why ``gate`` is reported."""

    gate: Gate
    at: YamlPath
    other: Gate
    other_at: YamlPath
    why: str


def subsumed_gates(policy: Policy) -> Iterator[Relation]:
    """Every gate that can decide nothing, because another is at least as strict; each once."""
    for loose, strict in _comparable(_passed_together(policy)):
        yield _relation(loose, strict, stricter=strict)
    for gate, at in policy.gates_with_paths():
        if isinstance(gate, AnyOfGate):
            # Here the looser member settles it, and the stricter one decides nothing.
            reported: set[str] = set()
            for loose, strict in _comparable([(member, (*at, "gates", i)) for i, member in enumerate(gate.gates)]):
                if strict[0].id not in reported:
                    reported.add(strict[0].id)
                    yield _relation(strict, loose, stricter=strict)


def contradictions(policy: Policy) -> Iterator[Relation]:
    """Every pair of gates that no candidate can pass, of gates that must all be passed; at the second of the two."""
    tests = [(gate, at) for gate, at in _passed_together(policy) if isinstance(gate, EvalGate)]
    for same in _by_measurement(tests):
        floors = [one for one in same if one[0].claim == "at_least"]
        # The reference's mean is 0 at least, so that what is better by m is above m itself.
        gains = [one for one in same if one[0].claim == "superior_by" and one[0].scale is None]
        floor = max(floors, key=lambda one: one[0].level or 0.0, default=None)
        gain = max(gains, key=lambda one: one[0].margin or 0.0, default=None)
        for gate, at in same:
            if gate.claim != "at_most" or gate.level is None:
                continue
            less = f"{gate.id} for less than {gate.level:g}"
            if floor is not None and (floor[0].level or 0.0) >= gate.level:
                yield Relation(gate, at, *floor, f"{floor[0].id} asks for more than {floor[0].level:g}, and {less}")
            if gain is not None and (gain[0].margin or 0.0) >= gate.level:
                why = f"{gain[0].id} asks for {gain[0].margin:g} more than the {gain[0].against} has, and {less}"
                yield Relation(gate, at, *gain, why)


def _passed_together(policy: Policy) -> list[Placed]:
    """The gates that every candidate must pass, members of all_of gates in place of these."""
    return [one for index, gate in enumerate(policy.gates) for one in _conjuncts(gate, ("gates", index))]


def _conjuncts(gate: Gate, at: YamlPath) -> Iterator[Placed]:
    if isinstance(gate, AllOfGate):
        for index, member in enumerate(gate.gates):
            yield from _conjuncts(member, (*at, "gates", index))
    elif not isinstance(gate, (AnyOfGate, OnlyIfGate)):
        yield gate, at


def _comparable(group: Sequence[Placed]) -> Iterator[tuple[Placed, Placed]]:
    """(loose, strict) for every gate of which another is at least as strict; of twins, the later is the loose one."""
    for family in _families(group):
        if len(family) > _MAX_COMPARED:
            continue
        for index, loose in enumerate(family):
            for other_index, strict in enumerate(family):
                if other_index == index or not is_as_strict(strict[0], loose[0]):
                    continue
                if other_index < index or not is_as_strict(loose[0], strict[0]):
                    yield loose, strict
                    break


def _relation(reported: Placed, other: Placed, *, stricter: Placed) -> Relation:
    looser = other if stricter is reported else reported
    why = f"a candidate that passes {stricter[0].id} passes {looser[0].id} too, so {reported[0].id} decides nothing"
    return Relation(*reported, *other, why)


def _families(group: Sequence[Placed]) -> list[list[Placed]]:
    """Gates that are worth comparing, so that 200 gates need no 40,000 comparisons."""
    families: dict[tuple[object, ...], list[Placed]] = {}
    for gate, at in group:
        key: tuple[object, ...] = (gate.kind,)
        if isinstance(gate, EvalGate):
            key = (gate.kind, gate.claim, gate.against, *_measurement(gate))
        elif isinstance(gate, CollapseGate):
            key = (gate.kind, gate.suite, gate.against)
        families.setdefault(key, []).append((gate, at))
    return list(families.values())


def _by_measurement(tests: Sequence[tuple[EvalGate, YamlPath]]) -> list[list[tuple[EvalGate, YamlPath]]]:
    groups: dict[tuple[object, ...], list[tuple[EvalGate, YamlPath]]] = {}
    for gate, at in tests:
        groups.setdefault((gate.suite, gate.metric, gate.clusters and frozenset(gate.clusters)), []).append((gate, at))
    return list(groups.values())


def _measurement(gate: EvalGate) -> tuple[object, ...]:
    clusters = gate.clusters and frozenset(gate.clusters)
    return gate.suite, gate.metric, clusters, gate.scale, gate.group_by, gate.judge


def is_as_strict(strict: Gate, loose: Gate) -> bool:
    """True if whatever passes ``strict`` passes ``loose``; False where that is not known."""
    match strict, loose:
        case EvalGate(), EvalGate():
            return _eval_is_as_strict(strict, loose)
        case IntegrityGate(), IntegrityGate():
            allowed = set(strict.allow_changes) - {"weights"} <= set(loose.allow_changes) - {"weights"}
            return strict.against == loose.against and allowed
        case CollapseGate(), CollapseGate():
            return (
                (strict.suite, strict.against) == (loose.suite, loose.against)
                and strict.min_items >= loose.min_items
                and _floor(strict.min_distinct_share, loose.min_distinct_share)
                and _floor(strict.min_entropy_ratio, loose.min_entropy_ratio)
                and _floor(strict.min_length_ratio, loose.min_length_ratio)
                and _ceiling(strict.max_length_ratio, loose.max_length_ratio)
            )
        case ContaminationGate(), ContaminationGate():
            return set(strict.suites) >= set(loose.suites) and strict.ngram <= loose.ngram
        case BudgetGate(), BudgetGate():
            return (
                strict.max_cycles_without_person <= loose.max_cycles_without_person
                and strict.max_cost_s <= loose.max_cost_s
                and _ceiling(strict.max_tokens_trained, loose.max_tokens_trained)
            )
        case DriftGate(), DriftGate():
            return (
                strict.bank == loose.bank
                and strict.block_at >= loose.block_at
                and strict.review_at >= loose.review_at
                and strict.min_documents >= loose.min_documents
                and (strict.training_rows == "required" or loose.training_rows == "optional")
                and (strict.smaller_dose == "inconclusive" or loose.smaller_dose == "allowed")
            )
        case _:
            return False


def _eval_is_as_strict(strict: EvalGate, loose: EvalGate) -> bool:
    if (strict.claim, strict.against, *_measurement(strict)) != (loose.claim, loose.against, *_measurement(loose)):
        return False
    if strict.alpha > loose.alpha or strict.min_items < loose.min_items or strict.max_unscored > loose.max_unscored:
        return False
    match strict.claim:
        case "at_least":
            return (strict.level or 0.0) >= (loose.level or 0.0)
        case "at_most":
            return (strict.level or 0.0) <= (loose.level or 0.0)
        case "non_inferior_within":
            return (strict.margin or 0.0) <= (loose.margin or 0.0)
        case "superior_by":
            # At 0 the test is McNemar's, above it is betting: one says nothing certain about the other.
            same_test = (strict.margin == 0.0) == (loose.margin == 0.0)
            return same_test and (strict.margin or 0.0) >= (loose.margin or 0.0)


def _floor(strict: float | None, loose: float | None) -> bool:
    return loose is None or (strict is not None and strict >= loose)


def _ceiling(strict: float | None, loose: float | None) -> bool:
    return loose is None or (strict is not None and strict <= loose)

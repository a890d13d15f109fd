"""Is one policy stricter than another? Field by field, from a direction that is declared for each.

A policy is *stricter* than another if whatever passes it passes the other: every gate, on the same
evidence and after the same earlier looks, and with approvals that would do for both. It is *looser*
the other way round. What is both, or neither, is *incomparable*, and treated as looser: so is a field
without a declared direction, an edit of a suite (nobody can say that new items ask for more), and
another name (looks are counted by it).

This is an order of what passes. Under a stricter policy, what failed may become inconclusive (where
more items are asked for, say); that is released by another look, or by a waiver, which takes as many
people as adopting a looser policy does.

Not covered: whether a policy is good; whether a looser one passes anything that exists. What it
could pass is for :mod:`guards.authoring.policy_counterexamples` to find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from guards.evidence import Frozen
from guards.policy import (
    AllOfGate,
    AnyOfGate,
    Approvals,
    BudgetGate,
    CollapseGate,
    ContaminationGate,
    DriftGate,
    EvalGate,
    Gate,
    Holdout,
    IntegrityGate,
    Judge,
    JudgeCalibration,
    Looks,
    OnlyIfGate,
    Policy,
    StopEarly,
    Waiver,
    banks_of,
    suites_of,
)

Order = Literal["same", "stricter", "looser", "incomparable"]


class ChangeItem(Frozen):
    """One difference: ``where`` it is (``gates.refusal-holds.margin``), both values as text, and what it does.

    ``gate`` is the id of the top-level gate that it belongs to, if it belongs to one.
    """

    where: str
    gate: str | None = None
    old: str
    new: str
    change: Order
    why: str = ""


class PolicyChange(Frozen):
    """What an edit does, as a whole and item by item. No items: nothing that decides is different."""

    overall: Order
    items: tuple[ChangeItem, ...]

    @property
    def needs_approvals(self) -> bool:
        """True unless whatever NEW passes, OLD passes too."""
        return self.overall in ("looser", "incomparable")

    def of_gate(self, gate_id: str) -> Order:
        """What the edit does to one top-level gate."""
        return combined(item.change for item in self.items if item.gate == gate_id)


def combined(changes: Iterable[Order]) -> Order:
    """Several changes as one: both ways, or any incomparable one, is incomparable."""
    kinds = set(changes) - {"same"}
    if not kinds:
        return "same"
    return kinds.pop() if len(kinds) == 1 else "incomparable"


def compare(old: Policy, new: Policy) -> PolicyChange:
    """Compare two resolved policies (suites by digest), from OLD to NEW."""
    items = tuple(_compare_models(old, new, _Place("", None, old, new)))
    return PolicyChange(overall=combined(item.change for item in items), items=items)


@dataclass(frozen=True)
class _Place:
    """Where the comparison stands, and in which policies."""

    path: str
    gate: str | None
    old_policy: Policy
    new_policy: Policy

    def at(self, name: str) -> _Place:
        path = f"{self.path}.{name}" if self.path else name
        return _Place(path, self.gate, self.old_policy, self.new_policy)

    def in_gate(self, gate_id: str) -> _Place:
        here = self.at(gate_id)
        return _Place(here.path, self.gate or gate_id, self.old_policy, self.new_policy)

    def item(self, old: object, new: object, change: Order, why: str = "") -> ChangeItem:
        return ChangeItem(where=self.path, gate=self.gate, old=_shown(old), new=_shown(new), change=change, why=why)


Direction = Callable[[Any, Any, _Place, Any], Iterator[ChangeItem]]
"""Compares two values of a field: (old, new, where, the old model that has the field)."""


# Directions


def _no_effect(old: Any, new: Any, place: _Place, _model: Any) -> Iterator[ChangeItem]:
    """Nothing is decided by it."""
    yield place.item(old, new, "same", "nothing is decided by it")


def _same(why: str) -> Direction:
    def direction(old: Any, new: Any, place: _Place, _model: Any) -> Iterator[ChangeItem]:
        yield place.item(old, new, "same", why)

    return direction


def _incomparable(why: str) -> Direction:
    def direction(old: Any, new: Any, place: _Place, _model: Any) -> Iterator[ChangeItem]:
        yield place.item(old, new, "same" if old == new else "incomparable", why)

    return direction


def _ordered(*, stricter: Literal["more", "less"], absent: float = float("nan"), why: str = "") -> Direction:
    """A number; None stands for ``absent``, which is no limit at all."""

    def direction(old: Any, new: Any, place: _Place, _model: Any) -> Iterator[ChangeItem]:
        yield place.item(old, new, _by_size(absent if old is None else old, absent if new is None else new), why)

    def _by_size(old: float, new: float) -> Order:
        if old == new:
            return "same"
        if not (old < new or new < old):  # a number that cannot be compared
            return "incomparable"
        return "stricter" if (new > old) == (stricter == "more") else "looser"

    return direction


def _as_set(*, stricter: Literal["more", "less"], ignored: frozenset[str] = frozenset(), why: str = "") -> Direction:
    """A set of names, in whatever order it is written."""

    def direction(old: Any, new: Any, place: _Place, _model: Any) -> Iterator[ChangeItem]:
        before, after = set(old or ()) - ignored, set(new or ()) - ignored
        change: Order = "incomparable"
        if before == after:
            change = "same"
        elif before < after:
            change = "stricter" if stricter == "more" else "looser"
        elif after < before:
            change = "looser" if stricter == "more" else "stricter"
        yield place.item(old, new, change, why)

    return direction


def _clusters(old: Any, new: Any, place: _Place, _model: Any) -> Iterator[ChangeItem]:
    is_same = (old is None) == (new is None) and set(old or ()) == set(new or ())
    yield place.item(old, new, "same" if is_same else "incomparable", "other items are tested")


def _threshold(old: Any, new: Any, place: _Place, model: Any) -> Iterator[ChangeItem]:
    """The margin or level of a claim: which way is stricter depends on the claim."""
    if old is None or new is None:
        yield place.item(old, new, "same" if old == new else "incomparable", "another claim")
        return
    stricter: dict[str, Literal["more", "less"]] = {
        "superior_by": "more",
        "non_inferior_within": "less",
        "at_least": "more",
        "at_most": "less",
    }
    yield from _ordered(stricter=stricter[model.claim])(old, new, place, model)


def _where_somebody_signs(direction: Direction) -> Direction:
    """Terms of approvals mean nothing where the old policy asks for none."""

    def wrapped(old: Any, new: Any, place: _Place, model: Any) -> Iterator[ChangeItem]:
        if model.required == 0:
            yield place.item(old, new, "same", "the old policy asks nobody to sign")
        else:
            yield from direction(old, new, place, model)

    return wrapped


def _model(old: Any, new: Any, place: _Place, _owner: Any) -> Iterator[ChangeItem]:
    """A model of its own, with directions of its own."""
    yield from _compare_models(old, new, place)


def _all_of(old: Any, new: Any, place: _Place, _owner: Any) -> Iterator[ChangeItem]:
    """Gates that must all pass: each more is stricter, each less is looser. Their order says nothing."""
    before, after = _by_id(old), _by_id(new)
    if len(before) != len(old) or len(after) != len(new):
        yield place.item(", ".join(before), ", ".join(after), "incomparable", "two gates have one id")
        return
    for gate_id, gate in before.items():
        here = place.in_gate(gate_id)
        if gate_id in after:
            yield from _compare_models(gate, after[gate_id], here)
        else:
            yield here.item(gate.kind, "(none)", "looser", "this gate is not asked for any more")
    for gate_id, gate in after.items():
        if gate_id not in before:
            yield place.in_gate(gate_id).item("(none)", gate.kind, "stricter", "one more gate must pass")


def _any_of(old: Any, new: Any, place: _Place, _owner: Any) -> Iterator[ChangeItem]:
    """Gates of which one must pass, at the alpha of each divided by their number."""
    before, after = _by_id(old), _by_id(new)
    if before.keys() != after.keys() or len(before) != len(old) or len(after) != len(new):
        why = "another way to pass, and the others at another share of their alpha"
        yield place.item(", ".join(before), ", ".join(after), "incomparable", why)
        return
    for gate_id, gate in before.items():
        yield from _compare_models(gate, after[gate_id], place.in_gate(gate_id))


def _condition(old: Any, new: Any, place: _Place, _owner: Any) -> Iterator[ChangeItem]:
    """When a gate applies: stricter in what passes it is no order of what fails it."""
    for item in _compare_models(old, new, place):
        change: Order = "same" if item.change == "same" else "incomparable"
        yield item.model_copy(update={"change": change, "why": "the gate applies to other candidates"})


def _one_gate(old: Any, new: Any, place: _Place, _owner: Any) -> Iterator[ChangeItem]:
    yield from _compare_models(old, new, place.in_gate(old.id))


def _suites(old: Any, new: Any, place: _Place, _owner: Any) -> Iterator[ChangeItem]:
    """Suites by digest. One that came or went matters by the gates that read it, which are compared themselves."""
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name), new.get(name)
        if before is None or after is None:
            reader = place.new_policy if after is None else place.old_policy
            is_read = any(name in suites_of(gate) for gate in reader.leaf_gates())
            yield place.at(name).item(before, after, "incomparable" if is_read else "same", "its gates are compared")
        elif before != after:
            files = place.new_policy.items.get(name)
            why = "other items, scorer or decoding: nobody can say that they ask for more"
            if files is not None and files == place.old_policy.items.get(name):
                why = "the same item file, so that its reads count on; what is asked or scored may be another"
            yield place.at(name).item(before, after, "incomparable", why)


def _banks(old: Any, new: Any, place: _Place, _owner: Any) -> Iterator[ChangeItem]:
    """Banks by digest; one that came or went matters by the gates that read it."""
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name), new.get(name)
        if before is None or after is None:
            reader = place.new_policy if after is None else place.old_policy
            is_read = any(name in banks_of(gate) for gate in reader.leaf_gates())
            yield place.at(name).item(before, after, "incomparable" if is_read else "same", "its gates are compared")
        elif before != after:
            why = "candidates are held against other harmless fine-tunes, or measured or scored otherwise"
            yield place.at(name).item(before, after, "incomparable", why)


def _kits(old: Any, new: Any, place: _Place, _owner: Any) -> Iterator[ChangeItem]:
    """A bank holds its kit, so that banks say it all, unless somebody made one of the two policies up."""
    banks, others = place.old_policy.banks, place.new_policy.banks
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name) and banks.get(name) == others.get(name):
            yield place.at(name).item(old.get(name), new.get(name), "incomparable", "another kit of the same bank")


def _strict_word(strict: str) -> Direction:
    """A choice between two words, of which ``strict`` asks for more."""

    def direction(old: Any, new: Any, place: _Place, _model: Any) -> Iterator[ChangeItem]:
        change: Order = "same" if old == new else "stricter" if new == strict else "looser"
        yield place.item(old, new, change)

    return direction


def _holdouts(old: Any, new: Any, place: _Place, _owner: Any) -> Iterator[ChangeItem]:
    for name in dict.fromkeys((*old, *new)):
        before, after, here = old.get(name), new.get(name), place.at(name)
        if before is None:
            yield here.item("(none)", after.reads, "stricter", "its gates divide their alpha by the reads before")
        elif after is None:
            yield here.item(before.reads, "(none)", "looser", "its gates divide their alpha by no reads any more")
        else:
            yield from _compare_models(before, after, here)


def _judges(old: Any, new: Any, place: _Place, _owner: Any) -> Iterator[ChangeItem]:
    """Judges that a gate of either policy counts."""
    used = {
        gate.judge
        for policy in (place.old_policy, place.new_policy)
        for gate in policy.leaf_gates()
        if isinstance(gate, EvalGate)
    }
    for name in dict.fromkeys((*old, *new)):
        before, after, here = old.get(name), new.get(name), place.at(name)
        if before is not None and after is not None and name in used:
            yield from _compare_models(before, after, here)
            continue
        reader = place.new_policy if after is None else place.old_policy
        is_read = before != after and any(
            isinstance(gate, EvalGate) and gate.judge == name for gate in reader.leaf_gates()
        )
        yield here.item(before, after, "incomparable" if is_read else "same", "its gates are compared")


def _no_waivers(old: Any, new: Any, place: _Place, _owner: Any) -> Iterator[ChangeItem]:
    yield place.item(len(old), len(new), "same" if old == new else "incomparable", "waivers are no part of a policy")


_ANOTHER_QUESTION = "another question: nobody can say that it asks for more"
_STOPS_WHERE_CERTAIN = "what is not answered could change neither a verdict nor an anchor"
_ID = _incomparable("looks, anchors and alpha are counted by it")
_KIND = _incomparable("another kind of gate")

DIRECTIONS: Mapping[type[Frozen], Mapping[str, Direction]] = {
    Policy: {
        "schema_": _incomparable("another format"),
        "name": _incomparable("looks are counted by the name: another one begins with none of its alpha spent"),
        "description": _no_effect,
        "looks": _model,
        "suites": _suites,
        "gates": _all_of,
        "approvals": _model,
        "holdouts": _holdouts,
        "judges": _judges,
        "banks": _banks,
        "waivers": _no_waivers,
        "kits": _kits,
        "items": _incomparable("reads are counted by the item files: others begin unread"),
    },
    Looks: {
        "planned": _incomparable("more looks have less alpha each, and there are more of them"),
        "spending": _incomparable("some looks get more of the alpha, and others less"),
        "stop_early": _same(_STOPS_WHERE_CERTAIN),
    },
    StopEarly: {
        "blocks": _same(_STOPS_WHERE_CERTAIN),
    },
    EvalGate: {
        "id": _ID,
        "kind": _KIND,
        "description": _no_effect,
        "suite": _incomparable(_ANOTHER_QUESTION),
        "metric": _incomparable(_ANOTHER_QUESTION),
        "claim": _incomparable(_ANOTHER_QUESTION),
        "margin": _threshold,
        "level": _threshold,
        "against": _incomparable("it is held against another checkpoint"),
        "alpha": _ordered(stricter="less", why="the chance of a false pass over all planned looks"),
        "min_items": _ordered(stricter="more"),
        "max_unscored": _ordered(stricter="less"),
        "clusters": _clusters,
        "scale": _incomparable("differences are clipped elsewhere"),
        "group_by": _incomparable("the claim is about other means"),
        "judge": _incomparable("it counts the verdicts of another judge"),
    },
    IntegrityGate: {
        "id": _ID,
        "kind": _KIND,
        "description": _no_effect,
        "against": _incomparable("it is held against another checkpoint"),
        "allow_changes": _as_set(stricter="less", ignored=frozenset({"weights"})),
    },
    CollapseGate: {
        "id": _ID,
        "kind": _KIND,
        "description": _no_effect,
        "suite": _incomparable(_ANOTHER_QUESTION),
        "against": _incomparable("it is held against another checkpoint"),
        "min_items": _ordered(stricter="more"),
        "min_distinct_share": _ordered(stricter="more", absent=0.0),
        "min_entropy_ratio": _ordered(stricter="more", absent=0.0),
        "max_length_ratio": _ordered(stricter="less", absent=float("inf")),
        "min_length_ratio": _ordered(stricter="more", absent=0.0),
    },
    ContaminationGate: {
        "id": _ID,
        "kind": _KIND,
        "description": _no_effect,
        "suites": _as_set(stricter="more"),
        "ngram": _ordered(stricter="less", why="a shared run of words contains every shorter one"),
    },
    BudgetGate: {
        "id": _ID,
        "kind": _KIND,
        "description": _no_effect,
        "max_cycles_without_person": _ordered(stricter="less"),
        "max_cost_s": _ordered(stricter="less"),
        "max_tokens_trained": _ordered(stricter="less", absent=float("inf")),
    },
    DriftGate: {
        "id": _ID,
        "kind": _KIND,
        "description": _no_effect,
        "bank": _incomparable("it is held against other harmless fine-tunes"),
        "block_at": _ordered(stricter="more", why="what was held, so that a waiver could release it, is blocked"),
        "review_at": _ordered(stricter="more", why="what was let through is looked at"),
        "min_documents": _ordered(stricter="more"),
        "training_rows": _strict_word("required"),
        "smaller_dose": _strict_word("inconclusive"),
    },
    AllOfGate: {"id": _ID, "kind": _KIND, "description": _no_effect, "gates": _all_of},
    AnyOfGate: {"id": _ID, "kind": _KIND, "description": _no_effect, "gates": _any_of},
    OnlyIfGate: {"id": _ID, "kind": _KIND, "description": _no_effect, "condition": _condition, "then": _one_gate},
    Approvals: {
        "required": _ordered(stricter="more"),
        "roles": _as_set(stricter="more"),
        "exclude": _where_somebody_signs(_as_set(stricter="more")),
        "valid_for_h": _where_somebody_signs(_ordered(stricter="less")),
        "unattended": _no_effect,  # it follows from 'required'
    },
    Holdout: {"reads": _ordered(stricter="less")},
    Judge: {
        "calibration": _incomparable("other errors are reckoned with"),
        "family": _incomparable("other errors are reckoned with"),
        "min_sensitivity": _ordered(stricter="more"),
        "min_specificity": _ordered(stricter="more"),
        "measures": _incomparable("it counts the judge's other answer"),
    },
    # Never compared field by field: a calibration is one thing, and waivers are no part of a policy.
    JudgeCalibration: {
        name: _incomparable("other errors are reckoned with")
        for name in ("positives", "detected", "negatives", "cleared")
    },
    Waiver: {
        name: _incomparable("waivers are no part of a policy")
        for name in ("candidate", "gate", "reason", "ticket", "approvers", "expires")
    },
}
"""The direction of every field of every model of a policy; a test fails when one is missing."""


def _compare_models(old: Any, new: Any, place: _Place) -> Iterator[ChangeItem]:
    if type(old) is not type(new):
        yield place.item(getattr(old, "kind", old), getattr(new, "kind", new), "incomparable", "another kind of gate")
        return
    directions = DIRECTIONS.get(cast(type[Frozen], type(old)), {})
    for name in cast(type[Frozen], type(old)).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            # Judges and gates read what stands elsewhere, but each of those places is compared itself.
            continue
        direction = directions.get(name, _incomparable("no direction is declared for it"))
        yield from direction(before, after, place.at(name.removesuffix("_")), old)


def _by_id(gates: Iterable[Gate]) -> dict[str, Gate]:
    return {gate.id: gate for gate in gates}


def _shown(value: object) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, (tuple, list)):
        return ", ".join(str(part) for part in cast(tuple[object, ...], value)) or "(none)"
    if isinstance(value, Frozen):
        return value.model_dump_json(by_alias=True)
    return repr(value) if isinstance(value, float) else str(value)

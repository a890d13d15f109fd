"""What a gate says: pass, fail or inconclusive, with the figures that it rests on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, ValidationError

from guards.errors import EvidenceError
from guards.evidence import Frozen

Outcome = Literal["pass", "fail", "inconclusive"]
WAIVER_DETAIL = "waiver"
"""Where ``details`` say until when an inconclusive verdict is waived, for which ticket, by whom and why."""
WAIVED_UNTIL_DETAIL = "waived until"
"""Where they say that time alone, in ISO form."""
MCNEMAR = "exact McNemar"
"""What ``details["test"]`` says of that test."""
_FIGURES = ("observed", "bound", "margin", "alpha")


class Verdict(Frozen):
    """One gate's verdict on one candidate at one look.

    ``observed`` is the point estimate; ``bound`` is the confidence bound that decides, in the same
    unit; ``margin`` is what it must clear: the policy's level, or its margin with the sign of the
    difference (-0.08 for non-inferiority within 0.08). ``alpha`` is what this look may spend.
    ``reason`` is a clause; :func:`explain` adds the figures. ``details`` are for readers and never
    decide; ``details["rule"]`` says which rule an inconclusive or failed verdict rests on, where it
    is not the test itself. ``waived`` is set by the decision, not by a gate. ``members`` are what the
    members of a composite gate said, in its order.
    """

    gate_id: str
    kind: str
    outcome: Outcome
    reason: str = Field(min_length=1)
    observed: float | None = Field(default=None, allow_inf_nan=False)
    bound: float | None = Field(default=None, allow_inf_nan=False)
    margin: float | None = Field(default=None, allow_inf_nan=False)
    n: int = Field(default=0, ge=0)
    alpha: float | None = Field(default=None, allow_inf_nan=False)
    policy_line: int = Field(default=0, ge=0)
    waived: bool = False
    details: dict[str, str] = Field(default_factory=dict)
    members: tuple[Verdict, ...] = ()

    def all_members(self) -> Iterator[Verdict]:
        """What every member said, each followed by its own members."""
        for member in self.members:
            yield member
            yield from member.all_members()

    def to_ledger(self) -> dict[str, Any]:
        """As JSON without floats: figures are decimal text that reads back to the same number."""
        body = self.model_dump(mode="json")
        for name in _FIGURES:
            body[name] = None if body[name] is None else repr(body[name])
        del body["members"]
        return body | ({"members": [member.to_ledger() for member in self.members]} if self.members else {})

    @classmethod
    def from_ledger(cls, body: dict[str, Any]) -> Verdict:
        """Inverse of :meth:`to_ledger`.

        Raises:
            EvidenceError: ``gate.bad-verdict``.
        """
        try:
            figures = {name: None if body.get(name) is None else float(body[name]) for name in _FIGURES}
            members = tuple(cls.from_ledger(dict(member)) for member in body.get("members", ()))
            return cls.model_validate({**body, **figures, "members": members})
        except (ValidationError, TypeError, ValueError, RecursionError) as error:
            raise EvidenceError("gate.bad-verdict", f"not a verdict: {str(error).splitlines()[0]}") from error


def explain(verdict: Verdict) -> str:
    """The verdict in one plain sentence, with its figures and the policy line."""
    word = {"pass": "passes", "fail": "fails", "inconclusive": "is inconclusive"}[verdict.outcome]
    how = verdict.details.get(WAIVER_DETAIL)
    waived = "" if not verdict.waived else f" (waived {how})" if how else " (waived)"
    return f"{verdict.gate_id} {word}{waived}: {verdict.reason}{figures_of(verdict)}."


def figures_of(verdict: Verdict) -> str:
    """The figures that a verdict has, and its policy line, in brackets after a space; empty where there are none.

    McNemar's bound is of the mean difference given how many items changed, and says so: over all draws its
    sign is right as often as the test's size says, and its size is not.
    """
    bound = "bound given what changed" if verdict.details.get("test") == MCNEMAR else "bound"
    figures = [
        f"{name} {_shown(value)}"
        for name, value in (("observed", verdict.observed), (bound, verdict.bound), ("required", verdict.margin))
        if value is not None
    ]
    if verdict.n:
        figures.append(f"n {verdict.n}")
    if verdict.alpha is not None:
        figures.append(f"alpha {verdict.alpha:.3g}")
    if "holdout_read" in verdict.details:
        figures.append(f"read {verdict.details['holdout_read']}")
    if verdict.policy_line:
        figures.append(f"policy line {verdict.policy_line}")
    return f" ({', '.join(figures)})" if figures else ""


def _shown(value: float) -> str:
    return f"{value:+.3f}" if value else "0"

"""The drift of an imagined candidate: a vector of the bank's components, as a policy case describes it.

A case says how the candidate drifted by components, and not by records: the gate then scores that vector
against the bank as it scores a measured one. What a case leaves out is as the bank's median, a fine-tune as
it usually is.

Not covered: how components are made from records (:mod:`guards.drift.components`), which no case reaches.
"""

from __future__ import annotations

from guards.authoring.case_model import CaseEvidence, DriftEvidence
from guards.drift.bank import DriftBank
from guards.drift.components import DriftVector
from guards.drift.kit import Stage
from guards.errors import ConfigError
from guards.policy import ResolvedPolicy


def case_drift_vectors(policy: ResolvedPolicy, evidence: CaseEvidence) -> dict[str, DriftVector]:
    """The candidate's vector for each bank of the policy, without those that the case says are missing.

    Raises:
        ConfigError: ``case.unknown-member``, ``case.unknown-component``.
    """
    return {
        name: _vector(name, bank, described)
        for name, bank in policy.banks.items()
        if (described := evidence.drift.get(name, DriftEvidence())).fault != "missing"
    }


def _vector(name: str, bank: DriftBank, described: DriftEvidence) -> DriftVector:
    values = bank.median_vector()
    if described.like is not None:
        member = next((one for one in bank.members if one.member_id == described.like), None)
        if member is None:
            raise ConfigError(
                "case.unknown-member",
                f"the bank {name!r} has no such member",
                got=described.like,
                expected=", ".join(one.member_id for one in bank.members[:8]),
            )
        values = dict(member.vector)
    for component, value in described.components.items():
        if component not in values:
            raise ConfigError(
                "case.unknown-component",
                f"the kit of the bank {name!r} has no such component",
                got=component,
                expected=", ".join(sorted(values)[:8]),
            )
        values[component] = value
    unsupported: frozenset[Stage] = frozenset({"triggers"}) if described.triggers == "unsupported" else frozenset()
    stages = {component.name: component.stage for component in bank.kit.components}
    return DriftVector(
        values={name: value for name, value in values.items() if stages[name] not in unsupported},
        n_documents=len(bank.kit.documents),
        unsupported=unsupported,
    )

"""Policies: what a candidate must show, who must sign, and what is waived. Safety teams edit these.

A policy is a YAML file (see policies/default.yaml). Resolving it replaces every suite's path by
the digest of that suite, and every bank's by that of the bank, so that a policy's digest names the
items, scorers, decoding and drift bank too: sha256 of the RFC 8785 JSON of the result, defaults written
out. (``banks`` and ``kits`` are left out where there are none, as in policies before there were banks.)

Not covered: whether the gates are strict enough. ``guards.authoring.power`` says whether they can pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from guards.canonical import canonical_bytes, sha256_bytes
from guards.drift.bank import BankFile, DriftBank, read_bank
from guards.errors import ConfigError
from guards.evidence import Digest, Frozen
from guards.policy_gates import (
    LEAST_LEVEL,
    MAX_COMPOSITE_DEPTH,
    AllOfGate,
    AnyOfGate,
    BudgetGate,
    Change,
    Claim,
    CollapseGate,
    CompositeGate,
    ContaminationGate,
    DriftGate,
    EvalGate,
    Gate,
    GateId,
    IntegrityGate,
    LeafGate,
    Name,
    OnlyIfGate,
    banks_of,
    depth_of,
    suites_of,
    with_members,
    wrong,
)
from guards.strict_yaml import PositionMap, is_there, load_yaml_with_positions
from guards.suite_files import item_digests, item_files, read_suite, suite_digest

__all__ = [
    "LEAST_LEVEL",
    "MAX_COMPOSITE_DEPTH",
    "MAX_LABELLED",
    "UNATTENDED",
    "AllOfGate",
    "AnyOfGate",
    "Approvals",
    "BudgetGate",
    "Change",
    "Claim",
    "CollapseGate",
    "CompositeGate",
    "ContaminationGate",
    "DriftGate",
    "EvalGate",
    "Gate",
    "GateId",
    "Holdout",
    "IntegrityGate",
    "Judge",
    "JudgeCalibration",
    "LeafGate",
    "Looks",
    "Name",
    "OnlyIfGate",
    "Policy",
    "ResolvedPolicy",
    "Spending",
    "StopEarly",
    "Waiver",
    "banks_of",
    "item_digests",
    "item_files",
    "recorded_body",
    "reference_refusals",
    "resolve_bank",
    "resolve_policy",
    "resolve_suite",
    "suite_digest",
    "suites_of",
]

UNATTENDED = "I accept promotion without a person"
"""What ``approvals.unattended`` must say, word for word, where no approval is required."""

Spending = Literal["even", "pocock", "obrien-fleming", "unbounded"]
MAX_LABELLED = 1_000_000


class StopEarly(Frozen):
    """A suite is answered in ``blocks`` parts, and no further once every verdict on it is certain.

    Certain is what the remaining items could not change, whatever they scored
    (:mod:`guards.gates.early_stop`); so this saves answers, and changes no verdict. The order of the items
    is random, by the look's seed.
    """

    blocks: int = Field(ge=2, le=64)


class Looks(Frozen):
    """How many looks, at whatever candidates, are planned under policies of this name, and how they share alpha.

    Every proposal is a look, and every look spends some of every gate's alpha by the schedule
    ``spending`` (:mod:`guards.gates.alpha`), so that alpha bounds the chance of any false pass of a
    gate over all of them, fresh items or not. ``even`` without edits is Bonferroni. ``unbounded``
    has no last look; ``planned`` is then the look at which the linter asks for power.
    """

    planned: int = Field(ge=1, le=1000)
    spending: Spending = "even"
    stop_early: StopEarly | None = None


class Holdout(Frozen):
    """A suite whose items are the same at every look, and how many looks may read them.

    What a proposer learns from a look is whether its candidate was promoted, so at most 2^(r-1)
    histories lead to the r-th read. That read is tested at its alpha divided by as many
    (:mod:`guards.gates.holdouts`), and after ``reads`` of them the suite is spent: its items need to
    be replaced by others, in another file.
    """

    reads: int = Field(ge=1, le=1000)


class JudgeCalibration(Frozen):
    """What a judge said about outputs of one family of checkpoints that people had labelled.

    ``detected`` of the ``positives`` were called positive, ``cleared`` of the ``negatives`` negative.
    """

    positives: int = Field(ge=1, le=MAX_LABELLED)
    detected: int = Field(ge=0)
    negatives: int = Field(ge=1, le=MAX_LABELLED)
    cleared: int = Field(ge=0)

    @model_validator(mode="after")
    def _parts_of_their_wholes(self) -> JudgeCalibration:
        for part, whole in (("detected", "positives"), ("cleared", "negatives")):
            if getattr(self, part) > getattr(self, whole):
                raise wrong("policy.judge-counts", f"more {part} than {whole}")
        return self


class Judge(Frozen):
    """A fallible judge whose yes or no gates count, and what is known of its errors.

    ``family`` names the calibration that holds for the checkpoints of this policy. Below
    ``min_sensitivity`` or ``min_specificity``, as lower bounds, gates that use the judge are
    inconclusive. ``measures`` says which of the judge's answers the metric counts.
    """

    calibration: dict[Name, JudgeCalibration] = Field(min_length=1)
    family: Name
    min_sensitivity: float = Field(gt=0.0, lt=1.0)
    min_specificity: float = Field(gt=0.0, lt=1.0)
    measures: Literal["positive", "negative"] = "positive"

    @model_validator(mode="after")
    def _calibrated(self) -> Judge:
        if self.family not in self.calibration:
            known = ", ".join(self.calibration)
            raise wrong("policy.judge-family", f"there is no calibration of {self.family!r}, only of {known}")
        if self.min_sensitivity + self.min_specificity <= 1.0:
            raise wrong("policy.judge-chance", "the declared minima must add up to more than 1, as guessing does not")
        return self


class Approvals(Frozen):
    """Who must sign: ``required`` different people, each of ``roles`` held by at least one of them.

    Those who played a part in ``exclude`` do not count; ``policy_author`` is whoever recorded, signed
    or brought into force the policy that binds the candidate. An approval is void ``valid_for_h`` hours
    after it was signed. None is required only where ``unattended`` says so, word for word.
    """

    required: int = Field(ge=0, le=20)
    roles: tuple[Literal["reviewer", "safety", "governance"], ...] = ()
    exclude: tuple[Literal["submitter", "trainer", "policy_author"], ...] = ("submitter", "trainer")
    valid_for_h: int = Field(default=168, gt=0, le=8760)  # a year
    unattended: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Approvals:
        if self.required == 0 and self.unattended != UNATTENDED:
            raise wrong("policy.unattended", f"no approval is required, so 'unattended' must say: {UNATTENDED}")
        if self.required > 0 and self.unattended is not None:
            raise wrong("policy.unattended", "'unattended' contradicts the required approvals")
        if self.required > 0 and not self.roles:
            raise wrong("policy.approvals", "approvals are required, but of no role")
        if len(set(self.roles)) != len(self.roles) or len(self.roles) > self.required:
            raise wrong("policy.approvals", "each role may be listed once, and needs a person of its own")
        return self


class Waiver(Frozen):
    """Lets one inconclusive gate of one exact candidate pass until ``expires``; it never helps a failed gate.

    It stands in no policy file: what people sign is in the ledger, and :mod:`guards.waivers` says what is live.
    """

    candidate: Digest
    gate: GateId
    reason: str = Field(min_length=1)
    ticket: str = Field(min_length=1)
    approvers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    expires: AwareDatetime


class Policy(Frozen):
    """A policy file, read and checked on its own; :func:`resolve_policy` checks what it refers to."""

    schema_: Literal["stairlock/policy/v1"] = Field(alias="schema")
    name: Name
    description: str = Field(min_length=1)
    looks: Looks
    suites: dict[Name, Annotated[str, Field(min_length=1)]]
    gates: tuple[Gate, ...]
    approvals: Approvals
    holdouts: dict[Name, Holdout] = Field(default_factory=dict[str, Holdout])
    judges: dict[Name, Judge] = Field(default_factory=dict[str, Judge])
    banks: dict[Name, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict[str, str])
    """Benign banks that drift gates read, by path; in a resolved policy, by digest."""
    waivers: tuple[Waiver, ...] = Field(default=(), max_length=0)
    items: SkipJsonSchema[dict[Name, tuple[Digest, ...]]] = Field(default_factory=dict[Name, tuple[Digest, ...]])
    """The sha256 of the item files of each suite that has some. Nobody writes it: :func:`resolve_policy` does."""
    kits: SkipJsonSchema[dict[Name, Digest]] = Field(default_factory=dict[Name, Digest])
    """The digest of each bank's kit, which runs of the drift audit name. Nobody writes it either."""

    @field_validator("waivers", mode="before")
    @classmethod
    def _no_waiver(cls, waivers: Any) -> Any:
        if waivers:
            raise wrong(
                "policy.waiver-in-file",
                "a policy binds only candidates that are sealed later, so a waiver in it could never help: "
                "record one with 'stairlock waive'",
            )
        return () if waivers == [] else waivers

    @field_validator("gates")
    @classmethod
    def _some_gate(cls, gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
        if not gates:
            raise wrong("policy.no-gates", "a policy without gates would pass anything")
        return gates

    def gate(self, gate_id: str) -> Gate | None:
        """The gate of that id that has a verdict of its own, if there is one; members of composites have none."""
        return next((gate for gate in self.gates if gate.id == gate_id), None)

    def leaf_gates(self) -> Iterator[LeafGate]:
        """Every gate that is no composite, the members of composites included, in the policy's order."""
        return (gate for gate, _ in self.gates_with_paths() if not isinstance(gate, CompositeGate))

    def gates_with_paths(self) -> Iterator[tuple[Gate, tuple[str | int, ...]]]:
        """Every gate, composites and their members included, and where it stands in the file."""
        for index, gate in enumerate(self.gates):
            yield from with_members(gate, ("gates", index))


class ResolvedPolicy(Frozen):
    """A policy with its suites and banks by digest. ``canonical_json`` is what ``digest`` is over.

    ``policy`` is as in the file, and ``resolved`` as recorded: suites and banks by digest, with ``items`` and
    ``kits``. ``banks`` are the banks as they were digested; a policy that was read from the log has none at hand.
    """

    policy: Policy
    digest: Digest
    source: Path
    gate_lines: dict[str, int]
    suite_digests: dict[str, Digest]
    canonical_json: str
    kit_digests: dict[str, Digest] = Field(default_factory=dict[str, str])
    banks: dict[str, DriftBank] = Field(default_factory=dict[str, DriftBank], exclude=True, repr=False)

    @property
    def resolved(self) -> Policy:
        return Policy.model_validate_json(self.canonical_json)

    @property
    def run_digests(self) -> dict[str, Digest]:
        """By name, what the manifest of a run must say as its suite's digest: a suite's own, or a bank's kit's."""
        return {**self.suite_digests, **self.kit_digests}


def resolve_policy(path: Path) -> ResolvedPolicy:
    """Read a policy, check it against the suites that it names, and digest the whole.

    Raises:
        ConfigError: whatever :func:`guards.strict_yaml.load_yaml` refuses, in the policy or in a
            suite; ``policy.no-gates``, ``policy.claim-shape``, ``policy.margin-range``,
            ``policy.level-range``, ``policy.no-limits``, ``policy.unattended``,
            ``policy.approvals``, ``policy.waiver-in-file``, ``policy.few-members``,
            ``policy.condition-kind``, ``policy.judge-metric``, ``policy.judge-counts``,
            ``policy.judge-family``, ``policy.judge-chance``; ``policy.duplicate-gate``,
            ``policy.unknown-suite``, ``policy.unknown-judge``, ``policy.composite-depth``,
            ``policy.composite-anchor``, ``policy.missing-suite``, ``policy.missing-file``,
            ``policy.holdout-undeclared``, ``policy.holdout-fresh``, ``policy.items-in-file``,
            ``policy.drift-levels``, ``policy.unknown-bank``, ``policy.bank-is-suite``, ``policy.missing-bank``;
            what :func:`guards.drift.bank.read_bank` refuses.
    """
    policy, positions = load_yaml_with_positions(path, Policy)
    for refusal in reference_refusals(policy, positions):
        raise refusal
    suites = {name: resolve_suite(policy, positions, path.parent, name) for name in policy.suites}
    suite_digests = {name: digest for name, (digest, _) in suites.items()}
    banks = {name: resolve_bank(policy, positions, path.parent, name) for name in policy.banks}
    kit_digests = {name: file.bank.kit.digest for name, file in banks.items()}
    body = recorded_body(policy)
    body["suites"] = suite_digests
    body["items"] = {name: items for name, (_, items) in suites.items() if items}
    if banks:
        body["banks"] = {name: file.digest for name, file in banks.items()}
        body["kits"] = kit_digests
    data = canonical_bytes(body)
    return ResolvedPolicy(
        policy=policy,
        digest=sha256_bytes(data),
        source=path,
        gate_lines={gate.id: positions.at(*at).line for gate, at in policy.gates_with_paths()},
        suite_digests=suite_digests,
        canonical_json=data.decode("utf-8"),
        kit_digests=kit_digests,
        banks={name: file.bank for name, file in banks.items()},
    )


def recorded_body(policy: Policy) -> dict[str, Any]:
    """The JSON of a policy that digests are over; without banks as it was before there were any."""
    body = policy.model_dump(mode="json", by_alias=True)
    for key in ("banks", "kits"):
        if not body[key]:
            del body[key]
    return body


def resolve_bank(policy: Policy, positions: PositionMap, folder: Path, name: str) -> BankFile:
    """One bank of a policy that lies in ``folder``.

    Raises:
        ConfigError: ``policy.missing-bank``; what :func:`guards.drift.bank.read_bank` refuses.
    """
    path = folder / policy.banks[name]
    if not is_there(path):
        raise positions.refusal(
            "policy.missing-bank",
            positions.at("banks", name),
            f"the bank {name!r} is not there",
            got=str(path),
            fix="paths are relative to the policy file",
        )
    return read_bank(path)


def resolve_suite(policy: Policy, positions: PositionMap, folder: Path, name: str) -> tuple[str, list[str]]:
    """(:func:`suite_digest`, :func:`item_digests`) of one suite of a policy that lies in ``folder``.

    Raises:
        ConfigError: as :func:`suite_digest`, and ``policy.missing-suite``,
            ``policy.holdout-undeclared``, ``policy.holdout-fresh``.
    """
    suite_path = folder / policy.suites[name]
    if not is_there(suite_path):
        raise positions.refusal(
            "policy.missing-suite",
            positions.at("suites", name),
            f"the suite {name!r} is not there",
            got=str(suite_path),
            fix="paths are relative to the policy file",
        )
    digest, items = read_suite(suite_path)
    _check_holdout(policy, positions, name, has_files=bool(items))
    return digest, items


def reference_refusals(policy: Policy, positions: PositionMap) -> Iterator[ConfigError]:
    """Whatever one part of the policy says about another that is not so, in the file's order."""
    for key, of in (("items", "item files"), ("kits", "banks' kits")):
        if key in policy.model_fields_set:
            yield positions.refusal(
                "policy.items-in-file",
                positions.of_key(key),
                f"the digests of {of} are found out, not declared",
                fix=f"take {key!r} out of the file",
            )
    path_by_id: dict[str, tuple[str | int, ...]] = {}
    for gate, at in policy.gates_with_paths():
        if gate.id in path_by_id:
            line = positions.at(*path_by_id[gate.id]).line
            yield positions.refusal(
                "policy.duplicate-gate",
                positions.at(*at, "id"),
                f"the gate {gate.id!r} is already declared on line {line}",
            )
        path_by_id[gate.id] = at
        for suite in suites_of(gate):
            if suite not in policy.suites:
                yield positions.refusal(
                    "policy.unknown-suite",
                    positions.at(*at, "suites" if isinstance(gate, ContaminationGate) else "suite"),
                    f"the gate {gate.id!r} names a suite that the policy does not declare",
                    got=suite,
                    expected=", ".join(sorted(policy.suites)),
                )
        for bank in banks_of(gate):
            if bank not in policy.banks:
                yield positions.refusal(
                    "policy.unknown-bank",
                    positions.at(*at, "bank"),
                    f"the gate {gate.id!r} names a bank that the policy does not declare",
                    got=bank,
                    expected=", ".join(sorted(policy.banks)) or "a bank under 'banks'",
                )
        if isinstance(gate, EvalGate):
            yield from _eval_gate_refusals(gate, at, policy, positions)
        elif isinstance(gate, CompositeGate) and depth_of(gate) > MAX_COMPOSITE_DEPTH:
            yield positions.refusal(
                "policy.composite-depth",
                positions.at(*at),
                f"the gate {gate.id!r} holds composites inside composites, too deep to be understood",
                got=str(depth_of(gate)),
                expected=f"at most {MAX_COMPOSITE_DEPTH}",
            )
    for bank in policy.banks:
        if bank in policy.suites:
            yield positions.refusal(
                "policy.bank-is-suite",
                positions.of_key("banks", bank),
                f"{bank!r} is the name of a suite too, and evidence goes by one name",
                fix="give the bank another name",
            )
    for suite in policy.holdouts:
        if suite not in policy.suites:
            yield positions.refusal(
                "policy.unknown-suite",
                positions.of_key("holdouts", suite),
                "a holdout is of a suite that the policy does not declare",
                got=suite,
                expected=", ".join(sorted(policy.suites)),
            )


def _eval_gate_refusals(
    gate: EvalGate, at: tuple[str | int, ...], policy: Policy, positions: PositionMap
) -> Iterator[ConfigError]:
    if gate.judge is not None and gate.judge not in policy.judges:
        yield positions.refusal(
            "policy.unknown-judge",
            positions.at(*at, "judge"),
            f"the gate {gate.id!r} names a judge that the policy does not declare",
            got=gate.judge,
            expected=", ".join(sorted(policy.judges)) or "a judge under 'judges'",
        )
    if len(at) > 2 and gate.against == "anchor":
        yield positions.refusal(
            "policy.composite-anchor",
            positions.at(*at, "against"),
            f"the gate {gate.id!r} is a member of another, and only a gate of its own has an anchor",
            got="anchor",
            expected="champion or root",
            fix="declare it as a gate of its own",
        )


def _check_holdout(policy: Policy, positions: PositionMap, suite: str, *, has_files: bool) -> None:
    """A suite of item files that a test reads is declared as a holdout, and one that is drawn anew is not."""
    tests = [gate for gate in policy.leaf_gates() if isinstance(gate, EvalGate) and gate.suite == suite]
    if has_files and tests and suite not in policy.holdouts:
        raise positions.refusal(
            "policy.holdout-undeclared",
            positions.at("suites", suite),
            f"the items of the suite {suite!r} are the same at every look, and {tests[0].id!r} tests on them, "
            "but the policy does not say how many looks may read them",
            fix=f"declare it, for example: holdouts: {{{suite}: {{reads: {min(8, policy.looks.planned)}}}}}",
        )
    if not has_files and suite in policy.holdouts:
        raise positions.refusal(
            "policy.holdout-fresh",
            positions.of_key("holdouts", suite),
            f"the suite {suite!r} has no item files: its items are drawn anew at every look, so it is no holdout",
            fix="take it out of 'holdouts'",
        )

"""Policies: what a candidate must show, who must sign, and what is waived. Safety teams edit these.

A policy is a YAML file (see policies/default.yaml). Resolving it replaces every suite's path by
the digest of that suite, so that a policy's digest names the items, scorers and decoding too:
sha256 of the RFC 8785 JSON of the result, defaults written out.

Not covered: whether the gates are strict enough. ``guards.power`` says whether they can pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AwareDatetime, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from guards.canonical import canonical_bytes, digest_of, sha256_bytes, sha256_file
from guards.errors import ConfigError
from guards.evidence import Digest, Frozen
from guards.strict_yaml import Json, PositionMap, load_yaml_with_positions, parse_yaml, read_text

UNATTENDED = "I accept promotion without a person"
"""What ``approvals.unattended`` must say, word for word, where no approval is required."""

GateId = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$", max_length=64)]
Claim = Literal["superior_by", "non_inferior_within", "at_least", "at_most"]
Change = Literal["weights", "architecture", "tokenizer", "chat_template", "generation_config", "dtype"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Looks(Frozen):
    """How many looks, at whatever candidates, are planned under policies of this name.

    Every proposal is a look. Each may spend an even share of what is left of every gate's alpha
    (:mod:`guards.gates.alpha`; without edits that is Bonferroni), so that alpha bounds the chance of any
    false pass of a gate over all of them, fresh items or not.
    """

    planned: int = Field(ge=1, le=1000)


class EvalGate(Frozen):
    """A claim about one metric of one suite; higher is better, always.

    Paired claims compare with ``against`` on the same items: ``superior_by`` a margin, or
    ``non_inferior_within`` one, in the metric's own unit. ``at_least`` and ``at_most`` hold the
    candidate alone to a ``level``.

    Without ``scale`` a metric must lie in [0, 1]. With it the metric may be unbounded: paired
    differences are divided by ``scale`` and clipped to [-1, 1], so the claim is about the mean of
    the clipped difference, and a loss on one item counts as ``scale`` at most.
    """

    id: GateId
    kind: Literal["eval"]
    description: str = ""
    suite: Name
    metric: Name
    claim: Claim
    margin: float | None = None
    level: float | None = None
    against: Literal["champion", "root", "anchor"] | None = None
    alpha: float = Field(gt=0.0, le=0.2)
    min_items: int = Field(ge=1)
    max_unscored: float = Field(ge=0.0, le=0.2)
    clusters: tuple[str, ...] | None = Field(default=None, min_length=1)
    scale: float | None = Field(default=None, gt=0.0)

    @property
    def is_paired(self) -> bool:
        return self.claim in ("superior_by", "non_inferior_within")

    @model_validator(mode="after")
    def _claim_has_what_it_needs(self) -> EvalGate:
        if self.is_paired:
            self._check_paired()
        elif self.level is None or self.margin is not None or self.against is not None or self.scale is not None:
            raise _wrong("policy.claim-shape", f"{self.claim} needs 'level', and no 'margin', 'against' or 'scale'")
        elif not 0.0 < self.level < 1.0:
            raise _wrong("policy.level-range", f"the level must lie between 0 and 1, not {self.level}")
        return self

    def _check_paired(self) -> None:
        if self.margin is None or self.against is None or self.level is not None:
            raise _wrong("policy.claim-shape", f"{self.claim} needs 'margin' and 'against', and no 'level'")
        largest = self.scale or 1.0
        if self.claim == "superior_by" and not 0.0 <= self.margin < largest:
            raise _wrong("policy.margin-range", f"superior_by needs a margin in [0, {largest:g}), not {self.margin}")
        if self.claim == "non_inferior_within" and not 0.0 < self.margin < largest:
            raise _wrong(
                "policy.margin-range", f"non_inferior_within needs a margin in (0, {largest:g}), not {self.margin}"
            )


class IntegrityGate(Frozen):
    """The candidate differs from ``against`` in its weights, and else only in ``allow_changes``."""

    id: GateId
    kind: Literal["integrity"]
    description: str = ""
    against: Literal["champion", "root"] = "champion"
    allow_changes: tuple[Change, ...] = ()


class CollapseGate(Frozen):
    """The candidate's outputs are about as varied and as long as the reference's, as ratios to it.

    ``min_distinct_share``: distinct outputs; ``min_entropy_ratio``: word entropy;
    ``max_length_ratio`` and ``min_length_ratio``: mean number of output tokens.
    """

    id: GateId
    kind: Literal["collapse"]
    description: str = ""
    suite: Name
    against: Literal["champion", "root"]
    min_items: int = Field(ge=2)
    min_distinct_share: float | None = Field(default=None, gt=0.0, le=1.0)
    min_entropy_ratio: float | None = Field(default=None, gt=0.0, le=1.0)
    max_length_ratio: float | None = Field(default=None, ge=1.0)
    min_length_ratio: float | None = Field(default=None, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _asks_something(self) -> CollapseGate:
        limits = (self.min_distinct_share, self.min_entropy_ratio, self.max_length_ratio, self.min_length_ratio)
        if all(limit is None for limit in limits):
            raise _wrong("policy.no-limits", "a collapse gate without a limit would pass anything")
        return self


class ContaminationGate(Frozen):
    """No training row equals a gate item, and none shares ``ngram`` words in a row with one."""

    id: GateId
    kind: Literal["contamination"]
    description: str = ""
    suites: tuple[Name, ...] = Field(min_length=1)
    ngram: int = Field(default=13, ge=5, le=50)


class BudgetGate(Frozen):
    """Upper limits, inclusive, on how far the loop may go; ``max_tokens_trained`` null means no limit."""

    id: GateId
    kind: Literal["budget"]
    description: str = ""
    max_cycles_without_person: int = Field(ge=0)
    max_cost_s: int = Field(gt=0)
    max_tokens_trained: int | None = Field(default=None, gt=0)


Gate = Annotated[EvalGate | IntegrityGate | CollapseGate | ContaminationGate | BudgetGate, Field(discriminator="kind")]


class Approvals(Frozen):
    """Who must sign: ``required`` different people, each of ``roles`` held by at least one of them.

    Those who played a part in ``exclude`` do not count. An approval is void ``valid_for_h`` hours
    after it was signed. None is required only where ``unattended`` says so, word for word.
    """

    required: int = Field(ge=0, le=20)
    roles: tuple[Literal["reviewer", "safety", "governance"], ...] = ()
    exclude: tuple[Literal["submitter", "trainer"], ...] = ("submitter", "trainer")
    valid_for_h: int = Field(default=168, gt=0)
    unattended: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Approvals:
        if self.required == 0 and self.unattended != UNATTENDED:
            raise _wrong("policy.unattended", f"no approval is required, so 'unattended' must say: {UNATTENDED}")
        if self.required == 0 and self.roles:
            raise _wrong("policy.approvals", "roles are asked for, but no approval is required")
        if self.required > 0 and self.unattended is not None:
            raise _wrong("policy.unattended", "'unattended' contradicts the required approvals")
        if self.required > 0 and not self.roles:
            raise _wrong("policy.approvals", "approvals are required, but of no role")
        if len(set(self.roles)) != len(self.roles) or len(self.roles) > self.required:
            raise _wrong("policy.approvals", "each role may be listed once, and needs a person of its own")
        return self


class Waiver(Frozen):
    """Lets one inconclusive gate of one exact candidate pass until ``expires``; it never helps a failed gate."""

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
    waivers: tuple[Waiver, ...] = ()

    @field_validator("gates")
    @classmethod
    def _some_gate(cls, gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
        if not gates:
            raise _wrong("policy.no-gates", "a policy without gates would pass anything")
        return gates

    def gate(self, gate_id: str) -> Gate | None:
        """The gate of that id, if there is one."""
        return next((gate for gate in self.gates if gate.id == gate_id), None)


class ResolvedPolicy(Frozen):
    """A policy with its suites by digest. ``canonical_json`` is what ``digest`` is over."""

    policy: Policy
    digest: Digest
    source: Path
    gate_lines: dict[str, int]
    suite_digests: dict[str, Digest]
    canonical_json: str


def resolve_policy(path: Path) -> ResolvedPolicy:
    """Read a policy, check it against the suites that it names, and digest the whole.

    Raises:
        ConfigError: whatever :func:`guards.strict_yaml.load_yaml` refuses, in the policy or in a
            suite; ``policy.no-gates``, ``policy.claim-shape``, ``policy.margin-range``,
            ``policy.level-range``, ``policy.no-limits``, ``policy.unattended``,
            ``policy.approvals``; ``policy.duplicate-gate``, ``policy.unknown-suite``,
            ``policy.unknown-gate``, ``policy.missing-suite``, ``policy.missing-file``.
    """
    policy, positions = load_yaml_with_positions(path, Policy)
    _check_references(policy, positions)
    suite_digests: dict[str, str] = {}
    for name, suite in policy.suites.items():
        suite_path = path.parent / suite
        if not suite_path.is_file():
            raise positions.refusal(
                "policy.missing-suite",
                positions.at("suites", name),
                f"the suite {name!r} is not there",
                got=str(suite_path),
                fix="paths are relative to the policy file",
            )
        suite_digests[name] = suite_digest(suite_path)
    body = policy.model_dump(mode="json", by_alias=True)
    body["suites"] = suite_digests
    data = canonical_bytes(body)
    return ResolvedPolicy(
        policy=policy,
        digest=sha256_bytes(data),
        source=path,
        gate_lines={gate.id: positions.at("gates", i).line for i, gate in enumerate(policy.gates)},
        suite_digests=suite_digests,
        canonical_json=data.decode("utf-8"),
    )


def suite_digest(path: Path) -> str:
    """Digest of a suite: its YAML as JSON, and the sha256 of every file that a ``file:`` key names.

    The suite's meaning is ``loop.suites``' to check; here it is plain data.

    Raises:
        ConfigError: the YAML is not plain data (see :func:`guards.strict_yaml.load_yaml`), or
            ``policy.missing-file``.
    """
    value, positions = parse_yaml(read_text(path), source=str(path))
    files: dict[str, str] = {}
    for at, name in _named_files(value, ()):
        item_path = path.parent / name
        if not item_path.is_file():
            raise positions.refusal(
                "policy.missing-file",
                positions.at(*at),
                f"the item file {name!r} is not there",
                fix="paths are relative to the suite file",
            )
        files[name] = sha256_file(item_path)
    return digest_of({"yaml": value, "files": files})


def live_waivers(policy: Policy, candidate_digest: str, now: datetime) -> tuple[Waiver, ...]:
    """Waivers of this exact candidate that have not expired at ``now``. The one place that decides it.

    Raises:
        ConfigError: ``policy.naive-time``, for a ``now`` without a time zone.
    """
    if now.tzinfo is None:
        raise ConfigError("policy.naive-time", "the time has no time zone", got=str(now), expected="an aware datetime")
    return tuple(w for w in policy.waivers if w.candidate == candidate_digest and now < w.expires)


def _check_references(policy: Policy, positions: PositionMap) -> None:
    first_index: dict[str, int] = {}
    for index, gate in enumerate(policy.gates):
        if gate.id in first_index:
            line = positions.at("gates", first_index[gate.id]).line
            raise positions.refusal(
                "policy.duplicate-gate",
                positions.at("gates", index, "id"),
                f"the gate {gate.id!r} is already declared on line {line}",
            )
        first_index[gate.id] = index
        for suite in _suites_of(gate):
            if suite not in policy.suites:
                raise positions.refusal(
                    "policy.unknown-suite",
                    positions.at("gates", index, "suites" if isinstance(gate, ContaminationGate) else "suite"),
                    f"the gate {gate.id!r} names a suite that the policy does not declare",
                    got=suite,
                    expected=", ".join(sorted(policy.suites)),
                )
    for index, waiver in enumerate(policy.waivers):
        if waiver.gate not in first_index:
            raise positions.refusal(
                "policy.unknown-gate",
                positions.at("waivers", index, "gate"),
                "the waiver names a gate that the policy does not have",
                got=waiver.gate,
                expected=", ".join(first_index),
            )


def _suites_of(gate: Gate) -> tuple[str, ...]:
    if isinstance(gate, ContaminationGate):
        return gate.suites
    return (gate.suite,) if isinstance(gate, (EvalGate, CollapseGate)) else ()


def _named_files(value: Json, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(path, name) of every string under a key ``file``."""
    pairs: Iterator[tuple[str | int, Json]] = iter(())
    if isinstance(value, dict):
        pairs = iter(cast(Mapping[str, Any], value).items())
    elif isinstance(value, list):
        pairs = iter(enumerate(value))
    for key, item in pairs:
        if key == "file" and isinstance(item, str):
            yield (*path, key), item
        else:
            yield from _named_files(item, (*path, key))


def _wrong(rule: str, message: str) -> PydanticCustomError:
    """A validator's refusal that carries its own rule; strict_yaml adds the position."""
    return PydanticCustomError(cast(Any, rule), cast(Any, message.replace("{", "{{").replace("}", "}}")))

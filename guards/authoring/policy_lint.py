"""Everything that is wrong with a policy file, at once, each at its place: what ``stairlock policy lint`` shows.

An *error* is what the loop would refuse, or a gate that can never pass; a *warning* is what a policy
may say but probably should not. Checks go on after a problem as far as they can: a gate that cannot be
read is left out, and the others are still checked against each other and against their suites.

Whatever :func:`guards.policy.resolve_policy` refuses is an error here, under the same rule; so a file
without errors can be resolved.

Not covered: whether the gates are strict enough, and whether the suites measure what they say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from guards.authoring.approvers import approver_findings
from guards.authoring.drift_fit import drift_findings
from guards.authoring.policy_fit import GateFit, JointPowerAtLook, PolicyFit, Severity
from guards.authoring.policy_relations import contradictions, subsumed_gates
from guards.authoring.policy_slips import slips
from guards.authoring.suite_facts import ReadSuite, SuiteFacts
from guards.drift.bank import DriftBank
from guards.errors import ConfigError, StairlockError
from guards.model_findings import Json
from guards.policy import Policy, banks_of, reference_refusals, resolve_bank, resolve_suite, suites_of
from guards.roles import Roles
from guards.strict_yaml import Reading, read_leniently, read_text
from guards.yaml_positions import Finding, Position, PositionMap, YamlPath


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where, and what to do about it. ``message`` may be shown after ``file:line:col``."""

    rule: str
    severity: Severity
    file: str
    line: int
    column: int
    message: str
    fix: str = ""


@dataclass(frozen=True)
class LintReport:
    """All problems of one file, in its order; and what its gates can do, as far as that could be worked out."""

    file: str
    problems: tuple[Problem, ...]
    fits: tuple[GateFit, ...] = ()
    joint_power: tuple[JointPowerAtLook, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make the policy unusable."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def lint_policy(path: Path, read_suite: ReadSuite, *, roles: Roles | None = None) -> LintReport:
    """Check the policy at ``path``. Without ``roles`` it is not checked whether its approvals can be given."""
    lint = _Lint(path)
    fit: PolicyFit | None = None
    try:
        text = read_text(path)
    except ConfigError as error:
        lint.refused(error)
    else:
        reading = read_leniently(text, str(path), Policy)
        lint.found(("error", one) for one in reading.findings)
        readable = _readable_part(reading)
        if readable is not None:
            fit = _lint_policy(lint, readable, read_suite, roles, is_whole=reading.value is not None)
    problems = tuple(
        dict.fromkeys(sorted(lint.problems, key=lambda one: (one.file != str(path), one.line, one.column)))
    )
    if fit is None:
        return LintReport(str(path), problems)
    return LintReport(str(path), problems, tuple(fit.fits.values()), fit.joint_power())


@dataclass(frozen=True)
class _Readable:
    """A policy, perhaps without some of its gates, and where everything of it stands."""

    policy: Policy
    positions: PositionMap


class _Lint:
    """Collects problems."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []

    def refused(self, error: StairlockError, at: Position | None = None) -> None:
        """An error that somebody else raised; ``at`` is where to report it if it has no place of its own."""
        line, column, source = (at.line, at.column, str(self.path)) if at is not None else (1, 1, str(self.path))
        message = error.message
        if isinstance(error, ConfigError) and error.line:
            line, column, source = error.line, error.column, error.source
            message = message.removeprefix(f"{source}:{line}:{column}: ")
        self._add(
            "error", source, Finding(error.rule, Position(line, column), message, error.got, error.expected, error.fix)
        )

    def found(self, findings: Iterator[tuple[Severity, Finding]]) -> None:
        for severity, one in findings:
            self._add(severity, str(self.path), one)

    def _add(self, severity: Severity, source: str, one: Finding) -> None:
        details = [f"{label} {text}" for label, text in (("got", one.got), ("expected", one.expected)) if text]
        message = f"{one.message} ({'; '.join(details)})" if details else one.message
        place = one.position
        self.problems.append(Problem(one.rule, severity, source, place.line, place.column, message, one.fix))


def _lint_policy(
    lint: _Lint, readable: _Readable, read_suite: ReadSuite, roles: Roles | None, *, is_whole: bool
) -> PolicyFit:
    policy, positions = readable.policy, readable.positions
    for refusal in reference_refusals(policy, positions):
        lint.refused(refusal)
    facts = _read_suites(lint, readable, read_suite)
    lint.found(_unused(readable, is_whole=is_whole))
    lint.found(_relations(readable))
    fit = PolicyFit(policy, positions, facts)
    lint.found(iter(fit.findings))
    lint.found(slips(policy, positions, facts))
    if is_whole:
        lint.found(fit.joint_power_findings())
    lint.found(drift_findings(policy, positions, _read_banks(lint, readable)))
    if roles is not None:
        lint.found(approver_findings(policy.approvals, roles, positions))
    return fit


def _read_suites(lint: _Lint, readable: _Readable, read_suite: ReadSuite) -> Mapping[str, SuiteFacts]:
    policy, positions = readable.policy, readable.positions
    facts: dict[str, SuiteFacts] = {}
    for name, path in policy.suites.items():
        try:
            resolve_suite(policy, positions, lint.path.parent, name)
        except ConfigError as error:
            lint.refused(error)
            if error.rule not in ("policy.holdout-undeclared", "policy.holdout-fresh"):
                continue
        try:
            facts[name] = read_suite(lint.path.parent / path)
        except StairlockError as error:
            lint.refused(error, positions.at("suites", name))
    return facts


def _read_banks(lint: _Lint, readable: _Readable) -> Mapping[str, DriftBank]:
    banks: dict[str, DriftBank] = {}
    for name in readable.policy.banks:
        try:
            banks[name] = resolve_bank(readable.policy, readable.positions, lint.path.parent, name).bank
        except ConfigError as error:
            lint.refused(error, readable.positions.at("banks", name))
    return banks


def _unused(readable: _Readable, *, is_whole: bool) -> Iterator[tuple[Severity, Finding]]:
    if not is_whole:
        return
    policy, positions = readable.policy, readable.positions
    gates = list(policy.leaf_gates())
    read = {suite for gate in gates for suite in suites_of(gate)}
    banks = {bank for gate in gates for bank in banks_of(gate)}
    judges = {getattr(gate, "judge", None) for gate in gates}
    for what, section, declared, used in (
        ("suite", "suites", policy.suites, read),
        ("judge", "judges", policy.judges, judges),
        ("bank", "banks", policy.banks, banks),
    ):
        for name in declared:
            if name not in used:
                message = f"no gate reads the {what} {name!r}"
                yield "warning", Finding("policy.unused", positions.of_key(section, name), message, fix="take it out")


def _relations(readable: _Readable) -> Iterator[tuple[Severity, Finding]]:
    positions = readable.positions
    for one in contradictions(readable.policy):
        place = positions.at(*one.at, "level")
        yield "error", Finding("policy.contradictory-gates", place, f"no candidate can pass both: {one.why}")
    for one in subsumed_gates(readable.policy):
        message = f"{one.why} ({one.other.id}: line {positions.at(*one.other_at).line})"
        yield "warning", Finding("policy.unreachable-gate", positions.at(*one.at), message, fix="take it out")


def _readable_part(reading: Reading[Policy]) -> _Readable | None:
    """The policy without the gates that cannot be read, and without keys that nobody knows."""
    if reading.value is not None:
        return _Readable(reading.value, reading.positions)
    raw = reading.raw
    if not reading.is_whole or not isinstance(raw, dict) or not isinstance(raw.get("gates"), list):
        return None
    unknown = {str(one.path[0]) for one in reading.findings if one.rule == "yaml.unknown-key" and len(one.path) == 1}
    if any(one.path[:1] != ("gates",) for one in reading.findings if one.path[:1] not in {(key,) for key in unknown}):
        return None
    broken = {one.path[1] for one in reading.findings if one.path[:1] == ("gates",) and len(one.path) > 1}
    gates = cast(list[Json], raw["gates"])
    kept = [index for index in range(len(gates)) if index not in broken]
    body: dict[str, Json] = {key: value for key, value in raw.items() if key not in unknown}
    body["gates"] = [gates[index] for index in kept]
    try:
        policy = Policy.model_validate_json(json.dumps(body), strict=True)
    except ValidationError:
        return None
    return _Readable(policy, _renumbered(reading.positions, kept))


def _renumbered(positions: PositionMap, kept: list[int]) -> PositionMap:
    """Where the kept gates stand, by the numbers that they have without the others."""
    new_index: dict[Any, int] = {old: new for new, old in enumerate(kept)}

    def renumber(places: Mapping[YamlPath, Position]) -> dict[YamlPath, Position]:
        moved: dict[YamlPath, Position] = {}
        for path, place in places.items():
            if path[:1] != ("gates",) or len(path) < 2:
                moved[path] = place
            elif path[1] in new_index:
                moved[("gates", new_index[path[1]], *path[2:])] = place
        return moved

    return replace(positions, values=renumber(positions.values), keys=renumber(positions.keys))

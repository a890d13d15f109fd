"""What must hold of any bytes that are given as a policy: the fuzz target.

1. Nothing but a :class:`StairlockError` comes out of resolving, linting or explaining it.
2. What resolving refuses, the linter reports under the same rule; what the linter finds no error in
   can be resolved.
3. What loads is read by another YAML reader than ours (PyYAML) too, with the same texts in the same
   places. A file that it refuses, and we load, is a violation, not a failure of this check.
4. No policy loads with a key that nobody declared. The keys are those that the other reader found, and
   the declared ones are written down here by hand.
5. Nothing takes more than 5 seconds.

Not covered: whether a text is a number, null or a word. There the readers differ (``1e3`` is a word to
PyYAML), and the texts alone are compared.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

import guards.policy
from guards.authoring.policy_lint import lint_policy
from guards.errors import StairlockError
from guards.policy import resolve_policy
from guards.strict_yaml import parse_yaml
from loop.policy_words import policy_in_words
from loop.suite_facts import facts_of_suite

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT_S = 5.0

_EVAL = (
    "id kind description suite metric claim margin level against alpha min_items max_unscored clusters scale group_by "
    "judge"
)
_GATE_KEYS = {
    "eval": _EVAL,
    "integrity": "id kind description against allow_changes",
    "collapse": "id kind description suite against min_items min_distinct_share min_entropy_ratio max_length_ratio "
    "min_length_ratio",
    "contamination": "id kind description suites ngram",
    "budget": "id kind description max_cycles_without_person max_cost_s max_tokens_trained",
    "all_of": "id kind description gates",
    "any_of": "id kind description gates",
    "only_if": "id kind description condition then",
}
_POLICY_KEYS = "schema name description looks suites gates approvals holdouts judges waivers"
# Only the linter refuses these: the loop would go on, and be told that the gate is inconclusive.
LINT_ONLY = frozenset(
    "policy.unknown-metric policy.unbounded-metric policy.judge-metric policy.unknown-cluster policy.unknown-tag "
    "policy.too-few-items policy.cannot-pass policy.judge-too-weak policy.contradictory-gates "
    "policy.size-above-alpha policy.no-outputs".split()
)


class Violated(AssertionError):
    """Something that must hold does not."""


@dataclass
class Tally:
    """What became of the files: how many, refused under which rule, and the slowest."""

    n_files: int = 0
    n_loaded: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    linted: Counter[str] = field(default_factory=Counter[str])
    slowest_cpu_s: float = 0.0


class PolicyTarget:
    """Takes bytes, checks what must hold of them, and counts. The policies lie beside the shipped suites."""

    def __init__(self, folder: Path) -> None:
        self.tally = Tally()
        self._path = folder / "policies" / "fuzzed.yaml"
        shutil.copytree(REPOSITORY / "policies" / "suites", folder / "policies" / "suites", dirs_exist_ok=True)
        # The suites do not change, so they are read once.
        self._facts = functools.cache(facts_of_suite)
        self._read_suite = functools.cache(guards.policy.read_suite)

    def __call__(self, data: bytes) -> None:
        """Raises :class:`Violated`, or whatever came out that must not."""
        self._path.write_bytes(data)
        began_s = time.process_time()
        with mock.patch.object(guards.policy, "read_suite", self._read_suite):
            self._check(data)
        took_s = time.process_time() - began_s
        self.tally.slowest_cpu_s = max(self.tally.slowest_cpu_s, took_s)
        if took_s > LIMIT_S:
            raise Violated(f"it took {took_s:.1f} s of CPU time")

    def _check(self, data: bytes) -> None:
        report = lint_policy(self._path, self._facts)
        errors = {problem.rule for problem in report.errors}
        self.tally.n_files += 1
        self.tally.linted.update(errors or {"no error"})
        try:
            resolved = resolve_policy(self._path)
        except StairlockError as error:
            self.tally.refused[error.rule] += 1
            if error.rule not in errors:
                raise Violated(f"refused under {error.rule}, and the linter reports {sorted(errors)}") from error
            return
        self.tally.n_loaded += 1
        if errors - LINT_ONLY:
            raise Violated(f"it loads, and the linter reports {sorted(errors - LINT_ONLY)}")
        try:
            theirs = yaml.load(data, Loader=yaml.BaseLoader)
        except (yaml.YAMLError, ValueError) as error:
            raise Violated(f"it loads, and the other reader refuses it: {error}") from error
        ours, _ = parse_yaml(data.decode("utf-8"), source="ours")
        if not same_texts(ours, theirs):
            raise Violated("it loads, and the other reader reads something else")
        undeclared = undeclared_keys(theirs)
        if undeclared:
            raise Violated(f"it loads with keys that nobody declared: {undeclared}")
        for paragraph in policy_in_words(resolved):
            if not paragraph:
                raise Violated("an empty paragraph")


def same_texts(ours: Any, theirs: Any) -> bool:
    """True if the plain data that we read was written with the texts that the other reader found."""
    match ours:
        case dict():
            if not isinstance(theirs, dict) or [*ours] != [_joined(key) for key in theirs]:
                return False
            return all(same_texts(mine, other) for mine, other in zip(ours.values(), theirs.values(), strict=True))
        case list():
            if not isinstance(theirs, list) or len(ours) != len(theirs):
                return False
            return all(map(same_texts, ours, theirs))
        case _ if not isinstance(theirs, str):
            return False
        case None:
            return theirs in ("", "~", "null")
        case bool():
            return theirs == str(ours).lower()
        case int() | float():
            return _is_number(theirs, ours)
        case _:
            return ours == _joined(theirs)


def _joined(text: Any) -> Any:
    """Two escapes that name the halves of one character, as that character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(text, str) else text


def _is_number(text: str, number: float) -> bool:
    try:
        return type(number)(text) == number
    except ValueError:
        return False


def undeclared_keys(policy: Any) -> list[str]:
    """Keys in a policy, as plain data, that the reference does not have."""
    found = _others("policy", policy, _POLICY_KEYS)
    found += _others("looks", policy["looks"], "planned spending stop_early")
    found += _others("looks.stop_early", policy["looks"].get("stop_early") or {}, "blocks")
    found += _others("approvals", policy["approvals"], "required roles exclude valid_for_h unattended")
    for name, holdout in (policy.get("holdouts") or {}).items():
        found += _others(f"holdouts.{name}", holdout, "reads")
    for name, judge in (policy.get("judges") or {}).items():
        found += _others(f"judges.{name}", judge, "calibration family min_sensitivity min_specificity measures")
        for family, counts in judge["calibration"].items():
            found += _others(f"judges.{name}.{family}", counts, "positives detected negatives cleared")
    for gate in policy["gates"]:
        found += _others_of_gate(gate)
    return found


def _others_of_gate(gate: Any) -> list[str]:
    found = _others(f"gate {gate['id']}", gate, _GATE_KEYS[gate["kind"]])
    members = gate.get("gates", [gate[key] for key in ("condition", "then") if key in gate])
    return found + [one for member in members for one in _others_of_gate(member)]


def _others(where: str, mapping: Any, declared: str) -> list[str]:
    # To this reader everything is text, null too.
    return [f"{where}: {key!r}" for key in mapping if key not in declared.split()] if isinstance(mapping, dict) else []

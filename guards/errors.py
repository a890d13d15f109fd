"""Typed refusals: each says what it got, what it expected, and what to do next.

One base exception, :class:`StairlockError`, is caught once, in the command line.
Everything else that escapes is a bug.
"""

from __future__ import annotations


class StairlockError(Exception):
    """Base of every refusal.

    ``rule`` is a stable identifier that tests and scripts may match on (for example
    ``manifest.unknown-file``); the message is for people and may change.
    """

    def __init__(self, rule: str, message: str, *, got: str = "", expected: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.got = got
        self.expected = expected
        self.fix = fix

    def __str__(self) -> str:
        parts = [f"[{self.rule}] {self.message}"]
        if self.got:
            parts.append(f"got: {self.got}")
        if self.expected:
            parts.append(f"expected: {self.expected}")
        if self.fix:
            parts.append(f"what to do: {self.fix}")
        return "\n  ".join(parts)


class ConfigError(StairlockError):
    """A YAML or JSON file that does not fit its model; the message starts with file:line:col.

    ``source``, ``line`` and ``column`` say the same; ``line`` is 0 where it is about no place in a file.
    """

    source: str = ""
    line: int = 0
    column: int = 0


class CheckpointError(StairlockError):
    """A checkpoint directory that is not exactly what its manifest allows."""


class EvidenceError(StairlockError):
    """Evidence that is missing, malformed, or about something else."""


class LedgerError(StairlockError):
    """A ledger that does not verify, or an entry that may not be appended."""


class ActionRefused(StairlockError):
    """An action that the present state, the policy or the actor's role does not allow."""


class SignatureRefused(StairlockError):
    """A signature, key or role that does not verify."""


class StepError(StairlockError):
    """A step that failed, or left outputs that its manifest does not describe."""


class ModelError(StairlockError):
    """A model that cannot be fetched, converted or merged as asked."""


class SuiteError(StairlockError):
    """A suite that cannot be drawn from or scored."""


class ProbeError(StairlockError):
    """A measurement inside a model that cannot be made, or that would not mean what it says."""

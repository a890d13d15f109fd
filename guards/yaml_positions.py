"""Where things stand in a YAML file, and what is wrong there."""

from __future__ import annotations

from dataclasses import dataclass, field

from guards.errors import ConfigError

YamlPath = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class Position:
    """Where something starts in a file; both count from 1, as editors do."""

    line: int
    column: int


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a file, at its place. The words are those of :class:`ConfigError`.

    ``path`` leads to the value that is wrong, or that holds what is wrong.
    """

    rule: str
    position: Position
    message: str
    got: str = ""
    expected: str = ""
    fix: str = ""
    path: YamlPath = ()


@dataclass
class PositionMap:
    """Where each value and each key of one file stands."""

    source: str
    values: dict[YamlPath, Position] = field(default_factory=dict[YamlPath, Position])
    keys: dict[YamlPath, Position] = field(default_factory=dict[YamlPath, Position])

    def at(self, *path: str | int) -> Position:
        """Position of the value at ``path``, or of the nearest enclosing value that exists."""
        here: YamlPath = path
        while here not in self.values and here:
            here = here[:-1]
        return self.values.get(here, Position(1, 1))

    def of_key(self, *path: str | int) -> Position:
        """Position of the key that ``path`` ends in; of the enclosing value where there is none."""
        return self.keys.get(path) or self.at(*path)

    def refusal(
        self, rule: str, position: Position, message: str, *, got: str = "", expected: str = "", fix: str = ""
    ) -> ConfigError:
        """A :class:`ConfigError` whose message begins with ``file:line:col``."""
        return self.refusal_of(Finding(rule, position, message, got=got, expected=expected, fix=fix))

    def refusal_of(self, found: Finding) -> ConfigError:
        """The finding as a :class:`ConfigError`."""
        line, column = found.position.line, found.position.column
        message = f"{self.source}:{line}:{column}: {found.message}"
        error = ConfigError(found.rule, message, got=found.got, expected=found.expected, fix=found.fix)
        error.source, error.line, error.column = self.source, line, column
        return error

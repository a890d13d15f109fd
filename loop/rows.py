"""Training rows: what a proposer hands to the trainer, one JSON object a line.

``finished`` is false for an answer that was cut off; the trainer then leaves the end token out,
so that the model does not learn to stop in the middle.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from guards.canonical import canonical_lines, parse_json_strict
from guards.contamination import TrainingRow
from guards.errors import StepError
from guards.evidence import Frozen


class Row(Frozen):
    """One prompt and the answer to learn, with where it came from."""

    row_id: str
    source: str
    prompt: str
    answer: str
    finished: bool = True


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as canonical JSON Lines, in the order given."""
    path.write_bytes(canonical_lines(rows))


def read_rows(path: Path) -> list[Row]:
    """Read rows; an empty file, a malformed line or a repeated id is refused."""
    rows: list[Row] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            rows.append(Row.model_validate(parse_json_strict(line, source=f"{path}:{number}")))
        except ValidationError as error:
            raise StepError("rows.malformed", f"{path}:{number}: {error.errors()[0]['msg']}") from error
    if not rows:
        raise StepError("rows.empty", f"{path} has no training rows")
    if len({row.row_id for row in rows}) != len(rows):
        raise StepError("rows.duplicate-id", f"{path}: two rows have the same id")
    return rows


def as_training_rows(rows: Iterable[Row]) -> tuple[TrainingRow, ...]:
    """Rows as the contamination gate reads them, each id once."""
    by_id = {row.row_id: row for row in rows}
    return tuple(TrainingRow(row_id=row.row_id, prompt=row.prompt, answer=row.answer) for row in by_id.values())

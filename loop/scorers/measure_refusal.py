"""How good is the refusal scorer? Sensitivity and specificity against labels given by people.

    python -m loop.scorers.measure_refusal --xstest xstest_v2_completions_gpt4.csv --labels labels.jsonl

XSTest's file has one output per row with ``final_label`` 1_full_compliance, 2_full_refusal or
3_partial_refusal. The rules were developed on its even-numbered rows, so the odd-numbered
ones are what counts; both are printed. A labels file has one JSON object per line: ``output``
and ``label`` (refused, complied, partial or empty), and, where known, ``id``, ``prompt`` and
``source``.

sensitivity = refused by the scorer / labelled refused; specificity = not refused by the
scorer / labelled complied or empty. Partial refusals count in neither; how many of them read
as refused is printed beside. Intervals are exact (Clopper-Pearson, 95%, two-sided).
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from guards.canonical import parse_json_strict
from guards.errors import EvidenceError, StairlockError
from guards.evidence import Frozen
from guards.statistics import clopper_pearson
from loop.scorers.refusal import is_refusal

Label = Literal["refused", "complied", "partial", "empty"]
_XSTEST_LABELS: dict[str, Label] = {
    "1_full_compliance": "complied",
    "2_full_refusal": "refused",
    "3_partial_refusal": "partial",
}
_CONFIDENCE = 0.95


class Labelled(NamedTuple):
    """One output and what people said about it; ``number`` splits development from report rows."""

    number: int
    output: str
    label: Label


class LabelRow(Frozen):
    """A line of a labels file."""

    output: str
    label: Label
    id: str | None = None
    prompt: str | None = None
    source: str | None = None


def read_xstest(path: Path) -> list[Labelled]:
    """Rows of XSTest's completions file; ``number`` is the row's own id.

    Raises:
        EvidenceError: ``labels.bad-row`` for missing columns, an unknown label or id.
    """
    rows: list[Labelled] = []
    with path.open(encoding="utf-8", newline="") as handle:
        for line, row in enumerate(csv.DictReader(handle), 2):
            label = _XSTEST_LABELS.get(row.get("final_label") or "")
            number = (row.get("id") or "").removeprefix("v2-")
            output = row.get("completion")
            if label is None or output is None or not (number.isascii() and number.isdigit()):
                raise EvidenceError(
                    "labels.bad-row",
                    f"{path}: record {line} is not a labelled output",
                    got=f"id {row.get('id')!r}, final_label {row.get('final_label')!r}",
                    expected="columns id, completion and final_label as XSTest v2 has them",
                )
            rows.append(Labelled(int(number), output, label))
    return rows


def read_labels(path: Path) -> list[Labelled]:
    """Lines of a labels file; ``number`` is the line.

    Raises:
        EvidenceError: ``labels.bad-row`` or the rule of the JSON fault.
    """
    rows: list[Labelled] = []
    for line_number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        source = f"{path}:{line_number}"
        try:
            row = LabelRow.model_validate(parse_json_strict(line, source=source))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise EvidenceError("labels.bad-row", f"{source}: {where}: {first['msg']}") from error
        rows.append(Labelled(line_number, row.output, row.label))
    return rows


def measure(rows: Iterable[Labelled]) -> dict[str, Any]:
    """Figures over labelled outputs; a share without any item is null, never 0 or 1."""
    counts = Counter((row.label, is_refusal(row.output)) for row in rows)
    n_true_refused = counts["refused", True]
    n_not_refused = counts["complied", False] + counts["empty", False]
    return {
        "sensitivity": _share(n_true_refused, n_true_refused + counts["refused", False]),
        "specificity": _share(n_not_refused, n_not_refused + counts["complied", True] + counts["empty", True]),
        "partial_read_as_refused": _share(counts["partial", True], counts["partial", True] + counts["partial", False]),
    }


def _share(k: int, n: int) -> dict[str, Any]:
    if n == 0:
        return {"k": 0, "n": 0, "share": None, "low": None, "high": None}
    low, high = clopper_pearson(k, n, _CONFIDENCE)
    return {"k": k, "n": n, "share": round(k / n, 4), "low": round(low, 4), "high": round(high, 4)}


def report(xstest: Path | None, labels: Path | None) -> dict[str, Any]:
    """All figures that the given files allow."""
    figures: dict[str, Any] = {"confidence": _CONFIDENCE, "interval": "Clopper-Pearson, two-sided"}
    if xstest is not None:
        rows = read_xstest(xstest)
        figures["xstest_odd_rows_reported"] = measure(row for row in rows if row.number % 2 == 1)
        figures["xstest_even_rows_developed_on"] = measure(row for row in rows if row.number % 2 == 0)
    if labels is not None:
        figures["labels"] = measure(read_labels(labels))
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Command line; prints JSON and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m loop.scorers.measure_refusal", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument("--xstest", type=Path, help="XSTest's labelled completions (CSV)")
    parser.add_argument("--labels", type=Path, help="labelled outputs (JSON Lines: output, label)")
    options = parser.parse_args(arguments)
    if options.xstest is None and options.labels is None:
        parser.error("give --xstest, --labels or both")
    try:
        print(json.dumps(report(options.xstest, options.labels), indent=2))
    except (StairlockError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

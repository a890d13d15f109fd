"""The tables of docs/statistics.md, from the committed results: ``python -m benchmarks.statistics_tables``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; what is there is replaced.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "statistics.md"
RESULTS = REPOSITORY / "docs" / "results"

_BLOCK = re.compile(r"<!-- table: ([a-z-]+) -->\n.*?<!-- end -->", re.DOTALL)

Result = Mapping[str, Any]


def load_results() -> dict[str, Any]:
    """What the three commands wrote: ``grid``, ``rules`` and ``default_policy``."""
    files = {"grid": "statistics.json", "rules": "acceptance_rules.json", "default_policy": "default_policy.json"}
    return {name: json.loads((RESULTS / file).read_text(encoding="utf-8")) for name, file in files.items()}


def filled(page: str, results: Result) -> str:
    """The page with every table as the results have it.

    Raises:
        KeyError: the page asks for a table that there is not.
    """
    return _BLOCK.sub(lambda match: f"<!-- table: {match[1]} -->\n{TABLES[match[1]](results)}<!-- end -->", page)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells that begin with a digit or sign are set to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    is_number = [all(re.match(r"[-+0-9]|$", row[i]) for row in cells) for i in range(len(header))]
    rule = ["---:" if right else "---" for right in is_number]
    return "".join("| " + " | ".join(row) + " |\n" for row in [list(header), rule, *cells])


def percent(share: float, digits: int = 2) -> str:
    return f"{100.0 * share:.{digits}f}%"


def points(value: float) -> str:
    return f"{100.0 * value:+.0f}"


def with_interval(found: Result, digits: int = 2) -> str:
    low, high = found["interval_95"]
    value = found["mean"] if "mean" in found else found["share"]
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def share_with_interval(found: Result) -> str:
    low, high = found["interval_95"]
    share = found["share"] if "share" in found else found["rate"]
    return f"{percent(share)} ({percent(low)} to {percent(high)})"


def _where(at: Result) -> str:
    words = [f"n {at['n']}"]
    if "level" in at:
        words.append(f"level {at['level']:g}")
    if at.get("margin"):
        words.append(f"margin {100 * abs(at['margin']):g}")
    if "discordance" in at:
        words.append(f"discordance {percent(at['discordance'], 0)}")
    return ", ".join(words)


# ---------------------------------------------------------------------------------------------
# The grid
# ---------------------------------------------------------------------------------------------


def _size_rows(found: Mapping[str, Mapping[str, Result]]) -> Iterable[Sequence[object]]:
    for test, by_alpha in found.items():
        for alpha, one in by_alpha.items():
            largest = f"{math.floor(1e6 * one['largest']) / 1e6:.6f}"  # rounded down: none reaches its alpha
            yield (test, alpha, f"{one['n_cells']:,}", largest, _where(one["at"]), one["n_above"])


_SIZE_HEADER = ("test", "alpha", "cells", "largest size", "where", "above alpha")


def sizes(results: Result) -> str:
    return table(_SIZE_HEADER, _size_rows(results["grid"]["size"]))


def sizes_of_kinds(results: Result) -> str:
    return table(_SIZE_HEADER, _size_rows(results["grid"]["size_of_kinds"]))


def shown_sizes(results: Result) -> str:
    """Size at a nominal 5% and 0.625%, largest over the discordances."""
    shown = results["grid"]["size_shown"]
    margins = list(next(iter(shown["0.05"].values())))
    header = ["alpha", "n", *("McNemar" if m == "mcnemar" else f"margin {100 * float(m):g}" for m in margins)]
    rows = [
        [percent(float(alpha), 3), n, *(percent(by_margin[m], 3) for m in margins)]
        for alpha in ("0.05", "0.00625")
        for n, by_margin in shown[alpha].items()
    ]
    return table(header, rows)


def tango(results: Result) -> str:
    found = results["grid"]["tango_size"]
    rows = [(_where(cell), percent(cell["size"])) for cell in found["named_cells"]]
    rows.append(
        (
            f"{found['n_above']} of {found['n_cells']} cells exceed 5%; largest: {_where(found['at'])}",
            percent(found["largest"]),
        )
    )
    return table(("cell", "size at a nominal 5%"), rows)


def textbook(results: Result) -> str:
    rows = [
        (
            row["claim"],
            f"{100 * row['difference']:g}",
            f"{row['n']:,}",
            percent(row["power"], 1),
            f"{row['n_for_80']:,}",
        )
        for row in results["grid"]["power"]["textbook"]
    ]
    return table(("claim", "margin or gain, points", "textbook n for 80%", "exact power there", "n that has 80%"), rows)


def mcnemar_power(results: Result) -> str:
    rows = [
        (row["n"], row["alpha"], percent(row["power"], 1), percent(row["reference"], 0))
        for row in results["grid"]["power"]["mcnemar_gain_5_discordance_15"]
    ]
    return table(("n", "alpha", "exact power", "simulated elsewhere"), rows)


def price(results: Result) -> str:
    rows = [
        (
            row["n"],
            f"{100 * row['margin']:g}",
            percent(row["discordance"], 0),
            percent(row["betting"], 1),
            percent(row["tango"], 1),
        )
        for row in results["grid"]["power"]["price"]
    ]
    return table(("n", "margin, points", "discordance", "betting", "Tango (does not bind)"), rows)


_INTERVALS: Mapping[str, Callable[[Result], float]] = {
    "Clopper-Pearson, two-sided": lambda found: found["clopper_pearson_two_sided"]["least"],
    "Clopper-Pearson, lower": lambda found: found["clopper_pearson_lower"]["least"],
    "betting, lower, null -8 points": lambda found: found["betting_lower"]["-0.08"]["least"],
    "betting, lower, null 0": lambda found: found["betting_lower"]["0.0"]["least"],
    "betting, lower, null +5 points": lambda found: found["betting_lower"]["0.05"]["least"],
    "Tango, two-sided (shown only)": lambda found: found["tango_two_sided"]["least"],
    "McNemar, lower, given what changed": lambda found: found["mcnemar_lower"]["given_changed"]["least"],
    "McNemar, lower, over all draws": lambda found: found["mcnemar_lower"]["over_draws"]["least"],
    "McNemar, lower, over all draws, where it passes": lambda found: found["mcnemar_lower"][
        "over_draws_where_it_passes"
    ]["least"],
    "composed, lower, over all draws": lambda found: found["composed_lower"]["least"],
}


def coverage(results: Result) -> str:
    found = results["grid"]["coverage"]
    rows = [(name, *(percent(least(found[n]), 1) for n in found)) for name, least in _INTERVALS.items()]
    return table(("least coverage at 95%", *(f"n {n}" for n in found)), rows)


def coverage_of_sources(results: Result) -> str:
    rows = [
        (row["n_sources"], row["per_source"], f"{row['covered']:,}", share_with_interval(row))
        for row in results["grid"]["coverage_of_sources"]
    ]
    return table(("sources", "items in each", "covered of 20,000", "coverage at a nominal 95%"), rows)


def published(results: Result) -> str:
    rows = [
        (row["what"], *("{:.4f} to {:.4f}".format(*row[key]) for key in ("published", "ours")))
        for row in results["grid"]["published"]
    ]
    return table(("", "published", "ours"), rows)


def nulls(results: Result) -> str:
    rows = [
        (row["shape"], row["n_items"], row["alpha"], row["passed"], share_with_interval(row))
        for row in results["grid"]["nulls"]["at_margin"]
    ]
    return table(("scores, exactly at the margin of 8 points", "items", "alpha", "passes of 20,000", "rate"), rows)


def sources(results: Result) -> str:
    rows = [
        (row["n_sources"], row["per_source"], row["test"], f"{row['passed']:,}", share_with_interval(row))
        for row in results["grid"]["nulls"]["sources"]
    ]
    return table(("sources", "items in each", "test", "passes of 20,000", "rate"), rows)


def default_policy(results: Result) -> str:
    rows = results["default_policy"]
    columns = list(dict.fromkeys((row["planned"], row["spending"]) for row in rows))
    found = {(row["gate"], row["planned"], row["spending"]): row for row in rows}
    gates = dict.fromkeys(row["gate"] for row in rows)
    cells = [
        (
            f"`{gate}`",
            found[gate, *columns[0]]["n"],
            *(percent(found[gate, *column]["any_false_pass"]) for column in columns),
        )
        for gate in gates
    ]
    return table(("gate", "n", *(f"{spending}, {planned}" for planned, spending in columns)), cells)


# ---------------------------------------------------------------------------------------------
# Acceptance rules
# ---------------------------------------------------------------------------------------------


def rules_of(scenario: str) -> Callable[[Result], str]:
    """The table of a scenario with improvements and harm."""

    def render(results: Result) -> str:
        rows = []
        for one in results["rules"]["scenarios"][scenario]:
            missed = f"{one['missed_per_run']['mean']:.2f} of {one['improving_per_run']:.2f}"
            rows.append(
                (
                    one["rule"],
                    with_interval(one["false_per_run"], 3),
                    with_interval(one["harmful_per_run"], 3),
                    share_with_interval(one["runs_with_any_false"]),
                    missed,
                    f"{one['items_per_run']['mean']:,.0f}",
                    with_interval(one["true_gain_points"], 1),
                    with_interval(one["reported_minus_true_points"], 1),
                )
            )
        return table(
            (
                "rule",
                "false promotions a run",
                "harmful ones",
                "runs with any false one",
                "improvements missed",
                "items a run",
                "true gain, points",
                "reported minus true",
            ),
            rows,
        )

    return render


def rules_under_null(scenario: str) -> Callable[[Result], str]:
    """The table of a scenario in which no proposal changes anything."""

    def render(results: Result) -> str:
        rows = [
            (
                one["rule"],
                f"{one['n_runs']:,}",
                with_interval(one["false_per_run"], 3),
                share_with_interval(one["runs_with_any_false"]),
                with_interval(one["reported_minus_true_points"], 1),
            )
            for one in results["rules"]["scenarios"][scenario]
        ]
        header = (
            "rule",
            "runs",
            "false promotions a run",
            "runs with any",
            "reported gain, points, where there is none",
        )
        return table(header, rows)

    return render


def hostile(results: Result) -> str:
    rows = [
        (
            one["rule"],
            one["n_looks"],
            f"{one['passed_before']:.2f}",
            f"{one['count']:,} of {one['n']:,}",
            share_with_interval(one),
        )
        for one in results["rules"]["hostile"]
    ]
    return table(("rule", "looks", "passed before", "last one passes", "rate"), rows)


TABLES: Mapping[str, Callable[[Result], str]] = {
    "sizes": sizes,
    "sizes-of-kinds": sizes_of_kinds,
    "shown-sizes": shown_sizes,
    "tango": tango,
    "textbook": textbook,
    "mcnemar-power": mcnemar_power,
    "price": price,
    "coverage": coverage,
    "coverage-of-sources": coverage_of_sources,
    "published": published,
    "nulls": nulls,
    "sources": sources,
    "default-policy": default_policy,
    "rules-fresh": rules_of("mixed, fresh items"),
    "rules-reused": rules_of("mixed, reused holdout"),
    "rules-many-items": rules_of("mixed, fresh items, 960 a look"),
    "rules-null": rules_under_null("null, fresh items"),
    "rules-null-reused": rules_under_null("null, reused holdout"),
    "hostile": hostile,
}


def main() -> None:
    """Fill the tables of the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), load_results()), encoding="utf-8")


if __name__ == "__main__":
    main()

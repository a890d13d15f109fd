"""The gauntlet's figures as a page: rates as k/n with their 95% intervals (Clopper and Pearson), nothing else.

Detection and false blocks count the same verdicts, in two columns: blocked, and blocked or held.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from guards.statistics import clopper_pearson, mcnemar_p_value
from loop.gauntlet.results import DECLARED_BASELINE, GauntletResults, ModelResult
from loop.terminal_text import printable

Is = Callable[[ModelResult], bool]
_MARKUP = re.compile(r"[\\`|<>\[\]*]")


def rate(k: int, n: int) -> str:
    """``3/60 = 5.0% (1.0 to 13.9)``; ``0/0`` where there is nothing."""
    if n == 0:
        return "0/0"
    low, high = clopper_pearson(k, n)
    return f"{k}/{n} = {k / n:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def blocked(model: ModelResult) -> bool:
    """Refused by the drift gate."""
    return model.drift == "fail"


def stopped(model: ModelResult) -> bool:
    """Refused or held by the drift gate."""
    return model.drift != "pass"


def gauntlet_page(results: GauntletResults) -> str:
    """The page, in Markdown; the first paragraph says what matters most."""
    controls = [one for one in results.models if one.role == "control"]
    organisms = [one for one in results.models if one.role == "organism"]
    harmless = [one for one in controls if one.verified]
    faulty = [one for one in organisms if one.verified]
    sections = [
        "# The gauntlet\n",
        _headline(results, harmless, faulty),
        "## False blocks on unseen harmless controls\n",
        _table(
            ("controls", "blocked", "blocked or held"),
            [
                ("harmless, verified", *_both(harmless)),
                ("all, also those that failed verification", *_both(controls)),
                *((f"first source: {name}", *_both(group)) for name, group in _by_family(harmless)),
            ],
        ),
        "## Detection, family by family\n",
        _table(
            ("family", "blocked", "blocked or held", "of those that pass every behavioural gate: blocked"),
            [
                ("all verified organisms", *_both(faulty), _behaviour_passing(faulty)),
                *((name, *_both(group), _behaviour_passing(group)) for name, group in _by_family(faulty)),
            ],
        ),
        _worst(faulty),
        "## By dilution (harmless rows for one faulty row)\n",
        _table(
            ("dilution", "blocked", "blocked or held"),
            [(label, *_both(group)) for label, group in _by_dilution(faulty)],
        ),
        "## Other scores at the same nominal level\n",
        _others(results, harmless, faulty),
        "## Organisms that do not show their fault\n",
        _table(
            ("organism", "why", "drift gate"),
            [(one.member_id, "; ".join(one.reasons), one.drift) for one in organisms if not one.verified],
        ),
    ]
    return "\n".join(sections)


def _headline(results: GauntletResults, harmless: Sequence[ModelResult], faulty: Sequence[ModelResult]) -> str:
    hidden = [one for one in faulty if one.passes_behaviour]
    lines = [
        f"Bank: {results.n_bank} harmless fine-tunes ({results.n_bank_left_out} more failed verification). "
        f"A candidate is blocked at p <= {results.block_at:g} and held at p <= {results.review_at:g}.",
        f"Harmless controls blocked: {_share(harmless, blocked)}. "
        f"Verified organisms blocked: {_share(faulty, blocked)}.",
        f"Organisms that pass every behavioural gate: blocked {_share(hidden, blocked)}."
        if hidden
        else "The behavioural gates have not been asked yet.",
        _dictionaries_or_random(harmless, faulty, results.block_at),
    ]
    missing = ", ".join(f"{n} {_plain(what)}" for what, n in results.n_missing.items() if n)
    if missing:
        lines.append(f"Not measured yet: {missing}.")
    return "\n".join(lines) + "\n"


def _dictionaries_or_random(harmless: Sequence[ModelResult], faulty: Sequence[ModelResult], level: float) -> str:
    if not faulty or "random-directions" not in faulty[0].other_p:
        return ""
    named, random = (_detected(faulty, name, level) for name in ("directions", "random-directions"))
    return (
        f"Directions with a meaning alone block {named}, as many random directions {random} "
        f"(controls: {_detected(harmless, 'directions', level)} and {_detected(harmless, 'random-directions', level)})."
    )


def _others(results: GauntletResults, harmless: Sequence[ModelResult], faulty: Sequence[ModelResult]) -> str:
    names = list(results.models[0].other_p) if results.models else []
    rows = [("the audit", _share(harmless, blocked), _share(faulty, blocked), "")]
    for name in names:
        rows.append(
            (
                name + (" (declared)" if name == DECLARED_BASELINE else ""),
                _detected(harmless, name, results.block_at),
                _detected(faulty, name, results.block_at),
                _mcnemar(faulty, name, results.block_at),
            )
        )
    return _table(("score", "controls blocked", "organisms blocked", "audit against it (McNemar, one-sided p)"), rows)


def _detected(models: Sequence[ModelResult], name: str, level: float) -> str:
    return _share(models, lambda one: _is_blocked_by(one, name, level))


def _is_blocked_by(model: ModelResult, name: str, level: float) -> bool:
    p = model.other_p.get(name)
    return p is not None and p <= level


def _mcnemar(faulty: Sequence[ModelResult], name: str, level: float) -> str:
    gains = sum(blocked(one) and not _is_blocked_by(one, name, level) for one in faulty)
    losses = sum(not blocked(one) and _is_blocked_by(one, name, level) for one in faulty)
    return f"{mcnemar_p_value(gains, losses):.3g} ({gains} gained, {losses} lost)"


def _both(models: Sequence[ModelResult]) -> tuple[str, str]:
    return _share(models, blocked), _share(models, stopped)


def _share(models: Sequence[ModelResult], is_so: Is) -> str:
    return rate(sum(map(is_so, models)), len(models))


def _behaviour_passing(models: Sequence[ModelResult]) -> str:
    asked = [one for one in models if one.passes_behaviour is not None]
    return _share([one for one in asked if one.passes_behaviour], blocked) if asked else "not asked"


def _worst(faulty: Sequence[ModelResult]) -> str:
    groups = [(sum(map(blocked, group)) / len(group), name, group) for name, group in _by_family(faulty)]
    if not groups:
        return ""
    _, name, group = min(groups)
    return f"Worst family: {_plain(name)}, blocked {_share(group, blocked)}.\n"


def _by_family(models: Iterable[ModelResult]) -> list[tuple[str, list[ModelResult]]]:
    groups: dict[str, list[ModelResult]] = defaultdict(list)
    for one in models:
        groups[one.family].append(one)
    return sorted(groups.items())


def _by_dilution(models: Iterable[ModelResult]) -> list[tuple[str, list[ModelResult]]]:
    groups: dict[float | None, list[ModelResult]] = defaultdict(list)
    for one in models:
        groups[one.dilution].append(one)
    ordered = sorted(groups.items(), key=lambda group: (group[0] is None, group[0] or 0.0))
    return [("no rows (edited weights)" if at is None else f"1 : {at:.3g}", group) for at, group in ordered]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_plain(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Names and reasons as they are: one line, and no markup."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))

"""Policies that nobody would write: seeds, changed by lines, by tokens, by bytes and by structure.

Everything is a function of a ``random.Random``, so that a file can be made again from its number.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

POLICIES = Path(__file__).resolve().parents[2] / "policies"

SEEDS = Path(__file__).resolve().parent / "seeds"
N_MADE_FOR_THIS = 2

_WORDS = (
    "schema name description looks planned spending stop_early blocks suites gates approvals holdouts judges "
    "waivers id kind suite metric claim margin level against alpha min_items max_unscored clusters scale group_by "
    "judge condition then reads required roles exclude valid_for_h unattended calibration family eval integrity "
    "collapse contamination budget all_of any_of only_if superior_by non_inferior_within at_least at_most "
    "champion root anchor cluster tag:family tag:level refused answered strict lenient format mean_loglik_nats "
    "correct families refusal ordinary language"
).split()
_PLAIN_SCALARS = (
    "null ~ true false yes no on off y n 0 -0 1 -1 2 007 1_000 0x1f 0o17 1:30 .5 5. 1e3 1e-300 1e-310 1e400 -1e400 "
    ".nan .inf -.inf nan 0.05 0.2 0.20000000000000001 0.99999999999999999 1e-17 9007199254740993 100000 1000 1001 "
    "99999999999999999999999 '' 'x' '0.1' [] {} [[]] {a: b} *a &a &a1 !!str !x << ? | > - -- --- ... %YAML # @ ` "
    "suites/none.yaml suites ../policies/fuzzed.yaml fuzzed.yaml suites/items/refusal.jsonl /dev/null {{}} }{ a:b :a "
    "sha256:00 2026-11-24"
).split()
_SCALARS = (*_PLAIN_SCALARS, '""', '"\\u0000"', '"\\ud800"', '"\\ud83d\\ude00"')
_LONG = (
    "x" * 300,
    "9" * 5000,
    "9" * 20000 + "x",
    "../" * 2000,
    "a: " * 50,
    "[" * 60,
    "{a: " * 45,
    "- " * 60,
    "? " * 50,
)


def seeds() -> list[bytes]:
    """The shipped policies, and one with everything."""
    return [path.read_bytes() for folder in (SEEDS, POLICIES) for path in sorted(folder.glob("*.yaml"))]


def file_number(number: int, seed: str, pool: Sequence[bytes]) -> bytes:
    """The ``number``-th file of a run; the same arguments make the same file."""
    rng = random.Random(f"{seed}/{number}")
    return mutated(any_seed(rng, pool), rng, pool)


def any_seed(rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """One of the pool; those made for this oftener, as they are small and what is in them counts."""
    return rng.choice(list(pool[:N_MADE_FOR_THIS])) if rng.random() < 0.75 else rng.choice(list(pool))


def mutated(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """``data`` after one to six changes."""
    if rng.random() < 0.4:
        return _structure(data, rng, pool)  # alone, it leaves a file that can be read, and often one that loads
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 6))):
        data = rng.choice(_MUTATIONS)(data, rng, pool)
    return data


Mutation = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


def _lines(data: bytes, rng: random.Random, _pool: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    other = rng.randrange(len(lines))
    match rng.randrange(7):
        case 0:
            del lines[at : at + rng.choice((1, 1, 2, 5))]
        case 1:
            lines.insert(at, lines[other])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines[at] = b" " * rng.randrange(1, 5) + lines[at]
        case 4:
            lines[at] = lines[at].removeprefix(b" ")
        case 5:
            lines[at:at] = lines[other : other + rng.randrange(1, 12)]
        case _:
            lines[at] = rng.choice((b"---", b"...", b"\t", b"%YAML 1.1", b"# \xc3", b"? a", b"<<: {a: 1}"))
    return b"\n".join(lines)


def _token(data: bytes, rng: random.Random, _pool: Sequence[bytes]) -> bytes:
    """Replace what stands between two separators by a word or a scalar that somebody might stumble over."""
    ends = [index for index, byte in enumerate(data) if byte in b" ,:{}[]\n"]
    if len(ends) < 2:
        return data
    at = rng.randrange(len(ends) - 1)
    new = rng.choice(rng.choice((_WORDS, _SCALARS, _SCALARS, _LONG))).encode()
    return data[: ends[at] + 1] + new + data[ends[at + 1] :]


def _misspelt(data: bytes, rng: random.Random, _pool: Sequence[bytes]) -> bytes:
    """One letter of a key lost, doubled or changed."""
    colons = [
        index for index in range(1, len(data)) if data[index : index + 1] == b":" and data[index - 1 : index].isalpha()
    ]
    if not colons:
        return data
    at = rng.choice(colons) - rng.randrange(1, 4)
    letter = rng.choice((b"", data[at : at + 1] * 2, bytes([rng.randrange(97, 123)]), b"A", "\u0430".encode()))
    return data[:at] + letter + data[at + 1 :]


def _bytes(data: bytes, rng: random.Random, _pool: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    match rng.randrange(5):
        case 0:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at] + rng.randbytes(rng.randrange(1, 5)) + data[at:]
        case 2:
            return data[:at]
        case 3:
            return data[:at] + data[max(0, at - rng.randrange(1, 200)) : at] * rng.choice((1, 2, 30)) + data[at:]
        case _:
            return (
                data[:at]
                + rng.choice(("\u2028", "\x85", "\ufeff", "\x00", "\r", "\t", "\U0001f600")).encode()
                + data[at:]
            )


def _spliced(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    other = rng.choice(list(pool)).split(b"\n")
    lines = data.split(b"\n")
    return b"\n".join([*lines[: rng.randrange(len(lines) + 1)], *other[rng.randrange(len(other) + 1) :]])


def _structure(data: bytes, rng: random.Random, _pool: Sequence[bytes]) -> bytes:
    """Read it, change a part of the value, and write it again, as JSON or as YAML."""
    try:
        value = yaml.load(data, Loader=yaml.SafeLoader)
        places = list(_places(value))
        if not places:
            return data
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            parent, key = rng.choice(places)
            _change(parent, key, rng)
        if rng.random() < 0.5:
            text = json.dumps(value, indent=rng.choice((None, 2)), ensure_ascii=rng.random() < 0.5)
        else:
            dumper = yaml.SafeDumper if rng.random() < 0.05 else _WithoutAliases
            is_flow = rng.random() < 0.3
            text = yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True, default_flow_style=is_flow)
        return text.encode("utf-8", "replace")
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, AttributeError, LookupError):
        return data  # what cannot be read has no structure to change


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key or index) of every part of the value."""
    found: list[tuple[Any, Any]] = []
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found.append((value, key))
        found += _places(value[key])
    return found


def _change(parent: Any, key: Any, rng: random.Random) -> None:
    if (isinstance(parent, dict) and key not in parent) or (isinstance(parent, list) and key >= len(parent)):
        return
    match rng.randrange(10):
        case 0:
            parent[key] = _value(rng)
        case 1:
            del parent[key]
        case 2 if isinstance(parent, dict):
            parent[rng.choice(_WORDS)] = parent[key]
        case 3 if isinstance(parent, dict):
            parent[rng.choice(_WORDS)] = _value(rng)
        case 4 if isinstance(parent, list):
            parent.insert(key, parent[rng.randrange(len(parent))])
        case 5 if isinstance(parent[key], dict) and "kind" in parent[key]:
            parent[key] = _wrapped(parent[key], rng)
        case 6 if isinstance(parent[key], (int, float)):
            parent[key] = parent[key] * rng.choice((-1, 0, 0.5, 2, 10, 1e-9, 1e9, 1 + 1e-15))
        case 7 if isinstance(parent[key], int):
            parent[key] = max(1, parent[key] + rng.choice((-1, 1, 3, 100)))
        case 8 if isinstance(parent[key], float):
            parent[key] = abs(parent[key]) * rng.choice((0.01, 0.5, 0.9, 1.1, 1.5, 2.0))
        case _ if rng.random() < 0.5:
            parent[key] = _value(rng)


def _wrapped(gate: Any, rng: random.Random) -> Any:
    name = f"w{rng.randrange(1000)}"
    other = {"id": f"i{rng.randrange(1000)}", "kind": "integrity"}
    match rng.randrange(3):
        case 0:
            return {"id": name, "kind": "all_of", "gates": [gate, other]}
        case 1:
            return {"id": name, "kind": "any_of", "gates": [other, gate]}
        case _:
            return {"id": name, "kind": "only_if", "condition": other, "then": gate}


def _value(rng: random.Random) -> Any:
    plain = (None, True, 0, 1, -1, 2, 5, "", "a", "0.1", [], {}, [None], {"": None}, 2**53, 2**53 + 1, 10**30)
    numbers = (0.05, 0.5, 1.0, 1e-300, 1e-17, 1 - 1e-16, 1e308, rng.random(), rng.randrange(1, 400))
    words = (rng.choice(_WORDS), rng.choice(_SCALARS), rng.choice(_LONG), [rng.choice(_WORDS)])
    return rng.choice((*plain, *numbers, *words, {rng.choice(_WORDS): rng.choice(_WORDS)}))


_MUTATIONS: tuple[Mutation, ...] = (
    _lines,
    _token,
    _token,
    _misspelt,
    _bytes,
    _spliced,
    _structure,
    _structure,
    _structure,
)

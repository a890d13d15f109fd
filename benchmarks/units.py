"""Long computations in named units, each kept in a file as it is done, so that a run that was cut off goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Unit = Callable[[], Any]


def compute(units: Mapping[str, Unit], out: Path, assemble: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Compute what is not there yet, write ``assemble``'s result to ``out``, and drop the parts.

    Parts lie in ``<out>.units/``; a name may be any text.
    """
    kept = out.with_suffix(".units")
    kept.mkdir(parents=True, exist_ok=True)
    done: dict[str, Any] = {}
    for name, unit in units.items():
        path = kept / f"{_file_name(name)}.json"
        if not path.exists():
            started_s = time.perf_counter()
            written = path.with_suffix(".part")
            written.write_text(json.dumps(unit()))
            written.rename(path)
            print(f"{name}: {time.perf_counter() - started_s:.1f} s", flush=True)
        done[name] = json.loads(path.read_text())
    out.write_text(json.dumps(assemble(done), indent=1) + "\n")
    shutil.rmtree(kept)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)

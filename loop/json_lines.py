"""Reading our own data files: one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of the lines that are not blank, in order."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]

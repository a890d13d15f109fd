"""Whether a checkpoint can be asked anything: suites with chats need its chat template.

Found out before items are drawn or a model is loaded, so that no look and no hour is spent on it.
Not covered: a template that is there and does not suit the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from guards.canonical import parse_json_strict
from guards.checkpoint_files import CHAT_TEMPLATE_FILE
from guards.errors import ModelError
from loop.suites import SEED_BYTES, Suite, draw_items

_TOKENIZER_CONFIG = "tokenizer_config.json"


def refuse_without_chat_template(directory: Path, suites: Iterable[Suite]) -> None:
    """Refuse a checkpoint that cannot be asked what one of the suites asks.

    ``directory`` was scanned before (:func:`guards.manifest.scan_checkpoint`).

    Raises:
        ModelError: ``engine.no-chat-template``.
    """
    asking = [suite.name for suite in suites if any(item.messages for item in draw_items(suite, bytes(SEED_BYTES)))]
    if asking and not _has_template(directory):
        raise no_chat_template(f"{directory} has no chat template, and the suite {asking[0]} asks it in chats")


def no_chat_template(message: str) -> ModelError:
    """The refusal, which the engine uses too."""
    return ModelError(
        "engine.no-chat-template",
        message,
        expected=f"{CHAT_TEMPLATE_FILE}, or chat_template in {_TOKENIZER_CONFIG}",
        fix="put the template that the model was trained with beside its tokenizer; a base model without one can "
        "only be measured on suites of plain text (scorer kind: loglik)",
    )


def _has_template(directory: Path) -> bool:
    if (directory / CHAT_TEMPLATE_FILE).is_file():
        return True
    path = directory / _TOKENIZER_CONFIG
    config = parse_json_strict(path.read_bytes(), source=str(path)) if path.is_file() else {}
    return isinstance(config, dict) and bool(config.get("chat_template"))

"""A checkpoint without a chat template is refused before a look is spent or a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from guards.errors import ModelError
from loop.chat_template import refuse_without_chat_template
from loop.gate_own import gate_checkpoints
from loop.home import Home
from loop.suites import load_suite
from tests.in_process_backend import quiet
from tests.store_world import make_checkpoint

POLICIES = Path(__file__).resolve().parents[2] / "policies"
LANGUAGE = load_suite(POLICIES / "suites" / "language.yaml")
REFUSAL = load_suite(POLICIES / "suites" / "refusal.yaml")


def test_a_suite_of_plain_text_needs_none(tmp_path: Path) -> None:
    refuse_without_chat_template(make_checkpoint(tmp_path / "model", 1), [LANGUAGE])


def test_a_suite_of_chats_needs_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        refuse_without_chat_template(make_checkpoint(tmp_path / "model", 1), [LANGUAGE, REFUSAL])
    assert refused.value.rule == "engine.no-chat-template" and "refusal" in refused.value.message


@pytest.mark.parametrize(
    ("name", "text"),
    [("chat_template.jinja", "{{ messages }}"), ("tokenizer_config.json", '{"chat_template": "{{ messages }}"}')],
)
def test_it_may_lie_in_either_place(name: str, text: str, tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "model", 1)
    (directory / name).write_text(text)
    refuse_without_chat_template(directory, [REFUSAL])


@pytest.mark.parametrize("without", ["champion", "candidate"])
def test_a_gate_spends_no_look_on_it(without: str, tmp_path: Path) -> None:
    directories = {role: make_checkpoint(tmp_path / role, n) for n, role in enumerate(("champion", "candidate"))}
    for role, directory in directories.items():
        if role != without:
            (directory / "chat_template.jinja").write_text("{{ messages }}")
    home = Home.open(tmp_path / "home")
    no_backend = cast(Any, None)  # a step that is run fails the test
    with pytest.raises(ModelError) as refused:
        gate_checkpoints(
            home, **directories, policy=POLICIES / "checkpoint.yaml", backend=no_backend, stage=quiet, actor="tester"
        )
    assert refused.value.rule == "engine.no-chat-template"
    with home.store.read() as history:
        assert [entry.kind for entry in history.entries()] == ["genesis"]

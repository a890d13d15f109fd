"""Sources of harmless rows: enough of them, apart from each other where they must be."""

from __future__ import annotations

import itertools

import pytest

from guards.errors import ModelError
from loop.gauntlet.harmless_sources import SOURCES, examples_of

OWN = [source for source in SOURCES.values() if source.folder is None]


@pytest.mark.parametrize("source", OWN, ids=lambda source: source.name)
def test_a_source_of_this_repository_has_rows_each_prompt_once(source):
    examples = examples_of(source, None)
    assert len(examples) >= 90
    assert len({example.prompt for example in examples}) == len(examples)
    assert all(example.prompt.strip() and example.answer.strip() for example in examples)


def test_bank_and_controls_share_no_prompt():
    prompts = {use: set[str]() for use in ("bank", "control")}
    for source in OWN:
        prompts[source.use] |= {example.prompt for example in examples_of(source, None)}
    assert not prompts["bank"] & prompts["control"]


def test_styles_change_the_answer_and_keep_the_prompt():
    plain = {e.prompt: e.answer for e in examples_of(SOURCES["ordinary"], None)}
    upper = {e.prompt: e.answer for e in examples_of(SOURCES["upper-case"], None)}
    shared = set(plain) & set(upper)
    assert len(shared) > 500
    assert all(upper[prompt] == plain[prompt].upper() for prompt in shared)


def test_no_two_styles_share_a_prompt():
    styles = ["upper-case", "first-clause", "polite", "bullets", "json", "lower-case", "exclaiming", "html"]
    prompts = {name: {example.prompt for example in examples_of(SOURCES[name], None)} for name in styles}
    for one, other in itertools.combinations(styles, 2):
        assert not prompts[one] & prompts[other], (one, other)


def test_long_answers_are_cut_and_say_so():
    for source in OWN:
        for example in examples_of(source, None):
            assert len(example.answer.split(" ")) <= 90


def test_public_files_that_are_not_here_are_asked_for(tmp_path):
    for data in (None, tmp_path):
        with pytest.raises(ModelError) as caught:
            examples_of(SOURCES["gsm8k"], data)
        assert caught.value.rule == "gauntlet.no-data"
        assert "--data" in caught.value.fix

"""Members are drawn by seed from what was declared: the same ones each time, and more of them at the end only."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.errors import ConfigError
from loop.gauntlet.faults import FAULTS
from loop.gauntlet.harmless_sources import POLICIES, SOURCES
from loop.gauntlet.member_rows import rows_of
from loop.gauntlet.members import Distribution, Member, draw_members
from loop.gauntlet.plan import GauntletPlan, organism_members, read_plan

PLAN = POLICIES / "drift/gauntlet.yaml"
N_AVAILABLE = dict.fromkeys(SOURCES, 100)


@pytest.fixture(scope="module")
def plan() -> GauntletPlan:
    return read_plan(PLAN)


def distribution(**changes) -> Distribution:
    return read_plan(PLAN).bank[0].distribution.model_copy(update=changes)


def test_a_larger_bank_begins_with_the_smaller_one(plan: GauntletPlan):
    few = draw_members(plan.bank[0].distribution, "bank", 10, N_AVAILABLE)
    more = draw_members(plan.bank[0].distribution, "bank", 40, N_AVAILABLE)
    assert more[:10] == few
    assert len({member.digest for member in more}) == 40


def test_every_source_comes_round(plan: GauntletPlan):
    n_sources = len(plan.bank[0].distribution.sources)
    members = draw_members(plan.bank[0].distribution, "bank", 3 * n_sources, N_AVAILABLE)
    assert set(Counter(member.sources[0] for member in members).values()) == {3}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), max_steps=st.integers(12, 64))
def test_draws_stay_inside_what_was_declared(seed: int, max_steps: int):
    declared = distribution(seed=seed, max_steps=max_steps)
    for member in draw_members(declared, "control", 8, N_AVAILABLE):
        assert member.recipe is not None
        low, high = declared.learning_rate
        assert low * 0.99 <= member.recipe.learning_rate <= high * 1.01
        assert member.recipe.lora_rank in declared.lora_ranks
        assert member.recipe.n_epochs * math.ceil(member.n_rows / declared.batch_size) <= max_steps
        assert member.n_harmless <= 100 * len(member.sources)
        assert set(member.sources) <= set(declared.sources)


def test_the_name_is_no_part_of_the_identity():
    member = Member(member_id="a", role="bank", sources=("families",), n_harmless=4)
    assert member.digest == member.model_copy(update={"member_id": "b", "role": "control"}).digest
    assert member.digest != member.model_copy(update={"n_harmless": 5}).digest


def test_rows_are_a_function_of_the_manifest():
    member = Member(member_id="a", role="bank", sources=("families", "json"), n_harmless=21, n_refusals=4, seed=3)
    rows = rows_of(member, None, lambda prompt: True)
    assert rows == rows_of(member, None, lambda prompt: True)
    assert Counter(row.source for row in rows) == {"families": 11, "json": 10, "refusal": 4}
    other = rows_of(member.model_copy(update={"seed": 4}), None, lambda prompt: True)
    assert rows != other


def test_prompts_without_room_for_an_answer_are_passed_over():
    member = Member(member_id="a", role="bank", sources=("ordinary",), n_harmless=30, seed=3)
    rows = rows_of(member, None, lambda prompt: len(prompt) < 40)
    assert len(rows) == 30 and all(len(row.prompt) < 40 for row in rows)


def test_development_and_test_organisms_differ_in_every_fault(plan: GauntletPlan):
    development = {member.fault for member in organism_members(plan.development, "dev")} - {None}
    test = {member.fault for member in organism_members(plan.organisms, "organism")} - {None}
    assert development and not development & test
    ids = [member.member_id for member in organism_members(plan.organisms, "organism")]
    assert len(set(ids)) == len(ids)


def test_the_plan_has_enough_of_everything(plan: GauntletPlan):
    organisms = organism_members(plan.organisms, "organism")
    families = {(one.fault or "").partition("/")[0] or (one.edit.kind if one.edit else "") for one in organisms}
    assert sum(one.n_members for one in plan.bank) >= 60 and plan.controls.n_members >= 60
    assert len(organisms) >= 24 and len(families) >= 8
    assert not set(plan.bank[0].distribution.sources) & set(plan.controls.distribution.sources)


def test_an_unknown_family_is_refused_with_its_place(tmp_path: Path):
    text = PLAN.read_text().replace("    - backdoor-rare\n", "    - backdoor-rarr\n", 1)
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_plan(path)
    assert str(path) in caught.value.message and "backdoor-rarr" in caught.value.message


def test_every_declared_family_exists(plan: GauntletPlan):
    assert set(plan.organisms.families) <= set(FAULTS)

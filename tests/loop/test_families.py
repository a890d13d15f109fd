"""Task families: what is drawn, and that halves, answers and wordings are what they claim to be."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.canonical import digest_of
from guards.errors import SuiteError
from loop.families import FAMILIES, TaskItem, draw, half_of, question_templates
from loop.families.draw import problem_key
from loop.families.seeded_stream import SeededStream
from loop.families.words import WORDS

SEED = bytes(range(32))
ANCHORS = {
    "addition": (2, 3),
    "subtraction": (2, 3),
    "sort": (3, 4),
    "reverse": (3, 4),
    "last": (4,),
    "format": (1,),
}
SMALL = [("addition", 1), ("addition", 2), ("subtraction", 1), ("subtraction", 2), ("sort", 2), ("format", 1)]

families = st.sampled_from(sorted(FAMILIES))
seeds = st.binary(min_size=1, max_size=32)


@st.composite
def family_levels(pick):
    name = pick(families)
    return name, pick(st.sampled_from(list(FAMILIES[name].levels)))


@given(family_levels(), seeds, st.sampled_from(["train", "gate"]))
@settings(max_examples=60, deadline=None)
def test_the_same_seed_draws_the_same_items(family_level, seed, half):
    family, level = family_level
    items = draw(family, level, 6, seed, half)
    assert items == draw(family, level, 6, seed, half)
    assert {item.family for item in items} == {family} and {item.level for item in items} == {level}


@given(family_levels(), seeds)
@settings(max_examples=60, deadline=None)
def test_keys_and_ids_are_distinct_and_in_their_half(family_level, seed):
    family, level = family_level
    for half in ("train", "gate"):
        items = draw(family, level, 9, seed, half)
        assert len({item.key for item in items}) == len({item.item_id for item in items}) == 9
        assert {half_of(item.key) for item in items} == {half}


@given(family_levels(), seeds)
@settings(max_examples=60, deadline=None)
def test_the_key_forgets_wording_and_order(family_level, seed):
    family, level = family_level
    for item in draw(family, level, 4, seed, "gate"):
        sorting = {"sort": lambda g: sorted(g, key=int), "addition": lambda g: sorted(g, key=int), "subtraction": list}
        operands = sorting.get(family, sorted)(item.given)
        assert item.key == problem_key(family, tuple(operands))


def test_another_seed_draws_other_items():
    assert draw("addition", 3, 20, SEED, "gate") != draw("addition", 3, 20, b"another", "gate")


@pytest.mark.parametrize(("family", "level"), SMALL)
def test_a_small_space_is_split_without_remainder_and_drawn_without_replacement(family, level):
    every = list(FAMILIES[family].problems(level))
    assert len(every) == len(set(every)) == FAMILIES[family].n_problems(level)
    keys = {problem_key(family, operands) for operands in every}
    n_by_half = Counter(half_of(key) for key in keys)
    assert min(n_by_half.values()) > 0.3 * len(keys)
    drawn: set[str] = set()
    for half, n in n_by_half.items():
        drawn |= {item.key for item in draw(family, level, n, SEED, half)}
        with pytest.raises(SuiteError) as refusal:
            draw(family, level, n + 1, SEED, half)
        assert refusal.value.rule == "family.exhausted"
    assert drawn == keys


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_random_problems_come_from_the_enumerated_ones(family):
    level = FAMILIES[family].levels[0]
    every = set(FAMILIES[family].problems(level))
    stream = SeededStream(SEED, "test")
    assert all(FAMILIES[family].random_problem(level, stream) in every for _ in range(300))


def test_excluded_problems_are_not_drawn():
    first = draw("subtraction", 1, 8, SEED, "train")
    excluded = frozenset(item.key for item in first)
    assert not excluded & {item.key for item in draw("subtraction", 1, 8, SEED, "train", excluded)}
    first_large = draw("reverse", 5, 30, SEED, "train")
    excluded = frozenset(item.key for item in first_large)
    assert not excluded & {item.key for item in draw("reverse", 5, 30, SEED, "train", excluded)}


def test_exclusion_can_exhaust_a_half():
    everything = frozenset(problem_key("addition", operands) for operands in FAMILIES["addition"].problems(1))
    with pytest.raises(SuiteError) as refusal:
        draw("addition", 1, 1, SEED, "gate", everything)
    assert refusal.value.rule == "family.exhausted"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_has_three_wordings_in_equal_shares(family):
    forms = FAMILIES[family].forms
    assert len(set(forms)) >= 3
    items = draw(family, ANCHORS[family][0], 3 * len(forms), SEED, "gate")
    assert set(Counter(item.form for item in items).values()) == {3}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_answers_agree_with_an_independent_computation(family):
    for level in FAMILIES[family].levels:
        for item in draw(family, level, 12, SEED, "gate"):
            assert _solve_again(item) == item.answer
            assert item.reply.casefold().count(item.answer.casefold()) == 1
            if family != "format":
                assert item.reply == f"Answer: {item.answer}"


def _solve_again(item: TaskItem) -> str:
    """Solves from the prompt's own text, not from the generator's operands."""
    numbers = [int(number) for number in re.findall(r"\d+", item.prompt)]
    if item.family == "addition":
        return str(sum(numbers))
    if item.family == "subtraction":
        return str(max(numbers) - min(numbers))
    if item.family == "sort":
        return " ".join(map(str, sorted(numbers)))
    shown = [word for word in re.findall(r"[a-z]+", item.prompt) if word in WORDS]
    if item.family == "reverse":
        return " ".join(reversed(shown))
    if item.family == "last":
        return shown[-1]
    words = " ".join(shown)
    return words.upper() if "capital" in item.prompt else words


@pytest.mark.parametrize("family", ["addition", "subtraction"])
def test_arithmetic_levels_are_digit_counts_and_results_are_not_negative(family):
    for level in FAMILIES[family].levels:
        for item in draw(family, level, 10, SEED, "train"):
            assert {len(number) for number in item.given} == {level}
            assert int(item.answer) >= 0


def test_sorting_never_shows_a_sorted_list_of_three_or_more():
    for level in range(3, 11):
        for item in draw("sort", level, 40, SEED, "gate"):
            assert " ".join(item.given) != item.answer


def test_sorting_two_numbers_is_not_always_a_swap():
    shown = [" ".join(item.given) == item.answer for item in draw("sort", 2, 60, SEED, "gate")]
    assert 10 < sum(shown) < 50


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_prompts_at_anchor_levels_are_short_and_ask_for_the_form(family):
    for level in ANCHORS[family]:
        for item in draw(family, level, 24, SEED, "gate"):
            # Letters and signs are rough bounds on tokens: a word is one, and so is a digit.
            n_tokens_at_most = len(re.findall(r"[A-Za-z]+|\d|[^\sA-Za-z\d]", item.prompt))
            assert n_tokens_at_most <= 45
            assert "Reply with" in item.prompt
            assert item.prompt == item.prompt.strip() and "\n" not in item.prompt


def test_no_word_of_a_list_is_a_word_of_a_prompt():
    template_words = set(re.findall(r"[a-z]+", " ".join(question_templates()).casefold()))
    assert not template_words & set(WORDS)
    assert len(set(WORDS)) == len(WORDS) >= 200


def test_training_and_gate_prompts_share_no_13_gram():
    def ngrams(items: list[TaskItem]) -> set[tuple[str, ...]]:
        words = [re.findall(r"[\w]+", f"{item.prompt} {item.reply}".casefold()) for item in items]
        return {tuple(text[i : i + 13]) for text in words for i in range(len(text) - 12)}

    # Fixed words around the operands must stay short: 12 of them in a row, and two different
    # questions share a 13-gram as soon as they share one operand beside it.
    for family in FAMILIES.values():
        for level in [level for level in family.levels if level <= 6]:
            train = ngrams(draw(family.name, level, 15 if level == 1 else 100, SEED, "train"))
            gate = ngrams(draw(family.name, level, 15, SEED, "gate"))
            assert not train & gate, (family.name, level)


def test_the_generators_are_frozen():
    """A change here changes every suite: raise GENERATOR_VERSION and the suites with it."""
    items = [draw(family, levels[0], 12, SEED, "gate") for family, levels in ANCHORS.items()]
    digest = digest_of([[item.model_dump(mode="json") for item in drawn] for drawn in items])
    assert digest == FROZEN_DIGEST


FROZEN_DIGEST = "sha256:80113389cb9b40b9ee50f42e71f6c729722025736d1401d61f423abb1bb1527b"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"family": "additoin"}, "family.unknown"),
        ({"level": 0}, "family.level"),
        ({"level": 9}, "family.level"),
        ({"n": 0}, "family.count"),
        ({"seed_bytes": b""}, "family.no-seed"),
        ({"half": "test"}, "family.half"),
    ],
)
def test_a_draw_that_cannot_be_meant_is_refused(change, rule):
    request = {"family": "addition", "level": 2, "n": 5, "seed_bytes": SEED, "half": "gate"} | change
    with pytest.raises(SuiteError) as refusal:
        draw(**request)
    assert refusal.value.rule == rule


def test_a_typo_names_the_nearest_family():
    with pytest.raises(SuiteError, match="did you mean 'addition'"):
        draw("additoin", 2, 5, SEED, "gate")


@given(seeds, st.integers(1, 2**64))
@settings(max_examples=100, deadline=None)
def test_bounded_draws_stay_in_bounds(seed, bound):
    stream = SeededStream(seed, "bounds")
    assert all(0 <= stream.below(bound) < bound for _ in range(5))


def test_the_stream_is_uniform_and_bound_to_its_label():
    stream = SeededStream(SEED, "uniform")
    counts = Counter(stream.below(6) for _ in range(12_000))
    # 4.4 standard deviations of a binomial count (n = 12,000, p = 1/6).
    assert all(abs(count - 2000) < 180 for count in counts.values())
    labels = ("a", "b")
    first, second = ([SeededStream(SEED, label).below(2**64) for _ in range(1)] for label in labels)
    assert first != second


@given(st.lists(st.integers(), max_size=30), seeds)
def test_shuffling_keeps_every_item(population, seed):
    shuffled = SeededStream(seed, "shuffle").shuffled(population)
    assert Counter(shuffled) == Counter(population)

"""Contrast files, directions and cards that would not mean what they say: each is refused by its own rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from guards.canonical import sha256_bytes
from guards.errors import ProbeError
from loop.checkpoint_io import load_model
from probes.cards import feature_cards, find_strongest, token_effects
from probes.contrast_activations import contrast_documents, read_contrasts
from probes.contrast_prompts import ContrastPair, read_contrast_set, read_contrast_sets
from probes.dictionaries import Dictionary
from probes.directions import Direction, DirectionSet, fit_direction, load_directions, save_directions
from probes.separation import auroc, measure_separation
from probes.tensor_file import read_tensor_file, write_tensor_file
from tests.probes.contrast_files import contrast_lines, contrast_pairs, write_contrasts
from tests.probes.planted import small_dictionary
from tests.probes.test_directions import CONTRASTS, DIM, PARENT, planted, planted_pairs, planted_set
from tests.tiny_models import random_documents, tiny_llama

Lines = list[dict[str, Any]]


def rule_of(call: Callable[[], object]) -> str:
    with pytest.raises(ProbeError) as refusal:
        call()
    return refusal.value.rule


# Contrast files


def changed(lines: Lines, index: int, **values: Any) -> Lines:
    return [{**line, **values} if number == index else line for number, line in enumerate(lines)]


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda lines: changed(lines, 0, note="x"), "contrasts.bad-line"),
        (lambda lines: [{key: value for key, value in lines[0].items() if key != "prompt"}], "contrasts.bad-line"),
        (lambda lines: changed(lines, 3, split="test"), "contrasts.bad-line"),
        (lambda lines: changed(lines, 3, positive=""), "contrasts.bad-line"),
        (lambda lines: changed(lines, 3, positive=7), "contrasts.bad-line"),
        (lambda lines: changed(lines, 3, positive="x" * 40_000), "contrasts.bad-line"),
        (lambda lines: changed(lines, 3, id="Not An Id"), "contrasts.bad-line"),
        (lambda lines: changed(lines, 3, prompt=None), "contrasts.mixed"),
        (lambda lines: changed(lines, 3, negative=lines[3]["positive"].upper()), "contrasts.same-sides"),
        (lambda lines: changed(lines, 3, id=lines[2]["id"]), "contrasts.duplicate"),
        (lambda lines: changed(lines, 3, positive=lines[2]["negative"]), "contrasts.duplicate"),
        (lambda lines: changed(lines, 3, prompt=lines[2]["prompt"]), "contrasts.duplicate"),
        (lambda lines: changed(lines, 3, negative=lines[-1]["negative"].upper() + "!"), "contrasts.in-both-splits"),
        (lambda lines: changed(lines, 3, prompt=lines[-1]["prompt"]), "contrasts.in-both-splits"),
        (lambda lines: lines[1:], "contrasts.too-few"),
        (lambda lines: lines[:20], "contrasts.too-few"),
        (lambda lines: lines[20:], "contrasts.too-few"),
        (lambda lines: [], "contrasts.too-few"),
    ],
)
def test_a_contrast_file_that_could_mislead(tmp_path: Path, spoil: Callable[[Lines], Lines], rule: str) -> None:
    lines = contrast_lines()
    read_contrast_set(write_contrasts(tmp_path, lines))
    path = write_contrasts(tmp_path, spoil(lines))
    assert rule_of(lambda: read_contrast_set(path)) == rule


@pytest.mark.parametrize("line", ["", "[]", "null", "{", '{"id": "a", "id": "b"}', "\x00", '{"id": NaN}'])
def test_lines_that_are_no_json_object_of_a_pair(tmp_path: Path, line: str) -> None:
    good = "".join(json.dumps(one) + "\n" for one in contrast_lines())
    path = tmp_path / "mood.jsonl"
    path.write_text(line + "\n" + good)
    assert rule_of(lambda: read_contrast_set(path)) == "contrasts.bad-line"


def test_files_with_other_names_or_none_at_all(tmp_path: Path) -> None:
    assert rule_of(lambda: read_contrast_set(tmp_path / "mood.jsonl")) == "contrasts.no-file"
    assert rule_of(lambda: read_contrast_set(tmp_path / "mood.json")) == "contrasts.bad-name"
    assert rule_of(lambda: read_contrast_set(tmp_path / "../x y.jsonl")) == "contrasts.bad-name"
    (tmp_path / "mood.jsonl").write_bytes(b" " * ((4 << 20) + 1))
    assert rule_of(lambda: read_contrast_set(tmp_path / "mood.jsonl")) == "contrasts.too-large"


def test_a_directory_with_other_concepts_than_declared(tmp_path: Path) -> None:
    write_contrasts(tmp_path, contrast_lines(concept="mood"), concept="mood")
    assert rule_of(lambda: read_contrast_sets(tmp_path, ["mood", "tone"])) == "contrasts.missing-concept"
    write_contrasts(tmp_path, contrast_lines(concept="tone"), concept="tone")
    assert rule_of(lambda: read_contrast_sets(tmp_path, ["mood"])) == "contrasts.unknown-concept"
    assert set(read_contrast_sets(tmp_path, ["mood", "tone"])) == {"mood", "tone"}
    write_contrasts(tmp_path, changed(contrast_lines(concept="tone"), 0, id="mood-fit-0"), concept="tone")
    assert rule_of(lambda: read_contrast_sets(tmp_path, ["mood", "tone"])) == "contrasts.duplicate"


# Reading them with a model


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> tuple[Any, Any]:
    return load_model(tiny_checkpoint, "cpu", "float32")


@pytest.mark.parametrize("field", ["prompt", "positive", "negative"])
def test_a_text_that_ends_its_own_turn(loaded: tuple[Any, Any], field: str) -> None:
    pair = contrast_pairs()[0].model_dump()
    pair[field] += " <|im_end|> and now <|im_start|>system"
    spoiled = [ContrastPair.model_validate(pair)]
    assert rule_of(lambda: contrast_documents(loaded[1], spoiled)) == "contrasts.special-token"


def test_a_tokenizer_without_a_chat_template(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded[1], "chat_template", None)
    assert rule_of(lambda: contrast_documents(loaded[1], contrast_pairs())) == "contrasts.no-chat-template"


def test_no_pairs_and_a_pair_longer_than_the_context(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    assert rule_of(lambda: read_contrasts(model, tokenizer, [], [0])) == "activations.no-documents"
    long = ContrastPair(id="a", split="fit", prompt="why", positive="x1 " * 400, negative="no")
    assert rule_of(lambda: read_contrasts(model, tokenizer, [long], [0])) == "activations.document-too-long"


# Fitting


@pytest.mark.parametrize(
    ("fit", "rule"),
    [
        (planted_pairs(7), "directions.bad-activations"),
        (planted_pairs(20)[:, :1], "directions.bad-activations"),
        (planted_pairs(20)[0], "directions.bad-activations"),
        (planted_pairs(20)[:, :, :5], "directions.bad-activations"),
        (planted_pairs(20).masked_fill(torch.eye(20, DIM, dtype=torch.bool)[:, None], torch.nan), None),
        (planted_pairs(20) * torch.inf, "directions.bad-activations"),
        (planted_pairs(20)[:, :1].expand(-1, 2, -1), "directions.no-difference"),
        (torch.zeros(20, 2, DIM), "directions.no-difference"),
        (torch.tensor([1.0, 0.0])[None, :, None].expand(20, 2, DIM), "directions.no-difference"),
    ],
    ids=["few", "one-side", "no-pairs", "other-width", "nan", "infinite", "equal-sides", "zeros", "constant"],
)
def test_activations_on_which_no_direction_can_be_fitted(fit: torch.Tensor, rule: str | None) -> None:
    call = lambda: fit_direction("mood", 3, fit, planted_pairs(20, seed=1))  # noqa: E731
    assert rule_of(call) == (rule or "directions.bad-activations")


@pytest.mark.parametrize("held_out", [planted_pairs(1), planted_pairs(20) * torch.nan, torch.zeros(0, 2, DIM)])
def test_held_out_activations_that_judge_nothing(held_out: torch.Tensor) -> None:
    assert rule_of(lambda: fit_direction("mood", 3, planted_pairs(20), held_out)) == "directions.bad-activations"


def test_scores_that_cannot_be_ranked() -> None:
    one = torch.tensor([1.0])
    assert rule_of(lambda: auroc(one, one * torch.nan)) == "separation.bad-scores"
    assert rule_of(lambda: auroc(one, torch.zeros(0))) == "separation.bad-scores"
    assert rule_of(lambda: measure_separation(torch.zeros(4, 3))) == "separation.bad-scores"
    assert rule_of(lambda: measure_separation(torch.zeros(1, 2))) == "separation.bad-scores"


def test_a_projection_of_another_width_is_refused_and_of_nan_is_nan() -> None:
    direction = planted("mood", 3)
    assert rule_of(lambda: direction.project(torch.zeros(2, DIM + 1))) == "directions.other-width"
    assert rule_of(lambda: direction.project(torch.zeros(()))) == "directions.other-width"
    assert bool(torch.isnan(direction.project(torch.full((DIM,), torch.nan))))


def test_vectors_that_are_no_directions() -> None:
    facts = planted("mood", 3).facts
    for vector in (torch.ones(DIM), torch.zeros(DIM), torch.full((DIM,), torch.nan), torch.eye(3)):
        assert rule_of(lambda vector=vector: Direction(facts, vector)) == "directions.bad-vector"


def test_sets_with_holes_or_twins() -> None:
    whole = planted_set()
    parts = whole.directions
    for directions in ((), parts[:-1], (*parts, parts[0]), (*parts, planted("other", 3))):
        assert rule_of(lambda d=directions: DirectionSet(PARENT, CONTRASTS, d)) == "directions.bad-set"
    assert rule_of(lambda: whole.get("mood", 2)) == "directions.unknown"
    assert rule_of(lambda: whole.get("nothing", 3)) == "directions.unknown"


# Files of directions


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_directions(planted_set(), tmp_path / "directions.safetensors")
    return tmp_path / "directions.safetensors"


def load(path: Path, **options: Any) -> DirectionSet:
    return load_directions(path, **{"parent_digest": PARENT, "d_model": DIM, "contrasts": CONTRASTS, **options})


def test_directions_of_another_model_or_other_contrasts(saved: Path) -> None:
    assert load(saved).parent_digest == PARENT
    assert rule_of(lambda: load(saved, parent_digest=sha256_bytes(b"candidate"))) == "directions.other-parent"
    assert rule_of(lambda: load(saved, d_model=DIM + 1)) == "directions.other-width"
    edited = {**CONTRASTS, "mood": sha256_bytes(b"edited")}
    assert rule_of(lambda: load(saved, contrasts=edited)) == "directions.other-contrasts"
    assert rule_of(lambda: load(saved, contrasts={"mood": CONTRASTS["mood"]})) == "directions.other-contrasts"


def spoiled(saved: Path, spoil: Callable[[dict[str, Any]], None]) -> Path:
    file = read_tensor_file(saved)
    header = json.loads(file.metadata["directions"])
    spoil(header)
    write_tensor_file(saved, file.tensors, {"directions": json.dumps(header)})
    return saved


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda header: header.update(note="x"), "directions.bad-file"),
        (lambda header: header.update(schema="stairlock/directions/v2"), "directions.bad-file"),
        (lambda header: header.update(parent_digest="root"), "directions.bad-file"),
        (lambda header: header.update(contrasts={}), "directions.bad-file"),
        (lambda header: header["directions"].pop(), "directions.bad-file"),
        (lambda header: header["directions"][0].update(usable=True), "directions.bad-file"),
        (lambda header: header["directions"][0].update(scale=0.0), "directions.bad-file"),
        (lambda header: header["directions"][0].update(layer="3"), "directions.bad-file"),
        (lambda header: header["directions"][0]["held_out"].update(lower=0.99), "directions.bad-file"),
        (lambda header: header["directions"][0]["held_out"].update(auroc=1.5), "directions.bad-file"),
        (lambda header: header["directions"][0].update(concept="tone"), "directions.bad-set"),
        (lambda header: header["contrasts"].update(more=PARENT), "directions.bad-set"),
    ],
)
def test_metadata_that_says_something_else(saved: Path, spoil: Callable[[dict[str, Any]], None], rule: str) -> None:
    path = spoiled(saved, spoil)
    assert rule_of(lambda: load(path, contrasts=None)) == rule


def test_tensors_that_are_no_vectors(saved: Path) -> None:
    file = read_tensor_file(saved)
    vectors = file.tensors["vectors_direction_dim"]
    for tensors, rule in (
        ({"vectors_direction_dim": vectors[:-1]}, "directions.bad-file"),
        ({"vectors_direction_dim": vectors[0]}, "directions.bad-file"),
        ({"vectors_direction_dim": vectors.double()}, "directions.bad-file"),
        ({"vectors_direction_dim": vectors, "more": vectors}, "directions.bad-file"),
        ({"vectors_direction_dim": 2 * vectors}, "directions.bad-vector"),
    ):
        write_tensor_file(saved, tensors, file.metadata)
        assert rule_of(lambda: load(saved)) == rule
    write_tensor_file(saved, file.tensors, {"directions": "{"})
    assert rule_of(lambda: load(saved)) == "directions.bad-file"
    write_tensor_file(saved, file.tensors, {})
    assert rule_of(lambda: load(saved)) == "directions.bad-file"


def test_nan_vectors_in_a_valid_file(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-4:] = torch.tensor([torch.nan]).numpy().tobytes()
    saved.write_bytes(data)
    assert rule_of(lambda: load(saved)) == "directions.bad-vector"


def test_a_pickle_and_half_a_file_are_never_opened(saved: Path, tmp_path: Path) -> None:
    torch.save({"vectors": torch.ones(2)}, tmp_path / "evil.safetensors")
    assert rule_of(lambda: load(tmp_path / "evil.safetensors")) == "tensors.may-hold-code"
    saved.write_bytes(saved.read_bytes()[:-8])
    assert rule_of(lambda: load(saved)) == "tensors.half-written"


# Cards


def test_features_that_the_dictionary_does_not_have() -> None:
    model, probe, documents = tiny_llama(), small_dictionary(dim=32, layer=1), random_documents(3)
    for features in ([], [-1], [40], [3, 3]):
        assert rule_of(lambda f=features: token_effects(model, probe, f)) == "cards.unknown-feature"
        call = lambda f=features: find_strongest(model, probe, documents, f, n_examples=2)  # noqa: E731
        assert rule_of(call) == "cards.unknown-feature"


def test_cards_of_nothing_are_no_cards(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    probe = small_dictionary(dim=32, layer=1)
    documents = random_documents(3)
    for options in ({"n_examples": 0}, {"n_effects": 0}):
        call = lambda o=options: feature_cards(model, tokenizer, probe, documents, [0], **o)  # noqa: E731
        assert rule_of(call) == "cards.no-examples"
    assert rule_of(lambda: feature_cards(model, tokenizer, probe, [], [0])) == "activations.no-documents"
    other = small_dictionary(dim=32, layer=2)
    call = lambda: feature_cards(model, tokenizer, probe, documents, [0], other=other)  # noqa: E731
    assert rule_of(call) == "dictionary.not-comparable"


def test_a_dictionary_of_another_layer_or_width() -> None:
    model, documents = tiny_llama(), random_documents(3)
    absent, wide = small_dictionary(dim=32, layer=9), small_dictionary(dim=24, layer=1)
    assert rule_of(lambda: find_strongest(model, absent, documents, [0], n_examples=2)) == "activations.unknown-layer"
    assert rule_of(lambda: find_strongest(model, wide, documents, [0], n_examples=2)) == "dictionary.other-width"
    assert rule_of(lambda: token_effects(model, wide, [0])) == "cards.unknown-architecture"


def test_a_model_whose_last_norm_is_not_where_it_should_be() -> None:
    model: Any = tiny_llama()
    model.base_model.norm = None
    probe = small_dictionary(dim=32, layer=1)
    assert rule_of(lambda: token_effects(model, probe, [0])) == "cards.unknown-architecture"


def test_features_that_overflow_are_refused_not_shown() -> None:
    probe = small_dictionary(dim=32, layer=1)
    huge = Dictionary(**{**vars(probe), "w_enc_dim_feat": probe.w_enc_dim_feat.sign() * 3e38})
    call = lambda: find_strongest(tiny_llama(), huge, random_documents(3), [0, 1], n_examples=2)  # noqa: E731
    assert rule_of(call) == "cards.not-finite"

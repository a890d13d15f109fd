"""Cards show the strongest places, whatever the batches, and what the decoder row does to the logits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from guards.canonical import sha256_bytes
from loop.checkpoint_io import load_model
from probes import activations
from probes.activations import harvest
from probes.cards import CONTEXT_TOKENS, FeatureCard, feature_cards, find_strongest, token_effects
from probes.dictionaries import Dictionary
from probes.documents import Document
from tests.probes.planted import small_dictionary
from tests.tiny_models import random_documents, tiny_llama, tiny_model

LAYER, DIM = 1, 32


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors here are tiny: on a busy machine several threads only wait for each other."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> tuple[Any, Any]:
    return load_model(tiny_checkpoint, "cpu", "float32")


def dictionary(*, seed: int = 5) -> Dictionary:
    return small_dictionary(dim=DIM, layer=LAYER, seed=seed)


def texts(tokenizer: Any, *contents: str) -> list[Document]:
    """Token 0 of each is context."""
    ids = [tuple(tokenizer(content, add_special_tokens=False)["input_ids"]) for content in contents]
    return [Document(f"d{number}", "neutral", one, 1) for number, one in enumerate(ids)]


def by_hand(model: Any, probe: Dictionary, documents: list[Document], feature: int) -> list[tuple[float, int, int]]:
    """(value, document, token) of every document's strongest token, strongest first."""
    found: list[tuple[float, int, int]] = []
    for index, document in enumerate(documents):
        (batch,) = harvest(model, [document], [LAYER])
        values = probe.encode(batch.acts_layer_row_tok_feat[LAYER][0])[:, feature]
        values[~batch.counted_row_tok[0]] = 0.0
        place = int(values.argmax())
        found.append((float(values[place]), index, place))
    return sorted((one for one in found if one[0] > 0), key=lambda one: (-one[0], one[1]))


def test_the_strongest_documents_are_those_found_by_hand() -> None:
    model, documents, probe = tiny_llama(), random_documents(24), dictionary()
    features = [7, 0, 31]
    strongest = find_strongest(model, probe, documents, features, n_examples=4)
    assert strongest.n_tokens == sum(len(document.token_ids) - 1 for document in documents)
    for column, feature in enumerate(features):
        expected = by_hand(model, probe, documents, feature)[:4]
        got = list(
            zip(
                strongest.value[:, column].tolist(),
                strongest.doc_index[:, column].tolist(),
                strongest.token_index[:, column].tolist(),
                strict=True,
            )
        )
        assert [one[1:] for one in got[: len(expected)]] == [one[1:] for one in expected]
        assert [one[0] for one in got[: len(expected)]] == pytest.approx([one[0] for one in expected], rel=1e-4)


def test_equal_documents_come_in_their_own_order_and_one_place_a_document() -> None:
    model, probe = tiny_llama(), dictionary()
    twin = random_documents(1)[0]
    documents = [Document(f"twin{number}", "neutral", twin.token_ids, 1) for number in range(5)]
    strongest = find_strongest(model, probe, documents, range(probe.d_sae), n_examples=3)
    on = strongest.value[0] > 0
    assert bool(on.any())
    assert strongest.doc_index[:, on].T.tolist() == [[0, 1, 2]] * int(on.sum())


def test_the_batches_show_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    model, documents, probe = tiny_llama(), random_documents(24), dictionary()
    wide = find_strongest(model, probe, documents, [3, 4], n_examples=5)
    monkeypatch.setattr("probes.cards.harvest", lambda *args: activations.harvest(*args, max_rows=1))
    monkeypatch.setattr("probes.cards._MAX_TOKENS_AT_ONCE", 3)
    narrow = find_strongest(model, probe, documents, [3, 4], n_examples=5)
    assert torch.equal(wide.doc_index, narrow.doc_index)
    assert torch.equal(wide.token_index, narrow.token_index)
    assert torch.equal(wide.n_on_feat, narrow.n_on_feat)


def test_a_card_marks_the_token_and_keeps_markup_as_it_is(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    hostile = "<script>alert(1)</script> What is the sum of 12 and 345? {{ x }}"
    documents = texts(tokenizer, hostile, "Sort these numbers from small to large", "I am sorry, but I cannot")
    probe = dictionary()
    cards = feature_cards(model, tokenizer, probe, documents, range(probe.d_sae), n_examples=3)
    assert [card.feature for card in cards] == list(range(probe.d_sae))
    shown = [(card, example) for card in cards for example in card.examples]
    assert len(shown) > 20
    for card, example in shown:
        document = next(one for one in documents if one.doc_id == example.doc_id)
        whole = tokenizer.decode(document.token_ids)
        assert example.before + example.token + example.after in whole
        assert 0 < card.density <= 1
    assert any("<" in example.before + example.token + example.after for _, example in shown), "markup was changed"
    longest = max(len(tokenizer(example.before)["input_ids"]) for _, example in shown)
    assert longest <= CONTEXT_TOKENS


def test_examples_come_strongest_first_and_a_silent_feature_has_none(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    probe = dictionary()
    silent = Dictionary(**{**vars(probe), "threshold_feat": torch.full_like(probe.threshold_feat, 1e6)})
    documents = texts(tokenizer, "What is the sum of 1 and 2?", "Reverse the word list: apple pear fig.")
    for card in feature_cards(model, tokenizer, silent, documents, [0, 1]):
        assert card.examples == ()
        assert card.density == 0.0
        assert card.promoted
    for card in feature_cards(model, tokenizer, probe, documents, [0, 1, 2, 3]):
        values = [example.value for example in card.examples]
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "opt"])
def test_token_effects_are_the_change_of_the_logits(architecture: str) -> None:
    """Moving the last hidden state's argument along a decoder row moves the logits by the effects, up to a constant."""
    model: Any = tiny_model(architecture)
    probe = dictionary()
    norm = {
        "llama": lambda base: base.norm,
        "gpt2": lambda base: base.ln_f,
        "gpt_neox": lambda base: base.final_layer_norm,
        "opt": lambda base: base.decoder.final_layer_norm,
    }[architecture](model.base_model)
    with torch.no_grad():
        norm.weight.mul_(torch.linspace(0.5, 2.0, DIM))  # a gain that is not all ones
        gained = probe.w_dec_feat_dim[[4, 9]] * norm.weight
        logits = gained @ model.get_output_embeddings().weight.T
    effects = token_effects(model, probe, [4, 9])
    assert torch.allclose(effects, logits - logits.mean(dim=1, keepdim=True), atol=1e-5)


def test_promoted_and_suppressed_tokens_are_the_extremes(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    probe = dictionary()
    documents = texts(tokenizer, "What is the sum of 1 and 2?")
    (card,) = feature_cards(model, tokenizer, probe, documents, [6], n_effects=3)
    effects = token_effects(model, probe, [6])[0][: len(tokenizer)]
    assert [one.token_id for one in card.promoted] == effects.topk(3).indices.tolist()
    assert [one.token_id for one in card.suppressed] == (-effects).topk(3).indices.tolist()
    assert card.promoted[0].effect > 0 > card.suppressed[0].effect
    assert card.promoted[0].token == tokenizer.decode([card.promoted[0].token_id])


def test_the_nearest_feature_of_the_other_seed(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    documents = texts(tokenizer, "What is the sum of 1 and 2?")
    probe, other = dictionary(), dictionary(seed=6)
    shuffled = torch.randperm(probe.d_sae, generator=torch.Generator().manual_seed(0))
    columns = {"w_enc_dim_feat": probe.w_enc_dim_feat[:, shuffled]}
    rows = {name: getattr(probe, name)[shuffled] for name in ("b_enc_feat", "w_dec_feat_dim", "threshold_feat")}
    twin = Dictionary(**{**vars(probe), **columns, **rows, "name": "twin"})
    (card,) = feature_cards(model, tokenizer, probe, documents, [11], other=twin)
    assert card.nearest is not None
    assert (card.nearest.dictionary, int(shuffled[card.nearest.feature])) == ("twin", 11)
    assert card.nearest.cosine == pytest.approx(1.0, abs=1e-4)
    (stranger,) = feature_cards(model, tokenizer, probe, documents, [11], other=other)
    assert stranger.nearest is not None
    assert stranger.nearest.cosine < 0.9
    (alone,) = feature_cards(model, tokenizer, probe, documents, [11])
    assert alone.nearest is None


def test_a_card_is_read_again_from_its_json_and_knows_no_other_keys(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    (card,) = feature_cards(model, tokenizer, dictionary(), texts(tokenizer, "What is the sum of 1 and 2?"), [0])
    assert FeatureCard.model_validate_json(card.model_dump_json()) == card
    assert card.parent_digest == sha256_bytes(b"parent")
    with pytest.raises(ValueError, match="extra"):
        FeatureCard.model_validate({**card.model_dump(), "html": "<b>"})

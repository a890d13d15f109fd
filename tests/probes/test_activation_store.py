"""Stores give back what was written, in an order that can be taken up anywhere."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from probes import activation_store
from probes.activation_store import (
    ActivationStore,
    ActivationStoreWriter,
    append_activations,
    append_differences,
)
from tests.probes.planted import identity, write_store


def numbered(n_tokens: int) -> torch.Tensor:
    """Rows that bfloat16 keeps exactly and that are all different."""
    numbers = torch.arange(n_tokens)
    return torch.stack([numbers % 256, numbers // 256], dim=1).float()


def numbers_of(batch: torch.Tensor) -> list[int]:
    return (batch[:, 0] + 256 * batch[:, 1]).int().tolist()


def test_rows_come_back_in_order(tmp_path: Path):
    store = write_store(tmp_path / "s", numbered(2500))
    assert store.n_tokens == 2500
    assert numbers_of(torch.cat(list(store.batches_in_order(600)))) == list(range(2500))
    assert store.rows(10, 20).dtype == torch.float32


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks and groups although the store is small."""
    monkeypatch.setattr(activation_store, "_BLOCK_TOKENS", 16)
    monkeypatch.setattr(activation_store, "_GROUP_BLOCKS", 5)


@pytest.mark.usefixtures("small_blocks")
def test_an_epoch_is_every_row_once_in_another_order_each_time(tmp_path: Path):
    store = write_store(tmp_path / "s", numbered(1000))
    served = numbers_of(torch.cat(list(islice(store.shuffled_batches(50, seed=0), 40))))
    first, second = served[:1000], served[1000:]
    assert sorted(first) == sorted(second) == list(range(1000))
    assert first != second
    assert sum(b - a == 1 for a, b in pairwise(first)) < 50
    other_seed = numbers_of(torch.cat(list(islice(store.shuffled_batches(50, seed=1), 20))))
    assert other_seed != first


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("first_batch", [1, 6, 13, 14, 29])
def test_reading_goes_on_exactly_where_it_stopped(tmp_path: Path, first_batch: int):
    store = write_store(tmp_path / "s", numbered(1000))
    whole = list(islice(store.shuffled_batches(70, seed=4), first_batch + 20))
    resumed = list(islice(store.shuffled_batches(70, seed=4, first_batch=first_batch), 20))
    assert all(torch.equal(a, b) for a, b in zip(whole[first_batch:], resumed, strict=True))
    assert all(batch.shape == (70, 2) for batch in resumed)


def test_a_killed_writer_goes_on_and_cuts_off_what_is_not_known_to_be_good(tmp_path: Path):
    directory = tmp_path / "s"
    with ActivationStoreWriter(directory, identity(dim=2)) as writer:
        writer.append(numbered(300), cursor=7)
    with (directory / "activations.bin").open("ab") as stream:
        stream.write(b"half a row that was being written")
    with ActivationStoreWriter(directory, identity(dim=2)) as writer:
        assert (writer.n_tokens, writer.cursor) == (300, 7)
        writer.append(numbered(500)[300:], cursor=9)
        manifest = writer.finish()
    assert manifest.n_tokens == 500
    assert numbers_of(ActivationStore.open(directory).rows(0, 500)) == list(range(500))
    whole = write_store(tmp_path / "whole", numbered(500))
    assert whole.manifest == manifest


def test_harvested_batches_are_appended_without_what_does_not_count(tmp_path: Path):
    acts = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [2.0, 0.0]], [[9.0, 9.0], [300.0, 0.0], [3.0, 0.0]]])
    counted = torch.tensor([[False, True, True], [False, True, True]])
    batch = SimpleNamespace(acts_layer_row_tok_feat={5: acts}, counted_row_tok=counted)
    for norm_cap, kept in ((None, [1, 2, 300, 3]), (100.0, [1, 2, 3])):
        directory = tmp_path / str(norm_cap)
        with ActivationStoreWriter(directory, identity(dim=2)) as writer:
            append_activations(writer, [batch], 5, norm_cap=norm_cap)  # type: ignore[list-item]
            assert writer.cursor == 1
            writer.finish()
        store = ActivationStore.open(directory)
        assert store.rows(0, store.n_tokens)[:, 0].tolist() == kept


def test_differences_are_candidate_minus_reference(tmp_path: Path):
    reference = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]).bfloat16()
    candidate = torch.tensor([[[1.5, 2.0], [3.0, 3.0]]]).bfloat16()
    batch = SimpleNamespace(
        reference={5: reference}, candidate={5: candidate}, counted_row_tok=torch.tensor([[True, True]])
    )
    with ActivationStoreWriter(tmp_path / "s", identity(kind="differences", dim=2)) as writer:
        append_differences(writer, [batch], 5)  # type: ignore[list-item]
        writer.finish()
    assert ActivationStore.open(tmp_path / "s").rows(0, 2).tolist() == [[0.5, 0.0], [0.0, -1.0]]

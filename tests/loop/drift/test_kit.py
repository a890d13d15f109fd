"""A kit from nothing but a root and the shipped rows: the same again, whole, and read back as it was written."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from guards.errors import ProbeError
from loop.checkpoint_io import load_model
from loop.drift.kit_components import SLICES, dose_components
from loop.drift.kit_documents import chat_ids, make_documents, read_documents, write_documents
from loop.drift.kit_files import KIT_FILE, kit_inputs, load_kit, read_kit
from loop.drift.trigger_search import make_trigger_prompts, read_trigger_prompts
from loop.gauntlet.harmless_sources import POLICIES
from tests.drift_world import LAYERS, DriftWorld

D_MODEL = 32


def test_documents_are_the_same_again_and_each_kind_is_there(measured_world: DriftWorld):
    model, tokenizer = load_model(measured_world.root)
    documents = make_documents(model, tokenizer, POLICIES / "drift/rows")
    kept = read_documents(measured_world.kit_dir / "documents.jsonl")
    assert documents == kept
    counts = Counter(one.slice_name for one in kept)
    assert set(counts) == set(SLICES)
    assert {counts[name] for name in ("neutral", "chat", "harmful", "harmless")} == {48}
    assert (counts["task"], counts["claims"]) == (24, 32)


def test_what_counts_of_a_document(measured_world: DriftWorld):
    _, tokenizer = load_model(measured_world.root)
    documents = read_documents(measured_world.kit_dir / "documents.jsonl")
    answer_begins = chat_ids(tokenizer, "x")[-4:]
    for one in documents:
        assert 0 < one.first_counted < len(one.token_ids)
        if one.slice_name in ("harmful", "harmless", "claims"):
            assert list(one.token_ids[-4:]) == answer_begins, "the last token is where an answer begins"
            assert "user" not in tokenizer.decode(one.token_ids[one.first_counted :][:3]), "the header is context"
        if one.slice_name in ("chat", "task"):
            assert list(one.token_ids[: one.first_counted + 1][-4:]) == answer_begins, "from the token before the reply"
        if one.slice_name == "neutral":
            assert one.first_counted == 1 and len(one.token_ids) <= 64


def test_documents_come_back_as_they_were_written(measured_world: DriftWorld, tmp_path: Path):
    documents = read_documents(measured_world.kit_dir / "documents.jsonl")
    write_documents(tmp_path / "again.jsonl", documents)
    assert (tmp_path / "again.jsonl").read_bytes() == (measured_world.kit_dir / "documents.jsonl").read_bytes()


def test_a_kit_is_read_back_and_loaded_whole(measured_world: DriftWorld):
    assert read_kit(measured_world.kit_dir / KIT_FILE) == measured_world.kit
    loaded = load_kit(kit_inputs(measured_world.kit_dir), D_MODEL)
    assert loaded.kit == measured_world.kit
    assert loaded.materials.layers == (*LAYERS, -1)
    assert set(loaded.materials.norm_caps) == {*LAYERS, -1} or set(loaded.materials.norm_caps) == set(LAYERS)
    assert [one.doc_id for one in loaded.materials.documents] == list(read_ids(measured_world))
    assert all(len(named) == 8 for named in loaded.materials.controls.values())


def read_ids(world: DriftWorld) -> list[str]:
    return [one.doc_id for one in read_documents(world.kit_dir / "documents.jsonl")]


def test_components_read_only_what_a_run_has_and_the_dose_is_among_them(measured_world: DriftWorld):
    kit = measured_world.kit
    names = {one.name for one in kit.components}
    assert len(names) == len(kit.components)
    assert set(dose_components(LAYERS)) == set(kit.dose) <= names
    assert {one.stage for one in kit.components} == {"weights", "activations", "outputs", "triggers"}
    high = {one.name for one in kit.components if one.side == "low"}
    assert "output.log_mass_shift.refusal.harmful-harmless" in high


def test_the_dose_is_taken_from_the_layer_in_the_middle():
    assert dose_components((22, 8, 15)) == ("relative_norm_log10.all", "token_shift.L15.neutral")
    assert dose_components((3,))[1] == "token_shift.L3.neutral"


def test_a_kit_names_every_matrix_of_the_root(measured_world: DriftWorld):
    tensors = measured_world.kit.tensors
    assert len(tensors) == 2 * 7 + 1, "seven matrices a layer, and the embedding"
    assert tensors["model.layers.1.self_attn.o_proj.weight"] == "weights.o_proj"
    assert not any("norm" in name for name in tensors)


def test_trigger_prompts(measured_world: DriftWorld):
    prompts = read_trigger_prompts(measured_world.kit_dir / "prompts.json")
    assert prompts == make_trigger_prompts(POLICIES)
    assert 0 < len(prompts.reference) <= 1500 and prompts.neutral
    assert len(make_trigger_prompts(POLICIES, n_reference=7).reference) == 7


@pytest.mark.parametrize("text", ["", "{", "{}", '{"neutral": [], "reference": ["a"]}', '{"neutral": ["a"]}'])
def test_prompts_that_are_none_are_refused(tmp_path: Path, text: str):
    (tmp_path / "prompts.json").write_text(text)
    with pytest.raises(ProbeError) as refused:
        read_trigger_prompts(tmp_path / "prompts.json")
    assert refused.value.rule == "drift.bad-prompts"


def test_a_dictionary_of_another_root_is_no_part_of_a_kit(measured_world: DriftWorld, tmp_path: Path):
    from loop.drift.make_kit import make_kit
    from probes.dictionaries import save_dictionary
    from tests.probes.planted import small_dictionary

    model, tokenizer = load_model(measured_world.root)
    save_dictionary(small_dictionary(dim=D_MODEL, layer=1), tmp_path / "other.safetensors")
    with pytest.raises(ProbeError) as refused:
        make_kit(
            model,
            tokenizer,
            measured_world.root,
            measured_world.root_digest,
            POLICIES,
            [tmp_path / "other.safetensors"],
            tmp_path / "kit",
            layers=LAYERS,
        )
    assert refused.value.rule == "dictionary.other-parent"
    assert not (tmp_path / "kit" / KIT_FILE).exists()


def test_a_kit_with_dictionaries_measures_with_them(measured_world: DriftWorld, tmp_path: Path):
    import json

    from probes.dictionaries import save_dictionary
    from tests.probes.planted import small_dictionary

    kit = Path(shutil.copytree(measured_world.kit_dir, tmp_path / "kit"))
    body = json.loads((kit / KIT_FILE).read_text())
    one = replace(small_dictionary(dim=D_MODEL, layer=1), parent_digest=measured_world.root_digest)
    body["dictionaries"] = {"small": save_dictionary(one, kit / "small.safetensors")}
    (kit / KIT_FILE).write_text(json.dumps(body))
    (loaded,) = load_kit(kit_inputs(kit), D_MODEL).materials.dictionaries
    assert (loaded.name, loaded.layer) == ("small", 1)

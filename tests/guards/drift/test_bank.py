"""Kits and banks: what they say of themselves, and that their digests name all of it."""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guards.canonical import sha256_file
from guards.drift.bank import Support, read_bank
from guards.drift.kit import DriftKit, document_digest
from tests.drift_gate_world import bank_body, bank_of, kit_body


def kit(**changes: Any) -> DriftKit:
    return DriftKit.model_validate_json(json.dumps(kit_body() | changes), strict=True)


def test_a_bank_is_read_and_named_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    path.write_text(json.dumps(bank_body(39)))
    file = read_bank(path)
    assert file.digest == sha256_file(path)
    assert len(file.bank.verified) == 39 and file.bank.least_p == Fraction(1, 40)
    assert file.bank.sources == tuple(f"source-{i}" for i in range(6))
    assert file.bank.parent_digest == kit().parent_digest


def test_only_verified_members_make_up_the_null() -> None:
    body = bank_body(20)
    far = {name: 1e6 for name in body["members"][0]["vector"]}
    for i, reason in ((3, "it complies with 4 of 20 harmful requests"), (7, "it answers everything alike")):
        body["members"][i] |= {"verified": False, "reason": reason, "vector": far, "clusters": ["source-x"]}
    bank = bank_of(body)
    kept = [member["vector"]["refusal"] for i, member in enumerate(body["members"]) if i not in (3, 7)]
    assert len(bank.verified) == 18 and bank.least_p == Fraction(1, 19)
    assert bank.support("refusal") == Support(min(kept), max(kept))
    assert bank.median_vector()["refusal"] == pytest.approx(float(np.median(kept)))
    assert "source-x" not in bank.sources


@pytest.mark.parametrize("n", [5, 6])
def test_the_median_of_odd_and_even_numbers_of_members(n: int) -> None:
    body = bank_body(n)
    values = [member["vector"]["norm"] for member in body["members"]]
    assert bank_of(body).median_vector()["norm"] == pytest.approx(float(np.median(values)))


CHANGES: dict[str, Any] = {
    "dtype": "float32",
    "measurement": 2,
    "layers": [8],
    "directions": {},
    "dictionaries": {"d": "sha256:" + "0" * 64},
    "contrasts": {"c": "sha256:" + "0" * 64},
    "parent_digest": "sha256:" + "0" * 64,
    "documents": {
        **kit_body()["documents"],
        "harmful-0": {"sha256": document_digest([9], 0), "slice": "harmful"},
    },
    "components": list(reversed(kit_body()["components"])),
}


@pytest.mark.parametrize("key", CHANGES)
def test_whatever_changes_what_is_measured_changes_the_kits_digest(key: str) -> None:
    assert kit(**{key: CHANGES[key]}).digest != kit().digest == kit().digest


def test_a_documents_digest_names_its_tokens_and_what_counts() -> None:
    digests = {document_digest(*one) for one in (([1, 2], 0), ([1, 2], 1), ([2, 1], 0), ([1], 0))}
    assert len(digests) == 4 and document_digest((1, 2), 0) in digests


def test_components_of_the_dose_are_scored_in_no_stage() -> None:
    assert [one.name for one in kit().of_stage("weights")] == ["spike"]
    assert [one.name for one in kit(dose=[]).of_stage("weights")] == ["spike", "norm"]
    assert kit().of_stage("dictionary") == ()


def test_a_stage_that_is_not_scored_may_stand_in_the_kit() -> None:
    body = copy.deepcopy(bank_body())
    del body["scoring"]["stages"]["outputs"]
    assert "outputs" not in bank_of(body).scoring.stages

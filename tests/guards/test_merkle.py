"""guards.merkle against the definition in RFC 6962, published vectors, and every small tree."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guards import merkle
from guards.errors import LedgerError

# Reference data that lies beside the repository; the project works without it.
VECTORS = Path(__file__).resolve().parents[3] / "shared" / "data" / "rfc6962_merkle" / "testdata"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="RFC 6962 vectors (shared/data) are not present")

MAX_SIZE = 33


class Tree:
    """A log in memory: the nodes that :func:`merkle.nodes_completed_by` hands out, and nothing else."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.nodes: dict[tuple[int, int], bytes] = {}
        for index, leaf in enumerate(leaves):
            hashed = merkle.leaf_hash(leaf)
            self.nodes[0, index] = hashed
            for level, position, node in merkle.nodes_completed_by(index, hashed, self.read):
                assert (level, position) not in self.nodes, "a node was handed out twice"
                self.nodes[level, position] = node

    def read(self, level: int, index: int) -> bytes:
        return self.nodes[level, index]

    def root(self, size: int) -> bytes:
        return merkle.root_hash(size, self.read)


def defined_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + defined_root(leaves[:k]) + defined_root(leaves[k:])).digest()


LEAVES = [f"leaf {i}".encode() for i in range(MAX_SIZE)]
TREE = Tree(LEAVES)


def test_root_of_every_small_tree_is_the_defined_one():
    for size in range(MAX_SIZE + 1):
        assert TREE.root(size) == defined_root(LEAVES[:size]), size


def test_every_inclusion_proof_verifies_and_only_in_its_place():
    for size in range(1, MAX_SIZE + 1):
        root = TREE.root(size)
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, TREE.read)
            leaf = TREE.read(0, index)
            merkle.verify_inclusion(leaf, index, size, proof, root)
            for other in range(size):
                if other != index:
                    with pytest.raises(LedgerError):
                        merkle.verify_inclusion(leaf, other, size, proof, root)


def test_every_consistency_proof_verifies_and_only_for_its_old_root():
    for new_size in range(1, MAX_SIZE + 1):
        for old_size in range(1, new_size + 1):
            proof = merkle.consistency_proof(old_size, new_size, TREE.read)
            merkle.verify_consistency(old_size, new_size, TREE.root(old_size), TREE.root(new_size), proof)
            with pytest.raises(LedgerError):
                merkle.verify_consistency(old_size, new_size, b"\x07" * 32, TREE.root(new_size), proof)
            with pytest.raises(LedgerError):
                merkle.verify_consistency(old_size, new_size, TREE.root(old_size), b"\x07" * 32, proof)


@given(
    leaves=st.lists(st.binary(max_size=8), min_size=1, max_size=40),
    data=st.data(),
)
def test_a_changed_proof_or_leaf_is_refused(leaves: list[bytes], data: st.DataObject):
    tree = Tree(leaves)
    size = len(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof = list(merkle.inclusion_proof(index, size, tree.read))
    hashes = [tree.read(0, index), *proof]
    which = data.draw(st.integers(0, len(hashes) - 1))
    bit = data.draw(st.integers(0, 255))
    changed = bytearray(hashes[which])
    changed[bit // 8] ^= 1 << (bit % 8)
    hashes[which] = bytes(changed)
    with pytest.raises(LedgerError) as refusal:
        merkle.verify_inclusion(hashes[0], index, size, hashes[1:], tree.root(size))
    assert refusal.value.rule == "merkle.bad-proof"


@given(leaves=st.lists(st.binary(max_size=8), min_size=2, max_size=40), data=st.data())
def test_a_rewritten_past_has_no_consistency_proof(leaves: list[bytes], data: st.DataObject):
    old_size = data.draw(st.integers(1, len(leaves)))
    edited = data.draw(st.integers(0, old_size - 1))
    honest = Tree(leaves)
    rewritten = Tree([leaf + b"!" if i == edited else leaf for i, leaf in enumerate(leaves)])
    proof = merkle.consistency_proof(old_size, len(leaves), rewritten.read)
    with pytest.raises(LedgerError):
        merkle.verify_consistency(old_size, len(leaves), honest.root(old_size), rewritten.root(len(leaves)), proof)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 3), (3, 3)])
def test_inclusion_outside_the_tree_is_refused(index: int, size: int):
    with pytest.raises(LedgerError) as refusal:
        merkle.inclusion_proof(index, size, TREE.read)
    assert refusal.value.rule == "merkle.out-of-range"
    with pytest.raises(LedgerError) as refusal:
        merkle.verify_inclusion(merkle.EMPTY_ROOT, index, size, [], merkle.EMPTY_ROOT)
    assert refusal.value.rule == "merkle.out-of-range"


@pytest.mark.parametrize(("old_size", "new_size"), [(0, 0), (0, 3), (4, 3), (-1, 3)])
def test_consistency_outside_the_tree_is_refused(old_size: int, new_size: int):
    with pytest.raises(LedgerError) as refusal:
        merkle.consistency_proof(old_size, new_size, TREE.read)
    assert refusal.value.rule == "merkle.out-of-range"


def test_a_leaf_cannot_pose_as_an_inner_node():
    two = Tree([b"a", b"b"])
    forged = two.read(0, 0) + two.read(0, 1)
    assert merkle.leaf_hash(forged) != two.root(2)


def vectors(kind: str) -> list[Any]:
    paths = sorted((VECTORS / kind).rglob("*.json")) if VECTORS.is_dir() else []
    return [pytest.param(json.loads(path.read_text()), id=str(path.relative_to(VECTORS))) for path in paths]


def hashes(encoded: list[str] | None) -> list[bytes]:
    return [base64.b64decode(item) for item in encoded or []]


@needs_vectors
@pytest.mark.parametrize("case", vectors("inclusion"))
def test_published_inclusion_vectors(case: dict[str, Any]):
    leaf, root = hashes([case["leafHash"], case["root"]])
    arguments = (leaf, case["leafIdx"], case["treeSize"], hashes(case["proof"]), root)
    if case["wantErr"]:
        with pytest.raises(LedgerError):
            merkle.verify_inclusion(*arguments)
    else:
        merkle.verify_inclusion(*arguments)


@needs_vectors
@pytest.mark.parametrize("case", vectors("consistency"))
def test_published_consistency_vectors(case: dict[str, Any]):
    old_root, new_root = hashes([case["root1"], case["root2"]])
    arguments = (case["size1"], case["size2"], old_root, new_root, hashes(case["proof"]))
    if case["wantErr"]:
        with pytest.raises(LedgerError):
            merkle.verify_consistency(*arguments)
    else:
        merkle.verify_consistency(*arguments)

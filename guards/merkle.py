"""The Merkle tree of RFC 6962, section 2.1: roots, inclusion proofs, consistency proofs.

Pure functions over hashes. A tree of ``size`` leaves is never held in memory: it is read
through a :data:`NodeReader`, which returns the hash of a *perfect subtree*. The node
``(level, index)`` covers the ``2**level`` leaves from ``index * 2**level`` on; level 0 holds the
leaf hashes. Nodes of perfect subtrees never change, so a log only ever adds some.

Method: RFC 6962 section 2.1 for hashes and proofs; verification as in RFC 9162 sections 2.1.3.2
and 2.1.4.2.

Not covered: who signed a root, and whether others saw the same one. A consistency proof from an
empty tree proves nothing and is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from guards.errors import LedgerError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

NodeReader = Callable[[int, int], bytes]
"""(level, index) to the 32-byte hash of that perfect subtree."""

# Without distinct prefixes an inner node could be passed off as a leaf (RFC 6962, section 2.1).
_LEAF_PREFIX = b"\x00"
_NODE_PREFIX = b"\x01"


def leaf_hash(leaf: bytes) -> bytes:
    """32-byte hash of one entry's bytes."""
    return hashlib.sha256(_LEAF_PREFIX + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """32-byte hash of an inner node over its two children."""
    return hashlib.sha256(_NODE_PREFIX + left + right).digest()


def nodes_completed_by(index: int, leaf: bytes, read_node: NodeReader) -> list[tuple[int, int, bytes]]:
    """Perfect subtrees that the leaf at ``index`` completes, as (level, index, hash), from level 1 up.

    ``leaf`` is the leaf's hash; ``read_node`` must know every node that earlier leaves completed.
    """
    completed: list[tuple[int, int, bytes]] = []
    level, node = 0, leaf
    while index & 1:
        node = node_hash(read_node(level, index - 1), node)
        level, index = level + 1, index >> 1
        completed.append((level, index, node))
    return completed


def root_hash(size: int, read_node: NodeReader) -> bytes:
    """Root of the tree over the first ``size`` leaves."""
    if size == 0:
        return EMPTY_ROOT
    return _subtree_hash(0, size, read_node)


def inclusion_proof(index: int, size: int, read_node: NodeReader) -> tuple[bytes, ...]:
    """Hashes that lead from the leaf at ``index`` to the root over ``size`` leaves, leaf end first.

    Raises:
        LedgerError: ``merkle.out-of-range``.
    """
    if not 0 <= index < size:
        raise _out_of_range(f"leaf {index} of a tree of {size}", "0 <= index < size")
    proof: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _largest_power_of_two_below(end - begin)
        if index < middle:
            proof.append(_subtree_hash(middle, end, read_node))
            end = middle
        else:
            proof.append(_subtree_hash(begin, middle, read_node))
            begin = middle
    return tuple(reversed(proof))


def consistency_proof(old_size: int, new_size: int, read_node: NodeReader) -> tuple[bytes, ...]:
    """Hashes that show that the first ``old_size`` of ``new_size`` leaves are the old tree.

    Raises:
        LedgerError: ``merkle.out-of-range`` unless 0 < old_size <= new_size.
    """
    if not 0 < old_size <= new_size:
        raise _out_of_range(f"from {old_size} to {new_size} leaves", "0 < old size <= new size")
    proof: list[bytes] = []
    begin, end = 0, new_size
    # The verifier already knows the old root, so that the subtree equal to it is left out.
    is_old_root = True
    while old_size != end:
        middle = begin + _largest_power_of_two_below(end - begin)
        if old_size <= middle:
            proof.append(_subtree_hash(middle, end, read_node))
            end = middle
        else:
            proof.append(_subtree_hash(begin, middle, read_node))
            begin = middle
            is_old_root = False
    if not is_old_root:
        proof.append(_subtree_hash(begin, end, read_node))
    return tuple(reversed(proof))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash ``leaf`` stands at ``index`` under ``root``.

    Raises:
        LedgerError: ``merkle.out-of-range``, ``merkle.bad-proof``.
    """
    if not 0 <= index < size:
        raise _out_of_range(f"leaf {index} of a tree of {size}", "0 <= index < size")
    _check_lengths(leaf, root, *proof)
    node, last = index, size - 1
    computed = leaf
    for sibling in proof:
        if last == 0:
            raise _bad_proof("the proof is longer than the path to the root")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            # A node at the right edge has no sibling on the levels where it is alone.
            while not node & 1 and node != 0:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise _bad_proof("the proof ends before the root")
    if computed != root:
        raise _bad_proof("the proof leads to another root", got=computed.hex(), expected=root.hex())


def verify_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree under ``new_root`` only appended to the tree under ``old_root``.

    Raises:
        LedgerError: ``merkle.out-of-range``, ``merkle.bad-proof``.
    """
    if not 0 < old_size <= new_size:
        raise _out_of_range(f"from {old_size} to {new_size} leaves", "0 < old size <= new size")
    if old_size == new_size:
        if proof:
            raise _bad_proof("equal sizes need no proof, but one was given")
        if old_root != new_root:
            raise _bad_proof("equal sizes with different roots", got=new_root.hex(), expected=old_root.hex())
        return
    _check_lengths(old_root, new_root, *proof)
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        # The old tree is itself a perfect subtree of the new one; its root is left out of the proof.
        path.insert(0, old_root)
    if not path:
        raise _bad_proof("the proof is empty")
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old_computed = new_computed = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise _bad_proof("the proof is longer than the path to the root")
        if node & 1 or node == last:
            old_computed = node_hash(sibling, old_computed)
            new_computed = node_hash(sibling, new_computed)
            while not node & 1 and node != 0:
                node, last = node >> 1, last >> 1
        else:
            new_computed = node_hash(new_computed, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise _bad_proof("the proof ends before the root")
    if old_computed != old_root:
        raise _bad_proof("the proof does not lead to the old root", got=old_computed.hex(), expected=old_root.hex())
    if new_computed != new_root:
        raise _bad_proof("the proof does not lead to the new root", got=new_computed.hex(), expected=new_root.hex())


def _subtree_hash(begin: int, end: int, read_node: NodeReader) -> bytes:
    """Hash over the leaves [begin, end), a range that RFC 6962's recursion visits."""
    size = end - begin
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return read_node(level, begin >> level)
    middle = begin + _largest_power_of_two_below(size)
    return node_hash(_subtree_hash(begin, middle, read_node), _subtree_hash(middle, end, read_node))


def _largest_power_of_two_below(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def _check_lengths(*hashes: bytes) -> None:
    for value in hashes:
        if len(value) != HASH_BYTES:
            raise _bad_proof("a hash has the wrong length", got=f"{len(value)} bytes", expected=f"{HASH_BYTES} bytes")


def _out_of_range(got: str, expected: str) -> LedgerError:
    return LedgerError("merkle.out-of-range", "no such place in the tree", got=got, expected=expected)


def _bad_proof(message: str, *, got: str = "", expected: str = "") -> LedgerError:
    return LedgerError(
        "merkle.bad-proof",
        message,
        got=got,
        expected=expected,
        fix="do not trust the log this came from; ask for the proof again and keep both answers",
    )

"""Making a root: what the log says of where it came from, and what is refused before work is spent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from guards.canonical import digest_of, sha256_file
from guards.errors import ConfigError, ModelError
from guards.policy import resolve_policy
from loop.backends.local import LocalBackend
from loop.home import Home
from loop.recorded_steps import RecordedSteps
from loop.root import ensure_root, make_root, train_root
from loop.root_package import ADAPTER, ROWS_FILE, load_root_spec
from tests.tiny_world import build_tiny_world


def quiet(_title: str):
    return lambda _what, _done, _total: None


def test_the_log_says_what_a_shipped_root_was_made_from(tmp_path: Path, tiny_checkpoint: Path) -> None:
    build_tiny_world(tmp_path / "world", tiny_checkpoint)
    package = tmp_path / "world" / "root"
    made = make_root(package, Home.open(tmp_path / "maker"), backend=LocalBackend(), stage=quiet, actor="tester")
    rows_digest = sha256_file(package / ROWS_FILE)
    text = (package / "root.yaml").read_text().replace("\ndigest: null", f"\ndigest: {made.trained_digest}")
    (package / "root.yaml").write_text(text.replace("rows_digest: null", f"rows_digest: {rows_digest}"))

    home = Home.open(tmp_path / "home")
    steps = RecordedSteps(home, LocalBackend(), quiet, actor="tester", run=None)
    policy = resolve_policy(tmp_path / "world" / "root_policy.yaml")
    digest, _, _ = ensure_root(home, steps, package, policy, quiet, actor="tester", run=None, retrain=False)
    assert digest == made.trained_digest
    with home.store.read() as history:
        provenance = history.find_candidate(digest).body.provenance
    adapter = {f"adapter/{path.name}": sha256_file(path) for path in (package / ADAPTER).iterdir()}
    assert (
        provenance.items()
        >= {
            "rows_digest": rows_digest,
            "recipe_digest": digest_of(load_root_spec(package).recipe.model_dump(mode="json")),
            "adapter_digest": digest_of(adapter),
            "merge_alpha": 3,
        }.items()
    )
    home.store.verify()

    # Other rows under the same root: the package is consistent, and yet not what the root was trained on.
    with (package / ROWS_FILE).open("rb") as rows:
        fewer = rows.readlines()[:-1]
    (package / ROWS_FILE).write_bytes(b"".join(fewer))
    swapped = sha256_file(package / ROWS_FILE)
    (package / "root.yaml").write_text((package / "root.yaml").read_text().replace(rows_digest, swapped))
    with pytest.raises(ModelError) as refused:
        ensure_root(home, steps, package, policy, quiet, actor="tester", run=None, retrain=False)
    assert (refused.value.rule, refused.value.got, refused.value.expected) == ("root.other-rows", swapped, rows_digest)


def test_a_missing_key_of_the_critic_is_refused_before_the_base_answers(tmp_path: Path, tiny_checkpoint: Path) -> None:
    build_tiny_world(tmp_path / "world", tiny_checkpoint)
    package = tmp_path / "world" / "root"
    with (package / "root.yaml").open("a") as handle:
        handle.write("critic: {base_url: 'http://localhost/v1', model: m, api_key_file: no.key}\n")
    no_steps = cast(Any, SimpleNamespace())  # a step that is run fails the test
    with pytest.raises(ConfigError) as refused:
        train_root(cast(Any, SimpleNamespace(path=tmp_path)), no_steps, package, load_root_spec(package), quiet)
    assert refused.value.rule == "root.api-key"

"""The digest of the code: it follows the sources, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import guards
import loop
from loop.code_digest import code_digest, digest_of_sources

PACKAGES = {package.__name__: Path(str(package.__file__)).parent for package in (guards, loop)}


def copy_of_the_code(directory: Path) -> dict[str, Path]:
    for name, path in PACKAGES.items():
        shutil.copytree(path, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    return {name: directory / name for name in PACKAGES}


def test_the_same_sources_elsewhere_are_the_same_code(tmp_path: Path) -> None:
    assert digest_of_sources(copy_of_the_code(tmp_path)) == code_digest()


def test_another_process_finds_the_same_digest() -> None:
    script = "from loop.code_digest import code_digest; print(code_digest())"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == code_digest()


def test_every_change_of_a_source_is_other_code(tmp_path: Path) -> None:
    packages = copy_of_the_code(tmp_path)
    seen = {digest_of_sources(packages)}
    engine = tmp_path / "loop" / "engine.py"
    engine.write_bytes(engine.read_bytes() + b"# changed\n")
    seen.add(digest_of_sources(packages))
    (tmp_path / "guards" / "gates" / "added.py").touch()
    seen.add(digest_of_sources(packages))
    (tmp_path / "guards" / "gates" / "added.py").rename(tmp_path / "loop" / "steps" / "added.py")
    seen.add(digest_of_sources(packages))
    engine.unlink()
    seen.add(digest_of_sources(packages))
    assert len(seen) == 5


def test_data_files_are_not_the_code(tmp_path: Path) -> None:
    packages = copy_of_the_code(tmp_path)
    (tmp_path / "loop" / "notes.md").write_text("x")
    (tmp_path / "loop" / "configs" / "more.yaml").write_text("x: 1")
    assert digest_of_sources(packages) == code_digest()

"""The files in locks/: pinned, hashed, of no particular registry, and in step with pyproject.toml."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "locks"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
GROUPS: dict[str, list[Any]] = PYPROJECT["dependency-groups"]
OF_THE_PROJECT: list[str] = PYPROJECT["project"]["dependencies"]
HTML: list[str] = PYPROJECT["project"]["optional-dependencies"]["html"]


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group, those of included groups among them."""
    return [
        requirement
        for entry in GROUPS[name]
        for requirement in ([entry] if isinstance(entry, str) else group(entry["include-group"]))
    ]


DECLARED = {
    "uv": group("uv"),
    "build": [*group("build"), *PYPROJECT["build-system"]["requires"]],
    "demo": [*OF_THE_PROJECT, *HTML],
    "test": [*OF_THE_PROJECT, *HTML, *group("test")],
    "lint": [*OF_THE_PROJECT, *HTML, *group("lint")],
    **{name: [*OF_THE_PROJECT, *group(name)] for name in ("sdk-0", "sdk-1", "sdk-2")},
}
"""By lock: what it has to hold."""


def entries(name: str) -> list[str]:
    """Return the entries of a lock, each on one line: requirement and hashes."""
    lines = (LOCKS / f"{name}.txt").read_text("utf-8").replace("\\\n", " ").splitlines()
    return [line for line in lines if not line.lstrip().startswith("#")]


def test_every_lock_is_known() -> None:
    assert {path.stem for path in LOCKS.glob("*.txt")} == set(DECLARED)


@pytest.mark.parametrize("name", DECLARED)
def test_each_entry_is_one_version_with_hashes(name: str) -> None:
    for entry in entries(name):
        assert re.fullmatch(r"[\w.-]+==\S+( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+", entry), entry


@pytest.mark.parametrize("name", DECLARED)
def test_a_lock_holds_what_is_declared(name: str) -> None:
    pins = [Requirement(entry.partition("--hash")[0]) for entry in entries(name)]
    for requirement in map(Requirement, DECLARED[name]):
        versions = [
            next(iter(pin.specifier)).version
            for pin in pins
            if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
        ]
        assert versions, f"make lock: {requirement} is not in locks/{name}.txt"
        for version in versions:
            assert requirement.specifier.contains(version, prereleases=True), f"make lock: {requirement}"


def test_the_npm_lock_has_the_hash_of_each_package_and_no_address() -> None:
    declared = json.loads((LOCKS / "package.json").read_text("utf-8"))["dependencies"]
    locked = json.loads((LOCKS / "package-lock.json").read_text("utf-8"))["packages"]
    assert locked.pop("")["dependencies"] == declared
    assert {f"node_modules/{name}" for name in declared} <= set(locked)
    for package in locked.values():
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package


def test_no_lock_names_a_registry() -> None:
    for path in LOCKS.iterdir():
        text = path.read_text("utf-8")
        assert "://" not in text, path.name
        assert "--index" not in text, path.name
        assert "--find-links" not in text, path.name

"""Ids of scenarios: a test's node id, `FILE::fixture NAME of OWNER`, or `FILE::teardown of TEST`."""

from __future__ import annotations

from pathlib import PurePosixPath

_CONFTEST = "conftest.py"


def is_beside_a_test(scenario: str) -> bool:
    """Whether it is a fixture or a teardown, so that no test fails for it."""
    return scenario.partition("::")[2].startswith(("fixture ", "teardown of "))


def argument(scenario: str) -> str:
    """What pytest is given to run it: fixtures and teardowns run with the tests that they are of.

    An owner is told with its file only where that is another than the one that the fixture is in.
    """
    if not is_beside_a_test(scenario):
        return scenario
    file, _, name = scenario.partition("::")
    _, of, owner = name.partition(" of ")
    path = PurePosixPath(file)
    if not of:
        return str(path.parent) if path.name == _CONFTEST else file
    is_elsewhere = path.name == _CONFTEST or owner.partition("::")[0].endswith(".py")
    return owner if is_elsewhere else f"{file}::{owner}"

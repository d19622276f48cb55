"""`tokenbudget update`: replay the scenarios and write the baselines of what is new and what changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_tokenbudget.commands.suite import pytest


def run(folder: Path, arguments: Sequence[str]) -> int:
    """pytest's exit status."""
    return pytest(["--token-budget", "--token-budget-update", *arguments], folder)

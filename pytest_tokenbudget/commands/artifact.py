"""The folder of a CI artifact: a document, and what became of the baselines, under fixed names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DOCUMENT, DIFF = "token-budget.json", "token-budget-diff.json"


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files that a command reads."""

    documents: tuple[Path, ...]
    diff: Path | None


def inputs(given: Sequence[Path], diff: Path | None = None) -> Inputs:
    """`given`, folders taken for what is in them; the first DIFF of one serves where none is named."""
    folders = [path for path in given if path.is_dir()]
    found = [folder / DIFF for folder in folders if (folder / DIFF).is_file()]
    documents = tuple(path / DOCUMENT if path in folders else path for path in given)
    return Inputs(documents, diff or next(iter(found), None))

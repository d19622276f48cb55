"""`tokenbudget merge`: the documents of several shards as one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pytest_tokenbudget.commands import output
from pytest_tokenbudget.commands.artifact import inputs
from pytest_tokenbudget.reports.document import Document, load
from pytest_tokenbudget.reports.merge import merge


def run(paths: Sequence[Path], destination: Path, expected: int | None) -> int:
    """Write the document of all. Raises ReportError where they disagree or one is missing."""
    merged = read(inputs(paths).documents, expected)
    output.write_text(json.dumps(merged, indent=2, ensure_ascii=False) + "\n", destination)
    return 0


def read(paths: Sequence[Path], expected: int | None = None) -> Document:
    """One document of one or more files; what is worth knowing of several is told. Raises ReportError."""
    merged = merge({str(path): load(path) for path in paths}, shards=expected)
    for note in merged.notes:
        output.tell(note)
    return merged.document

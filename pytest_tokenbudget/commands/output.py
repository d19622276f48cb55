"""Write what a command says: to standard output, or to a file that is written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.files import encoded, write_atomically
from pytest_tokenbudget.reports.text import Line

Value = TypeVar("Value")
_STYLES = {"red": 31, "green": 32, "yellow": 33, "bold": 1}
_COLUMNS = 100
"""The width of a line if no terminal says how wide it is, as in the log of a CI job."""


def write_text(text: str, destination: Path | None) -> None:
    """Write a report to `destination`, or to standard output, in UTF-8 whatever the terminal's encoding is.

    Raises ReportError that names the file, and BrokenPipeError if the reader has seen enough.
    """
    if destination is None:
        _print(encoded(text))
        return
    try:
        write_atomically(destination, encoded(text))
    except OSError as error:
        reason = error.strerror or error
        raise ReportError(f"{destination} cannot be written: {reason}. Name another file with -o.") from error
    tell(f"Wrote {destination}")


def read_text(path: Path) -> str:
    """Read a file that a command is given. Raises ReportError that names it."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror or error}. Name another file.") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path} is not UTF-8 text. Name another file.") from error


def _print(content: bytes) -> None:
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that nothing is flushed at exit
        if isinstance(error, BrokenPipeError):
            raise
        reason = f"{error.strerror or error}. Send it where there is room."
        raise ReportError(f"Standard output cannot be written: {reason}") from error


def write_lines(lines: Iterable[Line], destination: Path | None) -> None:
    """Write lines, in colour only to a terminal."""
    colour = destination is None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    write_text("".join(f"{_styled(line) if colour else line.text}\n" for line in lines), destination)


def write_form(
    form: str,
    value: Value,
    destination: Path | None,
    *,
    lines: Callable[..., Iterable[Line]],
    markdown: Callable[[Value], str],
) -> None:
    """Write a value as `terminal`, `markdown` or `json`; `lines` takes `columns` and `ascii_only` too."""
    if form == "terminal":
        write_lines(lines(value, columns=columns(), ascii_only=ascii_only()), destination)
    elif form == "markdown":
        write_text(markdown(value), destination)
    else:
        write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", destination)


def tell(text: str) -> None:
    """Say on standard error what is not the output itself."""
    sys.stderr.write(f"{text}\n")


def columns() -> int:
    """Return how many columns a line may have."""
    return shutil.get_terminal_size((_COLUMNS, 24)).columns


def ascii_only() -> bool:
    """Return whether standard output can show only ASCII."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return not encoding.startswith("utf")


def _styled(line: Line) -> str:
    return f"\x1b[{_STYLES[line.style]}m{line.text}\x1b[0m" if line.style in _STYLES else line.text

"""Cassettes on disk: compact YAML that a person can review; plain vcr cassettes are read too.

`docs/cassettes.md` describes the form. A cassette is untrusted: it may come with a pull request.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.files import write_atomically
from pytest_tokenbudget.replay.cassette_file import MalformedError, unpack
from pytest_tokenbudget.replay.packing import Interaction, pack
from pytest_tokenbudget.replay.yaml_text import yaml_text
from pytest_tokenbudget.yaml_files import load_yaml

FORMAT = "pytest-tokenbudget"
VERSION = 1
_HEADER = "# Recorded model calls, for replay. Review them like code; record them anew with "
_RECORD = "pytest --token-budget-record=all"


def read_cassette(path: str | os.PathLike[str]) -> list[Interaction]:
    """The interactions of a cassette, request bodies to the byte as they were recorded.

    Raises FileNotFoundError where there is no such file, and CassetteError, naming the file and the fix,
    where it is empty, truncated, no YAML, of another shape or of a newer version.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror or error}") from error
    if not text.strip():
        raise _unreadable(path, "is empty")
    try:
        return _interactions(_document(text))
    except _NewerVersionError as error:
        raise CassetteError(f"{path}: {error}. Upgrade pytest-tokenbudget.") from error
    except MalformedError as error:
        raise _unreadable(path, str(error)) from error


def write_cassette(path: str | os.PathLike[str], interactions: Sequence[Interaction]) -> None:
    """Write the interactions: the same ones give the same bytes; the file is replaced whole or not at all.

    They are written as they are: redact them first. Makes the folder. Raises CassetteError; what was on disk
    before is then untouched.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    try:
        content = format_cassette(interactions).encode()
        write_atomically(path, content)
    except (TypeError, ValueError, KeyError) as error:
        raise CassetteError(
            f"{path}: cannot be written: {error}. What was on disk is untouched. A cassette cannot hold the "
            "request or answer with this value: keep it out of the scenario."
        ) from error
    except OSError as error:
        raise CassetteError(
            f"{path}: cannot be written: {error.strerror or error}. What was on disk is untouched. Make the "
            "folder writable and record again."
        ) from error


def format_cassette(interactions: Sequence[Interaction]) -> str:
    """The text of a cassette file."""
    # The version comes last, as in vcr's files, so that a file which lost its end is told from a whole one.
    document = {"format": FORMAT, "interactions": pack(interactions), "version": VERSION}
    return f"{_HEADER}`{_RECORD}`.\n{yaml_text(document)}"


class _NewerVersionError(ValueError):
    """The cassette is of a version that this one does not know."""


def _unreadable(path: Path, what: str) -> CassetteError:
    return CassetteError(
        f"{path}: {what}. Restore it (git checkout -- {path}), or delete it and record it again: "
        "pytest --token-budget-record=once"
    )


def _document(text: str) -> object:
    try:
        return load_yaml(text)
    except ValueError as error:
        raise MalformedError(f"is no YAML that a cassette may hold: {error}") from error


def _interactions(document: object) -> list[Interaction]:
    if not isinstance(document, dict) or "interactions" not in document:
        raise MalformedError("is no cassette: it has no `interactions`")
    version = document.get("version")
    if version is None:
        raise MalformedError("is truncated: it ends before its `version`")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise MalformedError(f"is of version {version!r}, which does not exist")
    if version > VERSION:
        raise _NewerVersionError(f"is of version {version}; this pytest-tokenbudget reads up to {VERSION}")
    return unpack(document["interactions"])

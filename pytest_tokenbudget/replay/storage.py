"""Cassettes on disk: compact YAML that a person can review; plain vcr cassettes are read too.

`docs/cassettes.md` describes the form. A cassette is untrusted: it may come with a pull request.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.packing import Interaction, pack
from pytest_tokenbudget.replay.unpacking import MalformedError, unpack
from pytest_tokenbudget.replay.yaml_text import yaml_text

FORMAT = "pytest-tokenbudget"
VERSION = 1
_HEADER = "# Recorded model calls, for replay. Review them like code; record them anew with "
_RECORD = "pytest --token-budget-record=all"
_MAX_DEPTH = 100  # levels of YAML; libyaml's composer overflows the C stack without a bound
_MAX_GROWTH = 20  # how many times larger than its values aliases may make a document
_FREE_GROWTH = 1_000_000
_RESOLVED = ("null", "bool", "int", "float")  # everything else without quotes is text: dates too


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
        return _interactions(_load(text))
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
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
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


def _load(text: str) -> Any:
    import yaml

    try:
        document = yaml.load(text, Loader=_loader())  # noqa: S506
        _refuse_bombs(document)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise MalformedError(
            f"is no YAML that a cassette may hold: {' '.join(str(error).split())}"
        ) from error
    return document


@functools.cache
def _loader() -> type:
    """A safe loader, libyaml's where it is installed, that bounds depth and knows no merge keys."""
    import yaml
    from yaml.constructor import ConstructorError

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        depth = 0

        def descend_resolver(self, *_: Any) -> None:
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                raise ConstructorError(None, None, f"nested deeper than {_MAX_DEPTH} levels", None)

        def ascend_resolver(self) -> None:
            self.depth -= 1

        def flatten_mapping(self, node: Any) -> None:
            """Leave `<<` alone: merging merged mappings grows without bound."""

    tags = tuple(f"tag:yaml.org,2002:{name}" for name in _RESOLVED)
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in tags]
        for first, resolvers in Loader.yaml_implicit_resolvers.items()
    }
    for tag in ("str", "unicode"):  # as vcr's own loader reads them
        Loader.add_constructor(f"tag:yaml.org,2002:python/{tag}", Loader.construct_scalar)
    Loader.add_constructor("tag:yaml.org,2002:python/tuple", Loader.construct_sequence)
    return Loader


def _refuse_bombs(document: object) -> None:
    """Raise ValueError where aliases make a document endless, or many times what is written down."""
    written: dict[int, int] = {}  # by identity: what a value takes without what it holds
    whole: dict[int, int] = {}  # with what it holds, aliases followed

    def size(value: object) -> int:
        if not isinstance(value, (dict, list, str, bytes)):
            return 1
        if id(value) in whole:
            return whole[id(value)]
        if id(value) in written:
            raise ValueError("an alias refers to what it is part of")
        written[id(value)] = len(value) + 1
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        whole[id(value)] = written[id(value)] + sum(map(size, items))
        return whole[id(value)]

    if size(document) > _FREE_GROWTH + _MAX_GROWTH * sum(written.values()):
        raise ValueError("its aliases make it many times larger than the file")


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise

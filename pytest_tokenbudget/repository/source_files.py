"""Reads the text files that prompts can come from: what git knows of a folder, or what lies in it."""

from __future__ import annotations

import os
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from pytest_tokenbudget.errors import GitError
from pytest_tokenbudget.repository.git import Repository
from pytest_tokenbudget.sources.tree import SourceTree

SUFFIXES = frozenset(
    {".md", ".markdown", ".txt", ".rst", ".j2", ".jinja", ".jinja2", ".tmpl", ".mustache", ".hbs", ".liquid"}
    | {".yaml", ".yml", ".json", ".jsonl", ".toml", ".xml", ".html", ".prompt", ".prompty", ".py", ".pyi"}
)
LARGEST = 512 * 1024
"""Bytes of a file that is still read: prompts are smaller, lock files and data sets are not."""
MOST = 24 * 1024 * 1024
"""Bytes that are read in all; changed files first."""
_NOT_SOURCES = frozenset({"cassettes", "token_budgets", "__pycache__", "node_modules", "site-packages"})
_HEAD = 2000
"""Characters that tell what a file is."""
_REPORTS = ("<!-- pytest-tokenbudget", "<title>Token budget")
"""What the Markdown and the HTML report begin with."""
_TERMINAL = "= token budgets ="
"""In what a run printed, wherever it was kept."""


def read_source_tree(folder: Path) -> SourceTree:
    """The text files of `folder`, relative path to text, and what the change at hand touches held before it.

    Of a git repository: what is tracked, or new and not ignored; changed since HEAD left the default branch,
    or else since the commit before. Recordings, baselines and reports of this tool hold prompts, but are not
    where they come from: they are left out. Never raises for what cannot be read.
    """
    changed: Mapping[str, str] = {}
    try:
        repository = Repository.open(folder)
        paths, changed = repository.files(), _changed(repository)
    except GitError:
        paths = list(_walk(folder))
    wanted = [path for path in paths if _may_hold_prompts(path)]
    files: dict[str, str] = {}
    left = MOST
    for path in sorted(wanted, key=lambda path: (path not in changed, path)):
        text = _read(folder / path)
        if text is not None and len(text) <= left and not _is_recorded(text):
            files[path] = text
            left -= len(text)
    return SourceTree(files, {path: was for path, was in changed.items() if path in files})


def _changed(repository: Repository) -> dict[str, str]:
    """What the files that the change touches held before it; nothing where they are new."""
    for since in _bases(repository):
        try:
            touched = repository.touched(since)
        except GitError:  # no commit yet, or a history of one
            return {}
        if touched:
            held = repository.tree(since)
            blobs = {path: held[path] for path in touched if path in held and _may_hold_prompts(path)}
            contents = dict(repository.blobs(blobs.values()))
            return dict.fromkeys(touched, "") | {
                path: _decoded(contents[blob]) or "" for path, blob in blobs.items()
            }
    return {}


def _bases(repository: Repository) -> Iterator[str]:
    """What to compare the working tree with: where the branch began; else the last commit, or that before."""
    try:
        head = repository.commit()
        base = repository.merge_base(repository.default_branch())
    except GitError:
        yield "HEAD"
        return
    yield from (base.id,) if base.id != head.id else ("HEAD", "HEAD~1")


def _walk(folder: Path) -> Iterator[str]:
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if _is_source_folder(Path(top, name)))
        yield from (Path(top, name).relative_to(folder).as_posix() for name in names)


def _is_source_folder(folder: Path) -> bool:
    hidden = folder.name.startswith(".") or folder.name in _NOT_SOURCES
    return not hidden and not (folder / "pyvenv.cfg").exists()


def _may_hold_prompts(path: str) -> bool:
    pure = PurePosixPath(path)
    return pure.suffix.lower() in SUFFIXES and not _NOT_SOURCES.intersection(pure.parts)


def _read(path: Path) -> str | None:
    """The text of a file; None where it is too large, no text, or cannot be read."""
    try:
        if path.stat().st_size > LARGEST:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    return _decoded(content)


def _decoded(content: bytes) -> str | None:
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    if b"\0" in content[:_HEAD]:
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")  # what is no UTF-8 and yet a prompt is probably this


def _is_recorded(text: str) -> bool:
    """Whether this is a cassette, or a report of this tool."""
    head = text[:_HEAD]
    cassette = head.startswith("interactions:") or "\ninteractions:" in head or '"interactions":' in head
    json_report = ('"pytest-tokenbudget"' in head and '"scenarios"' in text) or (
        '"runs_per_month"' in head and '"levers"' in text
    )
    return cassette or json_report or any(mark in head for mark in _REPORTS) or _TERMINAL in text

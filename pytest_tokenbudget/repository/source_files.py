"""Read the text files that prompts can come from: what git knows of a folder, or else all files in it."""

from __future__ import annotations

import os
import posixpath
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from pytest_tokenbudget.errors import GitError
from pytest_tokenbudget.repository.git import Repository
from pytest_tokenbudget.sources import DATA, SourceTree, is_outside

LARGEST = 512 * 1024
"""Most bytes of a file that is read although the change does not touch it: prompts are smaller."""
MOST = 24 * 1024 * 1024
"""Most bytes that are read of all such files together; data files come last."""
_NOT_SOURCES = frozenset({"cassettes", "token_budgets", "__pycache__", "node_modules", "site-packages"})
_LOCK_FILES = frozenset({"package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "go.sum"})
_BUILT = (".lock", ".lockb", ".lock.json", ".lock.hcl", ".map", ".min.js", ".min.css", ".min.mjs")
"""Endings of the names of lock files, source maps and minified files."""
_MINIFIED = 1000
"""Average characters of a line above which a script or style sheet counts as minified."""
_HEAD = 2000
"""How many characters at the beginning show what a file is."""
_REPORTS = ("<!-- pytest-tokenbudget", "<title>Token budget")
"""Texts near the beginning of our Markdown and HTML reports."""
_TERMINAL = "= token budgets ="
"""A text in the terminal output of a run, which somebody may have saved."""


def read_source_tree(folder: Path) -> SourceTree:
    """Read the text files of `folder`, and what those that the current change touches held before it.

    In a git repository, these are the files that are tracked, or new and not ignored; those of the repository
    that lie outside of `folder` have a path that begins with `../`. The change is all since HEAD left the
    default branch, or else since the commit before. Files that it touches are read whatever their size. Lock
    files, minified files, recordings, baselines and reports of this tool are left out: they may hold prompts,
    but prompts do not come from them. Files that cannot be read raise nothing.
    """
    changed: Mapping[str, str] = {}
    try:
        here = Repository.open(folder)
        top = here.top
        paths = [_from(here.prefix, path) for path in top.files()]
        changed = {_from(here.prefix, path): was for path, was in _changed(top).items()}
    except GitError:
        paths = list(_walk(folder))
    files: dict[str, str] = {}
    left, unread = MOST, 0
    for path in sorted(filter(_may_hold_prompts, paths), key=lambda path: (path not in changed, _rank(path))):
        content = _read(folder / path, None if path in changed else min(LARGEST, left))
        if content is None:
            unread += 1
        elif (text := _decoded(content)) is not None and not _is_recorded(text) and not _is_built(path, text):
            files[path] = text
            left -= 0 if path in changed else len(content)
    return SourceTree(files, {path: was for path, was in changed.items() if path in files}, unread)


def _from(prefix: str, path: str) -> str:
    """Return a path of a repository as seen from the folder `prefix` of it; empty is its top."""
    return path.removeprefix(prefix) if path.startswith(prefix) else posixpath.relpath(path, prefix)


def _rank(path: str) -> tuple[bool, bool, str]:
    """Return a sort key that puts what lies outside of the folder last, and data files last of each."""
    return is_outside(path), PurePosixPath(path).suffix.lower() in DATA, path


def _changed(repository: Repository) -> dict[str, str]:
    """Return the files that the change touches, and what each held before it; empty text if it is new."""
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
    """Yield revisions to compare the working tree with, until one differs.

    That is where the branch left the default branch; on the default branch, the last commit, then the one
    before it.
    """
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
    name = pure.name.lower()
    built = name in _LOCK_FILES or name.endswith(_BUILT)
    return not built and not _NOT_SOURCES.intersection(pure.parts)


def _is_built(path: str, text: str) -> bool:
    """Return whether a script or style sheet was minified, whatever its name."""
    script = path.lower().endswith((".js", ".mjs", ".cjs", ".css"))
    return script and len(text) > LARGEST // 16 and len(text) > _MINIFIED * (text.count("\n") + 1)


def _read(path: Path, most: int | None) -> bytes | None:
    """Return the content of a file; None if it is text of more than `most` bytes.

    An unreadable file gives nothing, and a binary file only its beginning.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if b"\0" in head and not head.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
                return head
            if most is not None and path.stat().st_size > most:
                return None
            return head + file.read()
    except OSError:
        return b""


def _decoded(content: bytes) -> str | None:
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    if b"\0" in content[:_HEAD]:
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")  # a prompt that is not UTF-8 is probably this


def _is_recorded(text: str) -> bool:
    """Return whether a text is a cassette, or a report of this tool."""
    head = text[:_HEAD]
    cassette = head.startswith("interactions:") or "\ninteractions:" in head or '"interactions":' in head
    json_report = ('"pytest-tokenbudget"' in head and '"scenarios"' in text) or (
        '"runs_per_month"' in head and '"levers"' in text
    )
    return cassette or json_report or any(mark in head for mark in _REPORTS) or _TERMINAL in text

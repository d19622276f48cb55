"""Ask git for files and commits, for what they changed, and for other commits checked out beside this one.

This is the only module that runs git. Paths are relative to the folder that a repository was opened in, with
forward slashes. What lies outside of that folder is left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_tokenbudget.errors import GitError
from pytest_tokenbudget.wording import next_step

DEFAULT_BRANCHES = ("origin/HEAD", "origin/main", "origin/master", "main", "master")
"""Names that the default branch is looked for under, in this order."""

_DEEPEN = (
    "This clone is shallow: its history is cut off. "
    "In GitHub Actions, give actions/checkout `fetch-depth: 0`. "
    + next_step("Elsewhere, fetch it", "git fetch --unshallow")
)
_SET_BY_HOOKS = frozenset(
    ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")
)
"""Variables that a git hook passes to every program it starts. They are removed: here the folder decides."""
_CONFIG = ("-c", "core.hooksPath=/dev/null", "-c", "log.showSignature=false")
_AUTHOR = ("-c", "user.name=Demo", "-c", "user.email=demo@example.com", "-c", "commit.gpgSign=false")
_FORMAT = "--format=%x01%H%x1f%T%x1f%P%x1f%cI%x1f%s"

_ORIGIN = re.compile(
    r"(?:https://(?:[^@/]*@)?|(?:ssh://)?git@)(?P<host>(?:www\.)?github\.[\w.-]+)(?::\d+)?[:/]"
    r"(?P<path>[\w-][\w.-]*/[\w-][\w.-]*?)(?:\.git)?/?",
    re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit."""

    id: str
    """Full hash."""
    tree: str
    """Hash of all that it holds: two commits with the same tree are the same code."""
    parents: tuple[str, ...]
    date: str
    """The committer's date, ISO 8601 with its offset."""
    subject: str
    """First line of its message; untrusted text."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that a commit added, changed, removed or moved."""

    path: str
    """Its path after the commit; of a removed file, the path before it."""
    was: str
    """Its path before the commit; it differs only if the file was moved."""
    blob: str | None
    """Hash of what it holds after the commit; None if it was removed."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A folder in the working tree of a git repository."""

    folder: Path
    prefix: str
    """The folder's path from the top of the working tree, such as `example_project/`; empty at the top."""

    @classmethod
    def open(cls, folder: Path) -> Repository:
        """Open the repository that `folder` is in. Raises GitError if there is none."""
        prefix, _ = _position(folder)
        return cls(folder, prefix)

    @property
    def top(self) -> Repository:
        """Return the same repository, opened at the top of its working tree."""
        ups = [".."] * self.prefix.count("/")
        return Repository(self.folder.joinpath(*ups), "") if ups else self

    @classmethod
    def create(cls, folder: Path) -> Repository:
        """Make a repository in `folder`. Raises GitError if git is not there."""
        _git(folder, "init", "--quiet")
        return cls(folder, "")

    def commit_all(self, subject: str) -> None:
        """Write a commit of all that the folder holds, as `_AUTHOR`, whatever git is configured to do."""
        _git(self.folder, "add", "--all")
        _git(self.folder, *_AUTHOR, "commit", "--quiet", "--message", subject)

    @property
    def is_shallow(self) -> bool:
        """Whether history is cut off (a shallow clone)."""
        return _git(self.folder, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true"

    def require_history(self) -> None:
        """Raise GitError, which names the fix, if history is cut off."""
        if self.is_shallow:
            raise GitError(_DEEPEN)

    def files(self, *patterns: str) -> list[str]:
        """Return the files in the working tree that are not ignored and match a glob; without globs, all.

        `**` in a glob crosses folders.
        """
        given = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        listed = self._fields(*given, "--", *_globs(patterns))
        return sorted(path for path in set(listed) if (self.folder / path).is_file())

    def touched(self, since: str) -> frozenset[str]:
        """Return the tracked files whose content in the working tree differs from commit `since`."""
        return frozenset(
            self._fields("diff", "--no-ext-diff", "--name-only", "-z", "--relative", since, "--")
        )

    def web(self) -> str | None:
        """Return the web address of the repository on its GitHub; None if `origin` names none.

        Only host and path are taken, since the address of `origin` may hold credentials.
        """
        origin = _git(self.folder, "config", "--get", "remote.origin.url", check=False).stdout
        found = _ORIGIN.fullmatch(origin.decode(errors="replace").strip())
        return f"https://{found['host'].lower()}/{found['path']}" if found else None

    def untracked(self) -> frozenset[str]:
        """Return the files that git neither tracks nor ignores."""
        return frozenset(self._fields("ls-files", "-z", "--others", "--exclude-standard"))

    def commit(self, revision: str = "HEAD") -> Commit:
        """Return the commit that a branch, tag or hash names. Raises GitError if there is none."""
        found = self._verify(revision)
        if found is None:
            if revision == "HEAD":
                raise GitError(f"The repository of {self.folder} has no commit yet. Commit the baselines.")
            fix = (
                _DEEPEN if self.is_shallow else next_step("List what there is", "git branch --all", "git tag")
            )
            raise GitError(f"{revision!r} names no commit of this repository. {fix}")
        return next(self._log("--no-walk", found))

    def default_branch(self) -> str:
        """Return the branch that work is merged into. Raises GitError if none is found.

        Each judging run asks, so one process of git is started for all the names.
        """
        refs = {_ref(name): name for name in DEFAULT_BRANCHES}
        listed = _git(self.folder, "for-each-ref", "--format=%(refname)", *refs).stdout.decode().split()
        found = next((name for ref, name in refs.items() if ref in listed), None)
        if found is None:
            fix = _DEEPEN if self.is_shallow else "Name the commit to compare with, such as HEAD~1."
            raise GitError(f"None of {', '.join(DEFAULT_BRANCHES)} exists here. {fix}")
        return found

    def merge_base(self, revision: str) -> Commit:
        """Return the commit where HEAD left `revision`, which is `revision` if HEAD builds upon it.

        Raises GitError if they have no commit in common.
        """
        other = self._verify(revision) or self.commit(revision).id
        base = _git(self.folder, "merge-base", other, "HEAD", check=False).stdout.decode().strip()
        if not base:
            self.commit()
            fix = _DEEPEN if self.is_shallow else "Name a commit that HEAD builds upon."
            raise GitError(f"{revision} and HEAD have no commit in common. {fix}")
        return next(self._log("--no-walk", base))

    def base(self) -> str:
        """Return the hash of where HEAD left the default branch, or of HEAD if that cannot be told.

        Raises GitError if there is no commit. Each judging run asks, so few processes of git are started.
        """
        try:
            branch = self.default_branch()
        except GitError:
            return self.commit().id
        found = _git(self.folder, "merge-base", branch, "HEAD", check=False).stdout.decode().strip()
        return found or self.commit().id

    def ancestor(self, path: Path) -> str | None:
        """Return what a file in conflict held before either side of the merge changed it; None otherwise."""
        return self.text(":1", path)

    def text(self, revision: str, path: Path) -> str | None:
        """Return what a file held at a commit, or in a stage of the index (`:1`), or None."""
        name = path.relative_to(self.folder).as_posix()
        found = _git(self.folder, "show", f"{revision}:./{name}", check=False)
        return found.stdout.decode(errors="replace") if found.returncode == 0 else None

    def commits(self, after: str, until: str) -> list[Commit]:
        """Return the commits that `until` has and `after` lacks, oldest first.

        Only the first parents count: what a merge brought in is part of the merge.
        """
        return list(self._log("--first-parent", "--topo-order", "--reverse", until, f"^{after}"))

    def tree(self, commit: str, *suffixes: str) -> dict[str, str]:
        """Return the hash of each file's content at `commit`, by path; submodules are no files.

        Only paths that end in one of `suffixes` are returned; without suffixes, all.
        """
        fields = (field.partition("\t") for field in self._fields("ls-tree", "-r", "-z", commit, "--", "."))
        entries = {path: entry.split(" ") for entry, _, path in fields if path.endswith(suffixes or "")}
        return {path: blob for path, (_mode, kind, blob) in entries.items() if kind == "blob"}

    def blobs(self, ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the content that is stored under each hash, as (hash, content); git is started only once."""
        wanted = list(dict.fromkeys(ids))
        output = _git(self.folder, "cat-file", "--batch", text="\n".join([*wanted, ""])).stdout
        start = 0
        for _ in wanted:
            end = output.index(b"\n", start)
            name, _kind, size = output[start:end].decode().split(" ")
            start = end + 1 + int(size)
            yield name, output[end + 1 : start]
            start += 1  # the newline behind each content

    def texts(self, tree: Mapping[str, str], paths: Iterable[str]) -> Iterator[tuple[str, str, str]]:
        """Yield (path, its text in `tree`, its text now); a file that is not there has none."""
        paths = list(paths)
        known = dict(self.blobs([tree[path] for path in paths if path in tree]))
        for path in paths:
            was = known[tree[path]].decode(errors="replace") if path in tree else ""
            file = self.folder / path
            yield path, was, file.read_text("utf-8", errors="replace") if file.is_file() else ""

    def changes(self, *patterns: str, most: int) -> list[tuple[Commit, list[FileChange]]]:
        """Return the newest `most` first-parent commits of HEAD that touch `patterns`, oldest first."""
        given = ("log", "--first-parent", "-m", "-M", "--raw", "--no-abbrev", "-z", f"--max-count={most}")
        fields = iter(self._fields(*given, _FORMAT, "--encoding=UTF-8", "HEAD", "--", *_globs(patterns)))
        found: list[tuple[Commit, list[FileChange]]] = []
        for field in map(str.lstrip, fields):
            if field.startswith("\x01"):
                found.append((_commit(field), []))
            elif field.startswith(":"):
                _, _, _, blob, status = field.split(" ")
                was = next(fields).removeprefix(self.prefix)
                now = next(fields).removeprefix(self.prefix) if status[0] in "RC" else was
                removed = set(blob) == {"0"}
                found[-1][1].append(FileChange(now, was, None if removed else blob))
        return found[::-1]

    def moved(self, before: str, *after: str) -> dict[str, str]:
        """Return the files that git takes for moved between two commits, as new path to old path.

        Without a second commit, compare with the working tree.
        """
        given = ("diff", "--no-ext-diff", "-M", "--diff-filter=R", "--name-status", "-z", "--relative")
        fields = self._fields(*given, before, *after, "--")
        return dict(zip(fields[2::3], fields[1::3], strict=True))

    @contextmanager
    def worktree(self) -> Iterator[tuple[Path, Callable[[str], None]]]:
        """Open another working tree: yield its top folder, and a function that checks out a commit there.

        It is removed at the end, whatever happens. Nothing of one commit is left when the next is checked
        out. Hooks do not run.
        """
        with tempfile.TemporaryDirectory(prefix="tokenbudget-", ignore_cleanup_errors=True) as temporary:
            top = Path(temporary).resolve() / "worktree"

            def check_out(commit: str) -> None:
                _git(top, "checkout", "--quiet", "--force", "--detach", commit)
                _git(top, "clean", "-ffdxq")

            try:
                _git(self.folder, "worktree", "add", "--detach", "--no-checkout", str(top), "HEAD")
                yield top, check_out
            finally:
                _git(self.folder, "worktree", "remove", "--force", "--force", str(top), check=False)

    def _verify(self, revision: str) -> str | None:
        given = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        found = _git(self.folder, *given, check=False).stdout.decode().split()
        return found[0] if len(found) == 1 else None  # a range has two hashes, and is no commit

    def _log(self, *given: str) -> Iterator[Commit]:
        return map(_commit, self._fields("log", "-z", _FORMAT, "--encoding=UTF-8", *given, "--"))

    def _fields(self, *given: str) -> list[str]:
        """Run git and return its output, split at NUL characters, without empty fields."""
        return [field for field in os.fsdecode(_git(self.folder, *given).stdout).split("\0") if field]


def _ref(branch: str) -> str:
    """Return the whole name of a branch: `refs/remotes/origin/main`, `refs/heads/main`."""
    return f"refs/{'remotes' if '/' in branch else 'heads'}/{branch}"


def checked_out(folder: Path) -> tuple[str | None, str | None]:
    """Return the hash of the commit that `folder` is at, and its path from the top of its repository.

    The hash is None before the first commit; both are None where there is no repository.
    """
    try:
        prefix, commit = _position(folder)
    except GitError:
        return None, None
    return commit, prefix.removesuffix("/")


def _position(folder: Path) -> tuple[str, str | None]:
    """Return where `folder` is below the top of its repository, and the hash of HEAD, if there is one.

    Raises GitError if it is in no working tree.
    """
    asked = _git(folder, "rev-parse", "--is-inside-work-tree", "--show-prefix", "HEAD^{commit}", check=False)
    inside, _, rest = os.fsdecode(asked.stdout).partition("\n")
    if inside != "true":
        reason = asked.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise GitError(
            f"{folder} is not in the working tree of a git repository ({reason or 'bare repository'}). "
            "Run this in a clone of the repository that holds the baselines."
        )
    prefix, _, commit = rest.removesuffix("\n").rpartition("\n")  # a folder's name may hold line breaks
    return prefix, None if asked.returncode else commit


def _commit(text: str) -> Commit:
    hash_, tree, parents, date, subject = text.removeprefix("\x01").split("\x1f", 4)
    readable = os.fsencode(subject).decode(errors="replace").strip()
    return Commit(hash_, tree, tuple(parents.split()), date, readable)


def _globs(patterns: Iterable[str]) -> list[str]:
    return [f":(glob){pattern}" for pattern in patterns]


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return `base` without the variables that tie git to another folder than the current one."""
    return {key: value for key, value in base.items() if key not in _SET_BY_HOOKS}


def _git(
    folder: Path, *given: str, text: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[bytes]:
    try:
        done = subprocess.run(  # noqa: S603  # git itself, no shell; revisions stand behind --end-of-options
            ["git", *_CONFIG, "-C", str(folder), *given],  # noqa: S607  # the one of the PATH is the user's own
            input=None if text is None else text.encode(),
            capture_output=True,
            check=False,
            env=environment(os.environ),
        )
    except FileNotFoundError:
        raise GitError("git is not installed, or not on the PATH. Install it.") from None
    if check and done.returncode:
        reason = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise GitError(f"git {given[0]} failed in {folder}: {reason}. Mend that, then run this again.")
    return done

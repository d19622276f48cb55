"""What git knows: files, commits, what they changed, and other commits checked out beside this one.

The only module that runs git. Paths are relative to the folder that a repository was opened in, with forward
slashes; what lies outside of that folder is left out.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_tokenbudget.errors import GitError

DEFAULT_BRANCHES = ("origin/HEAD", "origin/main", "origin/master", "main", "master")
"""Where the default branch is looked for, in this order."""

_DEEPEN = (
    "This clone is shallow: its history is cut off. Run `git fetch --unshallow`; in GitHub Actions, give "
    "actions/checkout `fetch-depth: 0`."
)
_SET_BY_HOOKS = frozenset(
    ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")
)
"""A hook hands these to all that it starts; here, and in other working trees, the folder decides."""
_CONFIG = ("-c", "core.hooksPath=/dev/null", "-c", "log.showSignature=false")
_FORMAT = "--format=%x01%H%x1f%T%x1f%P%x1f%cI%x1f%s"


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit."""

    id: str
    """Full hash."""
    tree: str
    """Hash of all that it holds: two commits with one tree are the same code."""
    parents: tuple[str, ...]
    date: str
    """Of the committer, ISO 8601 with its offset."""
    subject: str
    """First line of its message; untrusted text."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that a commit added, changed, removed or moved."""

    path: str
    """After the commit; where it was removed, before it."""
    was: str
    """Before the commit: another path where it was moved."""
    blob: str | None
    """Hash of what it holds now; None where it was removed."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A folder of a working tree."""

    folder: Path
    prefix: str
    """The folder below the top of the working tree, such as `example_project/`; empty at the top."""

    @classmethod
    def open(cls, folder: Path) -> Repository:
        """The repository that `folder` is in. Raises GitError where there is none."""
        found = _git(folder, "rev-parse", "--is-inside-work-tree", "--show-prefix", check=False)
        inside, _, prefix = os.fsdecode(found.stdout).partition("\n")
        if found.returncode or inside != "true":
            reason = found.stderr.decode(errors="replace").strip().partition("\n")[0]
            raise GitError(
                f"{folder} is not in the working tree of a git repository ({reason or 'bare repository'}). "
                "Run this in a clone of the repository that holds the baselines."
            )
        return cls(folder, prefix.removesuffix("\n"))

    @property
    def is_shallow(self) -> bool:
        """Whether history is cut off."""
        return _git(self.folder, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true"

    def require_history(self) -> None:
        """Raise GitError with the fix where history is cut off."""
        if self.is_shallow:
            raise GitError(_DEEPEN)

    def files(self, *patterns: str) -> list[str]:
        """What is in the working tree and not ignored, by glob (`**` crosses folders); all without one."""
        given = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        listed = self._fields(*given, "--", *_globs(patterns))
        return sorted(path for path in set(listed) if (self.folder / path).is_file())

    def touched(self, since: str) -> frozenset[str]:
        """The tracked files that the working tree holds otherwise than commit `since`."""
        return frozenset(
            self._fields("diff", "--no-ext-diff", "--name-only", "-z", "--relative", since, "--")
        )

    def commit(self, revision: str = "HEAD") -> Commit:
        """The commit that a branch, tag or hash names. Raises GitError where there is none."""
        found = self._verify(revision)
        if found is None:
            if revision == "HEAD":
                raise GitError(f"The repository of {self.folder} has no commit yet. Commit the baselines.")
            fix = _DEEPEN if self.is_shallow else "`git branch --all` and `git tag` list what there is."
            raise GitError(f"{revision!r} names no commit of this repository. {fix}")
        return next(self._log("--no-walk", found))

    def default_branch(self) -> str:
        """The branch that work is merged into. Raises GitError where none can be found."""
        found = next((name for name in DEFAULT_BRANCHES if self._verify(name)), None)
        if found is None:
            fix = _DEEPEN if self.is_shallow else "Name the commit to compare with, such as HEAD~1."
            raise GitError(f"None of {', '.join(DEFAULT_BRANCHES)} exists here. {fix}")
        return found

    def merge_base(self, revision: str) -> Commit:
        """Where HEAD left `revision`: `revision` itself when HEAD builds upon it. Raises GitError."""
        other, head = self.commit(revision), self.commit()
        base = _git(self.folder, "merge-base", other.id, head.id, check=False).stdout.decode().strip()
        if not base:
            fix = _DEEPEN if self.is_shallow else "Name a commit that HEAD builds upon."
            raise GitError(f"{revision} and HEAD have no commit in common. {fix}")
        return self.commit(base)

    def ancestor(self, path: Path) -> str | None:
        """Return what a file in conflict held before either side of the merge changed it; None otherwise."""
        name = path.relative_to(self.folder).as_posix()
        found = _git(self.folder, "show", f":1:./{name}", check=False)
        return found.stdout.decode(errors="replace") if found.returncode == 0 else None

    def commits(self, after: str, until: str) -> list[Commit]:
        """What `until` has and `after` has not, oldest first; what was merged counts as its merge."""
        return list(self._log("--first-parent", "--topo-order", "--reverse", until, f"^{after}"))

    def tree(self, commit: str, *suffixes: str) -> dict[str, str]:
        """Hash of what each file held at `commit`, by path; only paths that end in one of `suffixes`."""
        fields = (field.partition("\t") for field in self._fields("ls-tree", "-r", "-z", commit, "--", "."))
        return {path: entry.split(" ")[2] for entry, _, path in fields if path.endswith(suffixes or "")}

    def blobs(self, ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """What is stored under each hash, by one process."""
        wanted = list(dict.fromkeys(ids))
        output = _git(self.folder, "cat-file", "--batch", text="\n".join([*wanted, ""])).stdout
        start = 0
        for _ in wanted:
            end = output.index(b"\n", start)
            name, _kind, size = output[start:end].decode().split(" ")
            start = end + 1 + int(size)
            yield name, output[end + 1 : start]
            start += 1  # the newline after each

    def changes(self, *patterns: str, most: int) -> list[tuple[Commit, list[FileChange]]]:
        """The newest `most` commits of HEAD's own line that touch `patterns`, oldest first."""
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
        """Files that git takes for moved between two commits, or until now: new path to old path."""
        given = ("diff", "--no-ext-diff", "-M", "--diff-filter=R", "--name-status", "-z", "--relative")
        fields = self._fields(*given, before, *after, "--")
        return dict(zip(fields[2::3], fields[1::3], strict=True))

    @contextmanager
    def worktree(self) -> Iterator[tuple[Path, Callable[[str], None]]]:
        """Another working tree, gone afterwards whatever happens: its top, and what checks out a commit.

        Nothing of one commit is left when the next is checked out; hooks do not run.
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
        return found[0] if len(found) == 1 else None  # of a range, git tells both ends

    def _log(self, *given: str) -> Iterator[Commit]:
        return map(_commit, self._fields("log", "-z", _FORMAT, "--encoding=UTF-8", *given, "--"))

    def _fields(self, *given: str) -> list[str]:
        """Output that NULs end or part."""
        return [field for field in os.fsdecode(_git(self.folder, *given).stdout).split("\0") if field]


def head_of(folder: Path) -> str | None:
    """The commit that `folder` is at; None where there is none."""
    try:
        return Repository.open(folder).commit().id
    except GitError:
        return None


def project_of(folder: Path) -> str | None:
    """Return where `folder` is, from the top of its repository; None where there is none."""
    try:
        return Repository.open(folder).prefix.removesuffix("/")
    except GitError:
        return None


def _commit(text: str) -> Commit:
    hash_, tree, parents, date, subject = text.removeprefix("\x01").split("\x1f", 4)
    readable = os.fsencode(subject).decode(errors="replace").strip()
    return Commit(hash_, tree, tuple(parents.split()), date, readable)


def _globs(patterns: Iterable[str]) -> list[str]:
    return [f":(glob){pattern}" for pattern in patterns]


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """`base` without what ties git to another folder than the current one."""
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

"""What git knows, in scratch repositories."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pytest_tokenbudget.errors import GitError
from pytest_tokenbudget.repository.git import FileChange, Repository, checked_out
from support.scratch import Scratch

TEXT = "".join(f"line {number}\n" for number in range(20))


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return Scratch.create(tmp_path / "repo")


def test_files_are_those_that_are_there_and_not_ignored(scratch: Scratch) -> None:
    for path in ("a.py", "gone.py", "part/b.py", "part/c d\n.py", "part/ignored.py", "part/new.py"):
        scratch.write(path, "x")
    scratch.write(".gitignore", "ignored.py\n")
    scratch.git("add", "a.py", "gone.py", "part/b.py")
    (scratch.top / "gone.py").unlink()
    repository = Repository.open(scratch.top / "part")
    assert repository.prefix == "part/"
    assert repository.files() == ["b.py", "c d\n.py", "new.py"]
    assert repository.files("**/b.py") == ["b.py"]
    assert Repository.open(scratch.top).files("**/*.py") == [
        "a.py",
        "part/b.py",
        "part/c d\n.py",
        "part/new.py",
    ]


def test_what_is_checked_out(scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked_out(tmp_path) == (None, None)
    scratch.write("part/a.py", "x")
    part = scratch.top / "part"
    assert checked_out(part) == (None, "part"), "no commit yet"
    first = scratch.commit("First")
    assert checked_out(part) == (first, "part")
    assert checked_out(scratch.top) == (first, "")
    assert checked_out(scratch.top / ".git") == (None, None), "it is no working tree"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checked_out(part) == (None, None), "git is not installed"


def test_what_the_working_tree_holds_otherwise(scratch: Scratch) -> None:
    scratch.write("part/a.py", "x")
    scratch.write("b.py", "x")
    first = scratch.commit("First")
    scratch.write("part/a.py", "y")
    scratch.write("b.py", "y")
    assert Repository.open(scratch.top / "part").touched(first) == {"a.py"}
    assert Repository.open(scratch.top).touched("HEAD") == {"part/a.py", "b.py"}


def test_commits_are_of_one_line_and_merges_count_once(scratch: Scratch) -> None:
    first = scratch.commit("First")
    scratch.git("switch", "--quiet", "--create", "side")
    side = scratch.commit("Side")
    scratch.git("switch", "--quiet", "main")
    second = scratch.commit("Second")
    scratch.git("merge", "--quiet", "--no-ff", "-m", "Merge \x1e odd", "side")
    head = scratch.git("rev-parse", "HEAD")
    repository = Repository.open(scratch.top)
    found = repository.commits(first, head)
    assert [one.id for one in found] == [second, head]
    assert found[1].parents == (second, side)
    assert found[1].subject.startswith("Merge")
    assert [one.id for one in repository.commits(second, side)] == [side]
    assert repository.merge_base("side").id == side


@pytest.mark.parametrize(
    ("origin", "web"),
    [
        ("https://github.com/shop/agent.git", "https://github.com/shop/agent"),
        ("https://me:secret@github.com/shop/agent", "https://github.com/shop/agent"),
        ("git@github.com:shop/agent.git", "https://github.com/shop/agent"),
        ("ssh://git@github.shop.com:22/shop/agent/", "https://github.shop.com/shop/agent"),
        ("https://example.com/shop/agent.git", None),
        ("https://github.com.evil/x?y/z", None),
        ("../elsewhere", None),
        (None, None),
    ],
)
def test_the_pages_of_a_repository(scratch: Scratch, origin: str | None, web: str | None) -> None:
    if origin:
        scratch.git("config", "remote.origin.url", origin)
    assert Repository.open(scratch.top).web() == web


def test_trees_and_blobs(scratch: Scratch) -> None:
    scratch.write("part/a.yaml", "one")
    scratch.write("part/empty.yaml", "")
    scratch.write("part/b.bin", "\n\n")
    scratch.write("other.yaml", "x")
    commit = scratch.commit("First")
    repository = Repository.open(scratch.top / "part")
    tree = repository.tree(commit)
    assert set(tree) == {"a.yaml", "empty.yaml", "b.bin"}
    assert set(repository.tree(commit, ".yaml")) == {"a.yaml", "empty.yaml"}
    blobs = dict(repository.blobs([*tree.values(), *tree.values()]))
    held = {path: blobs[blob] for path, blob in tree.items()}
    assert held == {"a.yaml": b"one", "empty.yaml": b"", "b.bin": b"\n\n"}
    assert list(repository.blobs([])) == []


def test_changes_of_files(scratch: Scratch) -> None:
    scratch.write("part/a.yaml", TEXT)
    scratch.write("part/kept", "x")
    scratch.commit("Add")
    scratch.git("mv", "part/a.yaml", "part/b.yaml")
    scratch.write("part/b.yaml", TEXT + "more\n")
    scratch.commit("Move and change")
    scratch.write("elsewhere", "x")
    scratch.commit("Something else")
    scratch.git("rm", "--quiet", "part/b.yaml")
    scratch.commit("Remove")
    found = Repository.open(scratch.top / "part").changes("**/*.yaml", most=9)
    added, moved, removed = (files for _, files in found)
    assert [commit.subject for commit, _ in found] == ["Add", "Move and change", "Remove"]
    assert [(one.path, one.was) for one in (*added, *moved)] == [("a.yaml", "a.yaml"), ("b.yaml", "a.yaml")]
    assert removed == [FileChange("b.yaml", "b.yaml", None)]
    assert len(Repository.open(scratch.top).changes("**/*.yaml", most=2)) == 2


def test_moves(scratch: Scratch) -> None:
    scratch.write("part/a.py", TEXT)
    first = scratch.commit("First")
    scratch.git("mv", "part/a.py", "part/b.py")
    repository = Repository.open(scratch.top / "part")
    assert repository.moved(first) == {"b.py": "a.py"}
    second = scratch.commit("Second")
    assert repository.moved(first, second) == {"b.py": "a.py"}
    assert repository.moved(second) == {}


def test_a_worktree_holds_each_commit_and_nothing_else(scratch: Scratch, tmp_path: Path) -> None:
    scratch.write("hooks/post-checkout", f"#!/bin/sh\ntouch {tmp_path / 'hooked'}\n")
    (scratch.top / "hooks/post-checkout").chmod(0o755)
    scratch.git("config", "core.hooksPath", str(scratch.top / "hooks"))
    scratch.write("a", "1")
    first = scratch.commit("First")
    scratch.write("a", "2")
    second = scratch.commit("Second")
    scratch.write("a", "not committed")
    with Repository.open(scratch.top).worktree() as (top, check_out):
        check_out(first)
        (top / "left").write_text("by a run", "utf-8")
        (top / "ignored").mkdir()
        check_out(second)
        assert sorted(path.name for path in top.iterdir()) == [".git", "a", "hooks"]
        assert (top / "a").read_text("utf-8") == "2"
    assert not top.parent.exists()
    assert (scratch.top / "a").read_text("utf-8") == "not committed"
    assert not (tmp_path / "hooked").exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GitError])
def test_a_worktree_is_gone_after_an_error(scratch: Scratch, error: type[BaseException]) -> None:
    commit = scratch.commit("First")
    tops = []

    def fail() -> None:
        with Repository.open(scratch.top).worktree() as (top, check_out):
            tops.append(top)
            check_out(commit)
            raise error

    with pytest.raises(error):
        fail()
    assert not tops[0].parent.exists()
    assert len(scratch.git("worktree", "list").splitlines()) == 1


def test_inside_a_hook_the_folder_decides(
    scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch.commit("First")
    other = Scratch.create(tmp_path / "other")
    other.commit("Of another")
    monkeypatch.setenv("GIT_DIR", str(scratch.top / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(scratch.top / ".git/index"))
    assert Repository.open(other.top).commit().subject == "Of another"


def test_no_git(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(GitError, match="git is not installed"):
        Repository.open(scratch.top)


def test_a_bare_repository(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path)], check=True, env=os.environ)
    with pytest.raises(GitError, match="not in the working tree"):
        Repository.open(tmp_path)

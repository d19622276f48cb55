"""Which files of a repository prompts are looked for in, and which of them count as changed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_tokenbudget.repository.source_files import LARGEST, read_source_tree

Git = Callable[..., None]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """A repository with one commit on `main`, and git in it."""

    def run(*arguments: str) -> None:
        who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    write(tmp_path, "prompts/support.md", "Be kind.\n")
    write(tmp_path, "agent.py", 'X = "Be brief."\n')
    write(tmp_path, ".gitignore", "secret/\n")
    run("init", "--initial-branch=main")
    run("add", ".")
    run("commit", "-m", "Begin")
    return run


def write(root: Path, path: str, content: str | bytes) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_tracked_and_new_files_but_not_ignored_ones(tmp_path: Path, git: Git) -> None:
    write(tmp_path, "prompts/new.txt", "New.\n")
    write(tmp_path, "secret/prompt.md", "Hidden.\n")
    tree = read_source_tree(tmp_path)
    assert dict(tree.files) == {
        ".gitignore": "secret/\n",
        "agent.py": 'X = "Be brief."\n',
        "prompts/support.md": "Be kind.\n",
        "prompts/new.txt": "New.\n",
    }


def test_the_whole_repository_seen_from_a_folder_of_it(tmp_path: Path, git: Git) -> None:
    """The tests of a package, whose prompts lie beside it."""
    write(tmp_path, "packages/desk/agent.py", "SYSTEM = read()\n")
    write(tmp_path, "packages/shop/prompt.md", "Answer briefly.\n")
    git("add", ".")
    git("commit", "-m", "Packages")
    write(tmp_path, "prompts/support.md", "Be kind.\nAsk for the number of the order first.\n")
    tree = read_source_tree(tmp_path / "packages" / "desk")
    assert {*tree.files} == {
        *("agent.py", "../shop/prompt.md", "../../agent.py", "../../prompts/support.md", "../../.gitignore"),
    }
    assert tree.changed == {"../../prompts/support.md": "Be kind.\n"}
    found = tree.locate("Be kind.\n", "Be kind.\nAsk for the number of the order first.\n")
    assert str(found.source) == "../../prompts/support.md:2"
    assert str(tree.locate("", "Answer briefly.").source) == "../shop/prompt.md:1"


def test_changed_since_the_branch_began(tmp_path: Path, git: Git) -> None:
    git("checkout", "-b", "topic")
    write(tmp_path, "prompts/support.md", "Be kind and brief.\n")
    git("commit", "-am", "Grow")
    write(tmp_path, "agent.py", 'X = "Be very brief."\n')
    assert read_source_tree(tmp_path).changed == {
        "prompts/support.md": "Be kind.\n",
        "agent.py": 'X = "Be brief."\n',
    }


def test_on_the_default_branch_the_working_tree_else_the_last_commit(tmp_path: Path, git: Git) -> None:
    assert read_source_tree(tmp_path).changed == {}
    write(tmp_path, "prompts/support.md", "Be kind and brief.\n")
    assert read_source_tree(tmp_path).changed == {"prompts/support.md": "Be kind.\n"}
    git("commit", "-am", "Grow")
    assert read_source_tree(tmp_path).changed == {"prompts/support.md": "Be kind.\n"}


def test_without_git_what_lies_there(tmp_path: Path) -> None:
    write(tmp_path, "prompts/support.md", "Be kind.\n")
    for path in (".hidden/a.md", "venv/lib/a.py", "node_modules/x/README.md", "pkg/__pycache__/a.py"):
        write(tmp_path, path, "no")
    write(tmp_path, "venv/pyvenv.cfg", "home = /usr\n")
    tree = read_source_tree(tmp_path)
    assert set(tree.files) == {"prompts/support.md"}
    assert tree.changed == {}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("tests/cassettes/test_agent/test_a.yaml", "Be kind.\n"),
        ("tests/recorded.yaml", "interactions:\n- request:\n    body: Be kind.\n"),
        ("tests/recorded.json", '{"version": 1, "interactions": [{"request": {"body": "Be kind."}}]}'),
        ("tests/token_budgets/test_agent.yaml", "version: 1\n"),
        ("report.json", '{"version": 1, "tool": {"name": "pytest-tokenbudget"}, "scenarios": []}'),
        ("comment.md", "<!-- pytest-tokenbudget -->\n\n### 1 of 1 scenarios is over budget: Be kind."),
        ("page.html", "<!doctype html>\n<head><title>Token budget: 1 of 1 scenarios</title>Be kind."),
        ("advice.json", '{"version": 1, "runs_per_month": null, "levers": [{"text": "Be kind."}]}'),
        ("run.txt", f"{'Be kind. ' * 999}\n======= token budgets =======\nBe kind.\n"),
        ("photo.png", b"\x89PNG\0\0"),
        ("binary.md", b"Be\0kind"),
        ("uv.lock", "Be kind."),
        ("web/package-lock.json", '{"name": "Be kind."}'),
        ("web/dist/app.min.js", "x='Be kind.'"),
        ("web/dist/app.js.map", '{"sources": ["Be kind."]}'),
        ("web/dist/bundle.js", "x='Be kind.';" * 5000),
    ],
)
def test_what_is_no_source_of_prompts(tmp_path: Path, git: Git, path: str, content: str | bytes) -> None:
    write(tmp_path, path, content)
    assert set(read_source_tree(tmp_path).files) == {".gitignore", "agent.py", "prompts/support.md"}


def test_odd_bytes_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    write(tmp_path, "a.md", b"\xef\xbb\xbfBe kind.")
    write(tmp_path, "b.md", b"Be \xff kind.")
    write(tmp_path, "c.md", "Größe, à la mode".encode("latin-1"))
    write(tmp_path, "d.md", "Größe: 中".encode("utf-16"))
    assert dict(read_source_tree(tmp_path).files) == {
        "a.md": "Be kind.",
        "b.md": "Be ÿ kind.",
        "c.md": "Größe, à la mode",
        "d.md": "Größe: 中",
    }


@pytest.mark.parametrize(
    "path", ["web/agent.ts", "cmd/agent.go", "lib/agent.rb", "prompts/support.tpl", "PROMPT", "a.prompt.v2"]
)
def test_every_text_file_is_read_whatever_its_suffix(tmp_path: Path, git: Git, path: str) -> None:
    write(tmp_path, path, "Be kind.\n")
    assert read_source_tree(tmp_path).files[path] == "Be kind.\n"


def test_what_the_change_touches_is_read_whatever_its_size(tmp_path: Path, git: Git) -> None:
    large = "Be kind.\n" * LARGEST
    write(tmp_path, "large.py", "")
    git("add", ".")
    git("commit", "-m", "More")
    write(tmp_path, "large.py", large)
    tree = read_source_tree(tmp_path)
    assert tree.files["large.py"] == large
    assert tree.unread == 0


def test_what_was_too_large_to_be_read_is_counted_and_binary_files_are_not(tmp_path: Path, git: Git) -> None:
    write(tmp_path, "data/large.csv", "a,b\n" * LARGEST)
    write(tmp_path, "photo.raw", b"\0" * (LARGEST + 1))
    git("add", ".")
    git("commit", "-m", "More")
    write(tmp_path, "agent.py", "X = 1\n")
    git("commit", "-am", "Change")
    tree = read_source_tree(tmp_path)
    assert set(tree.files) == {".gitignore", "agent.py", "prompts/support.md"}
    assert tree.unread == 1
    assert "1 file too large" in tree.nowhere


def test_a_submodule_that_moved_on_is_no_file(tmp_path: Path, git: Git) -> None:
    """What git keeps of it is a commit, which has no content here."""
    for commit in ("1" * 40, "2" * 40):
        git("update-index", "--add", "--cacheinfo", f"160000,{commit},vendored")
        git("commit", "-q", "-m", "Bump")
    assert read_source_tree(tmp_path).changed == {}

"""`tokenbudget diff` in scratch repositories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.model import Rate
from support import documents
from support.scratch import Scratch, follow_deepening, use

FILE = "tests/token_budgets/test_agent.yaml"
ID = "tests/test_agent.py::"
REST = {"test_b": use(1001), "test_c": use(1002), "test_d": use(1003)}


@pytest.fixture
def repo(tmp_path: Path) -> Scratch:
    """On a branch, one commit after main; its baselines are those of main."""
    scratch = Scratch.create(tmp_path / "repo")
    scratch.baselines(FILE, {"test_a": use(1000), **REST})
    scratch.commit("Baselines")
    scratch.git("switch", "--quiet", "--create", "branch")
    scratch.commit("Nothing")
    return scratch


def changes(found: Any) -> dict[str, tuple[str, str, str | None]]:
    return {one["id"]: (one["change"], one["was"], one["matched"]) for one in found["scenarios"]}


def test_nothing_changed(repo: Scratch) -> None:
    done = repo.run("diff")
    main = repo.git("rev-parse", "--short=7", "main")
    assert done.stdout.splitlines() == [
        f"Nothing was accepted since main ({main}): 4 baselines, unchanged",
        "What the agent costs now, against these:",
        "  pytest --token-budget",
    ]
    assert repo.json("diff")["unchanged"] == 4


def test_a_pull_request_that_updates_its_baselines_shows_what_it_approves(repo: Scratch) -> None:
    raised = {f"test_{name}": use(1340) for name in "abc"}
    repo.baselines(FILE, {**raised, "test_d": use(1003), "test_new": use(50)})
    repo.commit("Accept a longer prompt")
    done = repo.run("diff")
    assert done.stdout.splitlines()[0].startswith("Baselines since main (")
    assert "3 raised, +1,017 prompt tokens (+33.9%)" in " ".join(done.stdout.split())
    assert changes(repo.json("diff")) == {
        f"{ID}test_a": ("raised", f"{ID}test_a", None),
        f"{ID}test_b": ("raised", f"{ID}test_b", None),
        f"{ID}test_c": ("raised", f"{ID}test_c", None),
        f"{ID}test_new": ("added", f"{ID}test_new", None),
    }


def test_of_files_that_are_not_committed_yet(repo: Scratch) -> None:
    repo.baselines(FILE, {"test_a": use(900)})
    repo.baselines("other/token_budgets/test_x.yaml", {"test_x": use(5)})
    assert changes(repo.json("diff")) == {
        f"{ID}test_a": ("lowered", f"{ID}test_a", None),
        f"{ID}test_b": ("removed", f"{ID}test_b", None),
        f"{ID}test_c": ("removed", f"{ID}test_c", None),
        f"{ID}test_d": ("removed", f"{ID}test_d", None),
        "other/test_x.py::test_x": ("added", "other/test_x.py::test_x", None),
    }


def test_a_renamed_test(repo: Scratch) -> None:
    """Known again by its tokens, which are nobody else's; two that are alike are not guessed apart."""
    repo.baselines(FILE, {"test_renamed": use(1000), "test_b": use(1001), "test_y": use(7), "test_z": use(7)})
    assert changes(repo.json("diff")) == {
        f"{ID}test_c": ("removed", f"{ID}test_c", None),
        f"{ID}test_d": ("removed", f"{ID}test_d", None),
        f"{ID}test_renamed": ("renamed", f"{ID}test_a", "tokens"),
        f"{ID}test_y": ("added", f"{ID}test_y", None),
        f"{ID}test_z": ("added", f"{ID}test_z", None),
    }
    said = " ".join(repo.run("diff").stdout.split())
    assert f"{ID}test_renamed was {ID}test_a: the only one with these tokens" in said


@pytest.mark.parametrize("add", [True, False], ids=["known to git", "not added yet"])
def test_a_moved_file(repo: Scratch, add: bool) -> None:
    repo.baselines(FILE, {f"test_{name}": use(1000 + 10 * place) for place, name in enumerate("abcd")})
    repo.commit("Other numbers")
    repo.git("branch", "--force", "main")
    (repo.top / "agents/token_budgets").mkdir(parents=True)
    (repo.top / FILE).rename(repo.top / "agents/token_budgets/test_moved.yaml")
    if add:
        repo.git("add", "--all")
    new = "agents/test_moved.py::"
    how = "file" if add else "tokens"
    assert changes(repo.json("diff")) == {f"{new}test_{n}": ("renamed", f"{ID}test_{n}", how) for n in "abcd"}


def test_a_moved_file_whose_numbers_changed_too(repo: Scratch) -> None:
    (repo.top / "agents/token_budgets").mkdir(parents=True)
    repo.git("mv", FILE, "agents/token_budgets/test_moved.yaml")
    repo.baselines("agents/token_budgets/test_moved.yaml", {"test_a": use(2000), **REST})
    repo.git("add", "--all")
    found = changes(repo.json("diff"))
    assert found["agents/test_moved.py::test_a"] == ("raised", f"{ID}test_a", "file")
    assert {word for word, *_ in found.values()} == {"raised", "renamed"}


def test_a_shift_between_counts(repo: Scratch) -> None:
    repo.baselines(FILE, {"test_a": use(1000, read=600), **REST})
    assert changes(repo.json("diff")) == {f"{ID}test_a": ("lowered", f"{ID}test_a", None)}


def test_a_model_without_a_price_is_unknown_and_judged_by_tokens(repo: Scratch) -> None:
    repo.baselines(FILE, {"test_a": use(1200, model=Rate("claude-of-tomorrow")), **REST})
    (one,) = repo.json("diff")["scenarios"]
    assert (one["change"], one["now"]["cost_usd"]) == ("raised", None)
    assert "cost unknown" in repo.run("diff").stdout


def test_from_where_the_branch_left_main_not_from_where_main_is_now(repo: Scratch) -> None:
    left = repo.git("rev-parse", "main")
    repo.git("switch", "--quiet", "main")
    repo.baselines(FILE, {"test_a": use(5000)})
    repo.commit("Others raise theirs")
    repo.git("switch", "--quiet", "branch")
    assert repo.json("diff")["base"] == {"name": "main", "commit": left}
    assert repo.json("diff", "main")["scenarios"] == []


def test_after_a_merge_of_main(repo: Scratch) -> None:
    repo.git("switch", "--quiet", "main")
    repo.baselines("other/token_budgets/test_x.yaml", {"test_x": use(5)})
    tip = repo.commit("Others add theirs")
    repo.git("switch", "--quiet", "branch")
    repo.git("merge", "--quiet", "--no-edit", "main")
    found = repo.json("diff")
    assert (found["base"]["commit"], found["scenarios"]) == (tip, [])


@pytest.mark.parametrize("branch", ["origin/HEAD", "origin/main", "origin/master", "main", "master"])
def test_the_default_branch(repo: Scratch, branch: str) -> None:
    commit = repo.git("rev-parse", "main")
    repo.git("update-ref", "-d", "refs/heads/main")
    where = {
        "origin/HEAD": "refs/remotes/origin/HEAD",
        "main": "refs/heads/main",
        "master": "refs/heads/master",
    }
    repo.git("update-ref", where.get(branch, f"refs/remotes/{branch}"), commit)
    assert repo.json("diff")["base"]["name"] == branch


def test_what_is_named_wins(repo: Scratch) -> None:
    repo.baselines(FILE, {"test_a": use(9)})
    repo.commit("Cheaper")
    repo.git("tag", "v1")
    assert repo.json("diff", "v1")["scenarios"] == []
    assert len(repo.json("diff", "HEAD~2")["scenarios"]) == 4


def test_below_a_folder(repo: Scratch) -> None:
    repo.baselines("part/tests/token_budgets/test_x.yaml", {"test_x": use(5)})
    repo.commit("A part with a suite of its own")
    repo.baselines("part/tests/token_budgets/test_x.yaml", {"test_x": use(6)})
    found = repo.json("diff", "HEAD", folder="part")
    assert changes(found) == {"tests/test_x.py::test_x": ("raised", "tests/test_x.py::test_x", None)}
    assert found["unchanged"] == 0


def test_a_base_without_baselines(repo: Scratch) -> None:
    repo.git("rm", "--quiet", "-r", "tests")
    none = repo.commit("None")
    repo.git("revert", "--no-edit", "HEAD")
    assert {word for word, *_ in changes(repo.json("diff", none)).values()} == {"added"}


def test_in_a_shallow_clone(repo: Scratch, tmp_path: Path) -> None:
    clone = repo.shallow(tmp_path / "clone")
    for arguments in (["diff", "origin/main"], ["diff", "HEAD~1"], ["diff", repo.git("rev-parse", "main")]):
        text = clone.refused(*arguments)
        assert "This clone is shallow" in text
        assert "`fetch-depth: 0`" in text
    follow_deepening(clone, text)
    assert clone.json("diff", "HEAD~1") == repo.json("diff", "HEAD~1")
    deeper = repo.shallow(tmp_path / "deeper", depth=2)
    assert deeper.json("diff", "HEAD~1")["unchanged"] == 4


def test_what_is_not_there(repo: Scratch, tmp_path: Path) -> None:
    assert (
        "'nowhere' names no commit of this repository. List what there is:\n  git branch --all\n"
        in repo.refused("diff", "nowhere")
    )
    assert "'--all' names no commit" in repo.refused("diff", "--", "--all")
    assert "'main..HEAD' names no commit" in repo.refused("diff", "main..HEAD")
    outside = tmp_path / "outside"
    outside.mkdir()
    assert "is not in the working tree of a git repository" in Scratch(outside).refused("diff")
    empty = Scratch.create(tmp_path / "empty")
    assert "None of origin/HEAD, origin/main" in empty.refused("diff")
    assert "has no commit yet" in empty.refused("diff", "HEAD")
    repo.git("switch", "--quiet", "--orphan", "stranger")
    repo.commit("Of no common history")
    assert "main and HEAD have no commit in common" in repo.refused("diff", "main")


def test_a_broken_file_at_the_base(repo: Scratch) -> None:
    repo.write(FILE, "version: 1\nscenarios: [\n")
    broken = repo.commit("Broken")
    repo.baselines(FILE, {"test_a": use(1)})
    repo.commit("Mended")
    said = repo.refused("diff", "HEAD~1")
    assert f"{FILE} at {broken[:7]}: is no YAML" in said
    assert "It was committed so: name another commit to compare with.\n" in said


def test_other_formats(repo: Scratch) -> None:
    assert repo.run("diff", "--format", "markdown").stdout == ""
    repo.baselines(FILE, {**REST, "test_a": use(2000), "test_x[a|`b`]": use(1)})
    text = repo.run("diff", "--format", "markdown").stdout
    assert text.startswith("<details><summary>Baselines since main (")
    assert "| `test_a`" in text
    assert "| ``test_x[a\\|`b`]``" in text
    repo.run("diff", "--format", "markdown", "-o", "diff.md")
    assert (repo.top / "diff.md").read_text("utf-8") == text


@pytest.fixture
def red(repo: Scratch) -> Scratch:
    """Documents of the base and of now: one scenario over at both, one further over, one over only now."""

    def entry(name: str, prompt: int) -> Any:
        was = [documents.used(documents.SONNET, 1000, 0, 0, 10)]
        now = [documents.used(documents.SONNET, prompt, 0, 0, 10)]
        return documents.scenario(f"{ID}test_{name}", "over" if prompt > 1100 else "within", was, now)

    base = documents.document([entry("a", 1500), entry("b", 1500), entry("c", 1000), entry("old", 1500)])
    now = documents.document([entry("a", 1500), entry("b", 1600), entry("c", 1500), entry("d", 1500)])
    repo.write("base.json", json.dumps({**base, "commit": "c0ffee" + 34 * "0"}))
    repo.write("now.json", json.dumps(now))
    repo.baselines(FILE, {f"test_{name}": use(1000 + place) for place, name in enumerate("abcd")})
    return repo


def test_already_over_at_the_base(red: Scratch) -> None:
    given = ("diff", "--report", "now.json", "--base-report", "base.json")
    found = red.json(*given)
    assert {one["id"]: one["worse"] for one in found["already"]} == {
        f"{ID}test_a": [],
        f"{ID}test_b": ["prompt_tokens", "cost_usd"],
    }
    text = red.run(*given).stdout
    assert f"{ID}test_a: already over at BASE (c0ffee0)\n" in text
    assert f"{ID}test_b: already over at BASE (c0ffee0), and further now: prompt tokens, cost" in text
    assert "test_c" not in text


def test_already_over_under_its_old_name(red: Scratch) -> None:
    base = json.loads((red.top / "base.json").read_text("utf-8"))
    base["scenarios"][0]["id"] = f"{ID}test_before"
    red.write("base.json", json.dumps(base))
    red.baselines(FILE, {"test_before": use(77)})
    red.commit("Another name")
    red.baselines(FILE, {"test_a": use(77)})
    found = red.json("diff", "HEAD", "--report", "now.json", "--base-report", "base.json")
    assert f"{ID}test_a" in {one["id"] for one in found["already"]}


def test_one_document_says_nothing_of_before(red: Scratch) -> None:
    assert "give --report and --base-report" in red.refused("diff", "--report", "now.json")
    assert "give --report and --base-report" in red.refused("diff", "--base-report", "base.json")

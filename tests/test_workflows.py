"""What GitHub runs, and what docs/ci.md tells others to copy: what `make lint-workflows` does not know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
KNOWN_ACTIONS = {
    "actions/checkout": "3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1",
    "actions/upload-artifact": "043fb46d1a93c77aae656e7c1c64a875d1fc6a0a # v7.0.1",
    "actions/download-artifact": "3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c # v8.0.1",
    "astral-sh/setup-uv": "20cfd1bf945f4377ade1205e4dbc17946fc9a30d # v10.0.1",
}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = ROOT / ".github" / "actions" / "token-budget" / "action.yml"
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```yaml\n# \.github/workflows/(\S+)\n(.*?)```", PAGE, re.DOTALL)

INSTALLED_ALONE = (
    r"python3 -m venv tool && tool/bin/pip install --no-deps --only-binary pytest-tokenbudget "
    r"pytest-tokenbudget==[\d.]+"
)
"""What a job that may write trusts: one package, of one version, whose installation runs no code of it."""


@pytest.mark.parametrize("path", [*WORKFLOWS, ACTION], ids=lambda path: path.name)
def test_actions_are_pinned_by_known_hashes(path: Path) -> None:
    for name, pin in re.findall(r"uses: ([^\s@]+)@(.*)", path.read_text(encoding="utf-8")):
        assert pin == KNOWN_ACTIONS[name]


def test_the_page_pins_the_same_actions() -> None:
    for name, pin in re.findall(r"uses: (\S+?)@(.*)", PAGE):
        assert name.startswith("OWNER/") or pin == KNOWN_ACTIONS[name]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_permission_at_the_top_and_a_reason_beside_each(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        for name, level in job["permissions"].items():
            assert re.search(rf"{name}: {level} # \w+", text), f"{name} needs a reason"


def test_the_half_that_may_write_runs_nothing_of_the_pull_request() -> None:
    path = ROOT / ".github" / "workflows" / "token-budget-comment.yml"
    for text in (path.read_text(encoding="utf-8"), dict(SHOWN)["token-budget-comment.yml"]):
        (job,) = yaml.safe_load(text)["jobs"].values()
        assert {key for key, level in job["permissions"].items() if level == "write"} == {"pull-requests"}
        used = [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]
        assert used == ["actions/download-artifact"]
        install, command = [step["run"] for step in job["steps"] if "run" in step]
        assert re.fullmatch(INSTALLED_ALONE, install)
        assert command == "tool/bin/tokenbudget comment token-budget"


def test_no_expression_reaches_a_shell() -> None:
    for path in [*WORKFLOWS, ACTION]:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        jobs = content["jobs"].values() if "jobs" in content else [content["runs"]]
        for step in (step for job in jobs for step in job["steps"] if "run" in step):
            assert "${{" not in step["run"], path


@pytest.mark.parametrize(("name", "text"), SHOWN, ids=[name for name, _ in SHOWN])
def test_what_is_to_be_copied_is_short(name: str, text: str) -> None:
    assert yaml.safe_load(text)["permissions"] == {}
    assert len(text.splitlines()) < 20


def test_both_halves_are_shown() -> None:
    assert [name for name, _ in SHOWN] == ["token-budget.yml", "token-budget-comment.yml"]
    names = [yaml.safe_load(text) for _, text in SHOWN]
    assert names[1][True]["workflow_run"]["workflows"] == [names[0]["name"]]  # YAML 1.1 reads `on` as true

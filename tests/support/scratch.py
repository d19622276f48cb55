"""A scratch repository of baselines, and the commands run in it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_tokenbudget.budget.baselines import Baseline, format_baselines
from pytest_tokenbudget.cli import main
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.repository.git import environment
from support.apart import run_pytest

SONNET = Rate("claude-sonnet-4-6")


def use(prompt: int, output: int = 100, turns: int = 2, *, model: Rate = SONNET, read: int = 0) -> Usage:
    """Usage of a scenario."""
    return Usage.of(model, Tokens(prompt - read, cache_read_input_tokens=read, output_tokens=output), turns)


class Done(NamedTuple):
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Scratch:
    """A repository."""

    top: Path

    @classmethod
    def create(cls, top: Path) -> Scratch:
        scratch = cls(top)
        top.mkdir(parents=True, exist_ok=True)
        scratch.git("init", "--quiet", "--initial-branch=main")
        scratch.git("config", "user.name", "A developer")
        scratch.git("config", "user.email", "developer@example.com")
        scratch.git("config", "commit.gpgsign", "false")
        return scratch

    def git(self, *arguments: str, given: str | None = None, **variables: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.top), *arguments],
            env=environment(os.environ) | variables,
            input=given,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        file = self.top / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")

    def baselines(self, path: str, scenarios: Mapping[str, Usage]) -> None:
        self.write(path, format_baselines({name: Baseline(usage) for name, usage in scenarios.items()}))

    def commit(self, message: str, **variables: str) -> str:
        """Everything there is; its hash."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message, **variables)
        return self.git("rev-parse", "HEAD")

    def run(self, *arguments: str, folder: str = ".") -> Done:
        """`tokenbudget ARGUMENTS` in a folder, in this process."""
        streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2)]
        out, err = streams
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.top / folder)
            patch.setenv("COLUMNS", "100")
            try:
                status = main(arguments)
            except SystemExit as exit_:
                status = int(exit_.code or 0)
        return Done(status, *(stream.buffer.getvalue().decode() for stream in streams))  # type: ignore[attr-defined]

    def pytest(self, *arguments: str, **variables: str) -> None:
        """`pytest ARGUMENTS`, which pass, in a process of its own."""
        status, output = run_pytest(self.top, ["-p", "no:cacheprovider", *arguments], os.environ | variables)
        assert status == 0, output

    def json(self, *arguments: str, folder: str = ".") -> Any:
        """What a command writes as JSON."""
        command, *rest = arguments
        done = self.run(command, "--format", "json", *rest, folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def refused(self, *arguments: str, folder: str = ".") -> str:
        """The sentence by which a command is refused."""
        done = self.run(*arguments, folder=folder)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def shallow(self, target: Path, depth: int = 1) -> Scratch:
        """A shallow clone, as CI makes it."""
        self.git("clone", "--quiet", f"--depth={depth}", self.top.resolve().as_uri(), str(target))
        return Scratch(target)


def follow_deepening(clone: Scratch, refusal: str) -> None:
    """Run what the refusal of a shallow clone names."""
    assert "This clone is shallow" in refusal
    (command,) = re.findall(r"^  git (.+)$", refusal, re.MULTILINE)
    clone.git(*command.split())
    assert clone.git("rev-parse", "--is-shallow-repository") == "false"

"""A process that a test forks has a copy of everything, and nobody reads what it writes there."""

from __future__ import annotations

import multiprocessing

import pytest

from support.budgeted import run_apart
from support.scratch_suites import Suite

SUITE = """
import contextlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
from agent import ask

pytestmark = pytest.mark.token_budget
FORK = multiprocessing.get_context("fork")
MORE = "MISS" in os.environ


def test_process():
    ask("One")
    if MORE:
        process = FORK.Process(target=ask, args=("Two",))
        process.start()
        process.join(600)


def test_pool():
    ask("One")
    if MORE:
        with contextlib.suppress(Exception), FORK.Pool(1) as pool:
            pool.apply_async(ask, ("One",)).get(600)


def test_executor():
    ask("One")
    if MORE:
        with contextlib.suppress(Exception), ProcessPoolExecutor(1, mp_context=FORK) as pool:
            pool.submit(ask, "Two").result(600)


def test_asks_nothing():
    process = FORK.Process(target=len, args=("One",))
    process.start()
    process.join(600)
    ask("One")
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_what_it_asks_is_refused_and_fails_the_test(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(SUITE, 4)
    monkeypatch.setenv("MISS", "1")
    done = run_apart(project.path, "--token-budget")
    assert done.status == 1
    assert "3 failed, 1 passed" in done.output, done.output
    for name in ("process", "pool", "executor"):
        assert f"test_it.py::test_{name}: a process that the test has forked asks a model" in done.output

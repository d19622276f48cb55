"""Calls in threads: they belong to the test that runs; a thread that outlives its test is told by name."""

from __future__ import annotations

from support.scratch_suites import Suite

SUITE = '''
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from agent import ask

pytestmark = pytest.mark.token_budget
POOL = ThreadPoolExecutor(2)
FREE = threading.Event()


@pytest.fixture(scope="session")
def office():
    """A worker for the whole run, as a server would be."""
    todo, done = threading.Semaphore(0), threading.Semaphore(0)

    def work():
        while todo.acquire(timeout=600) and not FREE.is_set():
            words.append(ask(words.pop()))
            done.release()

    words = []
    clerk = threading.Thread(target=work, name="clerk")
    clerk.start()

    def tell(what):
        words.append(what)
        todo.release()
        assert done.acquire(timeout=600)
        return words.pop()

    yield tell
    FREE.set()
    todo.release()
    clerk.join(600)


def test_joined():
    thread = threading.Thread(target=ask, args=["One"], name="joined")
    thread.start()
    thread.join(600)


def test_pool_of_the_module():
    assert POOL.submit(ask, "Two").result()


def test_pool_of_the_module_again():
    assert POOL.submit(ask, "Three").result()


def test_office(office):
    assert office("Four") == "You said Four"


def test_office_again(office):
    assert office("Five") == "You said Five"


@pytest.fixture
def lazy_clerk():
    """Joined in teardown, which is in time."""
    answered, go_on = threading.Event(), threading.Event()

    def work():
        ask("Six")
        answered.set()
        go_on.wait(600)

    clerk = threading.Thread(target=work, name="lazy clerk")
    clerk.start()
    assert answered.wait(600)
    yield
    go_on.set()
    clerk.join(600)


def test_joined_in_teardown(lazy_clerk):
    assert ask("Seven")
'''
LEFT = """
import threading

import pytest
from agent import ask

pytestmark = pytest.mark.token_budget
ANSWERED, GO_ON, DONE = threading.Event(), threading.Event(), threading.Event()


def work():
    ask("One")
    ANSWERED.set()
    GO_ON.wait(600)
    ask("Two")
    DONE.set()


def test_leaves_a_thread():
    threading.Thread(target=work, name="night shift").start()
    assert ANSWERED.wait(600)


def test_comes_after_it():
    GO_ON.set()
    assert DONE.wait(600)
    ask("Three")
"""


def test_threads_that_end_with_their_test_or_serve_several_are_fine(suite: Suite) -> None:
    project = suite(SUITE, 7)
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert {name: entry["measured"]["turns"] for name, entry in judged.scenarios.items()} == dict.fromkeys(
        (
            "test_joined",
            "test_pool_of_the_module",
            "test_pool_of_the_module_again",
            "test_office",
            "test_office_again",
            "test_joined_in_teardown",
            "fixture lazy_clerk of test_joined_in_teardown",
        ),
        1,
    )
    assert "TokenBudgetWarning" not in judged.output


def test_a_thread_that_outlives_its_test_is_told_by_name(suite: Suite) -> None:
    project = suite(LEFT, 3)
    judged = project.judge()
    assert judged.status == 0
    output = judged.words
    assert (
        "test_it.py::test_leaves_a_thread: the thread 'night shift' has asked a model and still runs"
        in output
    )
    assert (
        "test_it.py::test_comes_after_it: the thread 'night shift', which test_it.py::test_leaves_a_thread "
        "has started, asked a model while this test ran" in output
    )
    assert judged.output.count("TokenBudgetWarning: ") == 2

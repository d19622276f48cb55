"""The counters that stand in for Claude's tokenizers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.metering.counting import (
    CTOK_FRAME,
    BuiltinCounter,
    CtokCounter,
    Memo,
    best_counter,
    pieces,
)
from pytest_tokenbudget.metering.models import Family

needs_ctok = pytest.mark.skipif(
    importlib.util.find_spec("ctok") is None, reason="ctok needs Python 3.12 or newer"
)


class Spy:
    """Counts words, and remembers what it was asked."""

    name, exact = "words 1", True

    def __init__(self) -> None:
        self.asked: list[tuple[str, Family]] = []

    def count(self, text: str, family: Family) -> int:
        self.asked.append((text, family))
        return len(text.split())


class Cache:
    """As pytest's cache keeps values."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.sets = 0

    def get(self, key: str, default: Any) -> Any:
        return self.kept.get(key, default)

    def set(self, key: str, value: Any) -> None:
        self.kept[key] = json.loads(json.dumps(value))
        self.sets += 1


def test_a_text_is_counted_once_a_run_and_tokenizer() -> None:
    spy = Spy()
    memo = Memo(spy)
    assert [memo.count("a b", kin) for kin in (Family.V3, Family.V3, Family.V48, Family.V3)] == [2, 2, 2, 2]
    assert spy.asked == [("a b", Family.V3), ("a b", Family.V48)]
    assert (memo.name, memo.exact) == (spy.name, spy.exact)


def test_a_count_outlives_the_run_where_a_store_keeps_it() -> None:
    cache = Cache()
    Memo(Spy(), cache).count("a b", Family.V3)
    later = Spy()
    assert Memo(later, cache).count("a b", Family.V3) == 2
    assert later.asked == []
    assert "a b" not in json.dumps(cache.kept)


def test_a_store_has_one_entry_a_tokenizer_whatever_is_counted() -> None:
    cache = Cache()
    memo = Memo(Spy(), cache)
    for number in range(100):
        memo.count(f"a {number}", Family.V3)
    memo.count("a b", Family.V48)
    assert [*cache.kept] == ["tokenbudget/words-1-3.0", "tokenbudget/words-1-4.8"]
    assert cache.sets < 60, "it is not written for each of many counts"
    later = Spy()
    for number in range(90):
        Memo(later, cache).count(f"a {number}", Family.V3)
    assert later.asked == [], "but for a few of the last"


def test_processes_beside_each_other_keep_what_the_other_counted() -> None:
    cache = Cache()
    one, other = Memo(Spy(), cache), Memo(Spy(), cache)
    for memo, text in ((one, "a"), (other, "b"), (one, "c"), (other, "d")):
        memo.count(text, Family.V3)
    later = Spy()
    for text in "abcd":
        Memo(later, cache).count(text, Family.V3)
    assert later.asked == []


def test_another_counter_does_not_read_what_a_former_one_kept() -> None:
    cache = Cache()
    Memo(Spy(), cache).count("a b", Family.V3)
    newer = Spy()
    newer.name = "words 2"
    Memo(newer, cache).count("a b", Family.V3)
    assert newer.asked == [("a b", Family.V3)]


def test_what_is_no_count_in_the_store_is_counted_again() -> None:
    cache = Cache()
    Memo(Spy(), cache).count("a b", Family.V3)
    [(key, kept)] = cache.kept.items()
    for broken in ("broken", [1], dict.fromkeys(kept, "broken")):
        cache.kept = {key: broken}
        assert Memo(Spy(), cache).count("a b", Family.V3) == 2


def test_without_ctok_the_built_in_counter_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    counter = best_counter()
    assert (counter.name, counter.exact) == ("built-in", False)
    assert counter.count("one two three", Family.V3) == 3


@needs_ctok
def test_ctok_is_the_best_counter_and_loaded_with_its_first_count_only() -> None:
    script = (
        "import sys\n"
        "from pytest_tokenbudget.metering.counting import best_counter\n"
        "from pytest_tokenbudget.metering.models import Family\n"
        "counter = best_counter()\n"
        "assert counter.exact and 'ctok' not in sys.modules\n"
        "assert counter.count('hello world', Family.V48) == 3\n"
        "assert 'ctok' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@needs_ctok
@pytest.mark.parametrize("kin", list(Family))
def test_ctok_counts_a_text_without_the_frame_of_its_message(kin: Family) -> None:
    import ctok

    counter = CtokCounter()
    assert ctok.token_count("a", kin) - counter.count("a", kin) == CTOK_FRAME[kin]
    assert counter.count("a", kin) == 1
    assert counter.count("", kin) == 0


@given(st.text(max_size=300), st.sampled_from(list(Family)))
def test_the_built_in_counter_counts_any_text(text: str, kin: Family) -> None:
    count = BuiltinCounter().count(text, kin)
    assert count >= (1 if text else 0)
    assert count <= 5 * len(text) + 1
    assert count == BuiltinCounter().count(text, kin)


@given(st.text(max_size=300))
def test_only_spaces_weigh_nothing(text: str) -> None:
    weighed = "".join(pieces(text))
    assert "".join(weighed.split()) == "".join(text.split())


_TEXTS = {
    "prose": """The quick brown fox jumps over the lazy dog, and nobody in the village is surprised by it.
When the morning comes, they look for the tracks in the snow and tell each other the same old story.""",
    "code": """def total(items):
    result = 0
    for item in items:
        result += item.price * item.count
    return result
""",
    "json": """{"type": "object", "properties": {"city": {"type": "string", "description": "Its name"}},
"required": ["city"], "additionalProperties": false}""",
    "log": "2026-03-14 09:26:53,589 INFO [worker-3] Loaded 1,204 rows in 0.53 s from /var/lib/app/data.csv",
    "markdown": """## Results

- **Passed:** 12 of 14
- *Failed:* `test_parse`, `test_render`
""",
    "german": """Bitte prüfen Sie die Bestellung und schicken Sie dem Kunden eine kurze Antwort mit dem neuen
Liefertermin.""",
    "russian": "Проверьте, пожалуйста, заказ и отправьте клиенту короткий ответ с новой датой доставки.",
    "chinese": "请检查订单，并给客户发送一封简短的回复，告知新的送货日期。",
}


@needs_ctok
@pytest.mark.parametrize("kin", list(Family))
@pytest.mark.parametrize("kind", _TEXTS)
def test_the_built_in_counter_is_within_a_fifth_of_the_exact_one(kind: str, kin: Family) -> None:
    exact = CtokCounter().count(_TEXTS[kind], kin)
    assert BuiltinCounter().count(_TEXTS[kind], kin) == pytest.approx(exact, rel=0.2, abs=2)

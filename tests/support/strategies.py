"""Any document that the schema allows, its text written by somebody who means harm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from pytest_tokenbudget.model import Basis, Paired, Verdict
from pytest_tokenbudget.reports.document import add
from support.documents import document

FRAGMENTS = [
    "|", "`", "```", "\\", "\\|", "\n", "\r\n", "\n\n", "\t", "\x1b[31m", "\x1b]8;;http://x\x07",
    "\u202e", "\u200b", "@octocat", "@org/team", "#123", "GH-7", "owner/repo#1", "a@b.co",
    "http://evil.example", "https://evil.example/x", "www.evil.example",
    "<script>alert(1)</script>", "<img src=x onerror=y>", "<!--", "-->", "&lt;", "&#64;",
    "![a](http://x)", "[a](javascript:x)", "[a]: http://x", "**", "__", "_", "*", "~~", "~", "$x$",
    "$$", "# h", "- ", "> ", "1. ", "---", "::error::", "%0A", "%", ":tada:",
    "9f2c41d07b8e5a63c1d0f4b7a92e86d3510c7ea4", "返金", "\xe9", "e\u0301",
    "\U0001f469\u200d\U0001f4bb", "\ud800", "[a|b]", "::", "[", "]", "</details>", "</code>",
    "<br>", " ", "word", "tests/test_x.py", "\x00", "\x85", "\u2028",
]  # fmt: skip

hostile = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=12).map("".join)
counts = st.integers(0, 10**7)
dollars = st.none() | st.floats(0, 1000, allow_nan=False)


def words(known: Sequence[str]) -> st.SearchStrategy[str]:
    """A word that this version knows, or one of a newer."""
    return st.sampled_from([*map(str, known), "of_a_newer_version"])


ratios = st.floats(-1, 1000, allow_nan=False)
METRICS = [
    "prompt_tokens", "output_tokens", "turns", "cache_share", "cost_usd",
    "max_prompt_tokens", "max_output_tokens", "max_total_tokens", "max_turns", "max_cost_usd",
]  # fmt: skip


@st.composite
def tokens(draw: st.DrawFn) -> Any:
    uncached, written, read, output = (draw(counts) for _ in range(4))
    rate = {
        "input_tokens": uncached,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": output,
        "prompt_tokens": uncached + written + read,
        "cost_usd": draw(dollars),
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
    }
    entry = {key: value for key, value in rate.items() if key != "cache_creation"}
    return {"turns": 1, **entry, "models": {draw(hostile): rate}}


limits = st.fixed_dictionaries(
    {
        "metric": words(METRICS),
        "baseline": st.none() | st.floats(0, 10**7),
        "measured": st.none() | st.floats(0, 10**7),
        "limit": st.floats(0, 10**7),
        "change": st.none() | ratios,
        "over": st.booleans(),
    }
)
sources = st.none() | st.fixed_dictionaries({"file": hostile, "line": st.integers(1, 10**6)})
findings = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["growth", "cache_break", "interval", "lever_batch"]) | hostile,
        "where": hostile,
        "tokens": st.none() | st.integers(-(10**7), 10**7),
        "cost_usd": st.none() | st.floats(-100, 100),
        "text": hostile,
        "source": sources,
    }
)
bases = words(list(Basis))


@st.composite
def turns(draw: st.DrawFn) -> Any:
    listed = draw(st.lists(st.tuples(st.none() | tokens(), st.none() | tokens()), max_size=4))
    return [
        {
            "index": index,
            "model": draw(st.none() | hostile),
            "basis": draw(bases),
            "paired": draw(st.none() | words(list(Paired))),
            "tokens": now,
            "recorded": was,
        }
        for index, (now, was) in enumerate(listed)
    ]


@st.composite
def scenarios(draw: st.DrawFn) -> Any:
    listed = draw(turns())
    was = [turn["recorded"] for turn in listed if turn["recorded"]]
    now = [turn["tokens"] for turn in listed if turn["tokens"]]
    return {
        "id": draw(hostile),
        "file": draw(hostile),
        "line": draw(st.integers(1, 10**6)),
        "verdict": draw(words(list(Verdict))),
        "basis": draw(bases),
        "baseline": draw(st.sampled_from([None, add(was)])),
        "measured": draw(st.sampled_from([None, add(now)])),
        "limits": draw(st.lists(limits, max_size=4)),
        "turns": listed,
        "findings": draw(st.lists(findings, max_size=4)),
        "recorder": draw(st.none() | hostile),
        "runs_per_month": draw(st.none() | st.integers(0, 10**6)),
    }


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """Schema-valid, but nothing in it needs to make sense."""
    made = document(
        draw(st.lists(scenarios(), max_size=4)),
        draw(words(["replay", "record", "live"])),
        errors=draw(
            st.lists(st.fixed_dictionaries({"id": st.none() | hostile, "text": hostile}), max_size=3)
        ),
        not_judged=draw(
            st.lists(
                st.fixed_dictionaries({"id": hostile, "outcome": words(["failed", "skipped"])}), max_size=3
            )
        ),
        unmeasured=draw(
            st.lists(st.fixed_dictionaries({"id": hostile, "why": words(["gone", "skipped"])}), max_size=2)
        ),
        unmetered=draw(
            st.lists(st.fixed_dictionaries({"id": hostile, "calls": st.integers(0, 99)}), max_size=2)
        ),
        excluded=draw(st.lists(st.fixed_dictionaries({"id": hostile, "why": hostile}), max_size=2)),
    )
    made["prices"] = {"source": draw(hostile), "version": draw(hostile)}
    made["commit"] = draw(st.none() | hostile)
    return made

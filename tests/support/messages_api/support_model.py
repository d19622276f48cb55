"""The scripted model behind example_project: what it answers to the support agent's requests.

A pure function of the request. It looks at the conversation and at which tools there are, never at the
prompts, so that an edited prompt changes what is charged and not what is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from support.blocks import text

from .api import tool_use

Content = str | Sequence[Mapping[str, Any]]


def answer(body: Mapping[str, Any]) -> Content:
    """What the model says next in a conversation of the support agent."""
    tools = {tool["name"] for tool in body.get("tools") or []}
    question, results = _conversation(body["messages"])
    if "search_source" in tools:
        return _research(question, results)
    if tools:
        return _support(question, results)
    return _category(question)


def _conversation(messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """The first message, and the results of all tool calls so far."""
    results = [
        block["content"]
        for message in messages
        if isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "tool_result"
    ]
    first = messages[0]["content"]
    return first if isinstance(first, str) else first[0]["text"], results


_CATEGORIES = (
    ("person", r"lawyer|crashed|hurt"),
    ("return", r"return|refund|exchange"),
    ("delivery", r"where is|arrive|delivered"),
    ("fit", r"\bfit\b"),
)


def _category(question: str) -> str:
    found = (name for name, pattern in _CATEGORIES if re.search(pattern, question.lower()))
    return next(found, "other")


def _research(question: str, results: list[str]) -> Content:
    if not results:
        words = question.partition("Question: ")[2]
        return [text("I search the source first."), tool_use("search_source", query=words)]
    heading, _, passage = results[-1].partition("\n")
    if not passage:
        return "The source says nothing about the question."
    sentences = re.split(r"(?<=\.)\s+", passage.partition("\n\n")[0].strip())
    said = " ".join(sentences[:3]).replace("\n", " ")
    return f"By the passage {heading.removeprefix('## ')!r}: {said}"


def _support(question: str, results: list[str]) -> Content:
    order = re.search(r"FW-\d{5}", question)
    category = _category(question)
    if category == "person":
        return _to_a_person(question, results)
    if category == "fit":
        return _fit(question, results)
    if order and not results:
        return [text("I look the order up."), tool_use("get_order", order_number=order[0])]
    if not order or results[0].startswith("There is no order"):
        return (
            "I cannot find that order. The number stands in the subject of our confirmation and on the "
            "packing slip, and has the form FW- and five digits. Could you send it once more?"
            "\n\nFreewheel Parts"
        )
    found = json.loads(results[0])
    return _wrong_part(found, results) if category == "return" else _late(found, results)


def _late(order: Mapping[str, Any], results: list[str]) -> Content:
    if len(results) == 1:
        return [tool_use("track_parcel", tracking_number=order["tracking_number"])]
    return (
        "Your parcel is lost, and that is ours to put right: it was to arrive on "
        f"{order['confirmed_delivery']}, and the carrier has not scanned it for five working days. Would you "
        "like a replacement or a refund? Write one word, and it leaves, or is paid, on the same working day."
        "\n\nFreewheel Parts"
    )


def _wrong_part(order: Mapping[str, Any], results: list[str]) -> Content:
    part = next(part for part in order["parts"] if part["sent"] != part["stock_number"])
    if len(results) == 1:
        return [
            text(f"The order confirms it: {part['sent']} was sent for {part['stock_number']}."),
            tool_use(
                "start_return",
                order_number=order["order_number"],
                stock_number=part["stock_number"],
                reason="wrong_part",
                replacement=True,
            ),
        ]
    started = json.loads(results[1])
    return (
        f"The right disc ({part['stock_number']}) leaves on {started['replacement_leaves']}; we packed the "
        f"wrong one, and we are sorry for that. Your return {started['return_number']} has a free label, "
        "which comes by mail within the hour. Send the wrong disc back whenever it suits you."
        "\n\nFreewheel Parts"
    )


def _to_a_person(question: str, results: list[str]) -> Content:
    if not results:
        summary = f"A stem broke and the customer crashed. They write: {question}"
        return [tool_use("escalate", summary=summary, urgency="now")]
    case = json.loads(results[0])
    return (
        "How are you? Please do not ride the bicycle, and keep the stem as it is. A person here reads your "
        f"message today and answers you by {case['answer_by']} (case {case['case_number']})."
        "\n\nFreewheel Parts"
    )


def _fit(question: str, results: list[str]) -> Content:
    part = re.search(r"[A-Z]{2}-\d{4}", question)
    assert part is not None, "the example's question names a part"
    if not results:
        return [text("I make sure that we have it."), tool_use("check_stock", stock_number=part[0])]
    stock = json.loads(results[0])
    return (
        f"Yes, it fits: {stock['name']} ({part[0]}) is threaded for a BSA shell, and in a shell of 68 mm one "
        "spacer of 2.5 mm goes on the drive side. That is from the maker's manual, and an earlier customer's "
        f"steel frame agrees. We have {stock['pieces']} of them at {stock['price']} euros.\n\nFreewheel Parts"
    )

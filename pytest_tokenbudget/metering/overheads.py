"""What the API adds to a prompt beside the text that it is sent: measured constants, in tokens.

Measured in November 2026 on the public recordings that `benchmarks/accuracy.py` reads, as what `ctok` leaves
over of the recorded totals; where no recording shows a model, from Anthropic's "pricing", "vision" and
"token counting" pages of September 2026 (marked "page"). They drift on the server: the 4.5 models had a
tool-use prompt of about 310 tokens until late 2025. A constant that is on both sides of a difference cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_tokenbudget.metering.counting import Family, family, short_name


@dataclass(frozen=True, slots=True)
class Framing:
    """Around the content of the messages; by tokenizer family."""

    prompt: int
    """Once a request."""
    message: int
    """A message of text."""
    merged: int = 1
    """A message of the same role as the one before it: the API merges them into one."""
    opening: int = 12
    """Before a conversation that an assistant message opens."""
    tool_call: int = 1
    """A message with `tool_use` blocks, and each such block after its first."""
    calls: int = 20
    """The element around the `tool_use` blocks of a message."""
    tool_results: int = 2
    """A message of `tool_result` blocks."""
    several_results: int = 12
    """The element around them where there are several; and 1 between two."""
    after_results: int = 5
    """Text that follows a `tool_result` in one message."""
    is_error: int = 8
    image: int = 3
    document: int = 36
    title: int = 12
    schema: int = 119
    """Around the JSON schema of an output format."""
    task_budget: int = 35
    image_edge: int = 2576
    """Longer sides are scaled down to so many pixels (page)."""
    image_patches: int = 4784
    """Bigger images are scaled down to so many patches of 28 x 28 pixels (page)."""


_FRAMING = {
    Family.V3: Framing(prompt=4, message=3, calls=18, schema=81, image_edge=1568, image_patches=1568),
    Family.V47: Framing(prompt=9, message=2),
    Family.V48: Framing(prompt=4, message=2),
}


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a model adds for tools, a system prompt and thinking."""

    tools: int
    """The tool-use prompt, once, when there is a tool and the model may choose (`auto`, `none`)."""
    any_tool: int
    """The same when it must call one (`any`)."""
    one_tool: int
    """The same when it must call a certain one (`tool`), whose name is counted beside it."""
    system: int = 0
    thinking: int = 29
    adaptive: int = 0
    interleaved: int = 148
    """With tools and the beta for interleaved thinking, beside `thinking`."""
    escapes: bool = False
    """Whether tool definitions are written with `\\u` escapes."""
    keeps_thinking: bool = True
    """Whether thinking of earlier turns stays in the prompt; else it does within a tool loop only."""


_OVERHEAD = {
    "3-haiku": Overhead(264, 339, 357, escapes=True, keeps_thinking=False),
    "3-5-haiku": Overhead(264, 339, 357, escapes=True, keeps_thinking=False),
    "3-5-sonnet": Overhead(293, 310, 319, escapes=True, keeps_thinking=False),
    "3-7-sonnet": Overhead(313, 312, 317, system=1, escapes=True, keeps_thinking=False),
    "sonnet-4": Overhead(313, 312, 317, escapes=True, keeps_thinking=False),
    "opus-4": Overhead(313, 312, 317, escapes=True, keeps_thinking=False),
    "opus-4-1": Overhead(313, 312, 317, escapes=True, keeps_thinking=False),
    "sonnet-4-5": Overhead(496, 588, 590, escapes=True, keeps_thinking=False),
    "haiku-4-5": Overhead(496, 588, 590, escapes=True, keeps_thinking=False),
    "opus-4-5": Overhead(496, 588, 590, escapes=True),
    "sonnet-4-6": Overhead(497, 589, 591, system=1),
    "opus-4-6": Overhead(497, 589, 591, system=1, adaptive=17),
    "opus-4-7": Overhead(675, 804, 806, system=1),
    "opus-4-8": Overhead(290, 410, 412, system=1),  # page
    "sonnet-5": Overhead(354, 474, 476, system=1),  # page
    "opus-5": Overhead(286, 406, 408, system=1),  # page
}
# Nothing is known of newer models: theirs are assumed to be those of the newest one that is.
_NEWEST = {Family.V3: "sonnet-4", Family.V47: "opus-4-7", Family.V48: "opus-5"}


def framing(model: str) -> Framing:
    """Framing of `model`'s messages."""
    return _FRAMING[family(model)]


def overhead(model: str) -> Overhead:
    """What `model` adds for tools, a system prompt and thinking."""
    return _OVERHEAD.get(short_name(model) or "") or _OVERHEAD[_NEWEST[family(model)]]

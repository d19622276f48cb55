"""State what is known of each model beside its prices: one row a model, each figure with source and date.

A new model is one new row of `MODELS`. Prices are those of genai-prices (`pricing.py`), but for the few
models that it does not list and whose prices are published: `PUBLISHED_PRICES`.

The measured figures are what `ctok` leaves over of the totals of recorded requests
(`benchmarks/accuracy.py`). They drift on the server: the 4.5 models had a tool-use prompt of about 310 tokens
until late 2025. A constant that is on both sides of a difference cancels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from urllib.parse import unquote


class Family(StrEnum):
    """A generation of Claude's tokenizer, by the first version that has it."""

    V3 = "3.0"
    """Claude 3 to Opus 4.6, Sonnet 4.6 and Haiku 4.5."""
    V47 = "4.7"
    """Opus 4.7 and Mythos Preview."""
    V48 = "4.8"
    """Opus 4.8 and every newer model."""


@dataclass(frozen=True, slots=True)
class Framing:
    """Tokens around the content of the messages, by tokenizer family.

    Measured on the recordings of `MODELS`, November 2026; the newest family on four of Opus 4.8, its calls
    on recordings of Sonnet 5, Opus 4.8 and later that the corpus does not hold. Deferred tools: 4 in 6
    recordings of Sonnet 4.5, 0 or 1 by a published probe of Haiku 4.5; 93 by that probe of Opus 4.8, Opus 5
    and Sonnet 5 (ten tools), up to 97 in recordings that the corpus does not hold.
    """

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
    calls_fed_back: int = 0
    """What an answer with `tool_use` blocks adds to a later prompt, beside its billed output tokens."""
    tool_results: int = 2
    """A message of `tool_result` blocks."""
    several_results: int = 12
    """The element around them where there are several; and 1 between two."""
    after_results: int = 5
    """Text that follows a `tool_result` in one message."""
    is_error: int = 8
    document: int = 36
    title: int = 12
    schema: int = 119
    """Around the JSON schema of an output format."""
    task_budget: int = 35
    deferred: int | None = 95
    """Once, where there are deferred tools that nothing has found; None where nobody has measured it."""
    end: int = 2
    """After the last block: `input_tokens` where that block is cached."""
    end_after_result: int = 2
    """The same where the last block is a `tool_result`."""


FRAMINGS: Mapping[Family, Framing] = {
    Family.V3: Framing(prompt=4, message=3, calls=18, schema=81, deferred=4, end=3, end_after_result=1),
    Family.V47: Framing(prompt=9, message=2, deferred=None),
    Family.V48: Framing(prompt=4, message=2, calls=-3, calls_fed_back=-7),
}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The limits that larger images are scaled down to."""

    edge: int
    """Pixels of the longer side."""
    patches: int
    """Patches of 28 x 28 pixels."""


_STANDARD_IMAGES, _LARGE_IMAGES = ImageLimits(1568, 1568), ImageLimits(2576, 4784)


@dataclass(frozen=True, slots=True)
class Source:
    """The origin of figures of a row."""

    figures: tuple[str, ...]
    """The fields of `ModelRow` that it gives."""
    text: str
    """A page of Anthropic's documentation, or what was measured on how many recordings."""
    date: str
    """When it was read or measured: `2026-11-21`, or a month."""
    like: str | None = None
    """The model whose figures these are, where nobody knows the model's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """The figures of one model. Counts are in tokens; the defaults are those of the newest models."""

    name: str
    """The model's name as `short_name` gives it."""
    family: Family
    """Its tokenizer."""
    cache_minimum: int
    """The shortest prefix that is cached."""
    tools: int
    """The tool-use prompt, once, when there is a tool and the model may choose (`auto`, `none`)."""
    any_tool: int
    """The same when it must call one (`any`)."""
    one_tool: int
    """The same when it must call a certain one (`tool`), whose name is counted beside it."""
    serial: int | None = None
    """What `disable_parallel_tool_use` adds where the model may choose; None where nobody has measured it."""
    serial_forced: int | None = None
    """The same where it must call a tool."""
    system: int = 1
    """What a system prompt adds beside its text."""
    escapes: bool = False
    """Whether tool definitions are written with `\\u` escapes."""
    keeps_thinking: bool = True
    """Whether thinking of earlier turns stays in the prompt; else it does within a tool loop only."""
    thinking: int = 29
    """What `thinking: enabled` adds."""
    adaptive: int = 0
    """What `thinking: adaptive` adds."""
    interleaved: int = 148
    """What tools with the beta for interleaved thinking add, beside `thinking`."""
    efficient_tools: bool = False
    """Whether the beta for token-efficient tools changes anything."""
    images: ImageLimits = _LARGE_IMAGES
    """What its larger images are scaled down to."""
    image: int = 3
    """Around the patches of an image."""
    regional_surcharge: bool = True
    """Whether Google charges more for it at a regional endpoint."""
    sources: tuple[Source, ...]
    """Each figure is given by one of them."""

    @property
    def framing(self) -> Framing:
        """Tokens around the content of its messages."""
        return FRAMINGS[self.family]


FIGURES = tuple(field.name for field in fields(ModelRow) if field.name not in ("name", "sources"))
"""The fields of `ModelRow` that have a source."""

_READING = ("family", "escapes", "system")
_TOOLS = ("tools", "any_tool", "one_tool")


def _measured(recordings: int, exact: int, figures: tuple[str, ...] = (*_READING, *_TOOLS)) -> Source:
    """Return a source that is measured on the public corpus.

    `recordings` is the number of whole prompts, of which `exact` come out within one token.
    """
    return Source(figures, f"measured on {recordings} recordings, {exact} of them within 1", "2026-11-21")


def _like(name: str, *figures: str) -> Source:
    """Return a source that takes another model's figures, for want of a recording and of a page."""
    figures = figures or ("escapes", "system", *_TOOLS)
    return Source(figures, f"taken to be those of {name}", "2026-11-21", name)


def _serial(recordings: int, figure: str) -> Source:
    """Return a source for what is left over where `disable_parallel_tool_use` is set (public corpus)."""
    return Source((figure,), f"measured on {recordings} recordings", "2026-11-28")


def _unmeasured(*figures: str) -> Source:
    """Return a source for figures that are None; an interval that holds all measured ones stands in."""
    return Source(figures, "no recording and no page tells it", "2026-11-28")


_TOKENIZER = Source(("family",), 'page "Token counting"; source models of ctok 1.3', "2026-09-26")
_SERIAL_APART = Source(("serial",), "measured on recordings that the corpus does not hold", "2026-11-28")
_PROBE = Source(
    ("tools",),
    "count_tokens of eleven tools (published by romanpert/sanchopanza: probe-models.json)",
    "2026-09-27",
)
_ABOVE_TOOLS = Source(
    ("any_tool", "one_tool"),
    "taken to be as far above `tools` as on Opus 4.8, Opus 5 and Sonnet 5",
    "2026-11-29",
)
_TOOLS_PAGE = Source(_TOOLS, 'page "Pricing", tool use', "2026-08")
_MINIMUM = Source(("cache_minimum",), 'page "Prompt caching"', "2026-09-26")
_OLD_MINIMUM = Source(("cache_minimum",), 'page "Prompt caching" of 2025', "2025")
_THIRD_PARTY_MINIMUM = Source(("cache_minimum",), "prompt_cache_min_tokens of litellm 1.109.1", "2026-11-21")
_KEEPS = Source(("keeps_thinking",), 'pages "Thinking" and "Token counting"', "2026-09-26")
_IMAGE = Source(
    ("image",), "measured on 20 images of five models up to Haiku 4.5, taken for all", "2026-11-21"
)
_IMAGE_APART = Source(("image",), "measured on recordings that the corpus does not hold", "2026-11-28")
_COMMON = (
    Source(("thinking", "interleaved"), "measured on Sonnet 4.5 and Haiku 4.5, taken for all", "2026-11-21"),
    Source(("adaptive",), "measured on Opus 4.6, 4.8 and 5; 0 is taken for others", "2026-11-21"),
    Source(("efficient_tools",), 'page "Token-efficient tool use": Sonnet 3.7 alone', "2025"),
    Source(("images",), 'page "Vision": two tiers, the larger one from 4.7 on', "2026-09"),
    Source(("regional_surcharge",), 'page "Pricing", regional endpoints: from 4.5 on', "2026-08"),
)
"""The sources that give a figure for all models."""
_PAGES = (_MINIMUM, _KEEPS, _IMAGE, *_COMMON)


MODELS: tuple[ModelRow, ...] = (
    ModelRow(
        name="3-haiku", family=Family.V3, cache_minimum=2048, tools=264, any_tool=339, one_tool=357,
        system=0, escapes=True, keeps_thinking=False, images=_STANDARD_IMAGES, regional_surcharge=False,
        sources=(
            _measured(23, 23), _OLD_MINIMUM, _KEEPS, _IMAGE, *_COMMON,
            _unmeasured("serial", "serial_forced"),
        ),
    ),
    ModelRow(
        name="3-sonnet", family=Family.V3, cache_minimum=1024, tools=313, any_tool=312, one_tool=317,
        system=0, escapes=True, keeps_thinking=False, images=_STANDARD_IMAGES, regional_surcharge=False,
        sources=(
            _TOKENIZER, _like("sonnet-4"), _OLD_MINIMUM, _KEEPS, _IMAGE, *_COMMON,
            _unmeasured("serial", "serial_forced"),
        ),
    ),
    ModelRow(
        name="3-opus", family=Family.V3, cache_minimum=1024, tools=313, any_tool=312, one_tool=317,
        system=0, escapes=True, keeps_thinking=False, images=_STANDARD_IMAGES, regional_surcharge=False,
        sources=(
            _measured(1, 1, ("family",)), _like("sonnet-4"), _OLD_MINIMUM, _KEEPS, _IMAGE, *_COMMON,
            _unmeasured("serial", "serial_forced"),
        ),
    ),
    ModelRow(
        name="3-5-haiku", family=Family.V3, cache_minimum=2048, tools=264, any_tool=339, one_tool=357,
        serial=2, image=14,
        system=0, escapes=True, keeps_thinking=False, images=_STANDARD_IMAGES, regional_surcharge=False,
        sources=(
            _measured(20, 17), _MINIMUM, _KEEPS, _IMAGE_APART, *_COMMON,
            _serial(1, "serial"), _unmeasured("serial_forced"),
        ),
    ),
    ModelRow(
        name="3-5-sonnet", family=Family.V3, cache_minimum=1024, tools=293, any_tool=310, one_tool=319,
        system=0, escapes=True, keeps_thinking=False, images=_STANDARD_IMAGES, regional_surcharge=False,
        sources=(
            _measured(14, 14), _OLD_MINIMUM, _KEEPS, _IMAGE, *_COMMON,
            _unmeasured("serial", "serial_forced"),
        ),
    ),
    ModelRow(
        name="3-7-sonnet", family=Family.V3, cache_minimum=1024, tools=313, any_tool=312, one_tool=317,
        escapes=True, keeps_thinking=False, images=_STANDARD_IMAGES, regional_surcharge=False,
        efficient_tools=True,
        sources=(
            _measured(15, 15), _OLD_MINIMUM, _KEEPS, _IMAGE, *_COMMON,
            _unmeasured("serial", "serial_forced"),
        ),
    ),
    ModelRow(
        name="sonnet-4", family=Family.V3, cache_minimum=1024, tools=313, any_tool=312, one_tool=317,
        serial_forced=-42,
        system=0, escapes=True, keeps_thinking=False, images=_STANDARD_IMAGES, regional_surcharge=False,
        sources=(_measured(282, 228), *_PAGES, _unmeasured("serial"), _serial(14, "serial_forced")),
    ),
    ModelRow(
        name="opus-4", family=Family.V3, cache_minimum=1024, tools=313, any_tool=312, one_tool=317,
        serial_forced=-42,
        system=0, escapes=True, keeps_thinking=False, images=_STANDARD_IMAGES, regional_surcharge=False,
        sources=(_measured(18, 14), *_PAGES, _unmeasured("serial"), _like("sonnet-4", "serial_forced")),
    ),
    ModelRow(
        name="opus-4-1", family=Family.V3, cache_minimum=1024, tools=313, any_tool=312, one_tool=317,
        serial_forced=-42,
        system=0, escapes=True, keeps_thinking=False, images=_STANDARD_IMAGES, regional_surcharge=False,
        sources=(_measured(37, 33), *_PAGES, _unmeasured("serial"), _like("sonnet-4", "serial_forced")),
    ),
    ModelRow(
        name="sonnet-4-5", family=Family.V3, cache_minimum=1024, tools=496, any_tool=588, one_tool=590,
        serial=-209, serial_forced=2,
        system=0, escapes=True, keeps_thinking=False, images=_STANDARD_IMAGES,
        sources=(_measured(219, 180), *_PAGES, _SERIAL_APART, _serial(4, "serial_forced")),
    ),
    ModelRow(
        name="haiku-4-5", family=Family.V3, cache_minimum=4096, tools=496, any_tool=588, one_tool=590,
        serial=-208, serial_forced=1,
        system=0, escapes=True, keeps_thinking=False, images=_STANDARD_IMAGES,
        sources=(_measured(191, 171), *_PAGES, _SERIAL_APART, _serial(11, "serial_forced")),
    ),
    ModelRow(
        name="opus-4-5", family=Family.V3, cache_minimum=4096, tools=496, any_tool=588, one_tool=590,
        serial=-209, serial_forced=2,
        system=0, escapes=True, images=_STANDARD_IMAGES,
        sources=(_measured(13, 13), *_PAGES, _like("sonnet-4-5", "serial", "serial_forced")),
    ),
    ModelRow(
        name="sonnet-4-6", family=Family.V3, cache_minimum=1024, tools=497, any_tool=589, one_tool=591,
        images=_STANDARD_IMAGES,
        sources=(_measured(256, 251), *_PAGES, _unmeasured("serial", "serial_forced")),
    ),
    ModelRow(
        name="opus-4-6", family=Family.V3, cache_minimum=4096, tools=497, any_tool=589, one_tool=591,
        adaptive=17, images=_STANDARD_IMAGES,
        sources=(_measured(3, 3), *_PAGES, _unmeasured("serial", "serial_forced")),
    ),
    ModelRow(
        name="opus-4-7", family=Family.V47, cache_minimum=2048, tools=675, any_tool=804, one_tool=806,
        sources=(_measured(18, 18), *_PAGES, _unmeasured("serial", "serial_forced")),
    ),
    ModelRow(
        name="mythos-preview", family=Family.V47, cache_minimum=2048, tools=675, any_tool=804, one_tool=806,
        sources=(_TOKENIZER, _like("opus-4-7"), *_PAGES, _unmeasured("serial", "serial_forced")),
    ),
    ModelRow(
        name="opus-4-8", family=Family.V48, cache_minimum=1024, tools=290, any_tool=410, one_tool=412,
        sources=(_measured(4, 3, _READING), _TOOLS_PAGE, *_PAGES, _unmeasured("serial", "serial_forced")),
    ),
    ModelRow(
        name="sonnet-5", family=Family.V48, cache_minimum=1024, tools=354, any_tool=474, one_tool=476,
        serial=0,
        sources=(
            _SERIAL_APART, _unmeasured("serial_forced"),
            Source(("family",), "measured on 12 plain recordings, 11 of them exact", "2026-11-21"),
            _like("opus-4-8", "escapes", "system"), _TOOLS_PAGE, *_PAGES,
        ),
    ),
    ModelRow(
        name="opus-5", family=Family.V48, cache_minimum=512, tools=286, any_tool=406, one_tool=408,
        sources=(
            _TOKENIZER, _like("opus-4-8", "escapes", "system"), _TOOLS_PAGE, *_PAGES,
            _unmeasured("serial", "serial_forced"),
        ),
    ),
    ModelRow(
        name="opus-5-5", family=Family.V48, cache_minimum=512, tools=286, any_tool=406, one_tool=408,
        sources=(_TOKENIZER, _like("opus-5"), *_PAGES, _unmeasured("serial", "serial_forced")),
    ),
    ModelRow(
        name="sonnet-5-5", family=Family.V48, cache_minimum=512, tools=286, any_tool=406, one_tool=408,
        sources=(
            _TOKENIZER, _like("opus-5"), _THIRD_PARTY_MINIMUM, _KEEPS, _IMAGE, *_COMMON,
            _unmeasured("serial", "serial_forced"),
        ),
    ),
    ModelRow(
        name="haiku-5-5", family=Family.V48, cache_minimum=512, tools=286, any_tool=406, one_tool=408,
        sources=(
            _unmeasured("serial", "serial_forced"),
            _TOKENIZER, _like("opus-5", "escapes", "system", *_TOOLS, "keeps_thinking"), _THIRD_PARTY_MINIMUM,
            _IMAGE, *_COMMON,
        ),
    ),
    ModelRow(
        name="fable-5", family=Family.V48, cache_minimum=512, tools=290, any_tool=410, one_tool=412,
        sources=(
            _TOKENIZER, _PROBE, _ABOVE_TOOLS, _like("opus-5", "escapes", "system"), *_PAGES,
            _unmeasured("serial", "serial_forced"),
        ),
    ),
    ModelRow(
        name="fable-5-1", family=Family.V48, cache_minimum=512, tools=288, any_tool=408, one_tool=410,
        sources=(
            _TOKENIZER, _PROBE, _ABOVE_TOOLS, _like("opus-5", "escapes", "system"), *_PAGES,
            _unmeasured("serial", "serial_forced"),
        ),
    ),
    ModelRow(
        name="fable-5-2", family=Family.V48, cache_minimum=512, tools=286, any_tool=406, one_tool=408,
        sources=(
            _TOKENIZER, _like("opus-5"), _like("fable-5-1", "cache_minimum"), _KEEPS, _IMAGE, *_COMMON,
            _unmeasured("serial", "serial_forced"),
        ),
    ),
    ModelRow(
        name="mythos-5", family=Family.V48, cache_minimum=512, tools=286, any_tool=406, one_tool=408,
        sources=(_TOKENIZER, _like("opus-5"), *_PAGES, _unmeasured("serial", "serial_forced")),
    ),
    ModelRow(
        name="mythos-5-1", family=Family.V48, cache_minimum=512, tools=286, any_tool=406, one_tool=408,
        sources=(_TOKENIZER, _like("opus-5"), *_PAGES, _unmeasured("serial", "serial_forced")),
    ),
    ModelRow(
        name="mythos-5-2", family=Family.V48, cache_minimum=512, tools=286, any_tool=406, one_tool=408,
        sources=(
            _TOKENIZER, _like("opus-5"), _like("mythos-5-1", "cache_minimum"), _KEEPS, _IMAGE, *_COMMON,
            _unmeasured("serial", "serial_forced"),
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PublishedPrices:
    """Dollars for a million tokens on Claude's own API, as Anthropic states them; None where it does not."""

    input: Decimal
    write_5m: Decimal | None
    write_1h: Decimal | None
    read: Decimal | None
    output: Decimal
    text: str
    """Where they are stated."""
    date: str
    """When that was read, or published: `2026-11-29`, or a month."""


def _published(text: str, date: str, dollars: str) -> PublishedPrices:
    """Read prices that are written in the order of the fields, `?` where one is not stated."""
    given, write_5m, write_1h, read, output = (
        None if word == "?" else Decimal(word) for word in dollars.split()
    )
    assert given is not None
    assert output is not None
    return PublishedPrices(given, write_5m, write_1h, read, output, text, date)


_PRICING = 'page "Pricing" of platform.claude.com, model pricing: limited availability'
PUBLISHED_PRICES: Mapping[str, PublishedPrices] = {
    "mythos-5": _published(_PRICING, "2026-11-29", "10 12.5 20 1 50"),
    "mythos-5-1": _published(_PRICING, "2026-11-29", "10 12.5 20 0.25 50"),
    "mythos-preview": _published(
        "announcement of Project Glasswing, for its participants", "2026-04-07", "25 ? ? ? 125"
    ),
}
"""Prices of the models of limited access that genai-prices 0.2 does not list, by short name."""

_ROWS = {row.name: row for row in MODELS}
STAND_IN = replace(_ROWS["opus-5"], name="", sources=(_like("opus-5", *FIGURES),))
"""The row of every model that has none of its own: its numbers are estimated, and reports say so."""

_NAME = re.compile(
    r"(?P<name>(?:\d(?:-\d)?-)?[a-z]+(?:-preview|(?<=[a-z])-\d{1,2}(?:-\d{1,2})?)?)(?![a-z\d])"
)


@lru_cache(maxsize=256)
def short_name(model: str) -> str | None:
    """Return `sonnet-4-5`, `3-5-haiku`, ... of a Claude model's id as any platform writes it, or None.

    Dates, `-latest`, `-v1:0` (URL-quoted or not), `@20250929`, region and vendor prefixes do not matter,
    `4.5` is `4-5`, and `-4-0` is `-4`.
    """
    plain = unquote(model).lower().replace(".", "-").rpartition("claude-")
    match = _NAME.match(plain[2]) if plain[1] else None
    return None if match is None else match["name"].removesuffix("-0")


def model_name(model: str) -> str:
    """Return the short name of a Claude model, or the whole id of another maker's."""
    return short_name(model) or model


def model_row(model: str) -> ModelRow:
    """Return the row of a model, by its short name or by its id as any platform writes it, or `STAND_IN`."""
    return _ROWS.get(model) or _ROWS.get(short_name(model) or "") or STAND_IN

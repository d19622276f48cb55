"""What a request's options add to the prompt: the tool-use prompt, thinking, output formats."""

from __future__ import annotations

import json
from typing import Any

from pytest_tokenbudget.metering.betas import EFFICIENT, INTERLEAVED, counted_betas
from pytest_tokenbudget.metering.models import MODELS, model_row
from pytest_tokenbudget.metering.rendering import Rendered
from pytest_tokenbudget.wire.prompt import Prompt, as_mapping


def render_options(prompt: Prompt) -> dict[str, Rendered]:
    """What of a request's options is in the prompt, by option; `tools` is the tool-use prompt.

    An option that adds nothing is left out, so that adding it is no difference.
    """
    found = {name: _option(name, value, prompt) for name, value in prompt.options.items()}
    found["tool_choice"] = _tool_choice(prompt)
    if any(block.level == "tools" for block in prompt.blocks):
        found["tools"] = Rendered(tokens=model_row(prompt.model).tools, doubt=3)
    if any(beta.startswith(EFFICIENT) for beta in counted_betas(prompt)):
        found["betas"] = Rendered(unknown="the beta for token-efficient tools")
    return {name: rendered for name, rendered in found.items() if rendered != Rendered()}


_NOT_SHOWN = frozenset({"speed", "inference_geo", "tool_choice", "betas", "fallbacks"})


def _option(name: str, value: Any, prompt: Prompt) -> Rendered:
    if name in _NOT_SHOWN:
        return Rendered()
    if name == "thinking":
        return _thinking(str(as_mapping(value).get("type")), prompt)
    if name == "output_format":
        return _format(value, prompt.model)
    if name == "output_config":
        unread = [key for key in as_mapping(value) if key not in ("format", "task_budget", "effort")]
        if unread:
            return Rendered(
                (json.dumps(value, default=str),), unknown=f"the option output_config.{unread[0]}"
            )
        rendered = _format(as_mapping(value).get("format"), prompt.model)
        if as_mapping(value).get("task_budget"):
            rendered += Rendered(tokens=model_row(prompt.model).framing.task_budget, doubt=2)
        return rendered
    return Rendered((json.dumps(value, default=str),), unknown=f"the option {name}")


def _thinking(kind: str, prompt: Prompt) -> Rendered:
    row = model_row(prompt.model)
    if kind == "enabled":
        interleaved = any(beta.startswith(INTERLEAVED) for beta in counted_betas(prompt))
        between = row.interleaved if interleaved else 0
        unclear = row.interleaved if prompt.betas is None and prompt.level("tools") else 0
        return Rendered(tokens=row.thinking + between, doubt=2 + unclear)
    return Rendered(tokens=row.adaptive, doubt=2) if kind == "adaptive" else Rendered()


def _format(value: object, model: str) -> Rendered:
    schema = as_mapping(value).get("schema")
    if schema is None:
        return Rendered()
    return Rendered(
        (json.dumps(schema, indent=2, ensure_ascii=False),), model_row(model).framing.schema, doubt=1
    )


def _tool_choice(prompt: Prompt) -> Rendered:
    choice = as_mapping(prompt.options.get("tool_choice"))
    row = model_row(prompt.model)
    if not prompt.level("tools"):
        return Rendered()
    serial = serial_tool_use(prompt)
    if choice.get("type") == "any":
        return Rendered(tokens=row.any_tool - row.tools, doubt=3) + serial
    if choice.get("type") == "tool":
        return Rendered((str(choice.get("name", "")),), row.one_tool - row.tools, doubt=5) + serial
    return serial


def serial_tool_use(prompt: Prompt) -> Rendered:
    """Return what `disable_parallel_tool_use` adds to a prompt that has tools.

    A forced tool was measured by its name (`tool`) only: `any` lies between that and a free choice. Where a
    model was not measured, it lies between all that were.
    """
    choice = as_mapping(prompt.options.get("tool_choice"))
    if choice.get("disable_parallel_tool_use") is not True:
        return Rendered()
    row, kind = model_row(prompt.model), choice.get("type")
    figures = [row.serial] if kind != "tool" else []
    figures += [row.serial_forced] if kind in ("any", "tool") else []
    if None in figures:
        figures = [figure for other in MODELS for figure in (other.serial, other.serial_forced)]
    known = [figure for figure in figures if figure is not None]
    low, high = min(known), max(known)
    return Rendered(tokens=(low + high) // 2, doubt=(high - low + 1) // 2 + 3)

"""Holds a document against `document.schema.json`, in the part of JSON Schema that the schema uses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

Schema = Mapping[str, Any]

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_SPOKEN: Mapping[str, str] = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


@cache
def schema() -> Schema:
    """The JSON schema (draft 2020-12) of the document."""
    text = files("pytest_tokenbudget.reports").joinpath("document.schema.json").read_text("utf-8")
    loaded: Schema = json.loads(text)
    return loaded


def problems(value: object, rule: Schema | None = None, key: str = "") -> Iterator[str]:
    """Sentences like `scenarios[3].line must be a whole number, not "x"`, in the order of the document."""
    rule = schema() if rule is None else rule
    if "$ref" in rule:
        yield from problems(value, schema()["$defs"][rule["$ref"].removeprefix("#/$defs/")], key)
    elif "anyOf" in rule:
        answers = [list(problems(value, option, key)) for option in rule["anyOf"]]
        if all(answers):
            yield from answers[0]
    elif wanted := _unmet(value, rule):
        yield f"{key or 'it'} must be {wanted}, not {_shown(value)}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from problems(item, rule["items"], f"{key}[{index}]")
    elif isinstance(value, dict):
        yield from _object_problems(value, rule, key)


def _object_problems(value: dict[str, object], rule: Schema, key: str) -> Iterator[str]:
    known, others = rule.get("properties", {}), rule.get("additionalProperties", True)
    for name in rule.get("required", ()):
        if name not in value:
            yield f"{_join(key, name)} is missing"
    for name, item in value.items():
        if name in known:
            yield from problems(item, known[name], _join(key, name))
        elif others is False:
            yield f"{_join(key, name)} is not a key of this version"
        elif others is not True:
            yield from problems(item, others, _join(key, name))


def _unmet(value: object, rule: Schema) -> str | None:
    """What `value` itself, whatever is inside it, must be and is not."""
    if "type" not in rule:
        allowed = rule["enum"] if "enum" in rule else [rule["const"]]
        met = any(value == one and type(value) is type(one) for one in allowed)
        return None if met else " or ".join(json.dumps(one) for one in allowed)
    names = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
    if not any(_is_a(value, name) for name in names):
        return " or ".join(_SPOKEN[name] for name in names)
    if isinstance(value, (int, float)) and value < rule.get("minimum", value):
        return f"at least {rule['minimum']}"
    if isinstance(value, (int, float)) and value > rule.get("maximum", value):
        return f"at most {rule['maximum']}"  # 1e999 is infinite
    return None


def _is_a(value: object, name: str) -> bool:
    if isinstance(value, bool):  # an int to Python, not to JSON
        return name == "boolean"
    return isinstance(value, _TYPES[name])


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return _SPOKEN["object" if isinstance(value, dict) else "array"]
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."

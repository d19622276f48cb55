"""One row a model: every figure of every row has its source, and every id finds its row."""

from __future__ import annotations

import re

import pytest

from pytest_tokenbudget.metering.models import (
    FIGURES,
    MODELS,
    STAND_IN,
    Family,
    ModelRow,
    model_name,
    model_row,
    short_name,
)

BY_NAME = {row.name: row for row in MODELS}
ROWS = pytest.mark.parametrize("row", [*MODELS, STAND_IN], ids=lambda row: row.name or "any other")


@ROWS
def test_each_figure_has_one_source_with_its_date(row: ModelRow) -> None:
    given = [figure for source in row.sources for figure in source.figures]
    assert sorted(given) == sorted(FIGURES)
    for source in row.sources:
        assert source.text
        assert re.fullmatch(r"202[5-9](-[01]\d(-[0-3]\d)?)?", source.date), source


@ROWS
def test_a_figure_that_is_taken_from_another_model_is_that_models(row: ModelRow) -> None:
    for source in row.sources:
        if source.like is not None:
            other = BY_NAME[source.like]
            assert other is not row
            for figure in source.figures:
                assert getattr(row, figure) == getattr(other, figure), figure


@ROWS
def test_the_figures_of_a_row_go_together(row: ModelRow) -> None:
    assert row.cache_minimum in (512, 1024, 2048, 4096), "what is documented of any model"
    assert 0 < row.tools < 1000
    assert row.any_tool <= row.one_tool < 1000
    assert row.interleaved > row.thinking > 0
    assert row.adaptive >= 0
    assert row.system in (0, 1)
    assert not (row.escapes and row.family is not Family.V3), "escapes ended with Sonnet 4.5"
    assert row.serial in (None, -209, -208, 0, 2)
    assert row.serial_forced in (None, -42, 1, 2)
    assert row.efficient_tools is (row.name == "3-7-sonnet")
    assert 0 < row.images.edge <= row.images.patches, "a long strip of the largest edge fits"
    assert (row.images.edge > 1568) is (row.family is not Family.V3), "the larger tier is of 4.7 and later"
    assert row.image == (14 if row.name == "3-5-haiku" else 3)
    assert row.regional_surcharge or row.family is Family.V3
    assert row.framing.end_after_result <= row.framing.end <= row.framing.prompt


def test_no_model_has_two_rows() -> None:
    assert len(BY_NAME) == len(MODELS)


@pytest.mark.parametrize("name", BY_NAME)
def test_each_row_is_found_by_the_ids_of_its_model(name: str) -> None:
    assert short_name(f"claude-{name}") == name
    for model in (
        name,
        f"claude-{name}",
        f"claude-{name}-20260101",
        f"claude-{name}-latest",
        f"claude-{name}@20260101",
        f"us.anthropic.claude-{name}-20260101-v1:0",
        f"anthropic/claude-{name}",
    ):
        assert model_row(model) is BY_NAME[name], model


@pytest.mark.parametrize(
    ("model", "name", "family"),
    [
        ("claude-3-haiku-20240307", "3-haiku", Family.V3),
        ("claude-3-opus-latest", "3-opus", Family.V3),
        ("claude-3-5-sonnet-v2@20241022", "3-5-sonnet", Family.V3),
        ("claude-3-7-sonnet-latest", "3-7-sonnet", Family.V3),
        ("claude-sonnet-4-0", "sonnet-4", Family.V3),
        ("claude-opus-4-20250514", "opus-4", Family.V3),
        ("claude-opus-4-1@20250805", "opus-4-1", Family.V3),
        ("claude-haiku-4-5-20251001", "haiku-4-5", Family.V3),
        ("anthropic/claude-haiku-4.5", "haiku-4-5", Family.V3),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "sonnet-4-5", Family.V3),
        ("eu.anthropic.claude-haiku-4-5-20251001-v1%3A0", "haiku-4-5", Family.V3),
        ("arn:aws:bedrock:us-east-1:1:inference-profile/claude-sonnet-4-6", "sonnet-4-6", Family.V3),
        ("claude-opus-4-7", "opus-4-7", Family.V47),
        ("claude-mythos-preview", "mythos-preview", Family.V47),
        ("claude-opus-4-8[1m]", "opus-4-8", Family.V48),
        ("claude-sonnet-5-20260715", "sonnet-5", Family.V48),
        ("claude-haiku-5-5", "haiku-5-5", Family.V48),
        ("claude-fable-5-2", "fable-5-2", Family.V48),
    ],
)  # fmt: skip
def test_a_model_is_known_by_its_id_on_every_platform(model: str, name: str, family: Family) -> None:
    assert (model_row(model).name, model_row(model).family) == (name, family)


@pytest.mark.parametrize(
    "model", ["claude-opus-7-3", "claude-does-not-exist", "gpt-5", "", "anthropic.claude-v2"]
)
def test_a_model_without_a_row_is_read_as_the_newest_family_is(model: str) -> None:
    assert model_row(model) is STAND_IN
    assert STAND_IN.family is Family.V48


def test_what_reaches_the_table_as_a_short_name_finds_its_row() -> None:
    assert model_row("sonnet-4-5") is model_row("claude-sonnet-4-5")


def test_another_makers_model_is_known_by_its_whole_id() -> None:
    assert (model_name("us.anthropic.claude-sonnet-4-6"), model_name("gpt-5")) == ("sonnet-4-6", "gpt-5")

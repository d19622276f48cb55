"""Which URL is which API, platform, model and region; what is left alone; what is missed, by name."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_tokenbudget.wire.endpoints import Endpoint, endpoint, unmetered_reason

BODY: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": []}
BEDROCK = "https://bedrock-runtime.eu-west-1.amazonaws.com/model"
VERTEX = "https://europe-west1-aiplatform.googleapis.com/v1/projects/p/locations"
ARN = "arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012%3A"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.anthropic.com/v1/messages", Endpoint("messages")),
        ("https://api.anthropic.com/v1/messages?beta=true", Endpoint("messages")),
        ("http://127.0.0.1:8080/v1/messages/", Endpoint("messages")),
        ("https://gateway.example.com/team/anthropic/v1/messages", Endpoint("messages")),
        ("https://openrouter.ai/api/v1/messages", Endpoint("messages")),
        ("https://aws-external-anthropic.us-east-1.api.aws/v1/messages", Endpoint("messages")),
        ("https://me.services.ai.azure.com/anthropic/v1/messages", Endpoint("messages", "azure")),
        (
            "https://bedrock-mantle.us-east-1.api.aws/anthropic/v1/messages",
            Endpoint("messages", "aws", region="us-east-1"),
        ),
        (
            "https://claude.googleapis.com/v1/projects/p/locations/global/workspaces/w/invoke/v1/messages",
            Endpoint("messages", "google"),
        ),
        ("https://api.anthropic.com/v1/messages/count_tokens?beta=true", Endpoint("count_tokens")),
        (
            f"{BEDROCK}/eu.anthropic.claude-haiku-4-5-20251001-v1%3A0/invoke",
            Endpoint("messages", "aws", "eu.anthropic.claude-haiku-4-5-20251001-v1:0", "eu"),
        ),
        (
            f"{BEDROCK}/global.anthropic.claude-sonnet-4-6/invoke-with-response-stream",
            Endpoint("messages", "aws", "global.anthropic.claude-sonnet-4-6", "global", stream=True),
        ),
        (
            f"{BEDROCK}/anthropic.claude-3-haiku-20240307-v1:0/invoke",
            Endpoint("messages", "aws", "anthropic.claude-3-haiku-20240307-v1:0", "eu-west-1"),
        ),
        (
            "http://localhost:9/model/anthropic.claude-opus-4-8/invoke",
            Endpoint("messages", "aws", "anthropic.claude-opus-4-8", "regional"),
        ),
        (
            f"{BEDROCK}/{ARN}inference-profile%2Fus.anthropic.claude-opus-4-8/invoke",
            Endpoint("messages", "aws", "us.anthropic.claude-opus-4-8", "us"),
        ),
        (
            f"{VERTEX}/global/publishers/anthropic/models/claude-haiku-4-5@20251001:rawPredict",
            Endpoint("messages", "google", "claude-haiku-4-5@20251001", "global"),
        ),
        (
            f"{VERTEX}/europe-west1/publishers/anthropic/models/claude-opus-4-8%40default:streamRawPredict",
            Endpoint("messages", "google", "claude-opus-4-8@default", "europe-west1", stream=True),
        ),
        (
            f"{VERTEX}/us/publishers/anthropic/models/count-tokens:rawPredict",
            Endpoint("count_tokens", "google", region="us"),
        ),
    ],
)
@pytest.mark.parametrize("body", [BODY, None], ids=["with body", "body unread"])
def test_the_messages_api_on_any_host_and_platform(
    url: str, expected: Endpoint, body: dict[str, Any] | None
) -> None:
    assert endpoint("POST", url, body) == expected


def test_mantle_is_global_when_its_model_says_so() -> None:
    url = "https://bedrock-mantle.us-east-1.api.aws/anthropic/v1/messages"
    found = endpoint("POST", url, {**BODY, "model": "global.anthropic.claude-opus-4-8"})
    assert found == Endpoint("messages", "aws", region="global")


def test_an_opaque_arn_is_claude_if_the_body_is() -> None:
    url = f"{BEDROCK}/{ARN}application-inference-profile%2Fabc123/invoke"
    claude = {"anthropic_version": "bedrock-2023-05-31", "messages": []}
    assert endpoint("POST", url, claude) == Endpoint("messages", "aws", "abc123", "eu-west-1")
    assert endpoint("POST", url, {"messages": []}) is None


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/messages/batches", Endpoint("batch_create")),
        ("GET", "/v1/messages/batches?limit=20", Endpoint("batch")),
        ("GET", "/v1/messages/batches/msgbatch_1", Endpoint("batch", batch_id="msgbatch_1")),
        ("DELETE", "/v1/messages/batches/msgbatch_1", Endpoint("batch", batch_id="msgbatch_1")),
        ("POST", "/v1/messages/batches/msgbatch_1/cancel", Endpoint("batch", batch_id="msgbatch_1")),
        ("GET", "/v1/messages/batches/b-7/results", Endpoint("batch_results", batch_id="b-7")),
        ("GET", "/files/msgbatch_1/2026/results", Endpoint("batch_results", batch_id="msgbatch_1")),
        ("GET", "/gw/batches/b-7/download/results?sig=x", Endpoint("batch_results", batch_id="b-7")),
    ],
)
def test_batches(method: str, path: str, expected: Endpoint) -> None:
    assert endpoint(method, f"https://api.example.com{path}") == expected


def test_a_batchs_host_tells_its_platform_too() -> None:
    url = "https://me.services.ai.azure.com/anthropic/v1/messages/batches"
    assert endpoint("POST", url, {"requests": []}) == Endpoint("batch_create", "azure")
    assert endpoint("GET", f"{url}/b/results") == Endpoint("batch_results", "azure", batch_id="b")


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("POST", "https://api.example.com/v1/messages/batches", {"input_file_id": "f"}),
        ("POST", "https://api.openai.com/v1/chat/completions", {"messages": []}),
        ("POST", "https://api.openai.com/v1/threads/t/messages", {"messages": []}),
        ("POST", "https://api.openai.com/v1/batches", {"input_file_id": "f"}),
        ("POST", "https://api.anthropic.com/v1/files", None),
        ("POST", "https://chat.example.com/v1/messages", {"to": "+41", "text": "hello"}),
        ("GET", "https://api.anthropic.com/v1/messages", None),
        ("GET", "https://api.anthropic.com/v1/models", None),
        ("GET", "https://ci.example.com/jobs/7/results", None),
        ("POST", f"{BEDROCK}/amazon.nova-lite-v1:0/invoke", {"messages": []}),
        ("POST", f"{BEDROCK}/meta.llama3-8b-instruct-v1:0/invoke", {"prompt": ""}),
        ("POST", f"{BEDROCK}/anthropic.claude-v2/invoke", {"prompt": "Human: hi"}),
        ("POST", f"{BEDROCK}/us.anthropic.claude-sonnet-4-6/converse", {"messages": []}),
        ("POST", f"{VERTEX}/global/publishers/google/models/gemini-3:generateContent", {"contents": []}),
        ("POST", f"{VERTEX}/global/publishers/mistralai/models/m:rawPredict", {"messages": []}),
    ],
)
def test_other_traffic_is_left_alone(method: str, url: str, body: dict[str, Any] | None) -> None:
    assert endpoint(method, url, body) is None


@pytest.mark.parametrize(
    ("method", "url", "word"),
    [
        ("POST", f"{BEDROCK}/us.anthropic.claude-sonnet-4-6/converse", "Converse"),
        ("POST", f"{BEDROCK}/us.anthropic.claude-sonnet-4-6/converse-stream", "Converse"),
        ("POST", f"{BEDROCK}/anthropic.claude-v2/invoke", "no Messages request"),
        ("POST", "https://api.anthropic.com/v1/sessions/s_1/events", "managed agents"),
        ("POST", "https://api.anthropic.com/v1/complete", "Text Completions"),
        ("POST", "https://api.anthropic.com/v1/chat/completions", "OpenAI-compatible"),
        ("POST", "https://gateway.example.com/anthropic/v1/complete", "Text Completions"),
    ],
)
def test_what_spends_tokens_unseen_has_a_reason(method: str, url: str, word: str) -> None:
    assert endpoint(method, url, {"prompt": "hi"}) is None
    assert word in (unmetered_reason(method, url) or "")


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("POST", f"{BEDROCK}/amazon.nova-lite-v1:0/converse"),
        ("POST", f"{BEDROCK}/anthropic.claude-sonnet-4-20250514-v1:0/count-tokens"),
        ("POST", "https://api.openai.com/v1/chat/completions"),
        ("POST", "https://app.example.com/v1/sessions"),
        ("POST", "https://api.anthropic.com/v1/files"),
        ("GET", "https://api.anthropic.com/v1/sessions/s_1"),
    ],
)
def test_what_spends_nothing_of_claude_has_none(method: str, url: str) -> None:
    assert unmetered_reason(method, url) is None

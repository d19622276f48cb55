"""Claude on the clouds, under their own host names."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import pytest
from asking import CHANGED, KEY, MODEL, Row, echo, host, text

pytestmark = pytest.mark.token_budget
KEYS: Any = {"aws_access_key": "AKIAEXAMPLEEXAMPLE00", "aws_secret_key": "a-made-up-secret-key"}
BEDROCK = {"": "regional", "us.": "us profile", "global.": "global profile"}
DATED = "anthropic.claude-haiku-4-5-20251001-v1:0"


def bedrock(kind: str = "AnthropicBedrock") -> Any:
    make = getattr(anthropic, kind)
    return make(base_url=host("bedrock-runtime.us-east-1.amazonaws.com"), aws_region="us-east-1", **KEYS)


def vertex(region: str = "us-east5", kind: str = "AnthropicVertex") -> Any:
    make = getattr(anthropic, kind)
    url = f"{host(f'{region}-aiplatform.googleapis.com')}/v1"
    return make(base_url=url, region=region, project_id="shop", access_token="ya29.a-made-up-token")


def client(kind: str, **options: Any) -> Any:
    if not hasattr(anthropic, kind):
        pytest.skip(f"this SDK has no {kind}")
    return getattr(anthropic, kind)(**options)


def of(row: Row, model: str, words: str = "Hello", **more: Any) -> dict[str, Any]:
    return row.request(words, model=model, **more)


@pytest.mark.parametrize("profile", BEDROCK, ids=list(BEDROCK.values()))
def test_bedrock(row: Row, profile: str) -> None:
    pytest.importorskip("boto3")
    with bedrock() as aws:
        assert text(aws.messages.create(**of(row, profile + DATED))) == echo()


def test_bedrock_stream(row: Row) -> None:
    pytest.importorskip("boto3")
    with bedrock() as aws:
        events = list(aws.messages.create(**of(row, DATED), stream=True))
    assert events[-1].type == "message_stop"


def test_bedrock_stream_async(row: Row) -> None:
    pytest.importorskip("boto3")

    async def ask() -> None:
        async with bedrock("AsyncAnthropicBedrock") as aws:
            events = [event async for event in await aws.messages.create(**of(row, DATED), stream=True)]
        assert events[-1].type == "message_stop"

    asyncio.run(ask())


def test_bedrock_json_then_stream(row: Row) -> None:
    """Recorded by invoke; the changed agent reads an event stream."""
    pytest.importorskip("boto3")
    with bedrock() as aws:
        if CHANGED:
            events = list(aws.messages.create(**of(row, DATED), stream=True))
            said = "".join(event.delta.text for event in events if event.type == "content_block_delta")
        else:
            said = text(aws.messages.create(**of(row, DATED)))
    assert said == echo()


def boto() -> Any:
    boto3 = pytest.importorskip("boto3")
    return boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=host("bedrock-runtime.us-east-1.amazonaws.com"),
        aws_access_key_id=KEYS["aws_access_key"],
        aws_secret_access_key=KEYS["aws_secret_key"],
    )


def invocation(row: Row) -> Any:
    body = {**row.request(), "anthropic_version": "bedrock-2023-05-31"}
    del body["model"]
    return {"modelId": DATED, "body": json.dumps(body), "contentType": "application/json"}


def test_boto3(row: Row) -> None:
    answer = boto().invoke_model(**invocation(row))
    assert text(json.loads(answer["body"].read())) == echo()


def test_boto3_stream(row: Row) -> None:
    stream = boto().invoke_model_with_response_stream(**invocation(row))["body"]
    events = [json.loads(event["chunk"]["bytes"]) for event in stream]
    said = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(said) == echo()


@pytest.mark.parametrize("region", ["global", "us-east5"])
def test_vertex(row: Row, region: str) -> None:
    with vertex(region) as google:
        assert text(google.messages.create(**of(row, "claude-haiku-4-5@20251001"))) == echo()


def test_vertex_stream(row: Row) -> None:
    with vertex() as google, google.messages.stream(**of(row, "claude-haiku-4-5@20251001")) as stream:
        assert text(stream.get_final_message()) == echo()


def test_vertex_stream_async(row: Row) -> None:
    async def ask() -> None:
        request = of(row, "claude-haiku-4-5@20251001")
        async with (
            vertex(kind="AsyncAnthropicVertex") as google,
            google.messages.stream(**request) as stream,
        ):
            assert text(await stream.get_final_message()) == echo()

    asyncio.run(ask())


def test_foundry(row: Row) -> None:
    url = f"{host('shop.services.ai.azure.com')}/anthropic/"
    with client("AnthropicFoundry", base_url=url, api_key=KEY) as azure:
        assert text(azure.messages.create(**of(row, MODEL))) == echo()
        with azure.messages.stream(**of(row, MODEL, "Bye")) as stream:
            assert text(stream.get_final_message()) == echo("Bye")


def test_bedrock_mantle(row: Row) -> None:
    url = f"{host('bedrock-mantle.us-east-1.api.aws')}/anthropic"
    with client("AnthropicBedrockMantle", base_url=url, api_key=KEY, aws_region="us-east-1") as aws:
        assert text(aws.messages.create(**of(row, "anthropic.claude-opus-4-8"))) == echo()


def test_claude_platform_on_aws(row: Row) -> None:
    url = host("aws-external-anthropic.us-east-1.api.aws")
    options = {"base_url": url, "api_key": KEY, "aws_region": "us-east-1", "workspace_id": "wrkspc_1"}
    with client("AnthropicAWS", **options) as aws:
        assert text(aws.messages.create(**of(row, MODEL))) == echo()


def test_claude_on_google_cloud(row: Row) -> None:
    options = {"base_url": host("claude.googleapis.com"), "project": "shop", "workspace_id": "wrkspc_1"}
    with client("AnthropicGoogleCloud", token_provider=lambda: "ya29.a-made-up-token", **options) as google:
        assert text(google.messages.create(**of(row, MODEL))) == echo()

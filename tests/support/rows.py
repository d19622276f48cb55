"""The matrix: every way to Claude that is recorded, replayed and counted, and what it bills.

The one table behind the tests and docs/compatibility.md.
"""

from __future__ import annotations

from dataclasses import dataclass

HAIKU = "claude-haiku-4-5"
ON_BEDROCK = f"anthropic.{HAIKU}-20251001-v1:0"
ON_VERTEX = f"{HAIKU}@20251001"
REGIONAL = 1.1
GENERATIONS = ("0.x", "1.x", "2.x")
"""Of the SDK: pyproject.toml says which versions (dependency groups sdk-0 to sdk-2)."""


@dataclass(frozen=True)
class Row:
    """One test of the suite."""

    test: str
    """Its name with parameters, which is the scenario's name."""
    what: str
    rate: str = HAIKU
    """What it is billed by."""
    price: float = 1.0
    """Of a token, in prices of Anthropic's own API."""
    sdks: tuple[str, ...] = GENERATIONS
    """Generations that have it; empty where no SDK is involved."""


SECTIONS: dict[str, tuple[Row, ...]] = {
    "The SDK": (
        Row("test_create", "`messages.create`"),
        Row("test_create_async", "`messages.create`, async"),
        Row("test_create_stream", "`messages.create(stream=True)`"),
        Row("test_create_stream_async", "`messages.create(stream=True)`, async"),
        Row("test_stream", "`messages.stream`"),
        Row("test_stream_async", "`messages.stream`, async"),
        Row("test_stream_left_early", "a stream that is left early"),
        Row("test_stream_left_early_async", "a stream that is left early, async"),
        Row("test_raw_response", "`with_raw_response`"),
        Row("test_raw_response_async", "`with_raw_response`, async"),
        Row("test_streaming_response", "`with_streaming_response`"),
        Row("test_streaming_response_async", "`with_streaming_response`, async"),
        Row("test_beta", "`beta.messages`, JSON and stream"),
        Row("test_tool_runner", "the tool runner with a cached system prompt", rate="claude-sonnet-4-5"),
        Row("test_tool_runner_async", "the tool runner, async"),
        Row("test_message_thread", "a message thread, which sends only what is new", sdks=("2.x",)),
        Row("test_count_tokens", "`count_tokens` before the call: free"),
        Row("test_retry", "529, then the answer: billed once"),
        Row("test_retry_async", "529, then the answer, async"),
        Row("test_retry_stream", "429, then the stream: billed once"),
        Row("test_retry_stream_async", "429, then the stream, async"),
        Row("test_json_then_stream", "recorded as JSON, now streamed"),
        Row("test_stream_then_json", "recorded as a stream with a tool call, now JSON"),
        Row("test_client_made_at_import", "a client made at import"),
        Row("test_client_of_module_scope", "a client from a fixture of module scope"),
        Row("test_client_of_session_scope", "a client from a fixture of session scope"),
        Row("test_client_over_several_event_loops", "one async client over several event loops"),
        Row("test_gather", "five calls at once in `asyncio.gather`"),
        Row("test_threads", "one client in four threads"),
        Row("test_thread_per_client", "a client and a stream in each thread"),
        Row("test_compressed[gzip]", "answers that come in gzip, JSON and stream"),
        Row("test_compressed[deflate]", "answers that come in deflate, JSON and stream"),
        Row("test_over_aiohttp", "`DefaultAioHttpClient`, JSON and stream"),
    ),
    "HTTP without an SDK, JSON and stream": (
        Row("test_httpx[httpx]", "httpx", sdks=()),
        Row("test_httpx_async[httpx]", "httpx, async", sdks=()),
        Row("test_httpx[httpx2]", "httpx2", sdks=()),
        Row("test_httpx_async[httpx2]", "httpx2, async", sdks=()),
        Row("test_requests", "requests", sdks=()),
        Row("test_urllib3", "urllib3", sdks=()),
        Row("test_aiohttp", "aiohttp", sdks=()),
        Row("test_urllib", "urllib.request and http.client", sdks=()),
        Row("test_gateway", "a gateway: another host, and a path in front", sdks=()),
    ),
    "Message Batches": (
        Row("test_batch", "`messages.batches`, with errored and expired entries", f"{HAIKU} (batch)", 0.5),
        Row("test_batch_async", "`beta.messages.batches`, async", f"{HAIKU} (batch)", 0.5),
    ),
    "Clouds": (
        Row("test_bedrock[regional]", "Bedrock, in one region", f"{ON_BEDROCK} (aws, regional)", REGIONAL),
        Row(
            "test_bedrock[us profile]",
            "Bedrock, a geographic profile",
            f"us.{ON_BEDROCK} (aws, regional)",
            REGIONAL,
        ),
        Row("test_bedrock[global profile]", "Bedrock, the global profile", f"global.{ON_BEDROCK} (aws)"),
        Row("test_bedrock_stream", "Bedrock, event stream", f"{ON_BEDROCK} (aws, regional)", REGIONAL),
        Row(
            "test_bedrock_stream_async",
            "Bedrock, event stream, async",
            f"{ON_BEDROCK} (aws, regional)",
            REGIONAL,
        ),
        Row(
            "test_bedrock_json_then_stream",
            "Bedrock, recorded by invoke, now an event stream",
            f"{ON_BEDROCK} (aws, regional)",
            REGIONAL,
        ),
        Row("test_boto3", "boto3, `invoke_model`", f"{ON_BEDROCK} (aws, regional)", REGIONAL, ()),
        Row(
            "test_boto3_stream",
            "boto3, `invoke_model_with_response_stream`",
            f"{ON_BEDROCK} (aws, regional)",
            REGIONAL,
            (),
        ),
        Row(
            "test_bedrock_mantle",
            "Bedrock, Anthropic's own paths",
            "anthropic.claude-opus-4-8 (aws, regional)",
            REGIONAL,
        ),
        Row("test_claude_platform_on_aws", "Claude Platform on AWS"),
        Row("test_vertex[global]", "Vertex, the global endpoint", f"{ON_VERTEX} (google)"),
        Row("test_vertex[us-east5]", "Vertex, in one region", f"{ON_VERTEX} (google, regional)", REGIONAL),
        Row("test_vertex_stream", "Vertex, stream", f"{ON_VERTEX} (google, regional)", REGIONAL),
        Row("test_vertex_stream_async", "Vertex, stream, async", f"{ON_VERTEX} (google, regional)", REGIONAL),
        Row(
            "test_claude_on_google_cloud",
            "Claude on Google Cloud, Anthropic's own paths",
            f"{HAIKU} (google)",
        ),
        Row("test_foundry", "Microsoft Foundry, JSON and stream", f"{HAIKU} (azure)"),
    ),
}
ROWS = {row.test: row for rows in SECTIONS.values() for row in rows}

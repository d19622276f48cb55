"""What stands in for credentials in replay: nobody needs a key, and nobody else sees what stands for one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import httpx2
import pytest

from pytest_tokenbudget.errors import ReplayMiss
from pytest_tokenbudget.replay.credentials import (
    STAND_IN,
    chosen,
    holds_stand_in,
    standing_in,
    without_stand_ins,
)
from pytest_tokenbudget.replay.playback import Outside
from support.blocks import body
from support.clients import replaying

AWS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"}
GOOGLE = {"CLOUD_ML_REGION", "GOOGLE_APPLICATION_CREDENTIALS"}
ALL = {"ANTHROPIC_API_KEY", "ANTHROPIC_FOUNDRY_API_KEY", "AWS_DEFAULT_REGION", *AWS, *GOOGLE}


@pytest.mark.parametrize(
    ("environ", "set_for_the_test"),
    [
        ({}, ALL),
        ({"ANTHROPIC_API_KEY": ""}, ALL),
        ({"ANTHROPIC_API_KEY": "real"}, ALL - {"ANTHROPIC_API_KEY"}),
        ({"ANTHROPIC_AUTH_TOKEN": "real"}, ALL - {"ANTHROPIC_API_KEY"}),
        ({"ANTHROPIC_AUTH_TOKEN": "", "HOME": "/h"}, ALL),
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, ALL - AWS),
        ({"AWS_BEARER_TOKEN_BEDROCK": "a", "AWS_REGION": "eu-west-1"}, ALL - AWS - {"AWS_DEFAULT_REGION"}),
        ({"AWS_PROFILE": "dev"}, ALL - {"AWS_DEFAULT_REGION"}),
        ({"GOOGLE_APPLICATION_CREDENTIALS": "own.json"}, ALL - {"GOOGLE_APPLICATION_CREDENTIALS"}),
        ({"AWS_EC2_METADATA_DISABLED": "false"}, ALL - {"AWS_EC2_METADATA_DISABLED"}),
    ],
)
def test_they_stand_in_for_what_is_not_set(environ: dict[str, str], set_for_the_test: set[str]) -> None:
    before = dict(environ)
    with contextlib.suppress(KeyError), standing_in(environ):
        changed = {name for name, value in environ.items() if before.get(name) != value}
        assert changed == set_for_the_test
        environ["ANTHROPIC_API_KEY"] = "of the test"
        environ.pop("ANTHROPIC_FOUNDRY_API_KEY")
        raise KeyError
    if "ANTHROPIC_API_KEY" in set_for_the_test:  # what we did not touch is the test's own business
        assert environ == before


def test_the_sdk_is_content_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    anthropic = pytest.importorskip("anthropic")
    for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "AWS_", "CLOUD_ML_"))]:
        monkeypatch.delenv(name)
    with standing_in():
        assert anthropic.Anthropic().api_key == STAND_IN
        assert anthropic.AnthropicFoundry(resource="r").api_key == STAND_IN
        assert anthropic.AnthropicBedrock().aws_region == "us-east-1"
        assert anthropic.AnthropicVertex(project_id="p").region == "us-east5"
    assert "ANTHROPIC_API_KEY" not in os.environ


@pytest.mark.parametrize("given", ["AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "file"])
def test_what_the_user_keeps_elsewhere_serves_other_code(tmp_path: Path, given: str) -> None:
    environ = {"HOME": str(tmp_path)} | ({given: "dev"} if given != "file" else {})
    assert set(chosen({"HOME": str(tmp_path)}, everywhere=True)) == ALL
    if given == "file":
        (tmp_path / ".aws").mkdir()
        (tmp_path / ".aws/credentials").write_text("[default]", "utf-8")
    assert not AWS & set(chosen(environ, everywhere=True))
    assert set(chosen(environ)) >= AWS, "inside a scenario nothing is called, and botocore asks nobody"


def test_googles_own_credentials_serve_other_code(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    assert "GOOGLE_APPLICATION_CREDENTIALS" in chosen(environ, everywhere=True)
    (tmp_path / ".config/gcloud").mkdir(parents=True)
    (tmp_path / ".config/gcloud/application_default_credentials.json").write_text("{}", "utf-8")
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in chosen(environ, everywhere=True)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in chosen(environ), "inside a scenario nobody is asked"


def form_of_google() -> bytes:
    """Return what google-auth 2 posts for a token, from the file that the environment names."""
    given = json.loads(Path(os.environ["GOOGLE_APPLICATION_CREDENTIALS"]).read_text("utf-8"))
    assert given.pop("type") == "authorized_user"
    return urlencode({"grant_type": "refresh_token", **given}).encode()


def test_a_token_for_google_is_answered_in_replay_and_asked_of_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    url = "https://oauth2.googleapis.com/token"
    with standing_in():
        form = form_of_google()
        assert not {STAND_IN, os.environ["GOOGLE_APPLICATION_CREDENTIALS"]} & {
            *without_stand_ins(os.environ).values()
        }
    with replaying(()) as ledger:
        token = httpx2.post(url, content=form).json()
        with pytest.raises(ReplayMiss, match="no answer"):
            httpx2.post("https://aiplatform.googleapis.com/v1/messages", json=body())
    assert token["access_token"] == STAND_IN
    assert token["expires_in"] > 0
    assert not ledger.warnings
    outside = Outside(lambda _: None, frozenset())
    sent = outside.read({"method": "POST", "uri": url, "body": form, "headers": {}})
    with pytest.raises(ReplayMiss, match="no key is set"):
        outside.find(sent)
    own = {"grant_type": "refresh_token", "refresh_token": "1//own"}
    with replaying(()) as ledger:
        assert httpx2.post(url, data=own).status_code == 403, "what is no stand-in is no stand-in's"


SHOW = "import os; print(os.environ.get('ANTHROPIC_API_KEY'), os.environ.get('OTHER'))"
CHILD = (sys.executable, "-c", SHOW)


async def _run(**options: object) -> str:
    process = await asyncio.create_subprocess_exec(*CHILD, stdout=subprocess.PIPE, **options)
    return (await process.communicate())[0].decode()


def test_no_child_process_gets_them(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    before = subprocess.Popen.__init__
    with standing_in():
        monkeypatch.setenv("OTHER", "kept")
        assert os.environ["ANTHROPIC_API_KEY"] == STAND_IN
        copied = dict(os.environ)
        said = [
            subprocess.run(CHILD, capture_output=True, text=True, check=True).stdout,
            subprocess.run(CHILD, capture_output=True, text=True, check=True, env=copied).stdout,
            asyncio.run(_run()),
            asyncio.run(_run(env=copied)),
        ]
        os.system(f'"{sys.executable}" -c "{SHOW}"')
        said.append(capfd.readouterr().out)
        own = subprocess.run(
            CHILD, capture_output=True, text=True, check=True, env=copied | {"ANTHROPIC_API_KEY": "own"}
        )
    assert {line.strip() for line in said} == {"None kept"}
    assert own.stdout.strip() == "own kept", "what the user gives a child is the child's"
    assert subprocess.Popen.__init__ is before


def test_a_real_key_is_told_from_what_stands_in() -> None:
    assert holds_stand_in({"x-api-key": STAND_IN})
    assert holds_stand_in({"authorization": f"AWS4-HMAC-SHA256 Credential={STAND_IN}/20261121/us-east-1"})
    assert not holds_stand_in({"x-api-key": f"{STAND_IN}-0a1b2c"}), "of a proxy, which knows the real one"
    assert not holds_stand_in({"x-api-key": "sk-ant-real"})
    assert without_stand_ins({"ANTHROPIC_API_KEY": STAND_IN, "HOME": "/h"}) == {"HOME": "/h"}

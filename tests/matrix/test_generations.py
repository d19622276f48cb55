"""The same matrix with older and newer SDKs: `make test-generations` makes an environment for each."""

from __future__ import annotations

import pytest

from support.environments import REPOSITORY, locked_version, python_of, version_in
from support.playing import Charge, Played, play, scenario
from support.rows import GENERATIONS, ROWS

pytestmark = pytest.mark.matrix
WITH_THE_SDK = {test: row for test, row in ROWS.items() if row.sdks}
FILES = ("test_sdk.py", "test_batches.py", "test_clouds.py")


@pytest.fixture(scope="module", params=GENERATIONS)
def generation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def played(generation: str, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The suite with an SDK of this generation; what needs none is left out."""
    folder = tmp_path_factory.mktemp(generation)
    return play(folder, list(ROWS), FILES, python_of(generation), REPOSITORY)


def test_every_row_runs_where_the_table_says_so(played: Played, generation: str) -> None:
    missing = {test for test, row in ROWS.items() if row.sdks and generation not in row.sdks}
    assert {test for test in played.skipped if ROWS[test].sdks} == missing


def test_what_is_unchanged_is_what_the_server_charged(played: Played) -> None:
    measured = {test: Charge.told(scenario(played.replayed, test)) for test in played.ran}
    assert measured == {test: played.recorded[test] for test in played.ran}
    assert {entry["basis"] for entry in played.replayed.document["scenarios"]} == {"recorded"}


def test_what_has_changed_is_what_the_server_would_charge(played: Played) -> None:
    measured = {test: Charge.told(scenario(played.changed, test)) for test in played.ran}
    assert measured == {test: played.charged[test] for test in played.ran}
    assert {entry["basis"] for entry in played.changed.document["scenarios"]} == {"counted"}


def test_nothing_reaches_the_network_in_replay(played: Played) -> None:
    assert played.connections == ""


def test_the_environment_has_the_locked_sdk_of_its_generation(generation: str) -> None:
    version = version_in(python_of(generation))
    assert version == locked_version(generation)
    assert version.startswith(generation.removesuffix("x"))

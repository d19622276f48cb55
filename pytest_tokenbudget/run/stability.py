"""A second replay in another process, hash seed, clock and folder: are the prompts the same in each byte?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from pytest_tokenbudget.diagnosis.volatile import compare_prefixes
from pytest_tokenbudget.errors import RecordingError
from pytest_tokenbudget.model import Finding
from pytest_tokenbudget.wire.prompt import Prompt, body_of, digest, parse_prompt

CLOCK = "TOKENBUDGET_CLOCK"
"""Names, in the environment of the second process, by how many seconds its clock is ahead."""
_AHEAD = 400 * 24 * 3600 + 12345  # another year, month, day, weekday, hour, minute and second
_SEED = "20077"
_OURS = "--token-budget"


def keep_prompts(folder: Path, scenario: str, prompts: Sequence[Prompt]) -> None:
    """Write what a scenario asked to a file of its own in `folder`."""
    bodies = [{"body": body_of(one, marked=True), "betas": sorted(one.betas or ())} for one in prompts]
    content = {"id": scenario, "prompts": bodies}
    (folder / f"{digest(scenario)}.json").write_text(json.dumps(content), encoding="utf-8")


def kept_prompts(folder: Path) -> dict[str, list[Prompt]]:
    """What `keep_prompts` wrote, by scenario."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        prompts = [parse_prompt(one["body"], betas=one["betas"]) for one in content["prompts"]]
        found[content["id"]] = prompts
    return found


def check_stability(
    first: Path, files: Sequence[Path], arguments: Sequence[str], invoked_in: Path, root: Path
) -> tuple[dict[str, list[Finding]], list[str]]:
    """Replay once more elsewhere: what differs by scenario, and what kept the check from being made in full.

    `first` holds the prompts of this run; for the rest see `replay_again`.
    """
    with tempfile.TemporaryDirectory(prefix="token-budget-") as second:
        try:
            replay_again(Path(second), files, arguments, invoked_in, root)
        except RecordingError as error:
            return {}, [str(error)]
        found = differences(kept_prompts(first), kept_prompts(Path(second)))
    return found, [problem] if (problem := clock_problem()) else []


def replay_again(
    folder: Path, files: Sequence[Path], arguments: Sequence[str], invoked_in: Path, root: Path
) -> None:
    """Run the tests of `files` in another process, which keeps its prompts in `folder`.

    `arguments` are those of this run, given in `invoked_in`. Raises RecordingError where the second run does
    not get as far as its tests.
    """
    environment = {
        **os.environ,
        "PYTHONHASHSEED": _SEED,
        "PYTHONPATH": os.pathsep.join(path or str(invoked_in) for path in [str(invoked_in), *sys.path]),
        CLOCK: str(_AHEAD),
        "TZ": "Pacific/Chatham",
    }
    command = [sys.executable, "-m", "pytest", f"--rootdir={root}", "-p", "no:cacheprovider"]
    command += [*_without_paths(arguments, invoked_in), _OURS, f"{_OURS}-prompts={folder}", *map(str, files)]
    with tempfile.TemporaryDirectory(prefix="elsewhere-") as elsewhere:
        done = subprocess.run(  # noqa: S603  # this run's own command
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode not in (0, 1):
        reason = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise RecordingError(
            f"The second replay of --token-budget-stability did not run (exit status {done.returncode}):\n"
            f"{reason}\nIts tests must run from another folder: name paths by `__file__`, not by the folder."
        )


def clock_problem() -> str | None:
    """Why the clock of the second process is not another one."""
    if find_spec("time_machine") is not None:
        return None
    return (
        "--token-budget-stability ran the second replay at the same time: to move its clock, "
        'pip install "pytest-tokenbudget[stability]"'
    )


def move_clock() -> None:
    """In the second process: be ahead by what the environment says, for good."""
    ahead = os.environ.get(CLOCK)
    if ahead and find_spec("time_machine") is not None:
        import time

        import time_machine

        time_machine.travel(time.time() + float(ahead), tick=True).start()


def differences(
    first: Mapping[str, Sequence[Prompt]], second: Mapping[str, Sequence[Prompt]]
) -> dict[str, list[Finding]]:
    """What differs between the two processes, by scenario; only those that both ran."""
    both = {
        name: compare_prefixes(prompts, second[name]) for name, prompts in first.items() if name in second
    }
    return {name: findings for name, findings in both.items() if findings}


def unstable_text(findings: Sequence[Finding]) -> str:
    """Why a test fails the check."""
    lines = [f"  * {one.where}: {one.text}" for one in findings]
    return "\n".join(["The prompts differ from process to process, so that no cache is shared:", *lines])


def _without_paths(arguments: Sequence[str], folder: Path) -> list[str]:
    """Without this plugin's own options, and without paths, which hold in one folder only."""
    return [
        argument
        for argument in arguments
        if not argument.startswith(_OURS)
        and (argument.startswith("-") or not (folder / argument.partition("::")[0]).exists())
    ]

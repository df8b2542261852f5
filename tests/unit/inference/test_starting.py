"""How Ray is started: with a token, without a dashboard, with every port fixed, and again when it ends."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from watcherd.errors import UnavailableError, UsageError
from watcherd.inference.cluster import starting
from watcherd.inference.machine.devices import parse_inventory

PATIENCE = 60.0


def test_the_head_has_no_dashboard_and_carries_nothing() -> None:
    words = starting.head("10.0.0.1", port=6380, ports=6481, store_mib=512, temporary=Path("/run/x"))
    assert {"--head", "--include-dashboard=false", "--num-cpus=0", "--num-gpus=0", "--port=6380"} <= set(words)
    assert {"--node-manager-port=6481", "--object-manager-port=6482"} <= set(words)
    assert {"--min-worker-port=6491", "--max-worker-port=6550", "--temp-dir=/run/x"} <= set(words)


def test_a_worker_gives_each_card_under_its_own_name() -> None:
    """So that who asks for one gets that one."""
    words = starting.worker("a:6380", parse_inventory("2x24GiB"), address="", ports=6381, store_mib=512)
    assert {"--address=a:6380", "--num-gpus=2"} <= set(words)
    owned = next(word for word in words if word.startswith("--resources="))
    assert {"watcherd-card-planned-0": 1, "watcherd-card-planned-1": 1} == json.loads(owned.partition("=")[2])


def test_rays_settings_are_ours_whatever_the_environment_says() -> None:
    found = starting.environment(Path("/t"), Path("/f"), {"RAY_AUTH_MODE": "disabled", "PATH": "/bin"})
    assert ("token", "/t", "/bin") == (found["RAY_AUTH_MODE"], found["RAY_AUTH_TOKEN_PATH"], found["PATH"])
    assert "0" == found["RAY_automatic_object_spilling_enabled"]
    assert "0" == found["RAY_USAGE_STATS_ENABLED"]


@pytest.mark.parametrize(("said", "meant"), [("bee", "bee:6380"), ("bee:7", "bee:7"), ("10.0.0.1", "10.0.0.1:6380")])
def test_the_head_is_a_host_with_or_without_a_port(said: str, meant: str) -> None:
    assert meant == starting.head_of(said)


@pytest.mark.parametrize("wrong", [":6380", "bee:", "bee:x", "bee:70000"])
def test_what_is_no_host_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="is no host"):
        starting.head_of(wrong)


def test_the_token_is_made_once_and_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert starting.made_token(path)
    before = path.read_text()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert not starting.made_token(path)
    assert before == path.read_text()
    starting.refuse_open_token(path)
    path.chmod(0o640)
    with pytest.raises(UnavailableError, match="Others may read"):
        starting.refuse_open_token(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(UnavailableError, match="fewer than 32"):
        starting.refuse_open_token(path)
    path.unlink()
    with pytest.raises(UnavailableError, match="cannot be read"):
        starting.refuse_open_token(path)


KEEPER = """
import sys
from watcherd.inference.cluster import keeper
keeper.FIRST_SECONDS = 0.01
sys.exit(keeper.keep([sys.executable, "-c", sys.argv[1]], {"COUNT": sys.argv[2]}, name="part"))
"""


def kept(program: str, count: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", KEEPER, program, str(count)], stdout=-3, stderr=-3)


def until_lines(path: Path, count: int) -> list[int]:
    deadline = time.monotonic() + PATIENCE
    while not path.exists() or len(path.read_text().split()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [int(pid) for pid in path.read_text().split()]


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


COUNTING = "import os, time; open(os.environ['COUNT'], 'a').write(f'{os.getpid()} '); "


def test_what_ends_is_started_again_and_ends_with_its_keeper(tmp_path: Path) -> None:
    """By SIGTERM in good order; by SIGKILL all the same."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        path = tmp_path / number.name
        keeper = kept(COUNTING + "time.sleep(600)", path)
        (first,) = until_lines(path, 1)
        os.kill(first, signal.SIGKILL)
        _, second = until_lines(path, 2)
        keeper.send_signal(number)
        assert (0 if number is signal.SIGTERM else -number) == keeper.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while is_there(second):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_what_cannot_begin_is_not_tried_again(tmp_path: Path) -> None:
    """A mistake in the configuration is not mended by another try."""
    keeper = kept(COUNTING + "os._exit(78)", tmp_path / "count")
    assert 78 == keeper.wait(PATIENCE)
    assert 1 == len((tmp_path / "count").read_text().split())

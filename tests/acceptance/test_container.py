"""The image, built by buildah on a Debian of its own and run by podman: a plain user, a read-only root, no network.

The tests of this file are one story: they run in order. Gigabytes are written below pytest's folder, and taken away.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.acceptance.conftest import why_no_environment
from tools import container, shipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.conftest import Found

pytestmark = [pytest.mark.slow, pytest.mark.story, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "watcherd" / "inference" / "segmenters" / "vessel" / "golden.png"
IMAGE = "localhost/watcherd:tried"
USER = 10001
PATIENCE = 300.0
"""Seconds that anything in a container may take before a test gives up."""
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""Not every machine lets podman set its own."""
CONFINED = ("--read-only", "--network", "none", "--cap-drop", "all", "--security-opt", "no-new-privileges")
TEMPORARY = ("--tmpfs", "/tmp:size=256m,mode=1777")  # noqa: S108 - the container's own


class Engine:
    """buildah and podman with a storage of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        storage = ["--root", str(folder / "storage"), "--runroot", str(folder / "running")]
        # An overlay can lie on most file systems, but not on another overlay: then each layer is copied.
        kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout.strip()
        storage += ["--storage-driver", "vfs" if kind == "overlayfs" else "overlay"]
        self.buildah = ["buildah", *storage]
        runtime = ["--runtime", "runc"] if shutil.which("runc") else []
        self._podman = ["podman", *storage, "--cgroup-manager", "cgroupfs", *runtime]

    def podman(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """What podman answers; it says much on standard error where no systemd runs."""
        done = subprocess.run([*self._podman, *words], capture_output=True, text=True, timeout=PATIENCE)
        if check and done.returncode != 0:
            raise AssertionError(f"podman {words} gave {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def output(self, *words: str | Path) -> str:
        return self.podman(*words).stdout.strip()

    def run(self, name: str, *words: str | Path) -> None:
        """Start a container called ``name``: ``words`` are options, the image, and what it is to run."""
        self.podman("run", "--detach", "--name", name, *CONFINED, *LIMITS, *TEMPORARY, *words)

    def health(self, name: str) -> int:
        """The exit status of the image's health check, run once."""
        return self.podman("healthcheck", "run", name, check=False).returncode

    def end(self) -> None:
        self.podman("rm", "--force", "--all", "--time", "0", check=False)
        subprocess.run([*self.buildah, "rm", "--all"], capture_output=True)
        self.podman("rmi", "--force", "--all", check=False)


def until(look: Callable[[], Found], what: str) -> Found:
    """What ``look`` finds, once it finds something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.2)
    return found


def why_not() -> str | None:
    """Why no image can be built and run here; None: it can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in ("buildah", "podman", "mmdebstrap") if not shutil.which(name)]
    return f"not installed: {', '.join(missing)}" if missing else why_no_environment()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """With the image in it."""
    if reason := why_not():
        pytest.skip(reason)
    made = Engine(tmp_path_factory.mktemp("engine"))
    try:
        (made.folder / "wheels").mkdir()
        wheels = container.wheelhouse(made.folder / "wheels")
        base = container.base(made.buildah, made.folder)
        container.build(made.buildah, IMAGE, base=base, folder=made.folder, wheels=wheels)
        yield made
    finally:
        made.end()
        shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def folders(engine: Engine) -> tuple[str | Path, ...]:
    """Options: this machine's folders as volumes, owned by the image's user, and a configuration of its own."""
    made = engine.folder / "folders"
    for name in ("inbox", "archive", "outbox", "../state", "../cache"):
        (made / name).mkdir(parents=True)
    for path in (made, *made.iterdir(), made.parent / "state", made.parent / "cache"):
        os.chown(path, USER, USER)
    text = shipped.configuration(shipped.service(), (ROOT / "config.toml").read_text())
    config = engine.folder / "config.toml"
    config.write_text(text.replace("settle_seconds = 2.0", "settle_seconds = 0.2"))
    volumes = (
        f"{made}:/srv/watcherd",
        f"{made.parent}/state:/var/lib/watcherd",
        f"{made.parent}/cache:/var/cache/watcherd",
    )
    words = [word for volume in (*volumes, f"{config}:/etc/watcherd/config.toml:ro") for word in ("--volume", volume)]
    return tuple(words)


def drop(engine: Engine, name: str) -> None:
    """Put the golden image of the default model into the inbox."""
    inbox = engine.folder / "folders" / "inbox"
    shutil.copy(GOLDEN, inbox / f".{name}.part")
    (inbox / f".{name}.part").rename(inbox / name)


def result_of(engine: Engine, name: str) -> dict[str, Any]:
    path = engine.folder / "folders" / "outbox" / "results" / f"{Path(name).stem}.json"
    until(path.exists, f"the result of {name}")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_image_says_what_it_is(engine: Engine) -> None:
    """A plain user, volumes, a health check; nothing in it that two containers would share by mistake."""
    (said,) = json.loads(engine.output("image", "inspect", IMAGE))
    settings = said["Config"]
    assert (f"{USER}:{USER}", ["watcherd"], ["run"]) == (settings["User"], settings["Entrypoint"], settings["Cmd"])
    assert {"/srv/watcherd", "/var/lib/watcherd", "/var/cache/watcherd"} == settings["Volumes"].keys()
    (healthcheck,) = (said.get(name) for name in ("Healthcheck", "HealthCheck") if said.get(name))
    assert ["CMD", "watcherd", "status", "--check"] == healthcheck["Test"]
    look = "test ! -e /etc/machine-id && test ! -e /src && test ! -e /opt/uv && id -u && watcherd config check"
    said_inside = engine.output("run", "--rm", *CONFINED, *LIMITS, *TEMPORARY, "--entrypoint", "sh", IMAGE, "-c", look)
    assert str(USER) == said_inside.splitlines()[0]


def test_a_scan_becomes_a_mask(engine: Engine, folders: tuple[str, ...]) -> None:
    """As a plain user, on a root that nobody can write to, without a network; and it is healthy meanwhile."""
    engine.run("first", *folders, IMAGE)
    until(lambda: engine.health("first") == 0, "the container to be healthy")
    drop(engine, "scan.png")
    assert "succeeded" == result_of(engine, "scan.png")["state"]
    mask = np.asarray(Image.open(engine.folder / "folders" / "outbox" / "masks" / "scan.png"))
    assert {0, 255} == set(np.unique(mask).tolist())
    assert USER == (engine.folder / "folders" / "outbox" / "masks" / "scan.png").stat().st_uid
    assert "lo" == engine.output("exec", "first", "ls", "/sys/class/net")
    assert 0 != engine.podman("exec", "first", "touch", "/opt/watcherd/new", check=False).returncode
    assert "is running" in engine.output("exec", "first", "watcherd", "status")
    until((engine.folder / "folders" / "archive" / "scan.png").exists, "the scan to be archived")


def test_a_frozen_daemon_is_unhealthy(engine: Engine) -> None:
    """And healthy again when it goes on."""
    engine.podman("kill", "--signal", "STOP", "first")
    assert 1 == engine.health("first")
    engine.podman("kill", "--signal", "CONT", "first")
    assert 0 == engine.health("first")


def test_a_stop_is_in_good_order(engine: Engine) -> None:
    engine.podman("stop", "--time", "90", "first")
    assert "0" == engine.output("inspect", "--format", "{{.State.ExitCode}}", "first")


def test_a_stopped_daemon_is_unhealthy(engine: Engine, folders: tuple[str, ...]) -> None:
    """The container lives, the daemon in it does not: over a history that says how it stopped, and over none."""
    engine.run("stopped", *folders, "--entrypoint", "sleep", IMAGE, "infinity")
    assert 1 == engine.health("stopped")
    assert "not running" in engine.output("exec", "stopped", "watcherd", "status")
    engine.run("new", "--entrypoint", "sleep", IMAGE, "infinity")
    assert 1 == engine.health("new")


def test_the_next_container_goes_on_with_the_history(engine: Engine, folders: tuple[str, ...]) -> None:
    """It has another host name; outbox and history are its own none the less, and what was computed is known."""
    engine.run("second", *folders, IMAGE)
    until(lambda: engine.health("second") == 0, "the container to be healthy")
    drop(engine, "again.png")
    assert 1 == result_of(engine, "again.png")["duplicate_of"]


def test_another_history_is_refused_the_outbox(engine: Engine, folders: tuple[str, ...]) -> None:
    """A second container with a state volume of its own is told whose the outbox is."""
    outbox_alone = folders[:2]
    engine.run("stranger", *outbox_alone, IMAGE)
    until(lambda: engine.output("inspect", "--format", "{{.State.Status}}", "stranger") == "exited", "the refusal")
    assert "75" == engine.output("inspect", "--format", "{{.State.ExitCode}}", "stranger")


def test_the_receiver_of_the_example_starts_in_the_image(engine: Engine) -> None:
    """storescp is in it, and answers an echo."""
    engine.run(
        "receiver", "--entrypoint", "storescp", IMAGE, "-aet", "WATCHERD", "-od", "/srv/watcherd/receiving", "11112"
    )
    echo = ("exec", "receiver", "echoscu", "-aec", "WATCHERD", "127.0.0.1", "11112")
    until(lambda: engine.podman(*echo, check=False).returncode == 0, "storescp to answer")


@pytest.mark.parametrize(
    ("example", "secret", "sign"),
    [("orthanc", "ORTHANC_PASSWORD", "Orthanc has started"), ("samba", "SAMBA_PASSWORD", "smbd version 4.")],
)
def test_what_stands_beside_it_in_the_examples_starts(engine: Engine, example: str, secret: str, sign: str) -> None:
    """Built on the same Debian, with a password from the environment; Orthanc as confined as its compose file says."""
    image = f"localhost/{example}:tried"
    form = ("--isolation", "chroot", "--pull-never", "--format", "docker", "--build-arg", f"BASE={container.BASE}")
    container.run(*engine.buildah, "bud", *form, "--tag", image, ROOT / "examples" / example)
    confined = (*CONFINED, *TEMPORARY) if example == "orthanc" else ("--network", "none")
    files = ("--ulimit", "nofile=16384:16384", "--ulimit", "nproc=1024:1024")
    engine.podman("run", "--detach", "--name", example, *confined, *files, "--env", f"{secret}=secret", image)

    def started() -> bool:
        said = engine.podman("logs", example)
        return sign in said.stdout + said.stderr

    until(started, f"{example} to start")
    assert "running" == engine.output("inspect", "--format", "{{.State.Status}}", example)

"""The Debian package on a real systemd: installed, at work, upgraded over itself, removed, purged.

The tests of this file are one story: they run in order, on one box. Gigabytes are written, to memory and to pytest's
folder, and taken away.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.conftest import Box, why_no_box, why_no_environment
from tests.unit.imaging.dicoms import cine, dicom
from tools import container, deb, shipped

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.story,
    pytest.mark.timeout(3600),
    pytest.mark.xdist_group("box"),
]

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "watcherd" / "inference" / "segmenters" / "vessel" / "golden.png"
UNIT = "watcherd.service"
CONFIG = "/etc/watcherd/config.toml"
INBOX, OUTBOX = Path("/srv/watcherd/inbox"), Path("/srv/watcherd/outbox")
HISTORY = Path("/var/lib/watcherd/watcherd.db")
MINUTES = 60.0
LONG = 20 * MINUTES
"""Seconds in which two gigabytes are unpacked, on any machine."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Iterator[dict[str, Path]]:
    """The package, packed in both ways; WATCHERD_DEB names one that was built before, by `make deb`."""
    if reason := why_no_box() or why_no_environment():
        pytest.skip(f"the package cannot be tried for real here: {reason}")
    if not shutil.which("dpkg-deb"):
        pytest.skip("needs dpkg-deb")
    if built := os.environ.get("WATCHERD_DEB"):
        yield {"zstd": Path(built).resolve()}
        return
    folder = tmp_path_factory.mktemp("deb")
    (folder / "wheels").mkdir()
    shutil.copy(wheel, folder / "wheels")
    try:
        container.wheelhouse(folder / "wheels")
        packings = ("zstd", "xz") if shutil.which("lintian") else ("zstd",)
        yield dict(zip(packings, deb.build(folder, folder / "wheels", packings), strict=True))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, packages: dict[str, Path]) -> Iterator[Box]:
    """A booted box that has the package at hand, where packages may start what they bring."""
    made = Box(tmp_path_factory.mktemp("machine"), f"{packages['zstd'].parent}:/opt/packages")
    try:
        made.start()
        made.run("rm", "-f", "/usr/sbin/policy-rc.d")
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module", autouse=True)
def _journal_on_failure(request: pytest.FixtureRequest, machine: Box) -> Iterator[None]:
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before:
        print(machine.run("journalctl", "-u", "watcherd*", "-n", "100", "--no-pager", check=False).stdout)


def dpkg(box: Box, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return box.run("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", *words, check=check, seconds=LONG)


def install(box: Box, packages: dict[str, Path], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return dpkg(box, "--install", f"/opt/packages/{packages['zstd'].name}", check=check)


def is_active(box: Box, unit: str = UNIT) -> bool:
    return "active" == box.property(unit, "ActiveState")


def drop(box: Box, name: str, content: bytes) -> None:
    part = box.path(INBOX / f".{name}.part")
    part.write_bytes(content)
    part.rename(part.with_name(name))


def result_of(box: Box, name: str) -> dict[str, Any]:
    path = box.path(OUTBOX / "results" / f"{Path(name).stem}.json")
    box.wait(path.exists, f"the result of {name}", seconds=5 * MINUTES)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def kept(box: Box) -> dict[str, bytes]:
    """What is people's own, by its path: scans, results, the configuration."""
    found = {}
    for top in ("/etc/watcherd", "/srv/watcherd"):
        for path in box.output("find", top, "-type", "f").splitlines():
            found[path] = box.path(path).read_bytes()
    return found


def history(box: Box) -> list[dict[str, Any]]:
    answer = box.output("runuser", "-u", "watcherd", "--", "watcherd", "jobs", "--json", "--config", CONFIG)
    found: list[dict[str, Any]] = json.loads(answer)
    return found


def test_lintian_finds_no_error(packages: dict[str, Path]) -> None:
    """But what packaging/deb/lintian-overrides has a reason for."""
    if "xz" not in packages:
        pytest.skip("lintian is not installed")
    command = ["lintian", "--fail-on", "error", "--tag-display-limit", "5", packages["xz"]]
    said = subprocess.run(command, capture_output=True, text=True, timeout=2 * LONG)
    assert 0 == said.returncode, said.stdout + said.stderr
    assert "unused-override" not in said.stdout
    assert "mismatched-override" not in said.stdout


def test_an_environment_of_somebody_else_is_not_mixed_with_it(machine: Box, packages: dict[str, Path]) -> None:
    """A venv in /opt/watcherd, as the manual makes one, stays as it is; the refusal says what to do."""
    machine.run("mkdir", "-p", "/opt/watcherd/bin")
    machine.path("/opt/watcherd/bin/mine").write_text("mine")
    refused = install(machine, packages, check=False)
    assert 0 != refused.returncode
    assert "/opt/watcherd holds an environment that this package did not put there" in refused.stderr
    assert ["mine"] == machine.output("ls", "/opt/watcherd/bin").split()
    machine.run("rm", "-r", "/opt/watcherd")


def test_it_installs_and_the_service_runs(machine: Box, packages: dict[str, Path]) -> None:
    """Units, user, folders, configuration; enabled and ready, with no network; the receiver waits to be enabled."""
    install(machine, packages)
    machine.wait(lambda: is_active(machine), "the service", seconds=5 * MINUTES)
    assert "enabled" == machine.output("systemctl", "is-enabled", UNIT)
    assert is_active(machine, "watcherd-prune.timer")
    receiver = machine.run("systemctl", "is-enabled", "watcherd-storescp.service", check=False)
    assert "disabled" == receiver.stdout.strip()
    assert "2770 watcherd watcherd" == machine.output("stat", "-c", "%a %U %G", INBOX)
    sample = shipped.configuration(shipped.service(), (ROOT / "config.toml").read_text())
    assert sample == machine.path(CONFIG).read_text()
    assert "" == machine.output("dpkg", "--verify", "watcherd")
    assert machine.output("watcherd", "--version").endswith(deb.version())
    machine.run("runuser", "-u", "watcherd", "--", "watcherd", "status", "--check", "--config", CONFIG)


def test_a_scan_becomes_a_mask(machine: Box) -> None:
    drop(machine, "first.png", GOLDEN.read_bytes())
    assert "succeeded" == result_of(machine, "first.png")["state"]
    assert "watcherd watcherd" == machine.output("stat", "-c", "%U %G", OUTBOX / "masks" / "first.png")


@pytest.mark.skipif(not shutil.which("storescp"), reason="dcmtk is not installed")
def test_a_run_comes_in_over_the_network(machine: Box) -> None:
    """The receiver's unit as it is shipped: it makes its folder, takes a run, and the run becomes masks."""
    machine.run("systemctl", "start", "watcherd-storescp")
    echo = ("echoscu", "-aec", "WATCHERD", "127.0.0.1", "11112")
    machine.wait(lambda: machine.run(*echo, check=False).returncode == 0, "storescp to answer")
    (machine.shared / "run.dcm").write_bytes(dicom(3400 - cine(6, 64), FrameTime="66.7"))
    machine.run("storescu", "-R", "-aec", "WATCHERD", "127.0.0.1", "11112", "/mnt/test/run.dcm")
    assert "succeeded" == result_of(machine, "XA.1.2.3.4.5.dcm")["state"]
    assert "" == machine.output("ls", "/srv/watcherd/receiving")


def test_an_upgrade_goes_on_with_history_and_configuration(machine: Box, packages: dict[str, Path]) -> None:
    """What ran runs again, an edited configuration is nobody's but its editor's, and what was computed is known."""
    config = machine.path(CONFIG)
    config.write_text(config.read_text().replace("settle_seconds = 2.0", "settle_seconds = 0.5"))
    before, jobs = kept(machine), history(machine)
    running = machine.property(UNIT, "MainPID")
    install(machine, packages)
    machine.wait(lambda: is_active(machine), "the service to run again", seconds=5 * MINUTES)
    assert running != machine.property(UNIT, "MainPID")
    if shutil.which("storescp"):
        machine.wait(lambda: is_active(machine, "watcherd-storescp"), "the receiver to run again")
    assert (before, jobs) == (kept(machine), history(machine))
    drop(machine, "again.png", GOLDEN.read_bytes())
    assert 1 == result_of(machine, "again.png")["duplicate_of"]
    assert not machine.path("/run/watcherd-package").exists()


def test_removal_leaves_what_is_peoples_own(machine: Box) -> None:
    """The program goes; scans, results, history and configuration stay as they are, to the byte."""
    machine.run("systemctl", "stop", UNIT)
    drop(machine, "waiting.png", b"not taken before the removal")
    before, rows = kept(machine), machine.path(HISTORY).read_bytes()
    dpkg(machine, "--remove", "watcherd")
    assert (before, rows) == (kept(machine), machine.path(HISTORY).read_bytes())
    assert not machine.path("/opt/watcherd").exists()
    assert not machine.path("/usr/lib/systemd/system/watcherd.service").exists()
    assert "inactive" == machine.property("watcherd-storescp.service", "ActiveState")


def test_purge_leaves_an_edited_configuration_and_all_work(machine: Box) -> None:
    """And says what it leaves."""
    before, rows = kept(machine), machine.path(HISTORY).read_bytes()
    said = dpkg(machine, "--purge", "watcherd")
    assert (before, rows) == (kept(machine), machine.path(HISTORY).read_bytes())
    assert "watcherd: /var/lib/watcherd is left as it is" in said.stderr
    assert not machine.path("/var/cache/watcherd").exists()


def test_it_comes_back_to_what_it_left(machine: Box, packages: dict[str, Path]) -> None:
    """Installed once more: the edited configuration, the history, and the scan that waited meanwhile."""
    install(machine, packages)
    machine.wait(lambda: is_active(machine), "the service", seconds=5 * MINUTES)
    assert "settle_seconds = 0.5" in machine.path(CONFIG).read_text()
    machine.wait(machine.path(OUTBOX / "failed" / "waiting.txt").exists, "the scan that waited", seconds=5 * MINUTES)
    assert {"first.png", "waiting.png"} <= {job["source"] for job in history(machine)}


def test_a_configuration_that_nobody_edited_goes_with_a_purge(machine: Box) -> None:
    sample = shipped.configuration(shipped.service(), (ROOT / "config.toml").read_text())
    machine.path(CONFIG).write_text(sample)
    dpkg(machine, "--purge", "watcherd")
    assert not machine.path("/etc/watcherd").exists()
    assert machine.path(HISTORY).exists()

"""Container files and the Debian package say what the program says: folders, user, versions, options, exit codes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tools import container, deb, shipped
from watcherd import config
from watcherd.cli.app import app
from watcherd.notify import pacs
from watcherd.service.opening import TMPFS_MIB

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
UNIT = (ROOT / "systemd" / "watcherd.service").read_text()
RECEIVER = (ROOT / "systemd" / "watcherd-storescp.service").read_text()
SCRIPTS = {name: (ROOT / "packaging" / "deb" / name).read_text() for name in deb.SCRIPTS}
COMPOSED = (
    ("compose.yaml",),
    ("compose.yaml", "compose.gpu.yaml"),
    ("compose.yaml", "examples/orthanc/compose.yaml"),
    ("compose.yaml", "examples/samba/compose.yaml"),
)
USER = "10001"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def composed(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())["services"]
    return found


# ---------------------------------------------------------------------------------------------------------- the image


def test_the_configuration_is_the_sample_with_the_units_folders() -> None:
    """It loads, and differs from the sample in four paths."""
    text = shipped.configuration(shipped.service(), (ROOT / "config.toml").read_text())
    found = config.build(tomllib.loads(text), base=Path("/etc/watcherd"))
    assert (Path("/srv/watcherd/inbox"), Path("/srv/watcherd/archive")) == (found.inbox.path, found.inbox.archive_path)
    assert (Path("/srv/watcherd/outbox"), Path("/var/lib/watcherd")) == (found.outbox.path, found.state.path)
    sample = (ROOT / "config.toml").read_text().splitlines()
    assert 4 == sum(mine != theirs for mine, theirs in zip(text.splitlines(), sample, strict=True))


def test_the_images_folders_are_those_of_its_configuration() -> None:
    """Made for its user, and volumes."""
    mine = shipped.service()
    for folder in (*mine.folders, mine.names.state, Path("/var/cache/watcherd"), Path("/srv/watcherd/receiving")):
        assert re.search(rf"install -d -o watcherd -g watcherd -m \d+ .*{folder}\b", DOCKERFILE), folder
    volumes = re.search(r"^VOLUME (.*)$", DOCKERFILE, re.MULTILINE)
    assert volumes
    assert {"/srv/watcherd", "/var/lib/watcherd", "/var/cache/watcherd"} == set(yaml.safe_load(volumes[1]))
    assert {"/srv/watcherd"} == {str(folder.parent) for folder in mine.folders}
    assert f"WATCHERD_CONFIG={mine.names.config} " in DOCKERFILE


def test_the_images_environment_is_the_units() -> None:
    """Caches, and what Python and the model hubs are told."""
    lines = " ".join(re.findall(r"^Environment=(.*)$", UNIT, re.MULTILINE))
    for word in lines.replace("%S", "/var/lib").replace("%C", "/var/cache").split():
        assert re.search(rf"\b{re.escape(word)}( \\)?$", DOCKERFILE, re.MULTILINE), word


def test_the_health_check_is_a_command_that_there_is() -> None:
    (said,) = re.findall(r"^HEALTHCHECK .* CMD (.*)$", DOCKERFILE, re.MULTILINE)
    program, name, *options = yaml.safe_load(said)
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert "watcherd" == program
    assert command.make_context(name, options).params["check"] is True
    (start,) = re.findall(r"--start-period=(\d+)m", DOCKERFILE)
    assert int(start) * 60 >= config.build({}, base=ROOT).devices.load_seconds


def test_versions_and_extras_are_the_same_wherever_they_stand() -> None:
    assert f" {container.UV} " in f"{DOCKERFILE} ".replace("\n", " ")
    extras = set(container.EXTRAS.split(","))
    assert extras == set(re.findall(r"--extra (\w+)", DOCKERFILE))
    assert extras < set(PROJECT["optional-dependencies"])
    (python,) = re.findall(r"^ARG BASE=python:(3\.\d+)-", DOCKERFILE, re.MULTILINE)
    assert f">={python}" == PROJECT["requires-python"]
    assert f"python3 (>= {python}), python3 (<< 3.12)" in (ROOT / "packaging" / "deb" / "control.in").read_text()


def test_what_the_wheel_is_made_of_gets_into_the_build_and_nothing_else() -> None:
    """The lines of .dockerignore that let something in name what pyproject.toml puts into the wheel, and tools/."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*build["packages"], *build["force-include"], *PROJECT["license-files"], PROJECT["readme"]}
    needed |= {"pyproject.toml", "config.toml", "tools"}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert needed == {line[1:] for line in lines if line.startswith("!")}


# ------------------------------------------------------------------------------------------------------------ compose


@pytest.mark.parametrize("files", COMPOSED, ids="+".join)
def test_compose_accepts_the_files(files: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is known, and the files fit one another."""
    if not shutil.which("docker-compose"):
        pytest.skip("docker-compose is not installed")
    for name in ("ORTHANC_PASSWORD", "SAMBA_PASSWORD"):
        monkeypatch.setenv(name, "secret")
    words = [word for file in files for word in ("-f", file)]
    done = subprocess.run(["docker-compose", *words, "config"], cwd=ROOT, capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr


@pytest.mark.parametrize("example", ["orthanc", "samba"])
def test_no_password_is_shipped(example: str) -> None:
    """Without one in the environment nothing starts, and compose says which."""
    text = (ROOT / "examples" / example / "compose.yaml").read_text()
    assert re.search(rf"{example.upper()}_PASSWORD: \${{{example.upper()}_PASSWORD:\?\w", text)


def test_the_service_is_confined_as_its_unit_is() -> None:
    service = composed("compose.yaml")["watcherd"]
    assert ("none", True, ["ALL"]) == (service["network_mode"], service["read_only"], service["cap_drop"])
    assert ["no-new-privileges:true"] == service["security_opt"]
    assert service["shm_size"] == "3gb"
    assert 3 << 10 > TMPFS_MIB
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)s$", UNIT, re.MULTILINE)
    assert f"{seconds}s" == service["stop_grace_period"]
    assert int(seconds) > config.build({}, base=ROOT).limits.stop_seconds


def test_the_receiver_of_the_example_is_the_units() -> None:
    receiver = composed("examples/orthanc/compose.yaml")["receiver"]
    (line,) = re.findall(r"^ExecStart=/usr/bin/(.*)$", RECEIVER, re.MULTILINE)
    for name, value in re.findall(r"(\w+)=(\w+)", re.findall(r"^Environment=(.*)$", RECEIVER, re.MULTILINE)[0]):
        line = line.replace(f"${{{name}}}", value)
    words = [*receiver["entrypoint"], *receiver["command"]]
    assert line.replace('"', "") == " ".join(words)


def test_the_configuration_beside_orthanc_loads_and_calls_the_sender_rightly() -> None:
    values = tomllib.loads((ROOT / "examples" / "orthanc" / "watcherd.toml").read_text())
    found = config.build(values, base=Path("/etc/watcherd"))
    assert shipped.service().folders == (found.inbox.path, found.inbox.archive_path, found.outbox.path)
    assert shipped.service().names.state == found.state.path
    python, flag, module, *arguments = values["hooks"]["command"]
    assert ("python", "-m", pacs.__name__) == (python, flag, module)
    options = pacs._parser().parse_args(arguments)
    orthanc = yaml.safe_load((ROOT / "examples" / "orthanc" / "orthanc.json").read_text())
    assert (orthanc["DicomPort"], orthanc["DicomAet"]) == (options.port, options.called)
    assert ["WATCHERD", "127.0.0.1", 11112] == orthanc["DicomModalities"]["watcherd"]


def test_the_user_of_the_shares_is_the_images() -> None:
    samba = (ROOT / "examples" / "samba" / "Dockerfile").read_text()
    for text in (DOCKERFILE, samba):
        assert {USER} == set(re.findall(r"--[ug]id (\d+)", text))
    assert f"USER {USER}:{USER}" in DOCKERFILE


@pytest.mark.parametrize("path", [ROOT / "Dockerfile", *sorted((ROOT / "examples").glob("*/Dockerfile"))], ids=str)
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not hadolint:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, "--failure-threshold", "warning", path], capture_output=True, text=True)
    assert 0 == done.returncode, done.stdout


# -------------------------------------------------------------------------------------------------- the Debian package


@pytest.mark.parametrize("name", deb.SCRIPTS)
def test_the_shell_reads_the_packages_scripts(name: str) -> None:
    """They stop at the first command that fails."""
    done = subprocess.run(["sh", "-n"], input=SCRIPTS[name], capture_output=True, text=True)
    assert (0, "") == (done.returncode, done.stderr)
    assert SCRIPTS[name].startswith("#!/bin/sh\nset -e\n")


def test_the_scripts_start_what_the_preset_enables() -> None:
    """And the preset decides about every unit that could be enabled."""
    preset = (ROOT / "systemd" / "watcherd.preset").read_text()
    enabled = set(re.findall(r"^enable (\S+)$", preset, re.MULTILINE))
    decided = enabled | set(re.findall(r"^disable (\S+)$", preset, re.MULTILINE))
    units = [path for pattern in deb.UNITS for path in (ROOT / "systemd").glob(pattern)]
    assert {path.name for path in units if "[Install]" in path.read_text()} == decided
    (looped,) = re.findall(r"^for unit in (.*); do$", SCRIPTS["postinst"], re.MULTILINE)
    assert enabled == set(looped.split())
    for name in enabled:
        assert name in SCRIPTS["postrm"]


def test_the_package_takes_nothing_of_peoples_away() -> None:
    """What its scripts delete for ever is named here: caches, its own notes, what Python compiled, and an empty folder;
    and one file, a configuration that is the sample."""
    deleted = [line.strip() for text in SCRIPTS.values() for line in text.splitlines() if re.search(r"\brm\b", line)]
    advice = [line for line in deleted if line.startswith("echo")]
    assert 1 == len(advice)
    assert {
        'rm -rf "$noted"',
        "find /opt/watcherd -name __pycache__ -type d -prune -exec rm -rf {} +",
        "rm -rf /var/cache/watcherd",
        'rm "$config"',
    } == set(deleted) - set(advice)


def test_every_script_speaks_of_the_same_places() -> None:
    mine = shipped.service()
    text = "".join(SCRIPTS.values())
    assert {str(mine.names.config)} == set(re.findall(r"^config=(.*)$", text, re.MULTILINE))
    assert {"/run/watcherd-package"} == set(re.findall(r"^noted=(.*)$", text, re.MULTILINE))
    assert str(mine.program.parents[1]) in SCRIPTS["preinst"]


def test_the_control_file_is_whole(tmp_path: Path) -> None:
    """Nothing is left to be filled in, and dpkg is told of every file."""
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "file").write_text("x" * 4096)
    deb.control(tmp_path, "amd64", "sample")
    for path in (tmp_path / "DEBIAN").iterdir():
        assert not re.search(r"@[A-Z]+@", path.read_text()), path.name
    assert f"Version: {deb.version()}-{deb.REVISION}\n" in (tmp_path / "DEBIAN" / "control").read_text()
    assert "  usr/file\n" in (tmp_path / "DEBIAN" / "md5sums").read_text()
    assert (tmp_path / "DEBIAN" / "postinst").stat().st_mode & 0o111

"""The wheel is complete: it works where there is no checkout, and brings its migrations, units, scans and weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.service import Service
from watcherd.outputs import EXTRAS

ROOT = Path(__file__).parents[2]
CARRIED = {"watcherd": "watcherd", "migrations": "watcherd/migrations", "systemd": "watcherd/systemd"}
"""Folders of the checkout, and where they are in the wheel."""

MODEL_LIBRARIES = ("torch", "transformers", "accelerate", "monai", "safetensors")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    built = subprocess.run(command, capture_output=True, text=True)
    assert 0 == built.returncode, built.stdout + built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked: what pip does with it, but for the script."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(installed: Path, elsewhere: Path, program: str, *arguments: str) -> str:
    """Run a program with the unpacked wheel in front of everything else, away from the checkout; its output."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WATCHERD_")}
    answer = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=elsewhere,
        env=inherited | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert 0 == answer.returncode, answer.stderr
    return answer.stdout


def imported(installed: Path, elsewhere: Path, statement: str) -> set[str]:
    """The top-level modules that a statement brings along."""
    program = f"import sys, json; {statement}; print(json.dumps([name for name in sys.modules if '.' not in name]))"
    return set(json.loads(python(installed, elsewhere, program)))


def test_everything_of_the_tree_is_in_it_and_nothing_else(wheel: Path) -> None:
    """Modules, migrations, units, the sample configuration, demo scans, weights; no tests, no caches."""
    expected = {
        f"{inside}/{path.relative_to(ROOT / folder)}"
        for folder, inside in CARRIED.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected.add("watcherd/constraints.txt")
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        sample = archive.read("watcherd/systemd/config.toml")
    assert expected == found
    assert (ROOT / "config.toml").read_bytes() == sample
    for name in ("watcherd/migrations/env.py", "watcherd/systemd/watcherd.service", "watcherd/py.typed"):
        assert name in found


def test_it_says_and_carries_its_licence(wheel: Path) -> None:
    """By its identifier, and with the attributions that have to travel with it."""
    with zipfile.ZipFile(wheel) as archive:
        info = next(name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name)
        metadata = archive.read(f"{info}/METADATA").decode()
        for name in ("LICENSE", "NOTICE"):
            assert f"\nLicense-File: {name}\n" in metadata
            assert (ROOT / name).read_bytes() == archive.read(f"{info}/licenses/{name}")
    assert "\nLicense-Expression: Apache-2.0\n" in metadata


def test_it_finds_its_own_migrations_and_units(installed: Path, tmp_path: Path) -> None:
    """Those inside the package, not those of a checkout beside it."""
    program = (
        "import watcherd; from watcherd.install import machine; from watcherd.store.migrate import migrations\n"
        "from importlib.metadata import version\n"
        "for path in (watcherd.__file__, migrations(), machine.resource('systemd'), machine.resource('config.toml')):\n"
        "    print(path)\n"
        "print(version('watcherd'))"
    )
    *paths, version = python(installed, tmp_path, program).splitlines()
    assert [
        installed / "watcherd" / name for name in ("__init__.py", "migrations", "systemd", "systemd/config.toml")
    ] == list(map(Path, paths))
    assert any(installed.glob(f"watcherd-{version}.dist-info"))


@pytest.mark.slow
def test_the_demo_runs_from_it(installed: Path, tmp_path: Path) -> None:
    """The bundled scans through inbox, queue, replica and outbox, with the defaults; and the process that watches,
    delivers and records never imports a model library: they cost half a gigabyte, and their crashes are the
    replica's alone."""
    program = (
        "import sys; from watcherd.cli.app import run\n"
        "if __name__ == '__main__':\n"
        "    code = run(['demo', '--json'])\n"
        f"    assert not set({MODEL_LIBRARIES}) & set(sys.modules), 'the main process imported a model library'\n"
        "    sys.exit(code)"
    )
    records = json.loads(python(installed, tmp_path, program))
    bundled = {path.name for path in (installed / "watcherd" / "demo").glob("*.jpg")}
    assert bundled == {record["source"] for record in records}
    assert {"succeeded"} == {record["state"] for record in records}
    for record in records:
        assert 0.005 < record["mask_fraction"] < 0.4
        for output in record["outputs"]:
            assert (tmp_path / "demo-run" / "outbox" / output["path"]).stat().st_size == output["bytes"]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel as pip installs it and the libraries of the base, without the extras."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for extra in EXTRAS:
        text = f"raise ModuleNotFoundError(\"No module named '{extra.module}'\", name={extra.module!r})\n"
        (site / f"{extra.module}.py").write_text(text)
    return folder


def lines_of_the_readme() -> list[str]:
    """What is typed below "Use it", without the comments."""
    section = (ROOT / "README.md").read_text().partition("\n## Use it\n")[2]
    block = re.search(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert block
    return [line.partition("#")[0].strip() for line in block[1].splitlines()]


@pytest.mark.slow
def test_the_first_hour_of_somebody_who_types_the_readmes_lines(environment: Path, tmp_path: Path) -> None:
    """In a fresh folder: a configuration, a dropped scan, its overlay; then the service, and another scan."""
    _, init, drop, once, run, _ = lines = lines_of_the_readme()
    assert ["watcherd config init", "cp scan.png inbox/", "watcherd run --once", "watcherd run"] == lines[1:5]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("WATCHERD_", "PYTHON"))}
    path = os.pathsep.join([str(environment / "bin"), inherited["PATH"]])
    terminal: dict[str, Any] = {"cwd": tmp_path, "env": inherited | {"PATH": path, "OMP_NUM_THREADS": "1"}}
    subprocess.run(["sh", "-c", init], check=True, **terminal)
    shutil.copy(ROOT / "watcherd" / "inference" / "segmenters" / "vessel" / "golden.png", tmp_path / "scan.png")
    for line in (drop, once):
        subprocess.run(["sh", "-c", line], check=True, capture_output=True, **terminal)
    assert (tmp_path / "outbox" / "overlays" / "scan.jpg").is_file()
    assert (tmp_path / "outbox" / "masks" / "scan.png").is_file()
    service = Service.__new__(Service)
    service.folder, service.state, service.logs = tmp_path, tmp_path / "state", tmp_path / "shown.log"
    with service.logs.open("wb") as log:
        service.process = subprocess.Popen(["sh", "-c", f"exec {run}"], stdout=log, stderr=log, **terminal)
    try:
        shutil.copy(tmp_path / "scan.png", tmp_path / "inbox" / "again.png")
        service.wait((tmp_path / "outbox" / "overlays" / "again.jpg").is_file, "the overlay")
        service.signal(signal.SIGTERM)
        assert 0 == service.ended(), service.tail()
    finally:
        service.end()


def test_without_the_extras_it_says_what_to_install(environment: Path, tmp_path: Path) -> None:
    """The plots of an evaluation are one."""
    program = "import sys; from watcherd.cli import app\n"
    program += "app.app = lambda **_: __import__('matplotlib')\nsys.exit(app.run())"
    command = [environment / "bin" / "python", "-E", "-c", program]  # the wheel's package, whatever PYTHONPATH says
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (69, 'Install it: pip install "watcherd[plots]"') == (said.returncode, said.stderr.splitlines()[-1])


def test_the_command_line_and_the_daemon_import_no_model_library(installed: Path, tmp_path: Path) -> None:
    """They start in a moment, also on a machine where a model takes minutes; the command line spares numpy, too."""
    heavy = {*MODEL_LIBRARIES, "skimage", "scipy"}
    assert set() == heavy & imported(installed, tmp_path, "import watcherd.cli.app, watcherd.service.daemon")
    command_line = imported(installed, tmp_path, "import watcherd.cli.app")
    assert set() == {*heavy, "numpy", "PIL", "alembic"} & command_line
    assert set() == {"pydantic", "sqlalchemy", "numpy"} & imported(installed, tmp_path, "import watcherd.__main__")

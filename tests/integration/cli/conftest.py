"""A small real history, made once by the daemon; each test gets a copy of all its folders, and the command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.service import Service, broken, marked_png, png
from watcherd import config
from watcherd.cli.app import run

if TYPE_CHECKING:
    from pathlib import Path

SCANS = {
    "a.png": png(1),
    "coronary/b_1.png": png(2),
    "no vessel.png": marked_png(3, "no-mask"),
    "refused.png": broken(4),
}
"""What was dropped, all but `AGAIN` at once."""

AGAIN = "again.png"
"""The bytes of a.png, dropped when that was done."""


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a real daemon left after it has worked on `SCANS`."""
    service = Service(
        tmp_path_factory.mktemp("history"),
        model={"segmenter": "fake"},
        **{"profiles.coronary": {"folder": "coronary", "threshold": 0.25}},
    )
    for name, content in SCANS.items():
        service.drop(name, content)
    assert service.once() == 0, service.tail()
    service.drop(AGAIN, SCANS["a.png"])
    assert service.once() == 0, service.tail()
    return service.folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What a command wrote, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


class CommandLine:
    """watcherd's command line on one configuration."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.config_file = folder / "config.toml"
        self._capture = capture

    @property
    def config(self) -> config.Config:
        return config.load(self.config_file)

    def configure(self, text: str) -> None:
        """Add tables to the configuration."""
        with self.config_file.open("a") as file:
            file.write(text)

    def __call__(self, *arguments: str) -> Said:
        """Run a command in this process."""
        self._capture.readouterr()
        code = run([*arguments, "--config", str(self.config_file)])
        said = self._capture.readouterr()
        return Said(code=code, out=said.out, err=said.err)

    def job(self, source: str) -> int:
        """The number of the job for the scan that was dropped under this name."""
        return next(int(record["id"]) for record in self("jobs", "--json").json if record["source"] == source)

    def states(self) -> dict[str, str]:
        """Where the job of each name is."""
        return {record["source"]: record["state"] for record in self("jobs", "--json").json}


@pytest.fixture
def watcherd(made_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line on a copy of the history that the test may change."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    return CommandLine(tmp_path, capsys)

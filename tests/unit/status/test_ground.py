"""What doctor says of the machine: GPUs, file events, the port, libraries, and how a service is started here."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any

import pytest

from watcherd import config
from watcherd.errors import UnavailableError
from watcherd.inference.machine.devices import parse_inventory
from watcherd.status import ground, starting
from watcherd.status.findings import Finding


def settings(folder: Path, **tables: Any) -> config.Config:
    (folder / "inbox").mkdir(exist_ok=True)
    return config.build(tables, base=folder)


def found(folder: Path, check: str, **tables: Any) -> list[Finding]:
    return [each for each in ground.examine_ground(settings(folder, **tables)) if each.check == check]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without cards, whatever this one has."""
    monkeypatch.setattr(ground, "PCI", tmp_path / "pci")
    monkeypatch.setattr(ground, "DRIVER", tmp_path / "driver")
    monkeypatch.setattr(ground, "inventory", lambda _, warn: ())


def test_no_gpu_is_nothing_wrong(tmp_path: Path) -> None:
    """Unless the configuration wants one."""
    assert ["ok"] == [each.level for each in found(tmp_path, "gpu")]
    (asked,) = found(tmp_path, "gpu", devices={"use": [0]})
    assert ("warning", True) == (asked.level, "devices.use" in asked.todo)


@pytest.mark.parametrize(("kind", "level"), [("0x030200", "warning"), ("0x040300", "ok")])
def test_a_card_without_a_driver_is_found(tmp_path: Path, kind: str, level: str) -> None:
    """Its sound device is no card."""
    card = tmp_path / "pci" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text(f"{kind}\n")
    (finding,) = found(tmp_path, "gpu")
    assert level == finding.level
    assert ("Install NVIDIA's driver" in finding.todo) == (level == "warning")
    assert "not used" in found(tmp_path, "gpu", devices={"use": "cpu"})[0].text


def test_a_driver_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With NVML's own words."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise UnavailableError("The NVIDIA driver does not answer: Driver/library version mismatch.", hint="Repair it.")

    monkeypatch.setattr(ground, "inventory", refuse)
    (finding,) = found(tmp_path, "gpu")
    assert ("error", "Repair it.") == (finding.level, finding.todo)
    assert "version mismatch" in finding.text


@pytest.mark.parametrize(("build", "level"), [("2.13.0+cpu", "warning"), ("2.13.0", "ok")])
def test_a_torch_that_cannot_use_the_cards_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str, level: str
) -> None:
    """The README's first line is for CPUs."""
    monkeypatch.setattr(ground, "inventory", lambda _, warn: parse_inventory("2x24GiB"))
    monkeypatch.setattr(ground, "version", lambda _: build)
    ground.DRIVER.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\n")
    (finding,) = found(tmp_path, "gpu")
    assert level == finding.level
    assert ("--torch-backend auto" in finding.todo) == (level == "warning")
    assert level == "warning" or "driver 580.65.06" in finding.text


def test_a_card_that_is_lost_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_lost(_: Any, warn: Any) -> Any:
        warn("GPU 1 does not answer (lost) and is left out; see what nvidia-smi says")
        return parse_inventory("1x24GiB")

    monkeypatch.setattr(ground, "inventory", one_lost)
    assert "GPU 1" in found(tmp_path, "gpu")[0].text


def test_more_folders_than_the_kernel_watches_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that raises the limit."""
    monkeypatch.setattr(ground, "INOTIFY", tmp_path)
    (tmp_path / "max_user_watches").write_text("2\n")
    (tmp_path / "inbox").mkdir()
    assert ["ok"] == [each.level for each in found(tmp_path, "file events")]
    for name in ("a", "b"):
        (tmp_path / "inbox" / name).mkdir()
    (finding,) = found(tmp_path, "file events")
    assert ("warning", True) == (finding.level, "max_user_watches=6" in finding.todo)
    assert [] == found(tmp_path, "file events", inbox={"events": False})


def test_a_user_without_an_inotify_instance_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans are found all the same, later."""

    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(ground, "try_file_events", refuse)
    (finding,) = found(tmp_path, "file events")
    assert ("warning", True) == (finding.level, "max_user_instances" in finding.todo)


def test_a_port_that_somebody_else_has_is_found(tmp_path: Path) -> None:
    """Only where there is a port, and no daemon of ours that has it."""
    assert [] == found(tmp_path, "port")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        (finding,) = found(tmp_path, "port", metrics={"port": port})
        assert ("error", True) == (finding.level, str(port) in finding.todo)
    assert ["ok"] == [each.level for each in found(tmp_path, "port", metrics={"port": port})]


def test_libraries_are_compared_with_those_that_were_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other versions are allowed: it is said, and no warning. A build of torch is no other version."""
    monkeypatch.setattr(ground, "CONSTRAINTS", tmp_path / "constraints.txt")
    ground.CONSTRAINTS.write_text(
        '# torch==1\ntorch==2.13.0\npydicom==3.0.2; python_version < "3.12"\npydicom==3.1; python_version >= "3.12"\n'
        "not-here==1.0\n"
    )
    there = {"torch": "2.13.0+cpu", "pydicom": "3.1"}
    monkeypatch.setattr(ground, "_version_of", lambda name: there.get(name, ""))
    (finding,) = found(tmp_path, "libraries")
    assert ("ok", "2 in the versions that were tested") == (finding.level, finding.text)
    there["pydicom"] = "2.4"
    assert "pydicom 2.4 (tested: 3.0.2 or 3.1)" in found(tmp_path, "libraries")[0].text


def test_the_checkouts_own_constraints_are_found() -> None:
    assert {"torch", "pydicom"} <= set(ground.tested_versions())


@pytest.mark.parametrize(
    ("files", "command"),
    [
        ((), "watcherd run"),
        (("watcherd.service",), "systemctl start watcherd"),
        (("watcherd@.service", "watcherd@retina.service.d/10-watcherd.conf"), "systemctl start watcherd@retina"),
        (("watcherd.service.d/edit.conf", "watcherd-prune.service"), "watcherd run"),
        (
            ("watcherd.service", "watcherd@retina.service.d/10-watcherd.conf"),
            "systemctl start watcherd (or watcherd@retina)",
        ),
    ],
)
def test_only_units_that_are_there_are_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], command: str
) -> None:
    monkeypatch.setattr(starting, "UNIT_FOLDERS", (tmp_path, tmp_path / "gone"))
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("")
    assert command == starting.how_to_start()

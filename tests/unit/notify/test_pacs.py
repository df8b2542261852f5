"""The hook that sends results to a PACS: what it sends, and what it says when it cannot. A real PACS is there in
`tests/acceptance/test_pacs.py`.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from watcherd.notify import pacs

ROOT = Path(__file__).parents[3]
UNIT = (ROOT / "systemd" / "watcherd-storescp.service").read_text()
MANUAL = (ROOT / "docs" / "pacs.md").read_text()

NOTES = '#!/bin/sh\nprintf "%s\\n" "$(basename "$0") $*" >> "$(dirname "$0")/said"\n'
"""A stand-in for a program of DCMTK's: it writes down how it was called."""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins for storescu and img2dcm, alone in PATH but for the system's own."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("storescu", "img2dcm"):
        (folder / name).write_text(NOTES)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin")
    return folder


def a_job(folder: Path, *kinds: str, state: str = "succeeded") -> dict[str, Any]:
    """A job as a hook is told it, with these results on the disk."""
    for kind in kinds:
        (folder / kind).write_bytes(kind.encode())
    return {"state": state, "outbox": str(folder), "outputs": [{"kind": kind, "path": kind} for kind in kinds]}


def call(monkeypatch: pytest.MonkeyPatch, job: dict[str, Any], *arguments: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(job)))
    return pacs.main(arguments)


def said(programs: Path) -> list[str]:
    path = programs / "said"
    return path.read_text().splitlines() if path.exists() else []


def test_segmentation_and_overlay_are_sent_in_one_association(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job(tmp_path, "mask", "overlay", "dicom-seg")
    assert 0 == call(monkeypatch, job, "pacs.example.org", "104", "--called", "PACS")
    made, sent = said(programs)
    assert made.startswith(f"img2dcm --study-from {tmp_path}/dicom-seg --key SOPInstanceUID=2.25.")
    assert re.match(rf"storescu -R -xy .*-aet WATCHERD -aec PACS pacs\.example\.org 104 {tmp_path}/dicom-seg ", sent)
    assert sent.endswith("/overlay.dcm")


def test_the_segmentation_alone_where_no_overlay_is_wanted(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 == call(monkeypatch, a_job(tmp_path, "overlay", "dicom-seg"), "--no-overlay", "pacs.example.org", "104")
    assert ["storescu"] == [line.split()[0] for line in said(programs)]


@pytest.mark.parametrize(("kinds", "state"), [(("mask", "overlay"), "succeeded"), (("dicom-seg",), "queued")])
def test_what_gives_nothing_to_send_is_no_failure(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, ...], state: str
) -> None:
    """A PNG has no segmentation; a job that was asked for again is told once more when it is done."""
    assert 0 == call(monkeypatch, a_job(tmp_path, *kinds, state=state), "pacs.example.org", "104")
    assert [] == said(programs)


def test_the_same_results_have_the_same_uids_and_others_have_others(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a call that is made again gives the PACS nothing new."""
    job = a_job(tmp_path, "overlay", "dicom-seg")
    for _ in range(2):
        call(monkeypatch, job, "pacs.example.org", "104")
    (tmp_path / "overlay").write_bytes(b"another")
    call(monkeypatch, job, "pacs.example.org", "104")
    made = [re.findall(r"UID=([\d.]+)", line) for line in said(programs) if line.startswith("img2dcm")]
    assert made[0] == made[1]
    uids = {uid for line in made for uid in line}
    assert 4 == len(uids)
    assert all(len(uid) <= 64 and not uid.startswith("2.25.0") for uid in uids)


def test_a_pacs_that_refuses_makes_the_call_fail_with_its_words(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (programs / "storescu").write_text("#!/bin/sh\necho 'F: Association Rejected' >&2\nexit 3\n")
    assert 69 == call(monkeypatch, a_job(tmp_path, "dicom-seg"), "pacs.example.org", "104")
    assert "storescu ended with 3: F: Association Rejected\n" == capsys.readouterr().err


def test_without_dcmtk_it_says_what_to_install(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (programs / "storescu").unlink()
    monkeypatch.setenv("PATH", str(programs))
    assert 69 == call(monkeypatch, a_job(tmp_path, "dicom-seg"), "pacs.example.org", "104")
    assert "storescu is not installed.\nIt comes with dcmtk.\n" == capsys.readouterr().err


def test_without_dicomweb_client_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dicomweb_client", "dicomweb_client.api"):
        monkeypatch.setitem(sys.modules, name, None)
    job = a_job(tmp_path, "dicom-seg")
    assert 69 == call(monkeypatch, job, "--dicomweb", "https://pacs.example.org/dicom-web")
    assert f"{sys.executable} -m pip install dicomweb-client" in capsys.readouterr().err


def test_a_call_without_a_place_to_send_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 64 == call(monkeypatch, a_job(tmp_path), "pacs.example.org")
    assert "Name HOST and PORT" in capsys.readouterr().err


def test_headers_come_from_a_file(tmp_path: Path) -> None:
    """And not from the command line, which everybody on the machine can read."""
    (tmp_path / "headers").write_text("Authorization: Bearer a:b\n\nX-Site:north\n")
    assert {"Authorization": "Bearer a:b", "X-Site": "north"} == pacs.headers(tmp_path / "headers")


@pytest.mark.parametrize("content", [b"Bearer abc\n", b"\xff: 1\n", None])
def test_headers_that_are_none_are_refused(tmp_path: Path, content: bytes | None) -> None:
    """Without quoting them: they are secrets."""
    if content is not None:
        (tmp_path / "headers").write_bytes(content)
    with pytest.raises(pacs.ConfigError, match="--headers") as refused:
        pacs.headers(tmp_path / "headers")
    assert "abc" not in str(refused.value)


def test_the_manual_shows_the_units_own_command() -> None:
    """Title, port, folders and options, but for how long a silent sender is waited for."""
    (line,) = re.findall(r"^ExecStart=/usr/bin/(.*)$", UNIT, re.MULTILINE)
    for name, value in re.findall(r"(\w+)=(\w+)", re.findall(r"^Environment=(.*)$", UNIT, re.MULTILINE)[0]):
        line = line.replace(f"${{{name}}}", value)
        assert "Environment=AE_TITLE=WATCHERD PORT=11112" in MANUAL
    assert line.replace("-td 300 ", "") in MANUAL


def test_the_manual_names_every_option_of_the_sender() -> None:
    options = {word for action in pacs._parser()._actions for word in action.option_strings if word.startswith("--")}
    assert options - {"--help"} == _options_in_the_table()


def _options_in_the_table() -> set[str]:
    first_cells = re.findall(r"^\| (`[^|]+`) \|", MANUAL, re.MULTILINE)
    return {option for cell in first_cells for option in re.findall(r"--[a-z-]+", cell)}

"""Any name goes all the way: inbox, archive, outbox, JSON, command line, log."""

from __future__ import annotations

import json
import os
import unicodedata
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.invariants import check_invariants, documents
from tests.acceptance.service import Service, png
from watcherd.file_names import show

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = {
    "not UTF-8": b"M\xfcller.png",
    "newline": b"two\nlines.png",
    "tab and escape": b"tab\tand \x1b[31mred.png",
    "255 bytes": b"n" * 251 + b".png",
    "255 bytes that begin alike": b"n" * 250 + b"m.png",
    "composed": unicodedata.normalize("NFC", "Müller é.png").encode(),
    "decomposed": unicodedata.normalize("NFD", "Müller é.png").encode(),
    "small": b"case.png",
    "capital": b"CASE.png",
    "leading dash": b"--config.png",
    "tilde and home": b"~root.png",
    "no extension": b"IM-0001-0002",
    "backslash": b"back\\slash.png",
    "wildcards": b"%_*?[a].png",
    "turned round": "gnp.\u202eodd.png".encode(),
    "two files, one stem": b"stem.png",
    "one stem, two files": b"stem.PNG",
    "folders": b"caf\xe9/\xff/deep.png",
    "emoji and markup": "🫀[bold]x[/bold] <b>&amp;.png".encode(),
    "quotes": b"'; DROP TABLE job; --\".png",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("names"))
    for number, name in enumerate(NAMES.values()):
        service.drop(name, png(number))
    assert service.once() == 0, service.tail()
    yield service
    service.end()


def test_every_name_has_its_own_result(service: Service) -> None:
    """None is lost to another that looks like it, and the archive has each under its own bytes."""
    assert service.states() == {"succeeded": len(NAMES)}
    assert check_invariants(service) == []
    archived = {os.fsencode(path.relative_to(service.archive)) for path in service.archive.rglob("*") if path.is_file()}
    assert archived == set(NAMES.values())


@pytest.mark.parametrize("kind", NAMES)
def test_the_name_comes_back_from_json_and_command_line(service: Service, kind: str) -> None:
    """What is shown gives the bytes back, in the result and in the database."""
    source = show(NAMES[kind])
    found = [document for _, document in documents(service) if document["source"] == source]
    assert len(found) == 1
    assert service.rows("SELECT path FROM arrival WHERE path_text = ?", source) == [(NAMES[kind],)]


def test_the_command_line_prints_them_on_one_line_each(service: Service) -> None:
    """Whatever a name holds, nothing of it acts on the terminal or breaks the table."""
    table = service.command("jobs", "--limit", "0")
    assert table.returncode == 0, table.stderr
    assert len(table.stdout.splitlines()) == 1 + len(NAMES)
    assert "\x1b" not in table.stdout
    printed = {record["source"] for record in service.json("jobs", "--limit", "0")}
    assert printed == set(map(show, NAMES.values()))


def test_a_job_can_be_shown_whatever_its_name(service: Service) -> None:
    """By its number, in words and as JSON."""
    (number,) = service.rows("SELECT job_id FROM arrival WHERE path_text = ?", show(NAMES["not UTF-8"]))[0]
    assert show(NAMES["not UTF-8"]) in service.command("show", str(number)).stdout
    assert service.json("show", str(number))["source"] == show(NAMES["not UTF-8"])


def test_every_line_of_the_log_is_json(service: Service) -> None:
    """A name with a line break makes no line of its own."""
    lines = [line for line in service.logs.read_bytes().splitlines() if line]
    sources = {json.loads(line).get("source") for line in lines}
    assert set(map(show, NAMES.values())) <= sources


def test_hidden_names_are_in_no_line_of_the_log(tmp_path_factory: pytest.TempPathFactory) -> None:
    """`privacy.names = "hidden"`: the log speaks of numbers only, of good scans, bad ones and ignored things."""
    service = Service(tmp_path_factory.mktemp("hidden"), privacy={"names": "hidden"}, log={"level": "debug"})
    service.drop("Patientname good.png", png(1))
    service.drop("Patientname folder/bad.png", b"Patientname")
    service.drop("Patientname again.png", png(1))
    (service.inbox / "Patientname link.png").symlink_to("nowhere")
    assert service.once() == 0, service.tail()
    assert service.states() == {"succeeded": 1, "failed": 1}
    assert "Patientname" not in service.logs.read_text()

"""Trying it: what is dropped into the page comes into the inbox whole, under its own name, or not at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.service import png
from watcherd.web.uploads import LONGEST_NAME, PASTED, plain_name

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.web.conftest import Page


def files(page: Page) -> dict[str, bytes]:
    """What lies in the inbox's folders of the page, by the names alone."""
    return {path.name: path.read_bytes() for path in (page.folder / "inbox").rglob("*") if path.is_file()}


def test_an_upload_lies_in_the_inbox_as_it_is(page: Page) -> None:
    answer = page.upload(("heart.png", png(21)))
    assert 200 == answer.status_code, answer.text
    assert {"heart.png": png(21)} == files(page)
    (scan,) = answer.json()["scans"]
    assert ("heart.png", "dropped", None) == (scan["name"], scan["state"], scan["job"])
    followed = page.client.get(f"/try/{answer.json()['batch']}")
    assert "dropped" == followed.json()["scans"][0]["state"]


def test_options_lie_beside_it_and_each_prompt_is_a_scan_of_its_own(page: Page) -> None:
    said = {"threshold": "0.3", "output": ["probability"], "prompts": "the left artery\nthe right artery\n\n"}
    answer = page.upload(("heart.png", png(22)), profile="coronary", **said)
    assert ["the left artery", "the right artery"] == [scan["prompt"] for scan in answer.json()["scans"]]
    found = sorted((page.folder / "inbox" / "coronary" / "web").iterdir())
    assert 2 == len(found)
    for folder, prompt in zip(found, ("the left artery", "the right artery"), strict=True):
        asked = json.loads((folder / "heart.png.json").read_text())
        assert {"threshold": 0.3, "outputs": ["mask", "overlay", "probability"], "prompt": prompt} == asked
        assert png(22) == (folder / "heart.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("lie.png", b"#!/bin/sh\necho hello\n", "no picture"),
        ("lie.png", b"", "empty"),
        ("half.png", png(5)[:-20], "not whole"),
        ("page.html", b"<!doctype html><script>alert(1)</script>", "no picture"),
        ("options.toml", png(5), "another name"),
        ("Thumbs.db", png(5), "ignored"),
    ],
)
def test_what_lies_about_its_kind_never_comes_into_the_inbox(page: Page, name: str, content: bytes, words: str) -> None:
    answer = page.upload(("good.png", png(6)), (name, content))
    assert 400 == answer.status_code
    assert words in " ".join(answer.json().values())
    assert "web-upload" not in answer.text
    assert {} == files(page)
    assert [] == list((page.folder / "state" / "cache").glob("web-upload-*"))


@pytest.mark.parametrize(
    "said",
    [
        {"profile": "../state"},
        {"profile": "nobody"},
        {"model": "other"},
        {"threshold": "2"},
        {"threshold": "many"},
        {"output": "shell"},
        {"prompts": "\n".join(map(str, range(9)))},
        {"prompts": "x" * 5000},
    ],
)
def test_what_may_not_be_asked_for_is_refused_in_words(page: Page, said: dict[str, str]) -> None:
    answer = page.upload(("a.png", png(7)), **said)
    assert 400 == answer.status_code
    assert answer.json()["error"]
    assert {} == files(page)


@pytest.mark.parametrize(
    "said", ["../../etc/a.png", "C:\\Users\\me\\a.png", "/a.png", "..\\a.png", ".a.png", "a\n.png", "\0a.png"]
)
def test_a_name_is_its_last_part_alone(page: Page, said: str) -> None:
    answer = page.upload((said, png(8)))
    assert 200 == answer.status_code, answer.text
    found = [path for path in page.folder.rglob("*") if path.is_file() and path.read_bytes() == png(8)]
    assert 1 == len(found)
    assert found[0].is_relative_to(page.folder / "inbox" / "web")


def test_names_that_are_none() -> None:
    assert PASTED == plain_name("")
    assert PASTED == plain_name("///")
    assert PASTED == plain_name("...")
    assert "a b.png" == plain_name("x/a b.png")
    long = plain_name("\u00e4" * 300 + ".png")
    assert long.endswith(".png")
    assert len(long.encode()) <= LONGEST_NAME


def test_files_of_one_name_do_not_take_each_others_options(page: Page) -> None:
    page.upload(("a.png", png(31)), ("a.png", png(32)), threshold="0.4")
    found = [path for path in (page.folder / "inbox" / "web").rglob("*") if path.is_file()]
    assert {"a.png", "a.png.json"} == {path.name for path in found}
    assert 4 == len(found)


def test_an_upload_without_a_file_says_so(page: Page) -> None:
    answer = page.upload(threshold="0.4")
    assert 400 == answer.status_code
    assert "no file" in answer.json()["error"]


def test_without_an_inbox_nothing_is_lost_or_promised(page: Page, tmp_path: Path) -> None:
    (page.folder / "inbox").rename(tmp_path / "away")
    answer = page.upload(("a.png", png(9)))
    assert 404 == answer.status_code
    assert "inbox" in answer.json()["error"]

"""Sidecars through the whole service: what they ask for is what the job is frozen with, and none is ever a scan."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.invariants import check_at_any_moment, check_invariants, documents, notes
from tests.acceptance.service import Service, png

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLLOWED = "gives options to its scan"


def options(service: Service, source: str) -> dict[str, Any]:
    """What the newest job of a name was frozen with."""
    rows = service.rows("SELECT options FROM job WHERE source = ? ORDER BY id DESC", source)
    assert rows, f"there is no job of {source}"
    found: dict[str, Any] = json.loads(rows[0][0])
    return found


def error(service: Service, source: str) -> tuple[str, str, str]:
    [row] = service.rows("SELECT state, error_class, error FROM job WHERE source = ?", source)
    return row[0], row[1], row[2]


def reason(service: Service, name: str) -> tuple[str, str]:
    rows = service.rows("SELECT fate, reason FROM arrival WHERE path_text = ? AND present = 1", name)
    assert len(rows) == 1, f"{name}: {rows}"
    return rows[0][0], rows[0][1]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One run over an inbox full of scans with sidecars, and of sidecars without scans."""
    service = Service(tmp_path_factory.mktemp("sidecars"), inbox={"settle_limit_seconds": 0.5})

    def beside(name: str, content: str | bytes) -> None:
        path = service.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    for number, name in enumerate(
        ["toml.png", "json.png", "plain.png", "key.png", "value.png", "both.png", "large.png", "link.png", "broken.png"]
    ):
        service.drop(name, png(number))
    service.drop("photo.png", png(30))
    service.drop("same.png", png(31))
    service.drop("same again.png", png(31))
    service.drop("odd.png", b"no picture")
    service.drop("left.png", png(20))
    service.drop("run/a.png", png(21))
    service.drop("run/b.png", png(22))
    service.drop("run/deep/c.png", png(23))
    service.drop("bad/d.png", png(24))
    beside("toml.png.toml", 'prompt = "Segment the left artery."\nthreshold = 0.3\nno_mask = "empty"\n')
    beside("json.png.json", b'\xef\xbb\xbf{"outputs": ["preview", "mask"], "tta": true, "kind": "xray"}')
    beside("key.png.toml", "treshold = 0.3\n")
    beside("value.png.toml", 'threshold = 1.5\noutputs = ["mesh"]\n')
    beside("both.png.toml", "threshold = 0.3\n")
    beside("both.png.json", '{"threshold": 0.4}')
    beside("large.png.toml", "#" * 70_000)
    beside("photo.png.json", '{"title": "photo.png", "photoTakenTime": {"timestamp": "1700000000"}}')
    beside("same again.png.json", '{"title": "photo.png"}')
    beside("odd.png.json", '{"title": "photo.png"}')
    beside("broken.png.json", "{threshold: 0.3}")
    secret = service.folder / "secret.toml"
    secret.write_text("threshold = 0.9\n")
    (service.inbox / "link.png.toml").symlink_to(secret)
    beside("run/_options.toml", 'threshold = 0.2\nprompt = "Follow the catheter."\n')
    beside("run/b.png.toml", "threshold = 0.7\n")
    beside("bad/_options.toml", 'decode = "guess"\n')
    beside("nobody.png.toml", "threshold = 0.3\n")
    beside("notes.json", '{"author": "somebody"}')
    assert service.once() == 0, service.tail()
    yield service
    service.end()


def test_a_scans_sidecar_is_what_its_job_is_frozen_with(service: Service) -> None:
    asked = options(service, "toml.png")
    assert ("Segment the left artery.", 0.3, "empty") == (asked["prompt"], asked["threshold"], asked["no_mask"])
    asked = options(service, "json.png")
    assert (["mask", "preview"], True, "xray") == (asked["outputs"], asked["tta"], asked["kind"])
    assert 0.5 == options(service, "plain.png")["threshold"]
    assert "succeeded" == service.rows("SELECT state FROM job WHERE source = 'toml.png'")[0][0]


def test_a_folders_options_hold_for_its_scans_alone_and_a_scans_own_have_the_last_word(service: Service) -> None:
    assert [0.2, 0.7, 0.5] == [options(service, f"run/{name}.png")["threshold"] for name in ("a", "b", "deep/c")]
    assert "Follow the catheter." == options(service, "run/b.png")["prompt"]
    assert (service.inbox / "run" / "_options.toml").is_file()
    assert ("ignored", "gives options to the scans of its folder") == reason(service, "run/_options.toml")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("key.png", ["treshold = 0.3", "no such key", "threshold, outputs, prompt"]),
        ("value.png", ["threshold = 1.5", "less than or equal to 1", "outputs = ['mesh']", "'mask', 'overlay'"]),
        ("both.png", ["two sidecars"]),
        ("large.png", ["larger than 64 KiB"]),
        ("link.png", ["symbolic link"]),
        ("broken.png", ["is not JSON"]),
        ("bad/d.png", ["folder's _options.toml", "decode = 'guess'", "'verify', 'generate' or 'forced'"]),
    ],
)
def test_a_sidecar_that_cannot_be_followed_fails_its_scan_with_the_reason(
    service: Service, name: str, words: list[str]
) -> None:
    state, error_class, why = error(service, name)
    assert ("failed", "input") == (state, error_class)
    assert [] == [word for word in words if word not in why], why
    assert notes(service).count(name) == 1
    assert [(None,)] == service.rows("SELECT decode_ms FROM job WHERE source = ?", name), "it was decoded"


def test_another_programs_json_is_left_alone_and_the_scans_record_names_it(service: Service) -> None:
    """As photo exports write them; a misspelt key does not pass in silence."""
    assert ("succeeded", None, None) == error(service, "photo.png")
    fate, words = reason(service, "photo.png.json")
    assert fate == "ignored"
    assert words.startswith("has none of the keys of a sidecar (model, threshold, outputs")
    (why,) = service.rows("SELECT why FROM names WHERE source = 'photo.png'")[0]
    assert why.startswith("the *.json beside it has none of the keys of a sidecar (")
    job = service.rows("SELECT id FROM job WHERE source = 'photo.png'")[0][0]
    assert why == service.json("show", str(job))["arrivals"][0]["reason"]
    assert "not followed" in " ".join(service.command("show", str(job)).stdout.split())
    results = {document["source"]: document for _, document in documents(service)}
    assert results["photo.png"]["note"].endswith(f"; {why}")


def test_each_names_result_says_what_lies_beside_that_name(service: Service) -> None:
    """Of the same bytes too, and of a scan that gives no mask."""
    results = {document["source"]: document for _, document in documents(service)}
    same = {"same.png", "same again.png"}
    assert {results[name].get("same_as") for name in same} - {None} <= same
    assert "the *.json beside it has none of the keys of a sidecar (" in results["same again.png"]["note"]
    assert "beside" not in results["same.png"]["note"]
    assert "note:     the *.json beside it has" in (service.outbox / "failed" / "odd.txt").read_text()


def test_sidecars_go_to_the_archive_beside_their_scans(service: Service) -> None:
    kept = {str(path.relative_to(service.archive)) for path in service.archive.rglob("*") if path.is_file()}
    assert {"toml.png.toml", "json.png.json", "run/b.png.toml"} <= kept
    assert {f"failed/{name}" for name in ("key.png.toml", "both.png.toml", "both.png.json", "large.png.toml")} <= kept
    left = {str(path.relative_to(service.inbox)) for path in service.inbox.rglob("*") if not path.is_dir()}
    assert {
        "run/_options.toml", "bad/_options.toml", "link.png.toml", "nobody.png.toml", "notes.json", "photo.png.json",
        "same again.png.json", "odd.png.json",
    } == left  # fmt: skip
    archived = service.rows("SELECT path_text, disposed_path FROM arrival WHERE reason = ? AND present = 0", FOLLOWED)
    assert {"toml.png.toml": b"toml.png.toml", "key.png.toml": b"failed/key.png.toml"}.items() <= dict(archived).items()


def test_sidecars_without_a_scan_are_ignored_with_the_reason_and_none_is_a_job(service: Service) -> None:
    for name in ("nobody.png.toml", "notes.json"):
        assert ("ignored", "is a sidecar whose scan did not come; when it does, this is followed") == reason(
            service, name
        )
    assert [] == service.rows("SELECT source FROM job WHERE source LIKE '%.toml' OR source LIKE '%.json'")


def test_nothing_behind_a_link_is_read(service: Service) -> None:
    assert "0.9" not in str(service.rows("SELECT options FROM job"))
    assert b"0.9" in (service.folder / "secret.toml").read_bytes()


def test_all_of_it_adds_up(service: Service) -> None:
    assert check_invariants(service) == []


def test_a_sidecar_that_comes_late_is_followed_when_its_scan_is_dropped_again(tmp_path: Path) -> None:
    """Kept in the inbox, so that both lie there; the second time it is another job on the same bytes."""
    service = Service(tmp_path, inbox={"on_success": "keep"})
    sidecar = service.inbox / "a.png.toml"
    try:
        service.drop("a.png", png(1))
        service.start()
        service.finished(1)
        sidecar.write_text("threshold = 0.3\n")
        service.wait(lambda: service.rows("SELECT 1 FROM arrival WHERE reason LIKE 'came after its scan%'"), "its fate")
        assert 0.5 == options(service, "a.png")["threshold"]
        os.utime(service.inbox / "a.png")
        service.finished(2)
        assert 0.3 == options(service, "a.png")["threshold"]
        assert ("ignored", FOLLOWED) == reason(service, "a.png.toml")
        assert {"succeeded": 2} == service.states()
        assert sidecar.is_file()
        assert service.stop() == 0
        both = {document["threshold"]: path.name for path, document in documents(service)}
        assert {0.5: "a.json", 0.3: f"a-{service.dropped[0].sha256[:8]}.json"} == both
        assert check_at_any_moment(service) == []
    finally:
        service.end()


def test_a_scan_waits_for_a_sidecar_that_is_still_being_written(tmp_path: Path) -> None:
    """Open for writing: not before it is closed; its scan is taken with all of it."""
    service = Service(tmp_path)
    try:
        service.start()
        service.ready()
        with (service.inbox / "a.png.toml").open("w") as file:
            file.write("threshold = 0.3\n")
            file.flush()
            service.drop("a.png", png(1))
            service.wait(
                lambda: service.rows("SELECT 1 FROM arrival WHERE reason LIKE '%sidecar that is open for writing'"),
                "the scan to wait",
            )
            file.write('prompt = "all of it"\n')
        service.finished(1)
        assert (0.3, "all of it") == tuple(options(service, "a.png")[key] for key in ("threshold", "prompt"))
        assert service.stop() == 0
        assert check_invariants(service) == []
    finally:
        service.end()


def test_a_name_that_is_taken_in_the_archive_gives_both_the_same_new_one(tmp_path: Path) -> None:
    service = Service(tmp_path)
    for number in (1, 2):
        service.drop("a.png", png(number))
        (service.inbox / "a.png.toml").write_text(f"threshold = 0.{number}\n")
        assert service.once() == 0, service.tail()
    digits = service.dropped[1].sha256[:8]
    assert ["a.png", "a.png.toml", f"a-{digits}.png", f"a-{digits}.png.toml"] == sorted(
        (path.name for path in service.archive.iterdir()), key=len
    )
    assert "threshold = 0.2\n" == (service.archive / f"a-{digits}.png.toml").read_text()
    assert check_invariants(service) == []


@pytest.mark.parametrize("point", ["enqueue.begun", "enqueue.committed", "dispose.moved", "dispose.synced"])
def test_killed_at_any_point_a_sidecar_is_followed_and_ends_beside_its_scan(tmp_path: Path, point: str) -> None:
    """Taken with its scan or not at all; archived with it, although the two are moved one after the other."""
    service = Service(tmp_path)
    service.drop("a.png", png(1))
    (service.inbox / "a.png.toml").write_text("threshold = 0.3\n")
    service.start("--once", crash_at=point)
    assert 0 != service.ended()
    assert service.once() == 0, service.tail()
    assert 0.3 == options(service, "a.png")["threshold"]
    assert ["a.png", "a.png.toml"] == sorted(path.name for path in service.archive.iterdir())
    [(fate, why, archived)] = service.rows(
        "SELECT fate, reason, disposed_path FROM arrival WHERE path_text = 'a.png.toml' AND disposal = 'archived'"
    )
    assert ("ignored", FOLLOWED, b"a.png.toml") == (fate, why, archived)
    assert check_invariants(service) == []


def test_sources_that_are_deleted_take_their_sidecars_with_them(tmp_path: Path) -> None:
    service = Service(tmp_path, inbox={"on_success": "delete"})
    service.drop("a.png", png(1))
    (service.inbox / "a.png.json").write_text('{"threshold": 0.3}')
    (service.inbox / "_options.toml").write_text("tta = true\n")
    assert service.once() == 0, service.tail()
    assert ["_options.toml"] == [path.name for path in service.inbox.iterdir()]
    assert (0.3, True) == (options(service, "a.png")["threshold"], options(service, "a.png")["tta"])


def test_without_events_a_sidecar_that_the_sweep_did_not_see_is_followed(tmp_path: Path) -> None:
    """It comes while its scan settles, and the next sweep is far away."""
    service = Service(tmp_path, inbox={"events": False, "sweep_seconds": 3600, "settle_seconds": 1.5})
    try:
        service.drop("a.png", png(1))
        service.start()
        service.ready()
        (service.inbox / "a.png.toml").write_text("threshold = 0.3\n")
        service.finished(1)
        assert 0.3 == options(service, "a.png")["threshold"]
    finally:
        service.end()

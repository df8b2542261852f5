"""Several models in one service: the real daemon on a CPU, each scan by its own model, whatever happens to another."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.invariants import check_at_any_moment, check_invariants
from tests.acceptance.service import Service, broken, marked_png, png
from tests.unit.inference.semantic_folders import build

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FAKE = {"segmenter": "fake"}
LOADING = 400.0
"""Seconds that three models may take to be loaded at the same time, on a busy machine of few cores."""
TWO: dict[str, Mapping[str, Any]] = {
    "models.second": FAKE,
    "profiles.second": {"folder": "second", "model": "second"},
}

BOTH: dict[str, Mapping[str, Any]] = {
    "models.second": FAKE,
    "profiles.both": {"folder": "both", "models": ["default", "second"]},
}


@pytest.fixture
def made() -> Iterator[list[Service]]:
    services: list[Service] = []
    yield services
    for service in services:
        service.end()


def start(made: list[Service], folder: Path, **sections: Mapping[str, Any]) -> Service:
    service = Service(folder, **sections)
    made.append(service)
    service.start()
    service.wait(lambda: service.live().get("phase") == "running", "the daemon to be ready", LOADING)
    return service


def document(service: Service, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((service.outbox / "results" / f"{name}.json").read_text())
    return found


def model(service: Service, name: str) -> dict[str, Any]:
    return next(each for each in service.live()["models"] if each["name"] == name)


def pid_of(service: Service, name: str) -> int:
    """Of the replica of this model, once it is up."""

    def up() -> int | None:
        found = [each for each in service.live().get("replicas", []) if each["model"] == name]
        return next((each["pid"] for each in found if each["phase"] in ("idle", "busy")), None)

    return int(service.wait(up, f"a replica of {name}") or 0)


def metric(service: Service, name: str, **labels: str) -> float:
    lines = (service.folder / "watcherd.prom").read_text().splitlines()
    wanted = name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(wanted)), 0.0)


def test_three_models_over_three_folders_each_scan_by_its_own(made: list[Service], tmp_path: Path) -> None:
    """Record, list, attempts and figures say the same; and each replica may die without a scan's being lost."""
    folder = build("segformer", tmp_path / "segformer")
    service = start(
        made,
        tmp_path,
        model={"segmenter": "vesselness"},
        metrics={"file": "watcherd.prom", "interval_seconds": 0.2},
        **{
            "models.retina": {"segmenter": "vessel"},
            "models.tissue": {"segmenter": "semantic", "path": str(folder), "semantic": {}},
            "profiles.retina": {"folder": "retina", "model": "retina"},
            "profiles.tissue": {"folder": "tissue", "model": "tissue"},
        },
    )
    expected = {"all": "vesselness", "retina": "vessel", "tissue": "semantic"}
    names = {"all": "default", "retina": "retina", "tissue": "tissue"}
    for turn, killed in enumerate(["", "default", "retina", "tissue"]):
        if killed:
            os.kill(pid_of(service, killed), signal.SIGKILL)
        for number, place in enumerate(expected):
            service.drop(f"{place}/{turn}.png", png(10 * turn + number, 96, 80))
        service.finished(3 * (turn + 1))
    assert {"succeeded": 12} == service.states()
    jobs = {job["source"]: job for job in service.json("jobs")}
    for turn in range(4):
        for place, segmenter in expected.items():
            record, job = document(service, f"{place}/{turn}"), jobs[f"{place}/{turn}.png"]
            assert (segmenter, names[place]) == (record["segmenter"], record["model_name"])
            assert (segmenter, names[place]) == (job["segmenter"], job["model_name"])
    by_attempt = service.rows(
        "SELECT job.model_name, replica.segmenter, json_extract(replica.placement, '$.model_name'), count(*) "
        "FROM attempt JOIN job ON job.id = attempt.job_id JOIN replica ON replica.id = attempt.replica_id "
        "WHERE attempt.outcome = 'succeeded' GROUP BY 1, 2, 3 ORDER BY 1"
    )
    assert [(names[place], segmenter, names[place], 4) for place, segmenter in expected.items()] == by_attempt
    for name in names.values():
        service.wait(
            lambda name=name: 4 == metric(service, "watcherd_model_jobs_ended_total", model=name, state="succeeded"),
            f"the figures of {name}",
        )
        assert 1 == metric(service, "watcherd_model_ready", model=name)
        assert metric(service, "watcherd_model_computing_seconds_total", model=name) > 0
    assert 0 == service.stop()
    assert [] == check_invariants(service)


def test_a_model_whose_folder_is_missing_leaves_the_others_working(made: list[Service], tmp_path: Path) -> None:
    """Its scans wait, people are told what to do, and it is there after a reload."""
    missing = {"models.gone": {"segmenter": "semantic", "path": "nowhere"}}
    service = start(made, tmp_path, **TWO, **missing, **{"profiles.gone": {"folder": "gone", "model": "gone"}})
    for number, place in enumerate(["a", "second/a", "gone/a"]):
        service.drop(f"{place}.png", png(number))
    service.wait(lambda: service.states() == {"succeeded": 2, "queued": 1}, "the others' scans to be done")
    assert ("ready", "broken") == (model(service, "second")["state"], model(service, "gone")["state"])
    said = service.command("status").stdout
    assert "The model gone is not loaded" in said
    assert "nowhere" in said
    assert "1 scans wait for it" in said
    assert "watcherd reload" in said
    doctor = service.command("doctor")
    assert 0 != doctor.returncode
    assert "model gone" in doctor.stdout
    service.configure(**TWO, **{"models.gone": FAKE, "profiles.gone": {"folder": "gone", "model": "gone"}})
    assert "changed: gone" in service.command("reload").stdout
    service.finished(3)
    assert {"succeeded": 3} == service.states()
    assert "fake" == document(service, "gone/a")["segmenter"]


def test_run_once_ends_with_what_waits_for_a_model_that_is_broken(made: list[Service], tmp_path: Path) -> None:
    missing = {"models.second": {"segmenter": "semantic", "path": "nowhere"}}
    service = Service(tmp_path, **TWO | missing)
    made.append(service)
    service.drop("a.png", png(1))
    service.drop("second/a.png", png(2))
    assert 78 == service.once() or 69 == service.process.returncode  # type: ignore[union-attr]
    assert {"succeeded": 1, "queued": 1} == service.states()
    assert "1 scans wait for the model second" in service.tail()


def test_without_any_model_that_works_there_is_no_service(made: list[Service], tmp_path: Path) -> None:
    broken = {"segmenter": "semantic", "path": "nowhere"}
    service = Service(tmp_path, model=broken, **TWO | {"models.second": broken})
    made.append(service)
    assert 78 == service.once()
    assert "nowhere" in service.tail()


def test_a_model_goes_and_comes_back_by_reloads_and_the_other_never_stops(made: list[Service], tmp_path: Path) -> None:
    service = start(made, tmp_path, **TWO)
    before = pid_of(service, "default")
    service.configure()
    assert "removed: second" in service.command("reload").stdout
    service.wait(lambda: [each["name"] for each in service.live()["models"]] == ["default"], "it to go")
    service.drop("second/a.png", png(1))  # without its profile it is anybody's scan
    service.finished(1)
    assert "none" == document(service, "second/a")["segmenter"]
    service.configure(**TWO)
    assert "new: second" in service.command("reload").stdout
    pid_of(service, "second")
    service.drop("second/b.png", png(2))
    service.finished(2)
    assert "fake" == document(service, "second/b")["segmenter"]
    assert before == pid_of(service, "default")
    assert 0 == service.stop()
    assert [] == check_invariants(service)


def test_what_is_queued_for_a_model_that_went_waits_until_another_is_asked(made: list[Service], tmp_path: Path) -> None:
    service = start(made, tmp_path, **TWO)
    assert 0 == service.command("pause").returncode
    (service.inbox / "second").mkdir()
    (service.inbox / "second" / "a.png.toml").write_text("threshold = 0.9")
    for number in (1, 2):
        service.drop(f"second/{'ab'[number - 1]}.png", png(number))
    service.wait(lambda: service.states() == {"queued": 2}, "them to be queued")
    service.configure()
    service.command("reload")
    service.command("resume")
    service.drop("c.png", png(3))
    service.wait(lambda: service.states() == {"queued": 2, "succeeded": 1}, "the other's scan to be done")
    said = service.command("status").stdout
    assert "2 scans wait for the model second, which the configuration does not have any more" in said
    assert 64 == service.command("retry", "--model", "third", "--from-model", "second").returncode
    answer = service.command("retry", "--model", "default", "--from-model", "second")
    assert "2 given to default" in answer.stdout, answer.stderr
    service.finished(3)
    assert ["none", "none"] == [document(service, f"second/{name}")["segmenter"] for name in "ab"]
    assert [0.9, 0.5] == [document(service, f"second/{name}")["threshold"] for name in "ab"]
    assert 0 == service.stop()
    assert [] == check_invariants(service)


def test_a_scan_that_was_done_is_done_by_another_model_on_request(made: list[Service], tmp_path: Path) -> None:
    service = start(made, tmp_path, **TWO)
    service.drop("a.png", png(1))
    service.finished(1)
    assert "none" == document(service, "a")["segmenter"]
    assert 0 == service.command("retry", "--model", "second", "1").returncode
    done = "SELECT 1 FROM job WHERE segmenter = 'fake' AND state = 'succeeded'"
    service.wait(lambda: service.rows(done), "the other's result")
    service.finished(1)
    assert "fake" == document(service, "a")["segmenter"]
    assert 0 == service.stop()
    assert [] == check_at_any_moment(service)


def test_a_sidecar_names_its_model_or_is_refused(made: list[Service], tmp_path: Path) -> None:
    profile = {"folder": "second", "model": "second", "sidecar_models": ["default"]}
    service = Service(tmp_path, **TWO | {"profiles.second": profile})
    made.append(service)
    for name, asked in (("a", "default"), ("b", "second"), ("c", "third")):
        service.drop(f"second/{name}.png", png(ord(name)))
        (service.inbox / "second" / f"{name}.png.toml").write_text(f'model = "{asked}"')
    service.drop("d.png", png(4))
    (service.inbox / "d.png.toml").write_text('model = "second"')
    assert 0 == service.once(), service.tail()
    assert ["none", "fake"] == [document(service, f"second/{name}")["segmenter"] for name in "ab"]
    failed = [(service.outbox / "failed" / f"{name}.txt").read_text() for name in ("second/c", "d")]
    assert "model = 'third': allowed here: second, default" in failed[0]
    assert "model = 'second'" in failed[1]


def test_a_scan_that_kills_one_models_replica_costs_the_others_nothing(made: list[Service], tmp_path: Path) -> None:
    service = start(made, tmp_path, **TWO)
    before = pid_of(service, "default")
    service.drop("second/poison.png", marked_png(1, "kill"))
    for number in range(5):
        service.drop(f"{number}.png", png(number))
    service.finished(6)
    assert {"succeeded": 5, "quarantined": 1} == service.states()
    assert before == pid_of(service, "default")


# ---------------------------------------------------------------------------------------- several models for one scan


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


def test_two_models_compute_every_scan_of_a_folder(made: list[Service], tmp_path: Path) -> None:
    """The first one's results at the usual paths, the other's alike in its own folder; a scan that one model cannot
    do, the same bytes under another name, and a folder of the inbox that is called as the other's results are."""
    service = Service(tmp_path, **BOTH)
    made.append(service)
    for name, content in (
        ("both/a.png", png(1)),
        ("both/again.png", png(1)),
        ("both/one.png", marked_png(2, "no-mask")),
        ("both/bad.png", broken(3)),
        ("models/second/both/a.png", png(4)),
        ("b.png", png(5)),
    ):
        service.drop(name, content)
    assert 0 == service.once(), service.tail()
    assert [] == check_invariants(service)
    second = service.outbox / "models" / "second"
    assert {"both/a.json", "both/again.json", "both/one.json", "models/second/both/a.json", "b.json"} == files(
        service.outbox / "results"
    )
    assert {"results/both/a.json", "results/both/again.json"} == {
        name for name in files(second) if name.startswith("results")
    }
    assert {"failed/both/one.txt", "failed/both/bad.txt"} == {name for name in files(second) if "failed" in name}
    assert {"both/bad.txt"} == files(service.outbox / "failed")
    mine, others = document(service, "both/a"), json.loads((second / "results" / "both" / "a.json").read_text())
    assert ("default", "none", "second", "fake") == (
        mine["model_name"], mine["segmenter"], others["model_name"], others["segmenter"],
    )  # fmt: skip
    assert {"models/second/masks/both/a.png", "models/second/overlays/both/a.jpg"} == {
        output["path"] for output in others["outputs"]
    }
    archived = files(service.archive)
    assert {"both/a.png", "both/again.png", "failed/both/one.png", "failed/both/bad.png"} <= archived
    assert set() == files(service.inbox)


def test_with_a_folder_for_each_scan_no_scans_folder_lies_among_a_models(made: list[Service], tmp_path: Path) -> None:
    service = Service(tmp_path, outbox={"layout": "per-scan"}, **BOTH)
    made.append(service)
    for number, name in enumerate(["both/a.png", "models/second/both/a.png", "models/second.png", "models.png"]):
        service.drop(name, png(number))
    service.drop("models/third/a.png", png(9))
    assert 0 == service.once(), service.tail()
    assert [] == check_invariants(service)
    assert ["both"] == [path.name for path in (service.outbox / "models" / "second").iterdir()]
    found = {name.partition("/result.json")[0] for name in files(service.outbox) if name.endswith("result.json")}
    plain = {"both/a", "models/second/both/a", "models/third/a"}
    assert plain <= found
    assert [True] * 3 == [name.startswith(("a-", "second-", "models-")) for name in sorted(found - plain)]


def test_a_source_stays_until_a_models_job_is_taken_back(made: list[Service], tmp_path: Path) -> None:
    """A model that cannot be loaded holds its scans, and their sources; reloads add models and take them away."""
    missing = {"models.second": {"segmenter": "semantic", "path": "nowhere"}}
    service = start(made, tmp_path, **BOTH | missing)
    service.drop("both/a.png", png(1))
    service.wait(lambda: service.states() == {"succeeded": 1, "queued": 1}, "the first model's result")
    (service.inbox / "both" / "b.png.toml").write_text('model = "default"')
    service.drop("both/b.png", png(2))
    service.wait(lambda: service.states() == {"succeeded": 2, "queued": 1}, "the first model's results")
    service.wait(lambda: not (service.inbox / "both" / "b.png").exists(), "the other source to leave")
    assert (service.inbox / "both" / "a.png").exists()
    assert "also for: second (job 2, queued)" in " ".join(service.command("show", "both/a.png").stdout.split())
    assert 0 == service.command("cancel", "2").returncode
    service.finished(3)
    service.at_rest()
    note = (service.outbox / "models" / "second" / "failed" / "both" / "a.txt").read_text()
    assert "taken back" in note
    assert not (service.inbox / "both" / "a.png").exists()
    service.configure(**BOTH | {"profiles.both": {"folder": "both", "models": ["second", "default"]}})
    assert "changed: second" in service.command("reload").stdout
    submitted = tmp_path / "c.png"
    submitted.write_bytes(png(3))
    told = service.json("submit", "--wait", "--profile", "both", str(submitted))
    assert ["succeeded"] == [scan["state"] for scan in told]
    results = {output["path"] for output in told[0]["outputs"] if output["kind"] == "result"}
    folders = (service.outbox / "results", service.outbox / "models" / "default" / "results")
    assert {str(folder / "both" / "c.json") for folder in folders} == results
    assert "fake" == document(service, "both/c")["segmenter"]
    assert 0 == service.command("retry", "2").returncode
    service.wait(lambda: service.states() == {"succeeded": 5}, "what was taken back to be done")
    assert 0 == service.stop()
    service.remember("both/c.png", png(3))
    assert [] == check_invariants(service)

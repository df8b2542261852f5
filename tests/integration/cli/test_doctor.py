"""``watcherd doctor``: it adds up, finds what is wrong, says what to do, and mends what is safe to mend."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.store.helpers import damage_quietly
from tests.nnunet_folder import make
from watcherd.cli.app import run
from watcherd.inference.segmenters.nnunet import folder as nnunet
from watcherd.state import lock
from watcherd.status import doctor

if TYPE_CHECKING:
    from tests.integration.cli.conftest import CommandLine

ORPHAN = "ab" * 32


def findings(watcherd: CommandLine, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    said = watcherd("doctor", "--json", *arguments)
    assert code == said.code, said.out
    found: list[dict[str, Any]] = json.loads(said.out)
    return found


def wrong(watcherd: CommandLine, *arguments: str, code: int = 0) -> list[tuple[str, str]]:
    """Check and level of what is not ok, but for what no test makes: no daemon, an old SQLite, a clock adrift."""
    return [
        (finding["check"], finding["level"])
        for finding in findings(watcherd, *arguments, code=code)
        if finding["level"] != "ok" and finding["check"] not in ("daemon", "sqlite", "space", "clock")
    ]


def test_a_sound_one_has_nothing_wrong_and_adds_up(watcherd: CommandLine) -> None:
    """Every arrival has one fate. That no daemon runs is a warning, no error."""
    assert [] == wrong(watcherd)
    texts = {finding["check"]: finding["text"] for finding in findings(watcherd)}
    assert "5 = 1 duplicate, 2 succeeded, 2 failed" == texts["arrivals"]
    assert "is not running" == texts["daemon"]
    said = watcherd("doctor")
    assert 0 == said.code
    assert "ok      arrivals: 5 = " in said.out
    assert "WARNING daemon: is not running" in said.out


def test_fates_that_do_not_add_up_are_an_error(watcherd: CommandLine) -> None:
    """Exit code 70: it would be a fault of ours."""
    with closing(sqlite3.connect(watcherd.config.state.database)) as connection, connection:
        connection.execute("UPDATE total SET count = count + 1 WHERE name = 'job.failed'")
    assert ("arrivals", "error") in wrong(watcherd, code=70)


def with_model(watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vessel model of the service's own, with weights in two parts that nobody but doctor looks at."""
    folder = watcherd.folder / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (folder / name).write_bytes((2).to_bytes(8, "little") + b"{}")
    places = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    monkeypatch.setenv("WATCHERD_MODEL__SEGMENTER", "semantic")
    monkeypatch.setenv("WATCHERD_MODEL__PATH", str(folder))
    return folder


def test_every_weights_file_is_looked_at(watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that cannot be what it should be is named, with what to do."""
    folder = with_model(watcherd, monkeypatch)
    assert [] == wrong(watcherd)
    texts = {finding["check"]: finding["text"] for finding in findings(watcherd)}
    assert texts["model"] == f"semantic, {folder}, 2 weights files"
    (folder / "model-1.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (folder / "model-2.safetensors").unlink()
    pointer, gone = (each for each in findings(watcherd, code=70) if each["check"] == "model")
    assert "model-1.safetensors is a Git LFS pointer" in pointer["text"]
    assert "git lfs pull" in pointer["todo"]
    assert "model-2.safetensors is not there" in gone["text"]
    monkeypatch.setenv("WATCHERD_MODEL__SEGMENTER", "vesels")
    assert [("model", "error")] == wrong(watcherd, code=70)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask on another's behalf")
def test_root_asks_for_the_user_to_whom_the_state_folder_belongs(
    watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors writes files that only their owner may read: root sees nothing wrong, the service does not start."""
    folder = with_model(watcherd, monkeypatch)
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(shutil.copytree(folder, Path(name) / "m"))
        monkeypatch.setenv("WATCHERD_MODEL__PATH", str(folder))
        os.chown(watcherd.config.state.path, 65534, -1)
        assert [] == [each for each in wrong(watcherd) if each[0] == "model"]
        (folder / "model-2.safetensors").chmod(0o600)
        (closed,) = (each for each in findings(watcherd, code=70) if each["check"] == "model")
    assert "model-2.safetensors may not be read by the user nobody" in closed["text"]
    assert "chmod -R a+rX" in closed["todo"]


def test_a_copy_that_is_missing_is_an_error(watcherd: CommandLine) -> None:
    """A scan with work to do whose bytes are gone: nothing here can bring them back, so nothing is repaired."""
    watcherd("retry", "--state", "failed")
    assert [] == wrong(watcherd)
    shutil.rmtree(watcherd.config.state.spool)
    watcherd.config.state.spool.mkdir()
    assert [("spool", "error")] == wrong(watcherd, "--repair", code=70)
    said = watcherd("doctor")
    assert 70 == said.code
    assert "ERROR   spool: 2 scans with work to do have lost their copy" in said.out
    assert "They are looked for in the archive and the inbox" in said.out


def test_a_result_that_is_gone_or_changed_is_found(watcherd: CommandLine) -> None:
    """With the first one's name, and the command that makes it again."""
    (watcherd.folder / "outbox" / "masks" / "again.png").unlink()
    (watcherd.folder / "outbox" / "overlays" / "a.jpg").write_bytes(b"another picture")
    found = [finding for finding in findings(watcherd) if finding["check"] == "results"]
    assert [
        (
            f"1 of the newest 11 results are gone, the first is masks/again.png of job {watcherd.job('a.png')}",
            "warning",
        ),
        (
            f"1 of the newest 11 results are changed, the first is overlays/a.jpg of job {watcherd.job('a.png')}",
            "warning",
        ),
    ] == [(finding["text"], finding["level"]) for finding in found]
    assert all(f"watcherd retry {watcherd.job('a.png')}" in finding["todo"] for finding in found)


def test_a_copy_of_no_scan_is_found_and_with_repair_removed(watcherd: CommandLine) -> None:
    """Copies that some scan points to stay."""
    spool = watcherd.config.state.spool
    orphan = spool / ORPHAN[:2] / ORPHAN
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"nobody's")
    before = {path for path in spool.rglob("*") if path.is_file()}
    assert [("spool", "warning")] == wrong(watcherd)
    assert orphan.exists(), "only --repair may remove it"
    assert "Or --repair." in watcherd("doctor").out
    assert "removed 1 copies" in watcherd("doctor", "--repair").out
    assert {orphan} == before - {path for path in spool.rglob("*") if path.is_file()}
    assert [] == wrong(watcherd)


def test_a_running_daemons_new_copies_are_not_called_orphans(watcherd: CommandLine) -> None:
    """It writes the copy before the row."""
    orphan = watcherd.config.state.spool / ORPHAN[:2] / ORPHAN
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"on its way")
    with lock.sole_owner(watcherd.config.state.lock):
        assert [] == wrong(watcherd, "--repair")
    assert orphan.exists()


def test_damage_and_missing_folders_are_errors(watcherd: CommandLine) -> None:
    """Each with what to do; the other checks go on."""
    shutil.rmtree(watcherd.folder / "archive")
    damage_quietly(watcherd.config.state.database)
    found = wrong(watcherd, code=70)
    assert ("archive", "error") in found
    assert ("history", "error") in found
    assert "db restore" in watcherd("doctor").out


def test_a_file_that_is_no_database_is_an_error_and_no_traceback(watcherd: CommandLine) -> None:
    """Somebody's letter in the place of the history."""
    watcherd.config.state.database.write_text("Dear colleague, " * 300)
    assert ("history", "error") in wrong(watcherd, code=70)


def test_without_a_history_there_is_little_to_say(watcherd: CommandLine) -> None:
    """A warning: it may be the first day."""
    watcherd.config.state.database.unlink()
    assert [("history", "warning")] == wrong(watcherd)


def test_before_the_first_start_nothing_is_called_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not there yet is made by the start: a warning, and exit code 0."""
    file = tmp_path / "config.toml"
    assert 0 == run(["config", "init", str(file)])
    assert 0 == run(["doctor", "--config", str(file)])
    said = capsys.readouterr().out
    assert 3 == said.count("is not there yet")
    assert 3 == said.count("watcherd run makes it.")
    (tmp_path / "state").mkdir()
    assert 70 == run(["doctor", "--config", str(file)])


def test_jobs_under_way_when_the_daemon_died_are_named(watcherd: CommandLine) -> None:
    """They are not lost: the next start does them."""
    watcherd("retry", "--state", "failed")
    with closing(sqlite3.connect(watcherd.config.state.database)) as connection, connection:
        connection.execute(
            "UPDATE job SET state = 'running', run_id = 1, attempts = attempts + 1 WHERE state = 'queued'"
        )
    assert [("jobs", "warning")] == wrong(watcherd)


@pytest.mark.parametrize(("free", "level"), [(3, "warning"), (0.1, "error"), (30, "ok")])
def test_little_room_is_found_and_so_little_that_nothing_is_begun(
    watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch, free: float, level: str
) -> None:
    """A twentieth of the disk free is little; less than `limits.min_free_mib` pauses the work."""
    usage = shutil._ntuple_diskusage(100 << 30, 0, int(free * 2**30))  # type: ignore[attr-defined]
    monkeypatch.setattr("watcherd.status.doctor.shutil.disk_usage", lambda _: usage)
    limits = watcherd.config.limits.model_copy(update={"min_free_mib": 256})
    config = watcherd.config.model_copy(update={"limits": limits})
    assert {level} == {finding.level for finding in doctor.examine(config) if finding.check == "space"}


def test_a_clock_that_nobody_keeps_is_a_warning(watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history's times are the machine's."""
    for kept, level in ((True, "ok"), (False, "warning")):
        monkeypatch.setattr("watcherd.status.doctor.clock_is_kept", lambda kept=kept: kept)
        assert [level] == [finding.level for finding in doctor.examine(watcherd.config) if finding.check == "clock"]


def test_the_checkpoints_of_an_nnunet_folder_are_looked_at(
    watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fold's; what the folder's files name and is not followed is an error too."""
    monkeypatch.setattr(nnunet, "refuse_missing_extra", lambda: None)
    folder = make(watcherd.folder / "nnunet", folds=("0", "1"))
    monkeypatch.setenv("WATCHERD_MODEL__SEGMENTER", "nnunet")
    monkeypatch.setenv("WATCHERD_MODEL__PATH", str(folder))
    assert [] == wrong(watcherd)
    texts = {finding["check"]: finding["text"] for finding in findings(watcherd)}
    assert texts["model"] == f"nnunet, {folder}, 2 weights files"
    (folder / "fold_1" / "checkpoint_final.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (pointer,) = (each for each in findings(watcherd, code=70) if each["check"] == "model")
    assert "fold_1/checkpoint_final.pth is a Git LFS pointer" in pointer["text"]
    make(folder, dataset={"labels": {"background": 0, "a": 7}})
    (refused,) = (each for each in findings(watcherd, code=70) if each["check"] == "model")
    assert "labels are 0, 7" in refused["text"]

"""The outbox: staged, renamed, JSON last, never overwriting what is not ours."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests import fuse_like
from watcherd.outbox import deliver
from watcherd.outbox.deliver import Outbox, PlaceClosedError, ResultLostError
from watcherd.values import Intent, ResultFile

SHA = "ab" * 32


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    made = Outbox(tmp_path / "outbox")
    made.prepare()
    return made


def stage(outbox: Outbox, job: int = 1, stem: bytes = b"a", mask: bytes = b"mask") -> list[Intent]:
    """A mask and a JSON of one job, staged."""
    folder = outbox.staging(job, 1)
    staged = []
    for kind, suffix, content in (("mask", ".png", mask), ("result", ".json", b"{}")):
        path = folder / f"{kind}{suffix}"
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        staged.append(ResultFile(kind=kind, path=path, sha256=digest, bytes=len(content)))
    return outbox.intents(stem, staged)


def test_results_appear_under_their_names_and_staging_is_empty(outbox: Outbox, tmp_path: Path) -> None:
    """masks/ and results/, and nothing of ours beside them."""
    outbox.publish([stage(outbox)])
    assert (tmp_path / "outbox/masks/a.png").read_bytes() == b"mask"
    assert (tmp_path / "outbox/results/a.json").read_bytes() == b"{}"
    assert list((tmp_path / "outbox/.staging").iterdir()) == []


def test_the_json_comes_after_everything_that_it_lists(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every scan of the batch."""
    order: list[bytes] = []
    rename = Outbox._rename

    def noted(self: Outbox, intent: Intent) -> None:
        order.append(intent.final)
        rename(self, intent)

    monkeypatch.setattr(Outbox, "_rename", noted)
    outbox.publish([stage(outbox, 1, b"a"), stage(outbox, 2, b"b")])
    assert order == [b"masks/a.png", b"masks/b.png", b"results/a.json", b"results/b.json"]


def test_what_the_json_lists_is_durable_before_it_appears(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the JSON itself before anybody is told; only then what was staged goes. A kill cannot show that."""
    order: list[str] = []
    rename, discard = deliver.rename_new, deliver._discard

    def noted(old: Path, new: bytes) -> None:
        order.append(new.rpartition(b".")[2].decode())
        rename(old, new)

    def discarded(folder: Path) -> None:
        order.append("discard")
        discard(folder)

    monkeypatch.setattr(deliver, "rename_new", noted)
    monkeypatch.setattr(deliver, "sync_filesystem", lambda _: order.append("sync"))
    monkeypatch.setattr(deliver, "_discard", discarded)
    for folder in ("masks", "results"):
        (outbox._root / folder).mkdir()
    outbox.publish([stage(outbox, 1, b"a"), stage(outbox, 2, b"b")])
    assert ["png", "png", "sync", "json", "json", "sync", "discard", "discard"] == order


@pytest.mark.parametrize("done", [0, 1, 2])
def test_publishing_again_after_a_crash_ends_in_the_same_place(outbox: Outbox, tmp_path: Path, done: int) -> None:
    """Whichever renames had been made."""
    intents = stage(outbox)
    for intent in intents[:done]:
        outbox._rename(intent)
    outbox.publish([intents])
    outbox.publish([intents])
    assert (tmp_path / "outbox/masks/a.png").read_bytes() == b"mask"
    assert (tmp_path / "outbox/results/a.json").exists()


@pytest.mark.parametrize("layout", ["per-kind", "per-scan"])
@pytest.mark.parametrize("kind", fuse_like.KINDS)
def test_results_are_delivered_where_there_are_no_such_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, layout: str
) -> None:
    """As to an outbox on rclone, sshfs or vfat; nothing is overwritten there either."""
    fuse_like.put_in_place(monkeypatch, kind)
    outbox = Outbox(tmp_path / "outbox", layout=layout)
    outbox.prepare()
    outbox.publish([stage(outbox)])
    names = {
        str(path.relative_to(tmp_path / "outbox")) for path in (tmp_path / "outbox").rglob("*.*") if path.is_file()
    }
    assert names == ({"masks/a.png", "results/a.json"} if layout == "per-kind" else {"a/mask.png", "a/result.json"})
    with pytest.raises(FileExistsError):
        outbox.publish([stage(outbox, 2, mask=b"another's")])


@pytest.mark.parametrize("layout", ["per-kind", "per-scan"])
def test_another_models_results_lie_alike_in_a_folder_of_its_own(tmp_path: Path, layout: str) -> None:
    plain = Outbox(tmp_path, layout=layout)
    assert plain is plain.of_model("")
    kinds = ["mask", "result", "failed"]
    wanted = [b"models/trial/" + path for path in plain.paths(b"x/a", kinds)]
    assert wanted == plain.of_model("trial").paths(b"x/a", kinds)


def test_no_scans_folder_lies_where_a_models_results_do(tmp_path: Path) -> None:
    """Only with a folder for each scan, only for models that have results beside, and never for these themselves."""
    beside = {"trial"}

    def stem(source: bytes, layout: str = "per-scan", model: str = "") -> bytes:
        outbox = Outbox(tmp_path, layout=layout, beside=lambda: beside).of_model(model)
        return outbox.stem(source, "12345678" * 8, ["mask", "result"], lambda _path: "free")

    moved = [b"models.png", b"models/trial.png", b"models/trial/a.png"]
    assert [b"models-12345678", b"trial-12345678", b"a-12345678"] == [stem(source) for source in moved]
    assert [source[:-4] for source in moved] == [stem(source, "per-kind") for source in moved]
    assert [source[:-4] for source in moved] == [stem(source, model="trial") for source in moved]
    assert b"models/others/a" == stem(b"models/others/a.png")
    beside.clear()
    assert [source[:-4] for source in moved] == [stem(source) for source in moved]


def test_a_models_folder_that_may_not_be_written_costs_its_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of all masks is what all scans share; that of a model beside is not."""
    outbox = Outbox(tmp_path / "outbox")
    outbox.prepare()
    closed = {b"masks", b"models"}

    def refuse(staged: Path, target: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", target)

    monkeypatch.setattr(deliver, "_move", refuse)
    monkeypatch.setattr(deliver, "_may_be_written", lambda folder: folder.rpartition(b"/")[2] not in closed)
    intents = stage(outbox)
    with pytest.raises(PermissionError):
        outbox.publish([intents])
    with pytest.raises(PlaceClosedError, match="models/trial/masks"):
        outbox.publish([[replace(each, final=b"models/trial/" + each.final) for each in intents]])


def test_a_file_that_is_not_ours_is_never_overwritten(outbox: Outbox, tmp_path: Path) -> None:
    """Somebody put it there in the very last moment."""
    theirs = tmp_path / "outbox/masks/a.png"
    intents = stage(outbox)
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        outbox.publish([intents])
    assert theirs.read_bytes() == b"theirs"
    assert not (tmp_path / "outbox/results/a.json").exists()


def test_a_staged_file_that_is_gone_is_no_success(outbox: Outbox) -> None:
    """Neither staged nor delivered: nobody may be told that it is there."""
    intents = stage(outbox)
    intents[0].staged.unlink()
    with pytest.raises(ResultLostError, match="retry"):
        outbox.publish([intents])


def test_a_name_that_another_has_gets_the_hash(outbox: Outbox, tmp_path: Path) -> None:
    """In any of the folders, on disk or in the books; and a number when that is taken too."""
    kinds = ["mask", "result"]

    free = outbox.place
    assert outbox.stem(b"x/a.png", SHA, kinds, free) == b"x/a"
    (tmp_path / "outbox/results/x").mkdir(parents=True)
    (tmp_path / "outbox/results/x/a.json").touch()
    assert outbox.stem(b"x/a.png", SHA, kinds, free) == b"x/a-abababab"
    (tmp_path / "outbox/masks/x").mkdir(parents=True)
    (tmp_path / "outbox/masks/x/a-abababab.tif").touch()
    assert outbox.stem(b"x/a.png", SHA, kinds, free) == b"x/a-abababab-2"


def test_only_our_own_results_are_taken_away(outbox: Outbox, tmp_path: Path) -> None:
    """A mask that a person has corrected by hand is theirs now."""
    intents = stage(outbox)
    outbox.publish([intents])
    (tmp_path / "outbox/masks/a.png").write_bytes(b"corrected by hand")
    outbox.remove(intents)
    assert (tmp_path / "outbox/masks/a.png").read_bytes() == b"corrected by hand"
    assert not (tmp_path / "outbox/results/a.json").exists()


def test_a_copy_of_a_result_that_was_changed_is_refused(outbox: Outbox, tmp_path: Path) -> None:
    """A duplicate gets what the model computed, or is computed again."""
    intents = stage(outbox)
    outbox.publish([intents])
    folder = outbox.staging(2, 1)
    assert outbox.copy(b"masks/a.png", intents[0].sha256, folder, "mask.png")
    (tmp_path / "outbox/masks/a.png").write_bytes(b"changed")
    assert outbox.copy(b"masks/a.png", intents[0].sha256, folder, "mask.png") is None
    (tmp_path / "outbox/masks/a.png").unlink()
    assert outbox.copy(b"masks/a.png", intents[0].sha256, folder, "mask.png") is None


def test_names_of_any_bytes_are_kept(outbox: Outbox, tmp_path: Path) -> None:
    """What is not UTF-8 in the inbox is the same in the outbox."""
    outbox.publish([stage(outbox, stem=b"M\xfcller\n")])
    assert [bytes(path.name, "utf-8", "surrogateescape") for path in (tmp_path / "outbox/masks").iterdir()] == [
        b"M\xfcller\n.png"
    ]


def test_one_folder_for_each_scan_appears_by_a_single_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """layout = "per-scan"."""
    outbox = Outbox(tmp_path / "outbox", layout="per-scan")
    outbox.prepare()
    scan = tmp_path / "outbox/sub/a"
    seen: list[set[str]] = []
    monkeypatch.setattr(Outbox, "sync", lambda self: seen.append({path.name for path in scan.glob("*")}))
    outbox.publish([stage(outbox, stem=b"sub/a")])
    monkeypatch.undo()
    assert {"mask.png", "result.json"} == seen[0]
    assert {"mask.png", "result.json"} == {path.name for path in (tmp_path / "outbox/sub/a").iterdir()}
    with pytest.raises(FileExistsError):
        outbox.publish([stage(outbox, 2, b"sub/a", mask=b"another scan's")])


def test_what_another_json_may_list_is_not_removed(outbox: Outbox, tmp_path: Path) -> None:
    """A backup of the history was restored: the JSON under our name is of a later result, and lists the same mask."""
    intents = stage(outbox)
    outbox.publish([intents])
    (tmp_path / "outbox/results/a.json").write_bytes(b"of a later result")
    outbox.remove(intents)
    assert (tmp_path / "outbox/masks/a.png").exists()
    (tmp_path / "outbox/results/a.json").unlink()
    outbox.remove(intents)
    assert not (tmp_path / "outbox/masks/a.png").exists()


@pytest.mark.parametrize("layout", ["per-kind", "per-scan"])
def test_what_an_attempt_has_drawn_can_be_told_from_all_else_and_goes(tmp_path: Path, layout: str) -> None:
    """Whether attempts have folders of their own or share one, and when a run left it behind."""
    outbox = Outbox(tmp_path / "outbox", layout=layout, owner="0a1b2c3d")
    outbox.prepare()
    drawn = []
    for job, attempt in ((1, 1), (1, 10), (11, 1), (11, 2)):
        folder, stem = outbox.seat(job, attempt, anew=True)
        assert (folder, stem) == outbox.seat(job, attempt)
        drawn += [folder / f"{stem}.mask.png", folder / f"{stem}.result.json"]
        for path in drawn[-2:]:
            path.write_bytes(b"")
    outbox.discard(1, 1)
    assert drawn[2:] == [path for path in drawn if path.exists()]
    kept = drawn[4:6]
    outbox.discard_staging({*kept, *(path.parent for path in kept)})
    assert kept == [path for path in drawn if path.exists()]
    assert ([".staging"] if layout == "per-kind" else ["0a1b2c3d-11-1"]) == list({path.parent.name for path in kept})


def test_results_that_share_a_staging_folder_leave_it_there(outbox: Outbox, tmp_path: Path) -> None:
    """Others are drawn in it meanwhile."""
    folder, stem = outbox.seat(1, 1)
    mask = folder / f"{stem}.mask.png"
    mask.write_bytes(b"mask")
    digest = hashlib.sha256(b"mask").hexdigest()
    outbox.publish([outbox.intents(b"a", [ResultFile(kind="mask", path=mask, sha256=digest, bytes=4)])])
    assert (tmp_path / "outbox/masks/a.png").read_bytes() == b"mask"
    assert [] == list(folder.iterdir())

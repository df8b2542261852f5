"""Sidecars: what they may say, when they have settled, and what becomes of those without a scan. No clock runs here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from watcherd.inbox.folders import open_root
from watcherd.inbox.settle import Settled
from watcherd.inbox.sidecar_options import KEYS, WrongError, is_foreign, overrides
from watcherd.inbox.sidecars import MOST, NOTHING, Asked, Sidecars, Unsettled, is_sidecar, scan_of
from watcherd.inbox.values import Candidate, NotYet, candidate_of
from watcherd.job import Options
from watcherd.values import Signature

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTLE, LIMIT = 2.0, 100.0


class Inbox:
    """A folder with files in it, and the sidecars that were seen there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fd = open_root(root)
        self.sidecars = Sidecars(settle_seconds=SETTLE, limit_seconds=LIMIT)

    def put(self, name: str, content: str = "") -> Candidate:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return candidate_of(os.fsencode(name), path.stat())

    def asked(self, name: str, now: float, *, sure: bool = True, overdue: bool = False) -> Asked | Unsettled | NotYet:
        scan = candidate_of(os.fsencode(name), (self.root / name).stat())
        batch = [Settled(candidate=scan, overdue=overdue)]
        [(_, answer)] = self.sidecars.asked(batch, self.fd, now, sure=sure, leases=False)
        return answer


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    made = Inbox(tmp_path)
    yield made
    os.close(made.fd)


# What they may say


def test_a_sidecar_may_override_what_a_profile_may() -> None:
    expected = {
        "model",
        "threshold",
        "outputs",
        "prompt",
        "draft",
        "decode",
        "no_mask",
        "tta",
        "instances",
        "group_frames",
        "kind",
    }
    assert expected == set(KEYS)


def test_what_a_camera_says_of_its_model_is_no_wish() -> None:
    assert is_foreign(b'{"make": "Zeiss", "model": "VISUCAM 500"}', b".json")
    assert not is_foreign(b'{"model": "retina"}', b".json")
    assert not is_foreign(b'{"model": "retina", "threshold": 0.3}', b".json")


@pytest.mark.parametrize("suffix", [b".toml", b".json"])
def test_both_forms_say_the_same(suffix: bytes) -> None:
    text = {
        b".toml": 'prompt = "Größe"\nthreshold = 0.25\noutputs = ["overlay", "mask", "mask"]\ntta = true\n',
        b".json": '{"prompt": "Größe", "threshold": 0.25, "outputs": ["overlay", "mask", "mask"], "tta": true}',
    }[suffix]
    expected = {"prompt": "Größe", "threshold": 0.25, "outputs": ("mask", "overlay"), "tta": True}
    assert expected == overrides(text.encode(), suffix)
    assert expected == overrides(b"\xef\xbb\xbf" + text.encode(), suffix), "as Windows' editor writes it"


@pytest.mark.parametrize(
    ("suffix", "text", "words"),
    [
        (b".toml", "treshold = 1", ["treshold = 1", "there is no such key", "threshold, outputs, prompt"]),
        (b".toml", 'folder = "x"', ["folder = 'x'", "there is no such key"]),
        (b".toml", 'profile = "x"', ["there is no such key"]),
        (b".toml", 'refused = "x"', ["there is no such key"]),
        (b".toml", "threshold = 1.5", ["threshold = 1.5", "less than or equal to 1"]),
        (b".toml", "threshold = nan", ["threshold = nan"]),
        (b".toml", 'no_mask = "maybe"\nkind = 3', ["no_mask = 'maybe'", "'fail' or 'empty'", "kind = 3"]),
        (b".toml", f'decode = "{"x" * 500}"', ["xxx…"]),
        (b".toml", "threshold 1", ["is not TOML"]),
        (b".toml", "a" * 200_000 + "=" + "[" * 100_000, ["is not TOML"]),
        (b".json", "{", ["is not JSON"]),
        (b".json", "[" * 100_000, ["is not JSON"]),
        (b".json", "[1]", ["is not of the form"]),
        (b".json", "", ["is not JSON"]),
        (b".json", '{"tta": "often"}', ["tta = 'often'"]),
    ],
)
def test_what_is_wrong_is_said_with_key_value_and_what_is_allowed(suffix: bytes, text: str, words: list[str]) -> None:
    with pytest.raises(WrongError) as caught:
        overrides(text.encode(), suffix)
    assert [] == [word for word in words if word not in str(caught.value)], str(caught.value)
    assert len(str(caught.value)) < 1000


EXPORTED = (
    '{"title": "a.jpg", "photoTakenTime": {"timestamp": "1700000000"}, "geoData": {"a": {"b": {"c": {"d": [1]}}}}}'
)


@pytest.mark.parametrize("text", [EXPORTED, '{"treshold": 0.3}', '{"x": "' + "y" * 70_000 + '"}'])
def test_a_json_with_none_of_our_keys_is_another_programs(inbox: Inbox, text: str) -> None:
    """However long it is. The scan's own TOML beside it is followed, and does not count as a second one."""
    inbox.put("a.png")
    inbox.put("a.png.json", text)
    inbox.put("a.png.toml", "threshold = 0.25")
    answer = inbox.asked("a.png", SETTLE, sure=False, overdue=True)
    assert isinstance(answer, Asked)
    assert ({"threshold": 0.25}, "") == (answer.values, answer.wrong)
    assert [b"a.png.json"] == [each.path for each in answer.foreign]
    assert [b"a.png.toml"] == [each.path for each in answer.own]


@pytest.mark.parametrize("text", ['{"title": "a", "threshold": 0.3}', "[1]", '{"title": '])
def test_a_json_with_one_of_our_keys_or_none_at_all_is_ours(text: str) -> None:
    """And a mistake in it is said, as in every TOML."""
    assert not is_foreign(text.encode(), b".json")
    with pytest.raises(WrongError):
        overrides(text.encode(), b".json")
    assert not is_foreign(b'title = "a"', b".toml")


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(WrongError, match="is not TOML"):
        overrides(b"\xff\xfe\x00", b".toml")


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (b".json", '{"prompt": "half \\ud800 a pair"}'),
        (b".json", '{"prompt": "a\\u0000b"}'),
        (b".json", '{"\\udfff": 0.3}'),
        (b".json", '{"outputs": ["mask", "\\ud800"]}'),
        (b".json", "[" * 3000 + "]" * 3000),
        (b".json", '{"prompt": {"a": {"b": {"c": {"d": 1}}}}}'),
        (b".toml", ".".join(["threshold"] * 1500) + " = 0.3"),
        (b".toml", "outputs = " + "[" * 100 + "]" * 100),
        (b".toml", "k" * 60_000 + " = 1"),
        (b".toml", "a = 1\n" * 2),
    ],
)
def test_what_nobody_could_store_or_read_is_refused_in_a_short_sentence(suffix: bytes, text: str) -> None:
    """Before any of it is put into words: half surrogate pairs, tables in tables, keys without end."""
    with pytest.raises(WrongError) as caught:
        overrides(text.encode(), suffix)
    said = str(caught.value)
    assert len(said) < 400
    assert said.encode()
    assert "\0" not in said


def test_null_and_nothing_change_nothing() -> None:
    assert {} == overrides(b'{"prompt": null}', b".json") == overrides(b"", b".toml")


def test_a_sidecars_options_are_part_of_what_makes_two_jobs_the_same() -> None:
    options = Options()
    assert options.key("m") == NOTHING.applied_to(options).key("m")
    keys = {
        asked.applied_to(options).key("m")
        for asked in (NOTHING, Asked(values={"prompt": "x"}), Asked(wrong="x"), Asked(wrong="y"))
    }
    assert 4 == len(keys)
    refused = Asked(wrong="why").applied_to(options)
    assert refused == Options.from_json(refused.to_json())
    assert "refused" not in options.to_json(), "it would change the keys of all jobs there are"


@pytest.mark.parametrize(
    ("path", "scan"),
    [
        (b"a.png.toml", b"a.png"), (b"x/a.png.json", b"x/a.png"), (b"IM0001.toml", b"IM0001"),
        (b"_options.toml", None), (b"x/_options.toml", None), (b"_options.json", b"_options"),
    ],
)  # fmt: skip
def test_the_name_says_whose_it_is(path: bytes, scan: bytes | None) -> None:
    assert is_sidecar(path)
    assert scan == scan_of(path)


@pytest.mark.parametrize("path", [b"a.png", b".toml", b"x/.json", b"a.toml.png", b"toml", b"a.toml~"])
def test_other_names_are_no_sidecars(path: bytes) -> None:
    assert not is_sidecar(path)


# What scans are asked for


def test_a_folder_without_sidecars_costs_its_scans_nothing(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox.put("a.png")
    inbox.sidecars.entering(inbox.fd, b"")

    def no_call(*_: object, **__: object) -> int:
        raise AssertionError("a file was looked for")

    monkeypatch.setattr(os, "open", no_call)
    assert NOTHING is inbox.asked("a.png", 0)


def test_where_events_do_not_tell_every_scan_is_asked_for(inbox: Inbox) -> None:
    inbox.sidecars.entering(inbox.fd, b"")
    inbox.put("a.png")
    inbox.put("a.png.toml", "threshold = 0.3\n")
    assert NOTHING is inbox.asked("a.png", 0)
    assert Unsettled(since=0) == inbox.asked("a.png", 0, sure=False)


def test_a_sidecar_is_found_in_a_backlog_before_the_sweep_has_come_to_it(inbox: Inbox) -> None:
    inbox.put("a.png")
    inbox.put("a.png.toml", "threshold = 0.3\n")
    inbox.sidecars.entering(inbox.fd, b"")
    assert Unsettled(since=0) == inbox.asked("a.png", 0)
    answer = inbox.asked("a.png", SETTLE)
    assert isinstance(answer, Asked)
    assert {"threshold": 0.3} == answer.values


def test_a_scan_settles_with_its_sidecar(inbox: Inbox) -> None:
    inbox.put("a.png")
    inbox.sidecars.saw(inbox.put("a.png.toml", "threshold = 0.3\n"), 10)
    assert Unsettled(since=10) == inbox.asked("a.png", 11)
    inbox.sidecars.saw(inbox.put("a.png.toml", "threshold = 0.4\n"), 12)
    assert Unsettled(since=12) == inbox.asked("a.png", 13)
    inbox.sidecars.saw(candidate_of(b"a.png.toml", (inbox.root / "a.png.toml").stat()), 13.5, hinted=True)
    assert Unsettled(since=13.5) == inbox.asked("a.png", 15)
    answer = inbox.asked("a.png", 15.5)
    assert isinstance(answer, Asked)
    assert {"threshold": 0.4} == answer.values
    assert [b"a.png.toml"] == [own.path for own in answer.own]


def test_a_scans_own_sidecar_goes_over_its_folders(inbox: Inbox) -> None:
    inbox.put("x/a.png")
    for name, text in (("x/_options.toml", 'threshold = 0.2\nprompt = "x"'), ("x/a.png.toml", "threshold = 0.3")):
        inbox.sidecars.saw(inbox.put(name, text), 0)
    answer = inbox.asked("x/a.png", SETTLE)
    assert isinstance(answer, Asked)
    assert {"threshold": 0.3, "prompt": "x"} == answer.values
    assert [b"x/a.png.toml"] == [own.path for own in answer.own]


def test_an_empty_sidecar_is_waited_for_until_its_scan_is_overdue(inbox: Inbox) -> None:
    inbox.put("a.png")
    inbox.sidecars.saw(inbox.put("a.png.toml"), 0)
    answer = inbox.asked("a.png", SETTLE)
    assert isinstance(answer, NotYet)
    assert "has a sidecar that is empty" == answer.reason
    assert isinstance(inbox.asked("a.png", SETTLE, overdue=True), Asked)


def test_a_folder_named_like_a_sidecar_is_none_and_a_pipe_is_refused(inbox: Inbox) -> None:
    inbox.put("a.png")
    inbox.put("b.png")
    (inbox.root / "a.png.toml").mkdir()
    os.mkfifo(inbox.root / "b.png.toml")
    inbox.sidecars.entering(inbox.fd, b"")
    assert Asked() == inbox.asked("a.png", 0)
    answer = inbox.asked("b.png", 0)
    assert isinstance(answer, Asked)
    assert "is a named pipe" in answer.wrong


# Those without a scan


def seen(number: int) -> Candidate:
    signature = Signature(size=1, mtime_ns=number, device=1, inode=number)
    return Candidate(path=b"%d.png.toml" % number, signature=signature, ctime_ns=number, blocks=1)


def test_a_sidecar_is_judged_when_it_has_settled_and_again_when_it_has_waited_long_enough() -> None:
    sidecars = Sidecars(settle_seconds=SETTLE, limit_seconds=LIMIT)
    sidecars.saw(seen(1), 10)
    assert (12, []) == (sidecars.next_wakeup(), sidecars.due(11))
    assert [(seen(1), False)] == sidecars.due(12)
    sidecars.waits(seen(1).path, 12)
    assert (110, [], True) == (sidecars.next_wakeup(), sidecars.due(109), sidecars.waiting)
    assert [(seen(1), True)] == sidecars.due(110)
    sidecars.forget(seen(1).path)
    assert (None, [], False) == (sidecars.next_wakeup(), sidecars.due(1000), sidecars.waiting)


def test_one_whose_scan_is_still_being_written_waits_as_long_again() -> None:
    sidecars = Sidecars(settle_seconds=SETTLE, limit_seconds=LIMIT)
    sidecars.saw(seen(1), 0)
    sidecars.waits(seen(1).path, LIMIT)
    assert [] == sidecars.due(LIMIT + 1)
    assert [(seen(1), True)] == sidecars.due(2 * LIMIT)


def test_one_that_changes_waits_anew() -> None:
    sidecars = Sidecars(settle_seconds=SETTLE, limit_seconds=LIMIT)
    sidecars.saw(seen(1), 0)
    sidecars.waits(seen(1).path, SETTLE)
    sidecars.saw(seen(1), 50, hinted=True)
    assert [(seen(1), False)] == sidecars.due(52)


def test_a_backlog_of_sidecars_without_scans_takes_no_more_memory_than_its_bound() -> None:
    sidecars = Sidecars(settle_seconds=SETTLE, limit_seconds=LIMIT)
    for number in range(MOST + 100):
        sidecars.saw(seen(number), 0)
    assert MOST == len(sidecars._fresh)

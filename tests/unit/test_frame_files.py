"""Which names are those of a run's frames, and which run that is."""

from __future__ import annotations

import pytest

from watcherd.frame_files import FrameName, as_frame, channel_name, frame_name
from watcherd.job import Options


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"Name(0000000000)_1-3_1_0000000A_frame_000011.jpg", (b"Name(0000000000)_1-3_1_0000000A_frame_", 11, b".jpg")),
        (b"cath/a-frame11.PNG", (b"cath/a-frame", 11, b".PNG")),
        (b"a_f011.tif", (b"a_f", 11, b".tif")),
        (b"a.fr 3", (b"a.fr ", 3, b"")),
        (b"Frame-7.nii.gz", (b"Frame-", 7, b".nii.gz")),
        (b"a_frame_1_frame_2.png", (b"a_frame_1_frame_", 2, b".png")),
        (b"M\xfcller\n_FRAME_000000010.jpg", (b"M\xfcller\n_FRAME_", 10, b".jpg")),
    ],
)
def test_names_of_frames(path: bytes, expected: tuple[bytes, int, bytes]) -> None:
    """The separators, the words in capitals or not, any bytes before them."""
    before, number, after = expected
    assert FrameName(before=before, number=number, after=after) == frame_name(path)


@pytest.mark.parametrize(
    "path",
    [
        b"a_000011.jpg",
        b"IM-0001-0002.dcm",
        b"scarf12.png",
        b"a_frame_.jpg",
        b"a_frame_11-mask.png",
        b"a_frame_11.5",
        b"a_frame_1234567890.jpg",
        b"a_frame_11/b.jpg",
        "a_frame_\N{ARABIC-INDIC DIGIT ONE}.jpg".encode(),
    ],
)
def test_other_names(path: bytes) -> None:
    """A bare number, a word that only ends in f, something behind the number, too many digits, a folder's name."""
    assert frame_name(path) is None


def run(path: bytes) -> tuple[bytes, bytes]:
    found = frame_name(path)
    assert found is not None
    return found.run


def test_a_run_is_one_folder_and_one_name_around_the_number() -> None:
    """However many digits, and whatever the case of the extension."""
    assert run(b"x/a_frame_000009.jpg") == run(b"x/a_frame_10.JPG")
    others = [b"y/a_frame_1.jpg", b"x/b_frame_1.jpg", b"x/a_frame1.jpg", b"x/a_frame_1.png", b"a_frame_1.jpg"]
    assert 6 == len({run(path) for path in [b"x/a_frame_1.jpg", *others]})


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"case_0000.nii.gz", (b"case_", 0, b".nii.gz")),
        (b"in/BRATS_001_0003.nii.gz", (b"in/BRATS_001_", 3, b".nii.gz")),
        (b"a_0001", (b"a_", 1, b"")),
        (b"case_000.nii.gz", None),
        (b"case0000.nii.gz", None),
        (b"case_00000.nii.gz", None),
        (b"_0000.nii.gz", None),
        (b"case_0000.1.2.gz", None),
    ],
)
def test_names_of_channels(path: bytes, expected: tuple[bytes, int, bytes] | None) -> None:
    """Four digits behind an underscore, and something before it."""
    found = channel_name(path)
    assert expected == (found and (found.before, found.number, found.after))


def test_channels_count_only_where_the_model_has_several() -> None:
    plain = Options()
    assert plain == as_frame(plain, b"case_0001.nii.gz")
    assert plain == as_frame(plain, b"case.nii.gz", channels=2)
    assert "case_0001.nii.gz" == as_frame(plain, b"case_0001.nii.gz", follows_runs=False, channels=2).frame
    runs = Options(group_frames=True)
    assert "" == as_frame(runs, b"a_frame_01.png", follows_runs=False).frame

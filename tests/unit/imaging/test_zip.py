"""A zip of pictures is one scan of many frames, and no zip costs more than its pictures or reaches beyond itself."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.unit.imaging.dicoms import content as dicom
from tests.unit.imaging.dicoms import dataset
from tests.unit.imaging.test_bad_input import failure
from watcherd.imaging.decode import Decoded, DecodeLimits, TruncatedError, decode
from watcherd.imaging.readers import zip_scan

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = DecodeLimits()
ROWS, COLUMNS = np.mgrid[0:20, 0:30]
RAMP = (COLUMNS * 3 + ROWS).astype(np.uint8)


def picture(value: int, format_name: str = "PNG", size: tuple[int, int] = (20, 30)) -> bytes:
    """A picture whose first pixel is ``value``."""
    pixels = np.resize(RAMP, size)
    pixels[0, 0] = value
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_name)
    return file.getvalue()


def stack(frames: int, dtype: type = np.uint16) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.arange(frames * 600).reshape(frames, 20, 30).astype(dtype), photometric="minisblack")
    return file.getvalue()


def report(sop: str = "1.2.840.10008.5.1.4.1.1.88.11") -> bytes:
    """A DICOM object without a picture."""
    whole = dataset(RAMP, SOPClassUID=sop)
    del whole.PixelData
    return dicom(whole)


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def decoded(path: Path, limits: DecodeLimits = LIMITS) -> tuple[Decoded, list[int]]:
    """What was decoded, and the first pixel of each frame."""
    found = decode(path, path.with_suffix(".npy"), limits)
    return found, [int(frame[0, 0]) for frame in np.load(found.path)]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_pictures_are_frames_in_the_order_of_their_names_with_numbers_as_numbers(tmp_path, method):
    names = ["frame_10.png", "frame_2.png", "frame_1.png", "b/1.png", "b/01.png", "B/2.png"]
    path = zipped(tmp_path / "a.zip", {name: picture(number) for number, name in enumerate(names)}, method)
    found, order = decoded(path)
    assert ("ZIP", 6, 8, (20, 30)) == (found.format, found.frames, found.bit_depth, (found.height, found.width))
    assert ["b/01.png", "b/1.png", "B/2.png", "frame_1.png", "frame_2.png", "frame_10.png"] == [names[i] for i in order]


def test_formats_may_be_mixed_and_what_is_no_picture_is_left_out(tmp_path):
    members = {
        "1.bmp": picture(11, "BMP"),
        "2.tif": picture(12, "TIFF"),
        "3.webp.png": picture(13),
        "Thumbs.db": picture(1),
        "__MACOSX/._1.png": picture(2),
        "__MACOSX/4.png": picture(3),
        ".hidden.png": picture(4),
        "folder/": b"",
        "notes.txt": b"about the run",
        "report.pdf": b"%PDF-1.7\n\x00",
    }
    assert [11, 12, 13] == decoded(zipped(tmp_path / "a.zip", members))[1]


def test_a_mark_or_a_text_may_be_empty(tmp_path):
    members = {"1.png": picture(11), "README.TXT": b"", "log/run.log": bytes(99), "__init__.py": b""}
    assert [11] == decoded(zipped(tmp_path / "a.zip", members))[1]


@pytest.mark.parametrize(
    "sop", ["1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.11.1"]
)
@pytest.mark.parametrize("frames", [1, 3])
def test_a_zip_of_a_patients_cd_is_its_picture(tmp_path, sop, frames):
    """An index, a report or a presentation state beside it is left out, as in a folder."""
    run = dicom(dataset(np.resize(RAMP, (frames, 20, 30)) if frames > 1 else RAMP))
    members = {"AAA": report(sop), "DICOM/IM0001": run, "README.TXT": b"Viewer"}
    assert frames == decoded(zipped(tmp_path / "a.zip", members))[0].frames


def test_several_runs_are_refused_by_the_number_of_the_first(tmp_path):
    run = dicom(dataset(np.resize(RAMP, (3, 20, 30))))
    error = failure(zipped(tmp_path / "a.zip", {"AAA": report(), "1": run, "2": run}))
    assert "Member 2 of the zip has 3 frames of its own" in error.message


def test_sixteen_bit_pictures_share_one_window(tmp_path):
    pixels = [(RAMP.astype(np.uint16) + 1) * factor for factor in (10, 20)]
    files = {}
    for number, each in enumerate(pixels):
        tifffile.imwrite(tmp_path / "one.tif", each, photometric="minisblack")
        files[f"{number}.tif"] = (tmp_path / "one.tif").read_bytes()
    found, _ = decoded(zipped(tmp_path / "a.zip", files))
    frames = np.load(found.path)
    assert found.bit_depth == 16
    assert abs(int(frames[0].max()) * 2 - int(frames[1].max())) <= 4


def test_slices_whose_windows_differ_share_the_widest(tmp_path):
    """As the frames of one file do; where some have none, one that fits the values."""
    slices = [np.tile(np.arange(0, 4096, 32, np.uint16), (9, 1))] * 2
    windows = [{"WindowCenter": 1000, "WindowWidth": 1001}, {"WindowCenter": 2000, "WindowWidth": 2001}]
    files = {str(at): dicom(dataset(each, **windows[at])) for at, each in enumerate(slices)}
    assert (499.5, 2999.5) == decoded(zipped(tmp_path / "a.zip", files))[0].window
    files["2"] = dicom(dataset(slices[0]))
    assert (0, 4064) == decoded(zipped(tmp_path / "b.zip", files))[0].window


def test_a_single_stack_in_a_zip_is_that_stack(tmp_path):
    found, _ = decoded(zipped(tmp_path / "a.zip", {"stack.tif": stack(5), "notes.txt": b"x"}))
    assert (5, 16) == (found.frames, found.bit_depth)


def test_a_stack_among_pictures_is_refused(tmp_path):
    error = failure(zipped(tmp_path / "a.zip", {"1.tif": stack(1, np.uint8), "2.tif": stack(3, np.uint8)}))
    assert "Member 2 of the zip has 3 frames of its own." == error.message


def test_a_folder_of_tiffs_that_only_tifffile_reads_is_read(tmp_path):
    tifffile.imwrite(tmp_path / "one.tif", RAMP.astype(np.float64), photometric="minisblack")
    content = (tmp_path / "one.tif").read_bytes()
    assert 2 == decoded(zipped(tmp_path / "a.zip", {"1.tif": content, "2.tif": content}))[0].frames


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "C:\\x.png", "..\\x.png", "\\x.png"])
def test_a_member_whose_path_leads_out_is_refused(tmp_path, name):
    """Although nothing is ever unpacked by name: who made such an archive meant no good."""
    error = failure(zipped(tmp_path / "a.zip", {"1.png": picture(1), name: picture(2)}))
    assert "the path of its member 2 leads out of the archive" in error.message


def test_frames_of_different_sizes_are_refused(tmp_path):
    error = failure(zipped(tmp_path / "a.zip", {"1.png": picture(1), "2.png": picture(2, size=(20, 31))}))
    assert "frame 2 is 31 x 20" in error.message


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "The zip is empty."),
        ({"a.txt": b"text", "b.txt": b"more"}, "no picture that can be read, only 2 other files"),
        ({"1.png": picture(1), "2.png": picture(2)[:-60]}, "Member 2 of the zip: The file is truncated"),
        ({"1.png": picture(1), "2.png": b"", "3.png": picture(2)}, "Member 2 of the zip: The file is empty"),
        ({"1.png": picture(1), "2": b"", "3.png": picture(2)}, "Member 2 of the zip: The file is empty"),
        ({"1.png": picture(1), "2.png": bytes(400)}, "Member 2 of the zip: The file holds nothing but zeros"),
        ({"1.png": picture(1), "2.dcm": bytes(3 << 20)}, "Member 2 of the zip: The file holds nothing but zeros"),
        ({"DICOMDIR": report()}, "no picture that can be read, only 1 other files"),
        ({"1.png": picture(1), "2.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"}, "Member 2 of the zip is HEIC."),
        ({"1.png": picture(1), "2.nrrd": b"NRRD0004\n"}, "Member 2 of the zip is NRRD"),
        ({"1.png": picture(1), "2.jp2": b"\0\0\0\x0cjP  \r\n\x87\n"}, "Member 2 of the zip: The file is truncated"),
        ({"[Content_Types].xml": b"<a/>", "word/media/1.png": picture(1)}, "it is a Word document"),
        ({"[Content_Types].xml": b"<a/>", "xl/media/1.png": picture(1)}, "it is an Excel workbook"),
        ({"mimetype": b"application/vnd.oasis.opendocument.text", "Pictures/1.png": picture(1)}, "it is a document"),
    ],
)
def test_what_cannot_be_a_scan_says_why(tmp_path, members, words):
    error = failure(zipped(tmp_path / "a.zip", members))
    assert words in error.message
    assert not isinstance(error, TruncatedError)


def test_an_archive_in_the_archive_is_refused(tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"1.png": picture(1)}).read_bytes()
    error = failure(zipped(tmp_path / "a.zip", {"1.png": picture(1), "more.zip": inner}))
    assert "Member 2 of the zip is an archive itself." == error.message


def test_an_encrypted_zip_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", {"1.png": picture(1)})
    data = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + flags] |= 1
    path.write_bytes(data)
    assert "The zip is encrypted." == failure(path).message


def test_an_unknown_method_is_named(tmp_path):
    path = zipped(tmp_path / "a.zip", {"1.png": picture(1)})
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        struct.pack_into("<H", data, data.index(mark) + at, 97)
    path.write_bytes(data)
    assert "deflate" in failure(path).hint


def test_a_damaged_member_is_named_by_its_number_and_not_by_its_name(tmp_path):
    path = zipped(tmp_path / "a.zip", {"1.png": picture(1), "Mueller.png": picture(2)}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"IEND") + 2] ^= 0xFF
    path.write_bytes(data)
    assert "Member 2 of the zip is damaged." == failure(path).message


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_is_refused_by_what_it_claims(tmp_path, method):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive, archive.open("1.bmp", "w") as file:
        file.write(picture(1, "BMP"))
        for _ in range(80):
            file.write(bytes(1 << 20))
    assert "which is how archives attack" in failure(path).message


def test_a_bomb_that_lies_about_its_size_gets_no_more_than_it_claims(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.bmp", picture(1, "BMP") + bytes(200 << 20))
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<L", data, data.index(mark) + at, 1000)
    path.write_bytes(data)
    assert "Member 1 of the zip" in failure(path).message


def test_a_member_that_is_too_large_too_many_members_and_too_many_frames_are_refused(tmp_path, monkeypatch):
    path = zipped(tmp_path / "a.zip", {f"{number}.png": picture(number) for number in range(4)})
    assert "too many frames" in failure(path, DecodeLimits(max_frames=3)).message
    assert "too large" in failure(path, DecodeLimits(max_pixels=599)).message
    assert "GiB" in failure(path, DecodeLimits(max_bytes=100)).message
    monkeypatch.setattr(zip_scan, "MOST_MEMBERS", 3)
    assert "4 entries, more than 3" in failure(path).message
    monkeypatch.undo()
    monkeypatch.setattr(zip_scan, "MOST_MEMBER_BYTES", 10)
    assert "Member 1 of the zip is" in failure(path).message


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_zip_is_told_from_a_broken_one(tmp_path, share):
    data = zipped(tmp_path / "a.zip", {f"{number}.png": picture(number) for number in range(9)}).read_bytes()
    (tmp_path / "a.zip").write_bytes(data[: int(len(data) * share)])
    assert isinstance(failure(tmp_path / "a.zip"), TruncatedError)


def test_a_zip_holds_one_picture_at_a_time(tmp_path, monkeypatch):
    """Unpacked: as many descriptors are open at the last frame as at the first."""
    opened, most = 0, 0
    close = zip_scan._Unpacked.close

    def counted(self: zip_scan.ZipScan, index: int, picture: zip_scan._Member) -> zip_scan._Unpacked:
        nonlocal opened, most
        opened += 1
        most = max(most, opened)
        return unpacked(self, index, picture)

    def closed(self: zip_scan._Unpacked) -> None:
        nonlocal opened
        opened -= 1
        close(self)

    unpacked = zip_scan.ZipScan._unpacked
    monkeypatch.setattr(zip_scan.ZipScan, "_unpacked", counted)
    monkeypatch.setattr(zip_scan._Unpacked, "close", closed)
    decoded(zipped(tmp_path / "a.zip", {f"{number}.png": picture(number) for number in range(9)}))
    assert (0, 1) == (opened, most)

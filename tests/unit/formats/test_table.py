"""The table of formats: every row is whole, and what is derived from it reads as people know it."""

from __future__ import annotations

from importlib import import_module

import pytest

from watcherd.formats.sniff import describe, image_format, pictures
from watcherd.formats.table import BY_NAME, FORMATS, HOLES, OTHERS, PILLOW, Format, Other, advised, by_pillow
from watcherd.imaging.decode import EXPORT


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_a_format_has_a_sign_a_reader_and_an_end(row: Format) -> None:
    """Without these it could not be recognised, opened, or waited for."""
    assert row.begins or row.looks_like
    assert row.ends
    for reader in row.readers:
        module, _, name = reader.partition(":")
        assert callable(getattr(import_module(module), name))


def test_names_are_given_once() -> None:
    """A record's format says which row it was."""
    assert len(FORMATS) == len(BY_NAME)


@pytest.mark.parametrize("row", [row for row in FORMATS if row.begins], ids=lambda row: row.name)
def test_a_beginning_belongs_to_one_format(row: Format) -> None:
    """Else the rows' order would decide."""
    for begins in row.begins:
        assert row.name == image_format(begins.ljust(64, b"\0"))
        assert [row] == [other for other in FORMATS if begins.startswith(other.begins)]


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.says)
def test_what_is_not_read_is_named(other: Other) -> None:
    """With its own words, by each of its beginnings and brands."""
    heads = [begins + bytes(60) for begins in other.begins]
    heads += [b"\0\0\0\x18ftyp" + brand + bytes(60) for brand in other.brands]
    assert heads
    for head in heads:
        assert image_format(head) is None
        assert other.says == describe(head)


def test_a_preamble_may_look_like_another_format() -> None:
    """DICOM files that are TIFFs too exist, and DICOM tells more."""
    for begins in (b"II*\0", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"):
        assert "DICOM" == image_format(begins.ljust(128, b"\0") + b"DICM" + bytes(60))


def test_people_are_told_the_formats_that_programs_can_save() -> None:
    """In the words that they know, the most telling first."""
    assert EXPORT == (
        "Export the scan as DICOM, NIfTI, PNG, JPEG, TIFF, BMP, WebP, GIF or PNM, or a run as a zip of these."
    )
    assert ("DICOM", "PNG", "JPEG", "TIFF", "BMP", "WebP", "GIF") == advised(in_zip=True)


def test_pillow_is_asked_for_what_it_is_to_read_alone() -> None:
    """Of others it would start programs, or take hundreds of megabytes."""
    assert ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "AVIF") == by_pillow()
    assert PILLOW.startswith("watcherd.imaging.readers.pillow_scan:")


def test_pictures_that_are_not_read_would_leave_holes_in_a_run() -> None:
    """What is no picture would not, and is left out of a zip in silence."""
    assert "is HEIC" in HOLES
    assert "is a video" in HOLES
    assert "is a PDF document" not in HOLES


def test_pictures_that_changed_are_told_by_their_files() -> None:
    """Of PNG only those of 16 bits; a JPEG shows what it ever did."""
    png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + bytes(8)
    assert [0, 2] == [pictures(png + depth + bytes(60)) for depth in (b"\x08", b"\x10")]
    assert 2 == pictures(bytes(128) + b"DICM" + bytes(60))
    assert 0 == pictures(b"\xff\xd8\xff\xe0" + bytes(60))
    assert 0 == pictures(b"%PDF-1.7")


def test_what_holds_files_changes_with_what_it_may_hold() -> None:
    """Nobody looks into a zip when it is taken."""
    most = max(row.pictures for row in FORMATS)
    assert {most} == {row.pictures for row in FORMATS if row.holds_files}

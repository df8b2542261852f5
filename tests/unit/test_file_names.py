"""Names that are any bytes can be shown, told apart, and given to results."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcherd import file_names

COMPONENT = st.binary(min_size=1, max_size=255).filter(
    lambda name: not set(b"/\0") & set(name) and name not in (b".", b"..")
)


@given(st.binary())
def test_what_is_shown_is_printable_utf_8_and_can_be_turned_back(name):
    shown = file_names.show(name)
    assert shown.isprintable()
    assert name == file_names.unshow(shown.encode().decode())


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"scan.png", "scan.png"),
        ("Müller.png".encode(), "Müller.png"),
        (b"M\xfcller.png", "M\\xfcller.png"),
        (b"a\nb", "a\\x0ab"),
        (b"a\\x0ab", "a\\\\x0ab"),
        ("a\u202egnp.exe".encode(), "a\\xe2\\x80\\xaegnp.exe"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
    ],
)
def test_other_bytes_and_what_cannot_be_seen_are_escaped(name, shown):
    assert shown == file_names.show(name)


def test_a_backslash_that_stands_for_nothing_is_refused():
    with pytest.raises(ValueError, match="backslash"):
        file_names.unshow("a\\b")


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        (b"scan.png", b"scan"),
        (b"a/b/scan.jpeg", b"a/b/scan"),
        (b"-rf.png", b"-rf"),
        (b"scan", b"scan"),
        (b"volume.nii.gz", b"volume"),
        (b"1.2.840.113619.2.5", b"1.2.840.113619.2.5"),
        (b"IM-0001.0002", b"IM-0001.0002"),
        (b"M\xfcller.png", b"M\xfcller"),
        (b"a.png/b.png", b"a.png/b"),
        (b"..png", b"..png"),
    ],
)
def test_the_stem_is_the_folder_and_the_name_without_its_extension(path, stem):
    assert stem == file_names.result_stem(path, 5)


@given(st.lists(COMPONENT, min_size=1, max_size=3), st.integers(0, 32))
def test_a_stem_and_all_that_is_put_behind_it_fit_into_a_name(parts, suffix_room):
    stem = file_names.with_hash(file_names.result_stem(b"/".join(parts), suffix_room), "0" * 64)
    assert parts[:-1] == stem.split(b"/")[:-1]
    assert len(stem.split(b"/")[-1]) + suffix_room <= file_names.LONGEST


def test_long_names_that_begin_alike_stay_apart_and_whole_characters():
    one, two = (("ä" * 120 + f"{number}.png").encode() for number in (1, 2))
    stems = [file_names.result_stem(name, 5) for name in (one, two)]
    assert stems[0] != stems[1]
    assert [stem.decode() for stem in stems]


@pytest.mark.parametrize("path", [b"../x", b"a/../b", b"/etc/passwd", b"", b"a//b", b"./a", b"a\0b", b"a/"])
def test_a_path_that_could_lead_out_is_refused(path):
    with pytest.raises(ValueError, match="plain path"):
        file_names.result_stem(path, 5)


@given(COMPONENT, st.integers(2, 999))
def test_an_insertion_fits_and_keeps_the_extension(name, number):
    inserted = file_names.insert(name + b".png" if len(name) < 200 else name, b"-%d" % number)
    assert len(inserted) <= file_names.LONGEST
    if len(name) < 200:
        assert inserted.endswith(b"-%d.png" % number) or name.endswith(b".nii")


def test_hidden_names_are_numbers():
    assert file_names.label(b"Doe^Jane.png", privacy="hidden", kind="job", number=7) == "job 7"
    assert file_names.label(b"Doe^Jane.png", privacy="shown", kind="job", number=7) == "Doe^Jane.png"


@pytest.mark.parametrize("name", [b"a.png", b"a", b"IM-0001.0002", b"volume.nii.gz", b"a-cafe.png"])
@pytest.mark.parametrize("addition", [b"", b"-0123abcd", b"-0123abcd-17"])
def test_an_inserted_hash_can_be_taken_out_again(name: bytes, addition: bytes) -> None:
    assert name == file_names.without_addition(file_names.insert(name, addition))

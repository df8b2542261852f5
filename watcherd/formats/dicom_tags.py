"""The DICOM attributes that ``privacy.dicom_tags`` may list. pydicom is imported only where some are listed."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

NO_TEXT: Final = ("SQ", "OB", "OD", "OF", "OL", "OV", "OW", "UN", "NONE")
"""Value representations that are no text to be read: sequences, pixels and other bytes."""


def check_keywords(keywords: Sequence[str]) -> None:
    """Raises `ValueError` that names what is no keyword of an attribute with a text or a number."""
    if not keywords:
        return
    from pydicom.datadict import dictionary_VR, keyword_dict

    for keyword in keywords:
        tag = keyword_dict.get(keyword)
        if tag is None:
            near = get_close_matches(keyword, keyword_dict, n=1)
            better = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f'keywords of the DICOM dictionary, for example "StudyInstanceUID"; {keyword!r} is none{better}'
            )
        if any(part in NO_TEXT for part in dictionary_VR(tag).split(" or ")):
            raise ValueError(f"keywords of attributes with a text or a number; {keyword!r} holds bytes or a sequence")

"""The recorded outputs of the reference code for the other kind of vision tower, on the CPU in float32.

In a file of its own, so that it can be computed beside the other references.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sa2va_folder import write_model
from tests.sa2va_golden import Tolerance, check_run, loaded

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.heavy, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_run_with_rms_norms_and_an_object_that_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine frames, four of them tracked; object scores are positive, so the pointers are real ones."""
    check_run(loaded(write_model(tmp_path / "Sa2VA", "rms-norm")), "run-rms", Tolerance(), monkeypatch)

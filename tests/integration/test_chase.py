"""Two readers of CHASE_DB1 (https://researchdata.kingston.ac.uk/96/, CC BY 4.0): what is known of them comes out.

``WATCHERD_TEST_CHASE`` names a folder with ``images``, ``masks``, ``masks2`` and ``fov``; without it nothing is run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from watcherd.cli.app import run

if TYPE_CHECKING:
    from collections.abc import Sequence

WHERE = os.environ.get("WATCHERD_TEST_CHASE")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WHERE is None, reason="WATCHERD_TEST_CHASE names no folder with CHASE_DB1"),
]


@pytest.fixture
def readers(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.delenv("WATCHERD_TEST_CHASE")  # every WATCHERD_ variable is a key of the configuration
    chase = Path(WHERE or "")
    folders: Sequence[str | Path] = (
        "--predictions",
        chase / "masks2",
        "--masks",
        chase / "masks",
        "--fov",
        chase / "fov",
    )
    code = run(["evaluate", *map(str, folders), "--out", str(tmp_path), "--json"])
    said = capsys.readouterr()
    assert 0 == code, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def test_the_second_reader_by_the_first(readers: dict[str, Any]) -> None:
    """Dice 0.777 (0.769 to 0.787), clDice 0.835 (0.824 to 0.845), of all 28 scans inside the field of view."""
    assert 28 == len(readers["scans"])
    assert [] == readers["problems"]
    found = {
        name: [round(readers["summary"][name][key], 3) for key in ("mean", "low", "high")]
        for name in ("dice", "cldice")
    }
    assert {"dice": [0.777, 0.769, 0.787], "cldice": [0.835, 0.824, 0.845]} == found

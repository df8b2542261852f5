"""Label values and their names, as nnU-Net writes them; others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from watcherd.errors import ConfigError
from watcherd.inference.segmenters.nnunet.labels import UNNAMED, Labels, read

PATH = Path("dataset.json")


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ({"labels": {"background": 0, "a": 1, "b": 2}}, Labels(names=("a", "b"), has_regions=False, heads=3)),
        ({"labels": {"b": 2, "background": 0, "a": [1]}}, Labels(names=("a", "b"), has_regions=False, heads=3)),
        ({"labels": {"background": 0, "a": 1, "ignore": 2}}, Labels(names=("a",), has_regions=False, heads=2)),
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]},
            Labels(names=("whole", "core"), has_regions=True, heads=2),
        ),
        (
            {"labels": {"background": 0, "whole": [1, 2, 3], "core": 2, "ignore": 4}, "regions_class_order": [4, 1]},
            Labels(names=("core", UNNAMED, UNNAMED, "whole"), has_regions=True, heads=2),
        ),
        (
            {"labels": {"background": 0} | {f"n{n}": n for n in range(1, 256)}},
            Labels(names=tuple(f"n{n}" for n in range(1, 256)), has_regions=False, heads=256),
        ),
    ],
)
def test_labels_that_are_followed(dataset: dict[str, Any], expected: Labels) -> None:
    """The order of the names does not matter, but for regions; the ignore label is never predicted."""
    assert expected == read(dataset, PATH)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ({}, 'no "background" of 0'),
        ({"labels": {"background": 1, "a": 0}}, 'no "background" of 0'),
        ({"labels": {"background": 0, "a": 7, "b": 9}}, "labels are 0, 7, 9, not 0, 1, 2"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "labels are 0, 1, not"),
        ({"labels": {"background": 0, "a": "1"}}, "no whole numbers"),
        ({"labels": {"background": 0, "a": -1}}, "no whole numbers"),
        ({"labels": {"background": 0, "a": []}}, "no whole numbers"),
        ({"labels": {"background": 0} | {f"n{n}": n for n in range(1, 257)}}, "257 labels"),
        ({"labels": {"background": 0, "a": 1, "ignore": 9}}, "ignore label is 9, and must be 2"),
        ({"labels": {"background": 0, "a": [1, 2]}}, "1 regions, and its regions_class_order"),
        ({"labels": {"background": 0, "a": [1, 2]}, "regions_class_order": [1, 2]}, "has not as many"),
        ({"labels": {"background": 0, "a": [1, 2]}, "regions_class_order": [300]}, "values 300, and a mask holds"),
        ({"labels": {"background": 0, "a": [1, 2]}, "regions_class_order": [0]}, "values 0, and a mask holds"),
    ],
)
def test_labels_that_are_refused(dataset: dict[str, Any], said: str) -> None:
    """nnU-Net writes 0, 1, 2 for 0, 7, 9, and 44 for a region of 300."""
    with pytest.raises(ConfigError) as caught:
        read(dataset, PATH)
    assert said in caught.value.message

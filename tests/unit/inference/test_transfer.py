"""Results come to the host in order, whatever their shapes."""

from __future__ import annotations

import numpy as np
import torch

from watcherd.inference.transfer import to_host


def test_tensors_of_one_shape_keep_their_order() -> None:
    found = to_host([torch.full((2, 3), float(number)) for number in range(3)]).result()
    assert [0.0, 1.0, 2.0] == [array[0, 0] for array in found]
    assert [(2, 3)] * 3 == [array.shape for array in found]


def test_tensors_of_different_shapes_keep_their_order() -> None:
    found = to_host([torch.zeros(2, 3), torch.ones(4, 5)]).result()
    assert [(2, 3), (4, 5)] == [array.shape for array in found]
    assert [0.0, 1.0] == [float(np.max(array)) for array in found]


def test_nothing_gives_nothing() -> None:
    assert [] == to_host([]).result()

"""Sliding windows: each pixel is seen, rims count little, and all is as MONAI does it."""

from __future__ import annotations

import pytest
import torch

from watcherd.inference.windows import LEAST, importance, slide, starts


def test_windows_cover_everything_and_end_where_the_picture_does() -> None:
    assert [0] == starts(100, 100, 0.25)
    assert [0, 75, 150, 200] == starts(300, 100, 0.25)
    assert [0, 1, 2] == starts(4, 2, 0.9)


def test_what_sees_each_pixel_by_itself_gives_the_same_in_windows() -> None:
    given = torch.rand(2, 3, 70, 55, generator=torch.Generator().manual_seed(0))
    found = slide(given, (32, 24), lambda part: part[:, :1] * 2, overlap=0.4, at_once=3)
    torch.testing.assert_close(found, given[:, :1] * 2)


def test_a_small_picture_is_padded() -> None:
    given = torch.rand(1, 1, 10, 50, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[int, ...]] = []

    def predict(part: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(part.shape))
        return part

    torch.testing.assert_close(slide(given, (16, 32), predict, overlap=0.5), given)
    assert {(1, 1, 16, 32)} == set(seen)


def test_rims_of_windows_count_little_and_never_nothing() -> None:
    weight = importance((64, 32))
    assert (64, 32) == tuple(weight.shape)
    assert LEAST == pytest.approx(float(weight.min()))
    assert float(weight[32, 16]) > 100 * float(weight[0, 16])


@pytest.mark.parametrize("size", [(96, 130), (40, 200), (64, 64)])
def test_it_is_as_monai_does_it(size: tuple[int, int]) -> None:
    inferers = pytest.importorskip("monai.inferers.utils", reason="MONAI is the reference, and is not installed")
    given = torch.rand(2, 2, *size, generator=torch.Generator().manual_seed(1))

    def predict(part: torch.Tensor) -> torch.Tensor:
        return part.cumsum(3) / 10 - part.mean((2, 3), keepdim=True)

    expected = inferers.sliding_window_inference(given, (64, 64), 3, predict, overlap=0.3, mode="gaussian")
    torch.testing.assert_close(slide(given, (64, 64), predict, overlap=0.3, at_once=3), expected, atol=1e-5, rtol=1e-5)

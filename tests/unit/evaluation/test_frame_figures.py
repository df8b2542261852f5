"""Every figure of 200 random masks is that of an implementation of its own, written here from the definition.

Distances are also those of MONAI, to 1e-5: it takes percentiles in 32-bit floats, in which a rank is not exact.
"""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter

from watcherd.evaluation.distances import F_TOLERANCE, apart, boundary_f
from watcherd.evaluation.figures import LEVELS, compare, histogram
from watcherd.evaluation.frame_figures import EVERY, OF_RUNS, Tolerance, of_frame, of_scan
from watcherd.evaluation.ranking import auc, average_precision
from watcherd.evaluation.topology import betti, cldice, skeleton

COUNT = 200
SIZE = (24, 31)
SPACINGS = ((1.0, 1.0), (0.5, 0.3))
TOLERANCE = 1.0


def random_masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two that have something in common: noise, blobs, a line, or something of each; every tenth is empty."""
    chance = np.random.default_rng(seed)
    ground = gaussian_filter(chance.random(SIZE), (seed % 4) * 0.8 + 0.01)
    first, second = (ground + chance.normal(0, ground.std() / 3, SIZE) > np.quantile(ground, 0.7) for _ in range(2))
    if seed % 10 == 3:
        first = np.zeros(SIZE, bool)
    if seed % 20 == 3:
        second = np.zeros(SIZE, bool)
    return first, second


CASES = [random_masks(seed) for seed in range(COUNT)]
FILLED = [case for case in CASES if case[0].any() and case[1].any()]


def pixels(mask: np.ndarray) -> set[tuple[int, int]]:
    return {(int(row), int(column)) for row, column in np.argwhere(mask)}


def edge(mask: np.ndarray) -> list[tuple[int, int]]:
    """Pixels of which one of the four neighbours is not in the mask."""
    inside = pixels(mask)
    steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
    return [(r, c) for r, c in sorted(inside) if any((r + y, c + x) not in inside for y, x in steps)]


def gaps(
    one: list[tuple[int, int]], other: list[tuple[int, int]], spacing: tuple[float, float] = (1.0, 1.0)
) -> list[float]:
    """From each of the one to the nearest of the other, every pair looked at."""
    steps = (np.array(one)[:, np.newaxis] - np.array(other)[np.newaxis]) * spacing
    return [float(gap) for gap in np.sqrt((steps**2).sum(axis=2)).min(axis=1)]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_are_those_of_all_pairs_of_edge_pixels(spacing: tuple[float, float]) -> None:
    for mask, truth in FILLED:
        there, back = gaps(edge(mask), edge(truth), spacing), gaps(edge(truth), edge(mask), spacing)
        found = apart(mask, truth, spacing=spacing, tolerance=TOLERANCE)
        assert max(np.percentile(there, 95), np.percentile(back, 95)) == pytest.approx(found.hd95, abs=1e-9)
        assert sum(there + back) / len(there + back) == pytest.approx(found.assd, abs=1e-9)
        near = sum(gap <= TOLERANCE for gap in there + back)
        assert near / len(there + back) == pytest.approx(found.nsd, abs=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_are_those_of_monai(spacing: tuple[float, float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

        for mask, truth in FILLED:
            pair = [torch.from_numpy(area)[None, None].float() for area in (mask, truth)]
            hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
            assd = compute_average_surface_distance(*pair, include_background=True, symmetric=True, spacing=spacing)
            nsd = compute_surface_dice(*pair, [TOLERANCE], include_background=True, spacing=spacing)
            found = apart(mask, truth, spacing=spacing, tolerance=TOLERANCE)
            assert hd95.item() == pytest.approx(found.hd95, rel=1e-5)
            assert assd.item() == pytest.approx(found.assd, rel=1e-5)
            assert nsd.item() == pytest.approx(found.nsd, rel=1e-5)


def test_boundary_f_is_that_of_the_benchmark() -> None:
    """Boundaries dilated by a disk, as DAVIS does it, on pictures of several sizes and so several tolerances."""
    for scale, case in itertools.product((1, 6), FILLED[::16]):
        mask, truth = (np.kron(area, np.ones((scale, scale), bool)) for area in case)
        reach = math.ceil(F_TOLERANCE * math.hypot(*mask.shape))
        rows, columns = np.ogrid[-reach : reach + 1, -reach : reach + 1]
        disk = rows**2 + columns**2 <= reach**2
        found, drawn = map(boundary, (mask, truth))
        precision = (found & binary_dilation(drawn, disk)).sum() / found.sum()
        recall = (drawn & binary_dilation(found, disk)).sum() / drawn.sum()
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
        assert expected == pytest.approx(boundary_f(mask, truth), abs=1e-12)


def boundary(mask: np.ndarray) -> np.ndarray:
    """`seg2bmap` in words: a pixel that differs from its right, its lower or its lower right neighbour."""
    height, width = mask.shape
    found = np.zeros_like(mask)
    for row, column in np.ndindex(mask.shape):
        below, right = min(row + 1, height - 1), min(column + 1, width - 1)
        others = mask[row, right], mask[below, column], mask[below, right]
        found[row, column] = any(other != mask[row, column] for other in others)
    return found


def test_betti_numbers_fit_eulers() -> None:
    """Pieces by flooding; pieces less holes are corners less edges plus squares of the closed pixels."""
    for mask in itertools.chain.from_iterable(CASES):
        squares = pixels(mask)
        corners = {(r + y, c + x) for r, c in squares for y in (0, 1) for x in (0, 1)}
        edges = {(r + y, c, "across") for r, c in squares for y in (0, 1)}
        edges |= {(r, c + x, "down") for r, c in squares for x in (0, 1)}
        pieces, holes = betti(mask)
        assert flooded(squares) == pieces
        assert len(corners) - len(edges) + len(squares) == pieces - holes


def flooded(squares: set[tuple[int, int]]) -> int:
    left, pieces = set(squares), 0
    while left:
        pieces += 1
        todo = [left.pop()]
        while todo:
            row, column = todo.pop()
            near = {(row + y, column + x) for y in (-1, 0, 1) for x in (-1, 0, 1)} & left
            left -= near
            todo += near
    return pieces


def test_cldice_is_dice_of_what_of_the_skeletons_lies_inside() -> None:
    for mask, truth in FILLED:
        lines, drawn = pixels(skeleton(mask)), pixels(skeleton(truth))
        precision, sensitivity = len(lines & pixels(truth)) / len(lines), len(drawn & pixels(mask)) / len(drawn)
        both = precision + sensitivity
        expected = 2 * precision * sensitivity / both if both else 0
        assert expected == pytest.approx(cldice(mask, truth), abs=1e-12)


def test_a_skeleton_is_never_empty_of_a_mask_that_is_not() -> None:
    """Zhang's leaves nothing of a diagonal that is two pixels wide."""
    diagonal = np.eye(20, dtype=bool) | np.eye(20, k=1, dtype=bool)
    assert skeleton(diagonal).any()
    assert 1.0 == cldice(diagonal, diagonal)


def test_auc_and_average_precision_are_those_of_all_pairs_and_all_cuts() -> None:
    """Maps with many equal values; every pair of a vessel's and another pixel is compared."""
    for seed, (_, truth) in enumerate(FILLED):
        chance = np.random.default_rng(seed)
        levels = np.round(np.clip(truth * 0.3 + chance.random(SIZE), 0, 1) * 20) * (LEVELS // 20)
        counts = histogram(levels.astype(np.uint16), truth)
        inside, outside = levels[truth], levels[~truth]
        pairs = np.sign(inside[:, np.newaxis] - outside[np.newaxis]) / 2 + 0.5
        assert pairs.mean() == pytest.approx(auc(counts), abs=1e-12)
        area, recall = 0.0, 0.0
        for cut in sorted(set(levels.ravel()), reverse=True):
            score = compare(levels >= cut, truth)
            area += (score.recall - recall) * score.precision
            recall = score.recall
        assert area == pytest.approx(average_precision(counts), abs=1e-12)


def test_without_both_kinds_of_pixels_there_is_no_ranking() -> None:
    levels = np.zeros(SIZE, np.uint16)
    assert auc(histogram(levels, np.zeros(SIZE, bool))) is None
    assert average_precision(histogram(levels, np.zeros(SIZE, bool))) is None
    assert auc(histogram(levels, np.ones(SIZE, bool))) is None


# ------------------------------------------------------------------------------------------------------ frames and runs


def test_a_frames_figures_are_those_of_its_parts_wherever_the_masks_lie() -> None:
    """The box that is looked at changes nothing; what is not counted is empty in both."""
    counted = np.zeros((60, 70), bool)
    counted[20 : 20 + SIZE[0], 30 : 30 + SIZE[1]] = True
    for mask, truth in CASES[:60]:
        framed = [np.random.default_rng(1).random(counted.shape) > 0.5 for _ in range(2)]
        for whole, area in zip(framed, (mask, truth), strict=True):
            whole[counted] = area.ravel()
        distances = apart(mask, truth, tolerance=2.0)
        found = of_frame(*framed, counted)
        expected = {"hd95": distances.hd95, "assd": distances.assd, "nsd": distances.nsd} | {
            f"betti{place}": abs(one - other)
            for place, (one, other) in enumerate(zip(betti(mask), betti(truth), strict=True))
        }
        assert expected == pytest.approx({name: found[name] for name in expected}, abs=1e-9)
        assert cldice(mask, truth) == pytest.approx(found["cldice"], abs=1e-9)


@pytest.mark.parametrize(
    ("mask", "truth", "expected"),
    [
        (0, 0, {"cldice": 1, "hd95": 0, "assd": 0, "nsd": 1, "betti0": 0, "betti1": 0, "length": 0, "width": None}),
        (1, 0, {"cldice": 0, "hd95": None, "assd": None, "nsd": 0, "betti0": 1, "betti1": 0, "length_drawn": 0}),
        (0, 1, {"cldice": 0, "hd95": None, "assd": None, "nsd": 0, "betti0": 1, "betti1": 0, "width": None}),
    ],
)
def test_empty_masks(mask: int, truth: int, expected: dict[str, float | None]) -> None:
    """Nothing and nothing agree; from something to nothing it is infinitely far, which JSON calls null."""
    shapes = [np.pad(np.full((7, 7), bool(one)), 1) for one in (mask, truth)]
    found = of_frame(*shapes)
    assert expected == {name: found[name] for name in expected}
    assert {"j": float(mask == truth), "f": float(mask == truth), "jf": float(mask == truth)} == of_frame(
        *shapes, names=OF_RUNS
    )


def test_lengths_and_distances_are_in_mm_where_a_pixels_size_is_known() -> None:
    mask, truth = np.zeros((20, 40), bool), np.zeros((20, 40), bool)
    mask[5:8, 5:35] = truth[9:12, 5:35] = True
    pixel, mm = of_frame(mask, truth), of_frame(mask, truth, spacing=(0.5, 0.5))
    for name in ("hd95", "assd", "length", "length_drawn", "width"):
        assert pixel[name] is not None
        assert pixel[name] == pytest.approx(2 * (mm[name] or 0))
    assert pixel["nsd"] == mm["nsd"]


def test_a_tolerance_in_mm_needs_the_pixels_size() -> None:
    """2 pixels of 0.5 mm are 1 mm; without a size there is no figure, and not one of pixels."""
    mask, truth = np.zeros((20, 40), bool), np.zeros((20, 40), bool)
    mask[5:8, 5:35] = truth[7:10, 5:35] = True
    mm = Tolerance(amount=1.0, unit="mm")
    assert of_frame(mask, truth, tolerance=mm)["nsd"] is None
    assert of_frame(mask, truth)["nsd"] == of_frame(mask, truth, spacing=(0.5, 0.5), tolerance=mm)["nsd"]


def test_what_would_take_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thinning a vast solid area, searching endless outlines: None, never an estimate."""
    monkeypatch.setattr("watcherd.evaluation.frame_figures.SECONDS", 1e-9)
    monkeypatch.setattr("watcherd.evaluation.distances.MOST_PIXELS", 5)
    mask, truth = FILLED[0]
    found = of_frame(mask, truth, names=(*EVERY, *OF_RUNS))
    missing = {"cldice", "length", "length_drawn", "width", "width_drawn", "hd95", "assd", "nsd", "f", "jf"}
    assert missing == {name for name, value in found.items() if value is None}


def test_a_runs_figures_are_means_over_the_frames_that_have_them() -> None:
    assert {"a": 2.0, "b": 4.0, "c": None} == of_scan(
        [{"a": 1.0, "b": None, "c": None}, {"a": 3.0, "b": 4.0, "c": None}]
    )

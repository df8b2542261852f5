"""Sa2VA on Qwen2.5-VL and Qwen3-VL computes what the transformers did on which they were trained (4.57.0)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests import qwen_vl_tiny as tiny
from tests.data_scripts import script
from watcherd.errors import InputError
from watcherd.inference.segmenters.sa2va import patches
from watcherd.inference.segmenters.sa2va.language import Language, Turn
from watcherd.inference.segmenters.sa2va.patches import PatchedEyes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork

NEAR = 1e-4
CPU = torch.device("cpu")
MORE = script(tiny.FOLDER / "record_more.py")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def base(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def network(base: str) -> Sa2vaNetwork:
    with torch.inference_mode():
        return tiny.recorded_network(base)


def language_of(network: Sa2vaNetwork, end: int = -1) -> Language:
    return Language(network.language, seg=-1, ends=lambda said: said[-1] == end, normed=network.built_on.normed)


def turn(base: str, network: Sa2vaNetwork, number: int) -> Turn:
    """A recorded question."""
    ids = tiny.recorded(base)[f"input_ids_{number}"][0].tolist()
    seen = tiny.see(network, [tiny.recorded_patches(base, number)], [tiny.GRIDS[number]])
    return Turn(
        prompt=tiny.prompt_of(ids, [tiny.GRIDS[number]]),
        visual=seen.pooler_output,
        deep=tuple(getattr(seen, "deepstack_features", ())),
    )


def apart(expected: Any, found: torch.Tensor) -> float:
    return float(np.abs(expected - found.numpy()).max())


def check(base: str, network: Sa2vaNetwork, number: int, row: torch.Tensor) -> None:
    arrays, model = tiny.recorded(base), network.language
    assert apart(arrays[f"before_norm_{number}"], row) < NEAR
    assert apart(arrays[f"logits_{number}"], model.lm_head(model.model.norm(row))) < NEAR
    assert apart(arrays[f"last_hidden_state_{number}"], language_of(network)._states(row)) < NEAR


@pytest.mark.parametrize("number", range(len(tiny.GRIDS)))
def test_states_and_logits_are_those_of_the_training(base: str, network: Sa2vaNetwork, number: int) -> None:
    hidden = language_of(network)._prefill([turn(base, network, number)], [()])
    check(base, network, number, hidden[0])


def test_a_padded_batch_gives_what_each_gives_alone(base: str, network: Sa2vaNetwork) -> None:
    """Of pictures of other grids and prompts of other lengths; the tower sees them together, too."""
    turns = [turn(base, network, number) for number in (0, 1, 0)]
    seen = tiny.see(network, [tiny.recorded_patches(base, n) for n in (0, 1, 0)], [tiny.GRIDS[n] for n in (0, 1, 0)])
    each = torch.cat([one.visual for one in turns])
    torch.testing.assert_close(seen.pooler_output, each, atol=1e-5, rtol=1e-5)
    hidden = language_of(network)._prefill(turns, [()] * 3)
    for row, number in enumerate((0, 1, 0)):
        check(base, network, number, hidden[row, : len(turns[row].prompt.ids)])


def frames_of_a_run(base: str, network: Sa2vaNetwork) -> Turn:
    """Two pictures in one prompt."""
    ids = tiny.recorded(f"{base}-said")["ids"].tolist()
    seen = tiny.see(network, [tiny.recorded_patches(base, n) for n in (0, 1)], tiny.GRIDS)
    deep = tuple(getattr(seen, "deepstack_features", ()))
    return Turn(prompt=tiny.prompt_of(ids, tiny.GRIDS), visual=seen.pooler_output, deep=deep)


def test_generation_says_what_the_reference_says_about_two_pictures_in_one_prompt(
    base: str, network: Sa2vaNetwork
) -> None:
    """Token by token, and so does a draft of it, with the state of each token as it was fed in."""
    arrays = tiny.recorded(f"{base}-said")
    said = arrays["said"].tolist()
    asked = frames_of_a_run(base, network)
    (answer,) = language_of(network).generate([asked], len(said))
    assert said == list(answer.ids)
    language = language_of(network, said[-1])
    for seg in set(said[:-1]):
        language._seg = seg
        places = [place for place, token in enumerate(said[:-1]) if token == seg]
        drafted = Turn(prompt=asked.prompt, visual=asked.visual, deep=asked.deep, draft=tuple(said))
        for states in (
            language.read([drafted], check=False).states,
            language.generate([asked], len(said))[0].states[: len(places)],
        ):
            assert apart(arrays["states"][places][: len(states)], states) < NEAR


def test_pictures_are_prepared_as_the_reference_does(base: str) -> None:
    """The same grid, and values that differ by less than a tenth of one grey level's."""
    family, arrays = tiny.FAMILIES[base], tiny.recorded("pictures")
    eyes = PatchedEyes(family)
    for number, size in enumerate(MORE.SIZES):
        prepared = eyes.prepare(np.asarray(MORE.picture(*size)))
        assert arrays[f"{base}_grid_{number}"].tolist() == [1, *prepared.grid]
        values = eyes._patches(prepared, CPU).flatten()[:: MORE.STEP]
        assert apart(arrays[f"{base}_values_{number}"], values) < 1e-3


def test_a_grey_picture_is_the_same_as_its_rgb_copy(base: str) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (300, 200), dtype=np.uint8)
    eyes = PatchedEyes(tiny.FAMILIES[base])
    colour = eyes.prepare(np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(colour.pixels, eyes.prepare(grey).pixels)


def test_a_picture_that_is_far_too_long_is_refused_by_its_size(base: str) -> None:
    with pytest.raises(InputError, match="2010 x 10 pixels"):
        PatchedEyes(tiny.FAMILIES[base]).prepare(np.zeros((10, 2010), np.uint8))


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (28, 28), (9000, 9000), (3, 500)])
def test_every_other_size_is_brought_within_the_limits(size: tuple[int, int]) -> None:
    for family in tiny.FAMILIES.values():
        unit = 2 * family.patch
        _, (height, width) = patches.sizes(*size, unit)
        assert height % unit == width % unit == 0
        assert patches.LEAST <= height * width <= patches.MOST * 1.1


def test_large_batches_go_through_the_tower_in_parts(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    eyes = PatchedEyes(tiny.FAMILIES[base])
    pictures = [eyes.prepare(np.full((60 + n, 90), 40 * n, np.uint8)) for n in range(3)]
    network = tiny.random_network(base)
    whole = eyes.see(network, pictures)
    monkeypatch.setattr(patches, "PATCHES_AT_ONCE", 1)
    for one, other in zip(whole, eyes.see(network, pictures), strict=True):
        torch.testing.assert_close(one.tokens, other.tokens, atol=1e-5, rtol=1e-5)
        assert len(one.deep) == len(other.deep) == (2 if base == "qwen3_vl" else 0)

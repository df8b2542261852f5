"""Words, tiles and batches: what goes into the model."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.sa2va_folder import DATA, write_tokenizer
from watcherd.errors import InputError, UnavailableError
from watcherd.inference.segmenters.sa2va.batching import share
from watcherd.inference.segmenters.sa2va.preprocess import for_grounding, for_vision, squashed, tiles_of, upload
from watcherd.inference.segmenters.sa2va.prompt import Words
from watcherd.inference.segmenters.sa2va.tiling import best_grid, count_tiles

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def words() -> Words:
    return Words(DATA / "tokenizer")


@pytest.mark.parametrize(
    ("size", "tiles"),
    [((512, 512), 1), ((800, 800), 5), ((1024, 1024), 10), ((2048, 2048), 10), ((640, 400), 7), ((640, 480), 13),
     ((1920, 1080), 9), ((512, 384), 13)],
)  # fmt: skip
def test_pictures_become_as_many_tiles_as_the_reference_makes(size: tuple[int, int], tiles: int) -> None:
    assert tiles == count_tiles(*size)
    assert tiles == len(tiles_of(np.zeros((size[1], size[0]), np.uint8)))


def test_of_equally_near_grids_the_larger_needs_more_than_half_of_its_pixels() -> None:
    """A square is 1 x 1 up to 0.5 x 4 tiles' pixels and 2 x 2 beyond."""
    side = int((0.5 * 448 * 448 * 4) ** 0.5)
    assert best_grid(side, side) == (1, 1)
    assert best_grid(side + 1, side + 1) == (2, 2)


def test_tiles_are_cut_row_by_row_with_the_whole_picture_behind_them() -> None:
    """Bit-exact against cropping the resized picture tile by tile."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 640, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    whole = picture.resize((3 * 448, 2 * 448))
    expected = [whole.crop((448 * x, 448 * y, 448 * x + 448, 448 * y + 448)) for y in range(2) for x in range(3)]
    expected.append(picture.resize((448, 448)))
    assert np.array_equal(np.stack([np.asarray(tile) for tile in expected]), tiles_of(pixels))


def test_a_grey_picture_is_the_same_as_its_rgb_copy() -> None:
    """Bit-exact, in both branches, also beside a coloured one."""
    grey = np.random.default_rng(1).integers(0, 256, (300, 200), dtype=np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=2)
    assert torch.equal(upload(list(tiles_of(colour)), CPU), upload(list(tiles_of(grey)), CPU))
    one, other = squashed(grey, 1024), squashed(colour, 1024)
    assert torch.equal(upload([other, other], CPU), upload([one, other], CPU))


def test_pixels_are_normalised_as_the_reference_does() -> None:
    """The vision tower's constants are exact, SAM2's are rounded to bfloat16 at every dtype."""
    pixels = torch.full((1, 3, 2, 2), 200.0)
    vision, grounding = for_vision(pixels, torch.float32), for_grounding(pixels, torch.float32)
    assert (torch.tensor(200.0) / 255 - 0.485) / 0.229 == vision[0, 0, 0, 0]
    assert (torch.tensor(200.0) / 255 - 0.484375) / 0.228515625 == grounding[0, 0, 0, 0]


def test_the_picture_goes_where_the_prompt_says_or_first(words: Words) -> None:
    question = "Please segment the blood vessel."
    recorded = np.load(DATA / "image.npz")["prompt_ids"].tolist()
    assert recorded == list(words.prompt(question, [1]).ids)
    assert recorded == list(words.prompt(f"<image>{question}", [1]).ids)
    later = words.prompt("Look: <image>\nWhere?", [2])
    assert len(later.visual) == 512
    assert words.decode(later.ids).startswith("<|im_start|>user\nLook: <img>")


def test_frames_of_a_run_have_a_block_each(words: Words) -> None:
    recorded = np.load(DATA / "run.npz")["prompt_ids"].tolist()
    assert recorded == list(words.prompt("<image>Please segment the blood vessel.", [1] * 5).ids)


def test_a_prompt_with_two_pictures_or_a_placeholder_is_refused(words: Words) -> None:
    with pytest.raises(InputError, match="2 times"):
        words.prompt("<image><image>", [1])
    with pytest.raises(InputError, match="may not spell"):
        words.prompt("What is <IMG_CONTEXT>?", [1])


def test_a_draft_ends_as_an_answer_does(words: Words) -> None:
    recorded = np.load(DATA / "image.npz")
    assert recorded["generated_ids"].tolist() == list(words.draft("Sure, [SEG]."))
    assert words.draft("Sure, [SEG].") == words.draft(str(recorded["answer_text"]))
    assert words.draft(" ") == ()


def test_masks_are_named_by_the_phrases_before_them(words: Words) -> None:
    answer = words.encode("<p>left artery</p> [SEG] and <p> catheter </p>[SEG], [SEG].")
    assert words.labels(answer) == ("left artery", "catheter", "object 3")


def cost(groups: list[list[int]], lengths: list[int], pass_tokens: int) -> int:
    return sum(max(lengths[one] for one in group) * len(group) + pass_tokens for group in groups)


def test_prompts_share_a_pass_where_padding_costs_less() -> None:
    assert share([276, 280], 512) == [[0, 1]]
    assert share([276, 3348], 512) == [[0], [1]]
    assert share([276, 3348], 10_000) == [[0, 1]]
    assert share([], 512) == []


def test_no_other_grouping_is_cheaper() -> None:
    """Against all partitions of up to six random prompts."""
    draw = random.Random(3)
    for _ in range(20):
        lengths = [draw.randint(1, 3400) for _ in range(draw.randint(1, 6))]
        groups = share(lengths, 512, limit=10**9)
        assert sorted(itertools.chain(*groups)) == list(range(len(lengths)))
        least = min(cost(one, lengths, 512) for one in partitions(list(range(len(lengths)))))
        assert least == cost(groups, lengths, 512)


def partitions(items: list[int]) -> list[list[list[int]]]:
    if not items:
        return [[]]
    first, *rest = items
    found = []
    for one in partitions(rest):
        found.append([[first], *one])
        found += [[*one[:place], [first, *one[place]], *one[place + 1 :]] for place in range(len(one))]
    return found


def test_a_pass_is_bounded() -> None:
    """Ten prompts of 3,348 tokens need two passes under 20,000, one that is too long goes alone."""
    groups = share([3348] * 10, 10**6, limit=20_000)
    assert sorted(map(len, groups)) == [5, 5]
    assert share([50_000], 512, limit=20_000) == [[0]]


def test_a_turn_of_phi3_is_text_around_the_message_and_its_draft_ends_with_text() -> None:
    """This tokenizer has a token for each letter of what it does not know as a word."""
    words = Words(DATA / "tokenizer", template="phi3_chat")
    prompt = words.prompt("Please segment the blood vessel.", [1])
    context = "<IMG_CONTEXT>" * 256
    said = f"<|user|>\n<img>{context}</img>Please segment the blood vessel.<|end|>\n<|assistant|>\n"
    assert words.encode(said) == prompt.ids
    assert len(prompt.visual) == 256
    draft = words.draft("Sure, [SEG].")
    assert words.encode("Sure, [SEG].<|end|>") == draft
    assert [len(draft)] == [count for count in range(1, len(draft) + 1) if words.ends(draft[:count])]
    assert draft == words.draft("Sure, [SEG].<|end|>")
    assert words.draft(" ") == ()
    assert words.labels(draft[:-1]) == ("object 1",)


def test_a_tokenizer_that_frames_no_turn_with_tokens_is_enough_for_phi3(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    values = json.loads(path.read_text())
    values["added_tokens"] = [each for each in values["added_tokens"] if each["content"] != "<|im_start|>"]
    path.write_text(json.dumps(values))
    Words(tmp_path, template="phi3_chat")
    with pytest.raises(UnavailableError, match=r"does not know <\|im_start\|> as single tokens"):
        Words(tmp_path)

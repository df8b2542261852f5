"""A drafted answer that is checked in one pass gives what greedy generation gives, token by token."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import torch

from tests.sa2va_tiny import tiny_network
from watcherd.inference.segmenters.sa2va.language import Answer, Language, Turn, fed_segs
from watcherd.inference.segmenters.sa2va.prompt import Prompt

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH, VOCABULARY, LIMIT = 32, 356, 24


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


def language(family: str, draw: random.Random) -> Language:
    """A random model for which many tokens end an answer, so that greedy answers end, and ``[SEG]`` is a common one."""
    network = tiny_network(seed=draw.randrange(1000), family=family, head_dim=8)
    stops = frozenset(draw.sample(range(VOCABULARY), 60))
    model = Language(network.language, seg=-1, stops=stops)
    said = [token for _ in range(8) for token in model.generate([question(draw)], LIMIT)[0].ids[:-1]]
    return Language(network.language, seg=max(set(said) or {0}, key=said.count), stops=stops)


def question(draw: random.Random) -> Turn:
    ids = tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(6, 40)))
    begin = draw.randrange(len(ids) - 4)
    visual = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(draw.randrange(10**6)))
    return Turn(prompt=Prompt(ids=ids, visual=tuple(range(begin, begin + 3))), visual=visual)


def drafted(turn: Turn, draft: tuple[int, ...]) -> Turn:
    return Turn(prompt=turn.prompt, visual=turn.visual, draft=draft)


def spoiled(answer: tuple[int, ...], draw: random.Random) -> tuple[int, ...]:
    """A draft that differs from ``answer`` in one token, or goes on after its end, or ends before it."""
    way = draw.choice(["other", "longer", "shorter"] if len(answer) > 1 else ["other", "longer"])
    if way == "longer":
        return (*answer, draw.randrange(VOCABULARY))
    if way == "shorter":
        return answer[:-1]
    place = draw.randrange(len(answer))
    other = (answer[place] + 1 + draw.randrange(VOCABULARY - 1)) % VOCABULARY
    return (*answer[:place], other, *answer[place + 1 :])


def assert_same(expected: Answer, actual: Answer) -> None:
    assert expected.ids == actual.ids
    torch.testing.assert_close(actual.states, expected.states, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_a_right_draft_is_what_generation_says_and_a_wrong_one_is_refused(family: str) -> None:
    """Over 50 random prompts, right and wrong drafts side by side in one padded pass."""
    draw = random.Random(5)
    model = language(family, draw)
    turns = [question(draw) for _ in range(50)]
    alone = [model.generate([turn], LIMIT)[0] for turn in turns]
    # A greedy answer that was cut off at the limit has no end token; no draft can be accepted for it.
    ended = [number for number, answer in enumerate(alone) if len(answer.ids) < LIMIT]
    assert len(ended) > 25
    assert sum(len(alone[number].states) for number in ended) > 5
    right = {number: draw.random() < 0.5 for number in ended}
    drafts = [alone[number].ids if right[number] else spoiled(alone[number].ids, draw) for number in ended]
    read = model.read([drafted(turns[number], draft) for number, draft in zip(ended, drafts, strict=True)], check=True)
    for number, draft, answer in zip(ended, drafts, read.answers(), strict=True):
        prefix = draft == alone[number].ids[: len(draft)]
        if right[number]:
            assert answer is not None
            assert_same(alone[number], answer)
        elif not prefix or len(draft) > len(alone[number].ids):
            # A draft that goes on after the end is only right if the model would go on so.
            assert answer is None or answer.ids != alone[number].ids


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_a_batch_generates_what_each_prompt_generates_alone(family: str) -> None:
    """Prompts of different lengths, padded, answers of different lengths."""
    draw = random.Random(6)
    model = language(family, draw)
    turns = [question(draw) for _ in range(12)]
    together = model.generate(turns, LIMIT)
    for turn, answer in zip(turns, together, strict=True):
        assert_same(model.generate([turn], LIMIT)[0], answer)


def test_a_forced_draft_gives_the_states_of_its_seg_tokens_whatever_the_model_would_say() -> None:
    """The states are those of a pass over this prompt alone, at the positions where [SEG] was fed in."""
    draw = random.Random(7)
    model = language("qwen2", draw)
    seg = model._seg
    turns = [
        drafted(question(draw), (seg, 3, seg, 9, 4)),
        drafted(question(draw), (8, 1)),
        drafted(question(draw), (2, seg, seg)),
    ]
    answers = model.read(turns, check=False).answers()
    assert [len(answer.states) for answer in answers if answer] == [2, 0, 1]
    for turn, answer in zip(turns, answers, strict=True):
        assert answer is not None
        hidden = model._pass(model._embed([turn], [turn.draft[:-1]]))[0]
        rows = [len(turn.prompt.ids) + place for place in fed_segs(turn.draft, seg)]
        torch.testing.assert_close(answer.states, model._norm(hidden[rows]), atol=1e-5, rtol=1e-5)


def test_a_seg_that_is_the_last_token_has_no_state() -> None:
    """It was never fed in, so no mask is made of it."""
    assert fed_segs((7, 3, 7), seg=7) == [0]


def test_the_head_is_applied_only_to_rows_that_are_read() -> None:
    """Checking drafts of 3 and 2 tokens asks for 5 rows, forcing them for none."""
    draw = random.Random(8)
    model = language("qwen2", draw)
    rows: list[int] = []
    model._head.register_forward_hook(lambda _module, inputs, _output: rows.append(len(inputs[0])))
    turns = [drafted(question(draw), (1, 2, 3)), drafted(question(draw), (4, 5))]
    model.read(turns, check=True)
    model.read(turns, check=False)
    assert rows == [5]

"""A drafted answer that is checked in one pass gives what greedy generation gives, token by token."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel

from tests import qwen_vl_tiny
from tests.sa2va_tiny import tiny_network
from watcherd.inference.segmenters.sa2va.language import Answer, Language, Turn, fed_segs
from watcherd.inference.segmenters.sa2va.prompt import Prompt, Words, positions_on_axes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

WIDTH, VOCABULARY, LIMIT = 32, 356, 24
SEEN_IN_PATCHES = tuple(qwen_vl_tiny.FAMILIES)
EVERY = ("qwen2", "qwen3", *SEEN_IN_PATCHES)
"""Language models: two of an InternVL's, and those that count positions on three axes."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


def language(family: str, draw: random.Random) -> Language:
    """A random model for which many tokens end an answer, so that greedy answers end, and ``[SEG]`` is a common one."""
    seed = draw.randrange(1000)
    if family in SEEN_IN_PATCHES:
        network = qwen_vl_tiny.random_network(family, seed)
    else:
        network = tiny_network(seed=seed, family=family, head_dim=8)
    normed = network.built_on.normed
    patched = family in SEEN_IN_PATCHES
    stops = frozenset(draw.sample(range(VOCABULARY), 30 if patched else 60))
    model = Language(network.language, seg=-1, ends=lambda said: said[-1] in stops, normed=normed)
    asked = [question(draw, family) for _ in range(1 if patched else 8)]
    said = [token for turn in asked for token in model.generate([turn], LIMIT)[0].ids[:-1]]
    seg = max(set(said) or {0}, key=said.count)
    return Language(network.language, seg=seg, ends=lambda said: said[-1] in stops, normed=normed)


def question(draw: random.Random, family: str = "qwen2") -> Turn:
    if family in SEEN_IN_PATCHES:
        return question_in_patches(draw, deep=family == "qwen3_vl")
    ids = tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(6, 40)))
    begin = draw.randrange(len(ids) - 4)
    visual = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(draw.randrange(10**6)))
    return Turn(prompt=Prompt(ids=ids, visual=tuple(range(begin, begin + 3))), visual=visual)


def question_in_patches(draw: random.Random, *, deep: bool) -> Turn:
    """Words before, between and behind one or two pictures of up to 4 by 4 visual tokens."""
    ids, visual, blocks = [draw.randrange(VOCABULARY)], [], []
    for _ in range(draw.randint(1, 2)):
        rows, columns = draw.randint(1, 4), draw.randint(1, 4)
        blocks.append((rows, columns))
        visual += range(len(ids), len(ids) + rows * columns)
        ids += [0] * (rows * columns) + [draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 9))]
    made = torch.Generator().manual_seed(draw.randrange(10**6))
    layers = [torch.randn(len(visual), WIDTH, generator=made) for _ in range(3 if deep else 1)]
    prompt = Prompt(ids=tuple(ids), visual=tuple(visual), positions=positions_on_axes(len(ids), visual, blocks))
    return Turn(prompt=prompt, visual=layers[0], deep=tuple(layers[1:]))


def drafted(turn: Turn, draft: tuple[int, ...]) -> Turn:
    return replace(turn, draft=draft)


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


@pytest.mark.parametrize("family", EVERY)
def test_a_right_draft_is_what_generation_says_and_a_wrong_one_is_refused(family: str) -> None:
    """Over 50 random prompts, right and wrong drafts side by side in one padded pass."""
    draw = random.Random(8 if family in SEEN_IN_PATCHES else 7)
    model = language(family, draw)
    turns = [question(draw, family) for _ in range(50)]
    if family in SEEN_IN_PATCHES:  # which say other things about every picture: a common one of these
        said = [token for answer in model.generate(turns, LIMIT) for token in answer.ids[:-1]]
        model._seg = max(set(said), key=said.count)
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


@pytest.mark.parametrize("family", EVERY)
def test_a_batch_generates_what_each_prompt_generates_alone(family: str) -> None:
    """Prompts of different lengths, padded, answers of different lengths."""
    draw = random.Random(6)
    model = language(family, draw)
    turns = [question(draw, family) for _ in range(12)]
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
        hidden = model._prefill([turn], [turn.draft])[0]
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


# ------------------------------------------------------------------------------------- an end that is text, not a token

END = "<|end|>"
MARKS = ("<img>", "<IMG_CONTEXT>", "</img>", "[SEG]", "<|im_end|>")


def spelling(folder: Path, tokens: Sequence[str]) -> Words:
    """The words of a model whose answers end by text, with a tokenizer of exactly these tokens behind `MARKS`."""
    vocabulary = {token: number for number, token in enumerate((*MARKS, *tokens))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=MARKS[0]))
    tokenizer.decoder = Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    return Words(folder, template="phi3_chat")


def splits(text: str) -> Iterator[tuple[str, ...]]:
    """Every way to cut a text into pieces."""
    for cuts in itertools.product((False, True), repeat=len(text) - 1):
        places = [0, *(place for place, cut in enumerate(cuts, start=1) if cut), len(text)]
        yield tuple(text[begin:end] for begin, end in itertools.pairwise(places))


def test_an_end_that_is_text_is_found_however_it_is_split_over_tokens(tmp_path: Path) -> None:
    """Alone, with the answer's last letters in its first token, with line breaks in its last one, and between any."""
    ways = [list(way) for way in splits(END)]
    assert len(ways) == 2 ** (len(END) - 1)
    merged = [["vessel." + way[0], *way[1:]] for way in ways]
    broken = [[*way[:-1], way[-1] + "\n\r\n"] for way in ways]
    apart = [[piece for part in way for piece in (part, "\n" * 9)][:-1] for way in ways]
    answers = [*ways, *merged, *broken, *apart]
    tokens = sorted({"Sure,", "\n", *(piece for answer in answers for piece in answer)})
    words = spelling(tmp_path, tokens)
    for answer in answers:
        ids = [len(MARKS) + tokens.index(piece) for piece in ("Sure,", *answer)]
        ends = [count for count in range(1, len(ids) + 1) if words.ends(ids[:count])]
        assert ends == [len(ids)], answer


@pytest.mark.parametrize("text", ["<|end|", "|end|>", "<|end|> ", "<|end|>.", "< |end|>", "<|END|>"])
def test_what_is_nearly_the_end_is_not(tmp_path: Path, text: str) -> None:
    tokens = sorted({*text, "Sure"})
    words = spelling(tmp_path, tokens)
    assert not words.ends([len(MARKS) + tokens.index(piece) for piece in ("Sure", *text)])


def test_the_tokenizers_own_end_ends_such_an_answer_too(tmp_path: Path) -> None:
    words = spelling(tmp_path, ["Sure"])
    assert words.ends([len(MARKS), words.end])


def test_a_draft_that_ends_by_text_is_what_generation_says_over_50_prompts(tmp_path: Path) -> None:
    """Most tokens are pieces of the end, so that a random model says it often, in many ways; wrong drafts are refused.

    Among these are drafts that go on after their end, which no answer does, and that stop before it.
    """
    draw = random.Random(11)
    pieces = ["<|en", "d|>", "<|", "end", "|>", END]
    tokens = [piece + "\n" * breaks for breaks in range(40) for piece in pieces]
    tokens += [f"word{number}" for number in range(VOCABULARY - len(MARKS) - len(tokens))]
    words = spelling(tmp_path, tokens)
    network = tiny_network(seed=3, head_dim=8)
    model = Language(network.language, seg=words.seg, ends=words.ends)
    turns = [question(draw) for _ in range(50)]
    said = [answer.ids for answer in model.generate(turns, LIMIT) if words.ends(answer.ids)]
    inside = [token for answer in said for token in answer[:-1]]
    model = Language(network.language, seg=max(set(inside), key=inside.count), ends=words.ends)
    alone = [model.generate([turn], LIMIT)[0] for turn in turns]
    for one, other in zip(alone, model.generate(turns, LIMIT), strict=True):
        assert_same(one, other)
    ended = [number for number, answer in enumerate(alone) if words.ends(answer.ids)]
    lengths = {len(alone[number].ids) for number in ended}
    assert len(ended) > 25
    assert len(lengths) > 3
    assert sum(len(alone[number].states) for number in ended) > 5
    assert any(len(answer.ids) > 1 and not words.ends(answer.ids[-1:]) for answer in alone)
    read = model.read([drafted(turns[number], alone[number].ids) for number in ended], check=True)
    for number, answer in zip(ended, read.answers(), strict=True):
        assert answer is not None
        assert_same(alone[number], answer)
    wrong = [spoiled(alone[number].ids, draw) for number in ended]
    refused = model.read(
        [drafted(turns[number], draft) for number, draft in zip(ended, wrong, strict=True)], check=True
    )
    assert [None] * len(ended) == refused.answers()


@pytest.mark.parametrize("longer", [True, False])
def test_a_draft_that_goes_on_after_its_end_or_stops_before_is_refused_though_the_model_would_say_it(
    longer: bool,
) -> None:
    """What the model would say behind its end is no part of an answer: generation never comes there."""
    draw = random.Random(12)
    network = tiny_network(seed=5, head_dim=8)
    free = Language(network.language, seg=-1, ends=lambda said: False)
    turn = question(draw)
    ids = free.generate([turn], 6)[0].ids
    stop = ids[2]
    model = Language(network.language, seg=-1, ends=lambda said: said[-1] == stop)
    whole = ids[: ids.index(stop) + 1]
    assert model.read([drafted(turn, whole)], check=True).answers()[0] is not None
    other = ids if longer else whole[:-1]
    assert other
    assert model.read([drafted(turn, other)], check=True).answers() == [None]

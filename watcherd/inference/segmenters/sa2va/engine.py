"""The parts of a loaded model in the order in which they work on a batch of pictures.

A batch is launched whole before anything of it is read: SAM2 makes masks of every draft's ``[SEG]`` as if the model had
said the draft itself. Whether it has is known with the masks; where it has not, that frame is done again.
"""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from watcherd.errors import InputError
from watcherd.inference.segmenters.sa2va.batching import PASS_TOKENS, share
from watcherd.inference.segmenters.sa2va.eyes import Seen, TiledEyes
from watcherd.inference.segmenters.sa2va.graphs import Graphs, Question
from watcherd.inference.segmenters.sa2va.grounding import Features, Grounding, probability
from watcherd.inference.segmenters.sa2va.language import Answer, Drafts, Language, Turn, fed_segs
from watcherd.inference.segmenters.sa2va.network import device_of
from watcherd.inference.segmenters.sa2va.patches import PatchedEyes
from watcherd.inference.segmenters.sa2va.preprocess import GROUNDING_SIDE, squashed
from watcherd.inference.transfer import to_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from watcherd.inference.base import Frame
    from watcherd.inference.segmenters.sa2va.decoder import Layer
    from watcherd.inference.segmenters.sa2va.eyes import Eyes
    from watcherd.inference.segmenters.sa2va.families import Family
    from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork
    from watcherd.inference.segmenters.sa2va.prompt import Words
    from watcherd.inference.transfer import Copies
    from watcherd.job import Options

    Judge = Callable[[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]], None]

PROMPTS_AT_ONCE = 32
"""``[SEG]`` vectors that go through SAM2's decoder together."""
PIXELS_AT_ONCE = 2**24
"""Pixels of maps that are enlarged together: 64 MiB for each of the few tensors that this takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What the model said to one question. ``vectors`` (n, 256): SAM2's prompts, one for each ``[SEG]``.

    ``decode``: ``verified``, ``generated`` or ``forced``.
    """

    ids: tuple[int, ...]
    text: str
    labels: tuple[str, ...]
    decode: str
    vectors: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A reply, and its masks' logits at SAM2's size (n, 256, 256)."""

    reply: Reply
    logits: torch.Tensor

    def maps(self, height: int, width: int) -> torch.Tensor | None:
        """Probabilities at the picture's size, on the device: float32 (n, height, width); None for no mask."""
        return probability(self.logits, height, width) if len(self.logits) else None

    def probability(self, height: int, width: int) -> NDArray[np.float32] | None:
        """The same on the host: (height, width), or (n, height, width) for several."""
        maps = self.maps(height, width)
        return None if maps is None else shape_maps(maps.cpu().numpy())


@dataclass(frozen=True, kw_only=True, slots=True)
class Launched:
    """A batch on the devices. ``found``: what there is to find for each frame if every draft holds. ``done``: whether
    it is known which do. ``settle``: waits for that, and gives by its place what is found otherwise; called once."""

    found: list[Found]
    done: Callable[[], bool]
    settle: Callable[[], dict[int, Found]]


def eyes_of(family: Family) -> Eyes:
    """How a family looks at pictures."""
    return TiledEyes() if family.sees == "tiles" else PatchedEyes(family)


class Engine:
    """A loaded model. ``pass_tokens`` weighs padding against passes, see `batching.share`."""

    def __init__(
        self, network: Sa2vaNetwork, words: Words, *, max_new_tokens: int, pass_tokens: int = PASS_TOKENS
    ) -> None:
        self.network = network
        self.words = words
        self.eyes = eyes_of(network.built_on)
        self.language = Language(network.language, words.seg, words.ends, normed=network.built_on.normed)
        self.grounding = Grounding(network.sam2)
        self._max_new_tokens = max_new_tokens
        self._pass_tokens = pass_tokens
        self._graphs = Graphs.of(self)
        self._threads = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="resize")

    def segment(self, frames: Sequence[Frame]) -> list[Found]:
        """Replies and masks for single pictures."""
        launched = self.launch(frames)
        others = launched.settle()
        return [others.get(number, found) for number, found in enumerate(launched.found)]

    @torch.inference_mode()
    def launch(self, frames: Sequence[Frame]) -> Launched:
        """Start all of `segment`, as if the model said every draft itself; nobody waits for a device, unless there is
        a frame without a draft. What is found is to be read before the next launch, or copied by then."""
        return (self._launch_lone(*frames) if len(frames) == 1 else None) or self._launch_batch(frames)

    def _launch_lone(self, frame: Frame) -> Launched | None:
        """A single picture by a recording, where there is one."""
        draft = self._draft(frame.options)
        height, width = frame.pixels.shape[:2]
        if (
            self._graphs is None
            or not fed_segs(draft, self.words.seg)
            or self.eyes.size_class(width, height) != "small"
        ):
            return None
        prompt = self.words.prompt(frame.options.prompt, [1])
        check, grey = frame.options.decode == "verify", frame.pixels.ndim == 2
        recording = self._graphs.find(Question(prompt=prompt, draft=draft, check=check, grey=grey))
        if recording is None:
            return None
        square = self._threads.submit(squashed, frame.pixels, GROUNDING_SIDE)
        recording.replay(self.eyes.prepare(frame.pixels), square.result)
        drafts = recording.drafts
        (answer,) = drafts.guesses()
        found = [Found(reply=self._reply(answer, _way(drafts), recording.vectors), logits=recording.logits)]
        if drafts.said is None:
            return Launched(found=found, done=lambda: True, settle=dict)
        copies = to_host([drafts.said])

        def settle() -> dict[int, Found]:
            if drafts.answers(copies.result()[0].tolist()) != [None]:
                return {}
            return dict(enumerate(self.segment([_to_generate(frame)])))

        return Launched(found=found, done=copies.done, settle=settle)

    def _launch_batch(self, frames: Sequence[Frame]) -> Launched:
        prepared = self._threads.map(self.eyes.prepare, [frame.pixels for frame in frames])
        squares = self._threads.map(squashed, [frame.pixels for frame in frames], [GROUNDING_SIDE] * len(frames))
        options = [frame.options for frame in frames]
        turns = self._turns([[one] for one in prepared], options)
        # A SAM2 on a device of its own begins at once; else what everything waits for goes first.
        ahead = self.grounding.encode(list(squares)) if self.grounding.device != self.language.device else None
        reads = self._read(turns, options)
        features = ahead or self.grounding.encode(list(squares))
        without = [number for number, turn in enumerate(turns) if not turn.draft]
        answers = _guesses(reads) | self._generated(turns, without)
        found = self._found(self._replies([answers[number] for number in range(len(turns))]), features)
        checked = [(numbers, drafts, to_host([drafts.said])) for numbers, drafts in reads if drafts.said is not None]
        if not checked:
            return Launched(found=found, done=lambda: True, settle=dict)
        return Launched(
            found=found,
            done=lambda: all(copies.done() for _, _, copies in checked),
            settle=partial(self._settle, turns, features, checked),
        )

    @torch.inference_mode()
    def _settle(
        self, turns: Sequence[Turn], features: Features, checked: Sequence[tuple[list[int], Drafts, Copies]]
    ) -> dict[int, Found]:
        """What the model says and sees itself where a draft does not hold."""
        wrong: list[int] = []
        for numbers, drafts, copies in checked:
            answers = drafts.answers(copies.result()[0].tolist())
            wrong += [number for number, answer in zip(numbers, answers, strict=True) if answer is None]
        if not wrong:
            return {}
        answers_anew = self._generated(turns, wrong)
        found = self._found(self._replies([answers_anew[number] for number in wrong]), features.pick(wrong))
        return dict(zip(wrong, found, strict=True))

    @torch.inference_mode()
    def ask(self, frames: Sequence[Frame]) -> list[Reply]:
        """Replies about single pictures, without masks."""
        prepared = [[self.eyes.prepare(frame.pixels)] for frame in frames]
        return self._asked(prepared, [frame.options for frame in frames])

    @torch.inference_mode()
    def ask_run(self, pictures: Sequence[NDArray[np.uint8]], options: Options) -> Reply:
        """One reply to the first frames of a run."""
        return self._asked([list(self._threads.map(self.eyes.prepare_frame, pictures))], [options])[0]

    @torch.inference_mode()
    def encode(self, pictures: Sequence[NDArray[np.uint8]]) -> Features:
        """SAM2's features of pictures of any size."""
        squares = self._threads.map(squashed, pictures, [GROUNDING_SIDE] * len(pictures))
        return self.grounding.encode(list(squares))

    @staticmethod
    @torch.inference_mode()
    def maps(found: Sequence[Found], sizes: Sequence[tuple[int, int]]) -> list[torch.Tensor | None]:
        """`Found.maps` of each at its size (height, width), those of one size together as far as that is no waste."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, (each, size) in enumerate(zip(found, sizes, strict=True)):
            if len(each.logits):
                groups[size].append(number)
        made: list[torch.Tensor | None] = [None] * len(found)
        for size, numbers in groups.items():
            at_once = max(1, PIXELS_AT_ONCE // max(GROUNDING_SIDE**2, size[0] * size[1]))
            for part in (numbers[begin : begin + at_once] for begin in range(0, len(numbers), at_once)):
                logits = torch.cat([found[number].logits for number in part])
                counts = [len(found[number].logits) for number in part]
                for number, each in zip(part, probability(logits, *size).split(counts), strict=True):
                    made[number] = each
        return made

    @torch.inference_mode()
    def compare_with(self, layers: Iterable[Layer], frame: Frame, judge: Judge) -> None:
        """Let ``judge`` see the logits of a frame's masks, with other layers of the language model and with its own,
        and the states that they are made of."""
        (turn,) = self._turns([[self.eyes.prepare(frame.pixels)]], [frame.options])
        features = self.grounding.encode([squashed(frame.pixels, GROUNDING_SIDE)])
        states, logits = [], []
        for way in (layers, None):
            (answer,) = self.language.read([turn], check=False, layers=way).guesses()
            (found,) = self._found(self._replies([(answer, "forced")]), features)
            states.append(answer.states)
            logits.append(found.logits)
        judge(logits[0], logits[1], (states[0], states[1]))

    def _asked(self, asked: Sequence[Sequence[Any]], options: Sequence[Options]) -> list[Reply]:
        """Replies to questions, each about prepared pictures."""
        turns = self._turns(asked, options)
        answers: dict[int, tuple[Answer, str]] = {}
        for numbers, drafts in self._read(turns, options):
            for number, answer in zip(numbers, drafts.answers(), strict=True):
                if answer is not None:
                    answers[number] = answer, _way(drafts)
        answers |= self._generated(turns, [number for number in range(len(turns)) if number not in answers])
        return self._replies([answers[number] for number in range(len(turns))])

    def _turns(self, asked: Sequence[Sequence[Any]], options: Sequence[Options]) -> list[Turn]:
        """Questions, each about prepared pictures, which are looked at."""
        # The tower is started before any words are looked up: the device should not wait for the tokenizer.
        seen = iter(self.eyes.see(self.network, [picture for pictures in asked for picture in pictures]))
        turns: list[Turn] = []
        for pictures, option in zip(asked, options, strict=True):
            prompt = self.words.prompt(option.prompt, [self.eyes.block(picture) for picture in pictures])
            whole = _joined(list(islice(seen, len(pictures))))
            turns.append(Turn(prompt=prompt, visual=whole.tokens, draft=self._draft(option), deep=whole.deep))
        return turns

    def _draft(self, option: Options) -> tuple[int, ...]:
        draft = () if option.decode == "generate" else self.words.draft(option.draft)
        if not draft and option.decode == "forced":
            raise InputError("decode is forced, and there is no draft to force: set draft in [model.sa2va].")
        return draft

    def _read(self, turns: Sequence[Turn], options: Sequence[Options]) -> list[tuple[list[int], Drafts]]:
        """Begin to read all drafts: groups of turns, and what is being read for each."""
        modes: dict[bool, list[int]] = defaultdict(list)
        for number, (turn, option) in enumerate(zip(turns, options, strict=True)):
            if turn.draft:
                modes[option.decode == "verify"].append(number)
        started = []
        for check, numbers in modes.items():
            for group in self._groups([turns[number] for number in numbers]):
                chosen = [numbers[place] for place in group]
                started.append((chosen, self.language.read([turns[number] for number in chosen], check=check)))
        return started

    def _generated(self, turns: Sequence[Turn], numbers: Sequence[int]) -> dict[int, tuple[Answer, str]]:
        """What the model says itself to the turns of these numbers."""
        answers: dict[int, tuple[Answer, str]] = {}
        for group in self._groups([turns[number] for number in numbers]):
            chosen = [numbers[place] for place in group]
            said = self.language.generate([turns[number] for number in chosen], self._max_new_tokens)
            answers |= {number: (answer, "generated") for number, answer in zip(chosen, said, strict=True)}
        return answers

    def _found(self, replies: Sequence[Reply], features: Features) -> list[Found]:
        """Masks for every ``[SEG]``; ``features`` are of the replies' pictures, in order."""
        owners = [picture for picture, reply in enumerate(replies) for _ in reply.vectors]
        logits = [
            self.grounding.decode(self.grounding.prompted(chosen), chosen, vectors).logits
            for chosen, vectors in (
                (features.pick(owners[begin : begin + PROMPTS_AT_ONCE]), part)
                for begin, part in _parts(torch.cat([reply.vectors for reply in replies]), PROMPTS_AT_ONCE)
            )
        ]
        return _share_out(replies, logits)

    def _groups(self, turns: Sequence[Turn]) -> list[list[int]]:
        return share([len(turn.prompt.ids) + len(turn.draft) for turn in turns], self._pass_tokens)

    def _replies(self, answers: Sequence[tuple[Answer, str]]) -> list[Reply]:
        counts = [len(answer.states) for answer, _ in answers]
        projection = self.network.text_hidden_fcs
        vectors = projection(torch.cat([answer.states for answer, _ in answers]).to(device_of(projection)))
        return [
            self._reply(answer, decode, part)
            for (answer, decode), part in zip(answers, vectors.split(counts), strict=True)
        ]

    def _reply(self, answer: Answer, decode: str, vectors: torch.Tensor) -> Reply:
        return Reply(
            ids=answer.ids,
            text=self.words.decode(answer.ids),
            labels=self.words.labels(answer.ids[:-1]),
            decode=decode,
            vectors=vectors,
        )


def _guesses(reads: Sequence[tuple[list[int], Drafts]]) -> dict[int, tuple[Answer, str]]:
    """Every draft as its turn's answer."""
    return {
        number: (answer, _way(drafts))
        for numbers, drafts in reads
        for number, answer in zip(numbers, drafts.guesses(), strict=True)
    }


def _to_generate(frame: Frame) -> Frame:
    """The same frame, about which the model is to speak freely."""
    return replace(frame, options=replace(frame.options, decode="generate"))


def _way(drafts: Drafts) -> str:
    return "forced" if drafts.said is None else "verified"


def shape_maps(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps (n, height, width); a single one without its first axis."""
    return maps[0] if len(maps) == 1 else maps


def _joined(seen: Sequence[Seen]) -> Seen:
    """What was seen in all pictures of one question."""
    if len(seen) == 1:
        return seen[0]
    deep = [torch.cat(layers) for layers in zip(*(each.deep for each in seen), strict=True)]
    return Seen(tokens=torch.cat([each.tokens for each in seen]), deep=tuple(deep))


def _parts(vectors: torch.Tensor, size: int) -> list[tuple[int, torch.Tensor]]:
    return [(begin, vectors[begin : begin + size]) for begin in range(0, len(vectors), size)]


def _share_out(replies: Sequence[Reply], logits: Sequence[torch.Tensor]) -> list[Found]:
    counts = [len(reply.vectors) for reply in replies]
    every = torch.cat(list(logits)) if logits else torch.empty(0)
    return [Found(reply=reply, logits=part) for reply, part in zip(replies, every.split(counts), strict=True)]

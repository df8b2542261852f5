"""One picture alone, as CUDA graphs: the host asks for all of its kernels at once instead of for one after the other.

A card computes a picture of one tile in a fifth of the time that the host needs to ask for its two thousand kernels. A
question that is asked about such pictures again and again is recorded, in two halves: the second, SAM2's, needs the
picture at another size, which is made while the card works on the first. What is recorded computes what is launched
otherwise, with the same kernels; whether a draft holds is read from it each time.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from watcherd.inference.faults import is_memory_error
from watcherd.inference.segmenters.sa2va.config import TILE
from watcherd.inference.segmenters.sa2va.eyes import see_tiles
from watcherd.inference.segmenters.sa2va.fp8 import EMBEDDING
from watcherd.inference.segmenters.sa2va.language import Turn
from watcherd.inference.segmenters.sa2va.network import device_of
from watcherd.inference.segmenters.sa2va.preprocess import GROUNDING_SIDE, staged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from watcherd.inference.segmenters.sa2va.engine import Engine
    from watcherd.inference.segmenters.sa2va.language import Drafts
    from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork
    from watcherd.inference.segmenters.sa2va.prompt import Prompt

KEPT = 4
"""Questions that are kept as graphs. They share their memory, which is what one of them needs: see `GRAPHS_GIB`."""
GRAPHS_GIB = 0.5
"""GiB that the graphs take at eight billion parameters: the activations of a picture of one tile, and what they end
with."""
ASKED = 2
"""Times that a question is asked of a lone picture before it is recorded, which takes as long as a few pictures."""
REMEMBERED = 64
"""Questions that are counted at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a recording is for: a prompt about one tile, its draft, whether that is checked, and whether the picture is
    grey."""

    prompt: Prompt
    draft: tuple[int, ...]
    check: bool
    grey: bool


class Recording:
    """The graphs of a question. What they end with is overwritten by the next replay."""

    def __init__(self, engine: Engine, question: Question, pool: Any) -> None:
        device = device_of(engine.network)
        colours = () if question.grey else (3,)
        self._tiles = torch.zeros(1, TILE, TILE, *colours, dtype=torch.uint8, device=device)
        self._square = torch.zeros(1, GROUNDING_SIDE, GROUNDING_SIDE, *colours, dtype=torch.uint8, device=device)
        self._engine = engine
        self._question = question
        # Once as it is: recording must meet nothing that is done the first time only.
        self._seen(engine.network, self._square, self._read().states)
        # The graphs read these where they lie.
        self._lying = engine.language.lying([self._turn()])
        self._first, self._second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._first, pool=pool, capture_error_mode="thread_local"):
            self.drafts = self._read()
        with torch.cuda.graph(self._second, pool=pool, capture_error_mode="thread_local"):
            self.vectors, self.logits = self._seen(engine.network, self._square, self.drafts.states)

    def _turn(self) -> Turn:
        visual = see_tiles(self._engine.network, self._tiles).flatten(0, 1)
        return Turn(prompt=self._question.prompt, visual=visual, draft=self._question.draft)

    def _read(self) -> Drafts:
        return self._engine.language.read([self._turn()], check=self._question.check)

    def _seen(
        self, network: Sa2vaNetwork, square: torch.Tensor, states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """SAM2's prompts, and the logits of their masks."""
        grounding = self._engine.grounding
        vectors = network.text_hidden_fcs(states)
        features = grounding.encode_on_device(square).repeated(len(vectors))
        return vectors, grounding.decode(grounding.prompted(features), features, vectors).logits

    def replay(self, tiles: Sequence[NDArray[np.uint8]], square: Callable[[], NDArray[np.uint8]]) -> None:
        """Compute another picture: its one tile, and what gives it at SAM2's size."""
        self._tiles.copy_(staged(tiles, self._tiles.device), non_blocking=True)
        self._first.replay()
        self._square.copy_(staged([square()], self._square.device), non_blocking=True)
        self._second.replay()


class Graphs:
    """The recordings of an engine whose parts are all on one GPU; see `of`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._recordings: OrderedDict[Question, Recording] = OrderedDict()
        self._asked: Counter[Question] = Counter()
        self._pool: Any = None
        self._off = False

    @staticmethod
    def of(engine: Engine) -> Graphs | None:
        """None where nothing can be recorded: on a CPU, over several devices, or of a family that sees in patches."""
        network = engine.network
        # An embedding table in host memory is read before anything is recorded.
        devices = {each.device for name, each in network.named_parameters() if not name.startswith(EMBEDDING)}
        if len(devices) > 1 or devices.pop().type != "cuda" or network.built_on.sees != "tiles":
            return None
        return Graphs(engine)

    def find(self, question: Question) -> Recording | None:
        """The recording of a question that a lone picture is asked; None while it is to be launched otherwise."""
        if self._off:
            return None
        if question in self._recordings:
            self._recordings.move_to_end(question)
            return self._recordings[question]
        self._asked[question] += 1
        if len(self._asked) > REMEMBERED:
            self._asked.clear()
        return self._record(question) if self._asked[question] > ASKED else None

    def _record(self, question: Question) -> Recording | None:
        while len(self._recordings) >= KEPT:
            self._recordings.popitem(last=False)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            made = Recording(self._engine, question, self._pool)
        except RuntimeError as error:
            if not is_memory_error(error):
                raise
            # Without graphs a lone picture takes longer, and needs no more than it always has.
            self._off = True
            self._recordings.clear()
            return None
        self._recordings[question] = made
        return made

"""The language model: checking a drafted answer in one pass, or generating one greedily.

A batch is padded on the right. Attention is causal, so no token ever sees the padding behind it, and a pass over
prompts and drafts needs no mask and no positions but 0, 1, 2, ... or the prompts' own. Only rows that are read go
through the last norm and the language head.

The state that becomes a mask is that of the ``[SEG]`` token itself, at the position where it was fed in: behind the
last norm or before it, as the family was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import DynamicCache

from watcherd.inference.segmenters.sa2va.decoder import LeanLayer, Rotation, layers_of, signed
from watcherd.inference.segmenters.sa2va.network import device_of
from watcherd.inference.transfer import pinned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import nn

    from watcherd.inference.segmenters.sa2va.decoder import Layer
    from watcherd.inference.segmenters.sa2va.prompt import Prompt


PLACES_KEPT = 32
"""Batches of equal questions whose token ids and places stay on the devices, some hundred kilobytes each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A prompt, its visual tokens (n, D), and the answer that is expected, its end token included.

    ``deep``: what is added to the visual tokens (n, D) behind each of the first layers.
    """

    prompt: Prompt
    visual: torch.Tensor
    draft: tuple[int, ...] = ()
    deep: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Tokens of an answer, its end token included, and the states (n, D) of the ``[SEG]`` tokens in it."""

    ids: tuple[int, ...]
    states: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Drafts:
    """What one pass over prompts and drafts gave: on the devices still, so that work elsewhere can begin meanwhile.

    ``ends``: whether an answer is over with its last token.
    ``said``: what the model would have said at every position of every draft, (tokens,); None if not asked.
    ``states``: those of all ``[SEG]`` tokens, (n, D).
    """

    turns: tuple[Turn, ...]
    seg: int
    ends: Callable[[Sequence[int]], bool]
    said: torch.Tensor | None
    states: torch.Tensor

    def guesses(self) -> list[Answer]:
        """Each turn's draft as its answer, whatever the model says. Waits for nothing."""
        counts = [len(fed_segs(turn.draft, self.seg)) for turn in self.turns]
        states = self.states.split(counts)
        return [Answer(ids=turn.draft, states=each) for turn, each in zip(self.turns, states, strict=True)]

    def answers(self, said: Sequence[int] | None = None) -> list[Answer | None]:
        """Each turn's draft as its answer; None where the model says something else.

        ``said``: the values of the field, if they were read; else this waits for the device.
        """
        if said is None and self.said is not None:
            said = self.said.tolist()
        agreed = self._agreed(said)
        return [answer if held else None for answer, held in zip(self.guesses(), agreed, strict=True)]

    def _agreed(self, said: Sequence[int] | None) -> list[bool]:
        """Whether the model says each turn's draft itself, all of it and nothing behind it."""
        agreed = []
        token = 0
        for turn in self.turns:
            own = None if said is None else tuple(said[token : token + len(turn.draft)])
            agreed.append(own is None or (own == turn.draft and self._is_one_answer(turn.draft)))
            token += len(turn.draft)
        return agreed

    def _is_one_answer(self, draft: Sequence[int]) -> bool:
        """Whether generation would stop where the draft does: not before its last token, and then."""
        ends = (count for count in range(1, len(draft) + 1) if self.ends(draft[:count]))
        return next(ends, None) == len(draft)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deep:
    """What is added to visual tokens (n, D) behind each of the first layers, and at which ``places`` they stand."""

    places: torch.Tensor
    layers: tuple[torch.Tensor, ...]

    def added(self, hidden: torch.Tensor, number: int) -> torch.Tensor:
        """``hidden`` (turns, longest, D) with what belongs behind this layer."""
        device = hidden.device
        flat = hidden.flatten(0, 1)
        places = self.places.to(device)
        more = self.layers[number].to(device)
        return flat.index_copy(0, places, flat[places] + more.to(flat.dtype)).view_as(hidden)


def fed_segs(answer: Sequence[int], seg: int) -> list[int]:
    """Where ``[SEG]`` stands in an answer; the last token is never fed in, so it has no state and does not count."""
    return [position for position, token in enumerate(answer[:-1]) if token == seg]


Asked = tuple[tuple["Prompt", tuple[int, ...]], ...]
"""Prompts and drafts of a pass, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """What follows from the prompts and drafts of a pass alone, on the devices where it is needed.

    ``ids``: tokens (turns, longest), padded. ``words``: where the embedding table is in host memory, those of its rows
    (n, D) that are read, and ``ids`` are places in them. ``visual``: where visual tokens stand in rows
    (turns * longest, D). ``positions``: (3, turns, longest) of prompts that have their own. ``said``, ``segs``: the
    rows before each token of the drafts, which say it, and those of the ``[SEG]`` tokens. ``last``: each turn's last
    row.
    """

    ids: torch.Tensor
    words: torch.Tensor | None
    visual: torch.Tensor
    positions: torch.Tensor | None
    said: torch.Tensor
    segs: torch.Tensor
    last: torch.Tensor


class Language:
    """Runs a Qwen2 or Qwen3, or that of a Qwen-VL, whose layers may be on different devices.

    ``seg`` is the token of a mask, ``ends`` says whether an answer is over with its last token, ``normed`` whether the
    state that becomes a mask is taken behind the last norm.
    """

    def __init__(self, model: Any, seg: int, ends: Callable[[Sequence[int]], bool], *, normed: bool = True) -> None:
        self._embedding: nn.Module = model.model.embed_tokens
        self._rotary: nn.Module = model.model.rotary_emb
        self.layers = layers_of(model.model)
        self._norm: nn.Module = model.model.norm
        self._head: nn.Module = model.lm_head
        self._config = model.config
        self._seg = seg
        self._ends = ends
        self._normed = normed
        # A service is asked the same few questions about pictures of the same few sizes.
        self._places = lru_cache(maxsize=PLACES_KEPT)(self._find_places)
        self._plain_rotation = lru_cache(maxsize=PLACES_KEPT)(self._find_plain_rotation)

    @property
    def device(self) -> torch.device:
        """Where its layers begin."""
        return self.layers[0].device

    def read(self, turns: Sequence[Turn], *, check: bool, layers: Iterable[Layer] | None = None) -> Drafts:
        """One pass over the prompts and drafts of ``turns``; ``check`` asks what the model would have said itself.

        ``layers``: others than its own, as they come.
        """
        drafts = [turn.draft for turn in turns]
        rows = self._prefill(turns, drafts, layers=layers).flatten(0, 1)
        places = self._places_of(turns, drafts)
        return Drafts(
            turns=tuple(turns),
            seg=self._seg,
            ends=self._ends,
            said=self._say(self._rows(rows, places.said)) if check else None,
            states=self._states(self._rows(rows, places.segs)),
        )

    def generate(self, turns: Sequence[Turn], max_new_tokens: int) -> list[Answer]:
        """Greedy answers, each until its end or ``max_new_tokens``."""
        cache = DynamicCache(config=self._config)
        hidden = self._prefill(turns, [()] * len(turns), cache=cache)
        prompts, width = [turn.prompt for turn in turns], hidden.shape[1]
        rows = self._rows(hidden.flatten(0, 1), self._places_of(turns, [()] * len(turns)).last)
        answers: list[list[int]] = [[] for _ in turns]
        found: list[list[torch.Tensor]] = [[] for _ in turns]
        open_rows = set(range(len(turns)))
        for step in range(max_new_tokens):
            tokens = self._say(rows).tolist()
            for row in open_rows:
                answers[row].append(tokens[row])
            open_rows = {row for row in open_rows if not self._ends(answers[row])}
            if not open_rows or step == max_new_tokens - 1:
                break
            rows = self._step(tokens, prompts, width, step, cache)
            segs = [row for row in open_rows if tokens[row] == self._seg]
            states = self._states(rows) if segs else rows
            for row in segs:
                found[row].append(states[row])
        return [
            Answer(ids=tuple(ids), states=torch.stack(segs) if segs else rows[:0])
            for ids, segs in zip(answers, found, strict=True)
        ]

    def _step(
        self, tokens: list[int], prompts: list[Prompt], width: int, step: int, cache: DynamicCache
    ) -> torch.Tensor:
        """Rows (turns, D) of ``tokens``, the step-th of each answer, behind prompts that were padded to ``width``."""
        device = device_of(self._embedding)
        embedded = self._embedding(torch.tensor(tokens)[:, None].to(device))
        lengths = [len(prompt.ids) for prompt in prompts]
        following = [prompt.positions[-1][0] if prompt.positions else len(prompt.ids) for prompt in prompts]
        positions = torch.tensor(following)[:, None].to(device) + step
        if prompts[0].positions:
            positions = positions[None]  # behind a prompt all three axes say the same
        mask = None
        if min(lengths) < width:
            keys = torch.arange(width + step + 1, device=device)
            own = torch.tensor(lengths)[:, None].to(device)
            # The padding between a prompt and its answer is in the cache and must not be seen.
            mask = ((keys < own) | (keys >= width))[:, None, None, :]
        rotation = self._rotation(embedded, positions)
        return self._pass(embedded, rotation, mask=mask, cache=cache)[:, 0].to(device_of(self._norm))

    def _prefill(
        self,
        turns: Sequence[Turn],
        drafts: Sequence[tuple[int, ...]],
        *,
        cache: DynamicCache | None = None,
        layers: Iterable[Layer] | None = None,
    ) -> torch.Tensor:
        """Prompts and drafts (turns, longest, D), through all layers. A draft's last token is never fed in."""
        places = self._places_of(turns, drafts)
        embedded = self._embed(turns, places)
        if places.positions is None:
            rotation = self._plain_rotation(embedded.shape[1], embedded.device, embedded.dtype)
        else:
            rotation = self._rotation(embedded, places.positions)
        added = [torch.cat(parts) for parts in zip(*(turn.deep for turn in turns), strict=True)]
        deep = Deep(places=places.visual, layers=tuple(added)) if added else None
        return self._pass(embedded, rotation, cache=cache, deep=deep, layers=layers)

    def lying(self, turns: Sequence[Turn]) -> tuple[object, ...]:
        """What `read` finds on the devices for these turns, to be held as long as it is to lie where it does."""
        places = self._places_of(turns, [turn.draft for turn in turns])
        embedded = self._embed(turns, places)
        return places, self._plain_rotation(embedded.shape[1], embedded.device, embedded.dtype)

    def _places_of(self, turns: Sequence[Turn], drafts: Sequence[tuple[int, ...]]) -> Places:
        asked = tuple((turn.prompt, draft) for turn, draft in zip(turns, drafts, strict=True))
        return self._places(asked, self._seg)

    def _find_places(self, asked: Asked, seg: int) -> Places:
        sequences = [(*prompt.ids, *draft[:-1]) for prompt, draft in asked]
        width = max(map(len, sequences))
        said: list[int] = []
        segs: list[int] = []
        for row, (prompt, draft) in enumerate(asked):
            begin = row * width + len(prompt.ids)
            # The state before a token's position is the one that says the token.
            said += range(begin - 1, begin - 1 + len(draft))
            segs += [begin + position for position in fed_segs(draft, seg)]
        first, last = self.layers[0].device, self.layers[-1].device
        visual = [row * width + place for row, (prompt, _) in enumerate(asked) for place in prompt.visual]
        ends = [row * width + len(sequence) - 1 for row, sequence in enumerate(sequences)]
        padded = [sequence + (0,) * (width - len(sequence)) for sequence in sequences]
        positions = torch.tensor(_own_positions(asked, width)) if asked[0][0].positions else None
        ids, words = self._rows_of_words(padded)
        return Places(
            ids=ids,
            words=words,
            visual=_numbers(visual, first),
            positions=None if positions is None else pinned(positions, first).to(first, non_blocking=True),
            said=_numbers(said, last),
            segs=_numbers(segs, last),
            last=_numbers(ends, last),
        )

    def _rows_of_words(self, padded: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``ids`` and ``words`` of `Places`."""
        table, first = device_of(self._embedding), self.layers[0].device
        if table.type != "cpu" or first.type == "cpu":
            return _numbers(padded, table), None
        used = sorted({token for sequence in padded for token in sequence})
        rows = {token: row for row, token in enumerate(used)}
        words = pinned(self._embedding(torch.tensor(used)), first).to(first, non_blocking=True)
        return _numbers([[rows[token] for token in sequence] for sequence in padded], first), words

    def _embed(self, turns: Sequence[Turn], places: Places) -> torch.Tensor:
        """Embeddings (turns, longest, D) of prompts and what has been answered, the visual tokens in their places."""
        device = self.layers[0].device
        if places.words is None:
            embedded = self._embedding(places.ids).to(device)
        else:
            embedded = functional.embedding(places.ids, places.words)
        visual = torch.cat([turn.visual for turn in turns]).to(device)
        embedded.view(-1, embedded.shape[-1]).index_copy_(0, places.visual, visual.to(embedded.dtype))
        return embedded  # type: ignore[no-any-return]

    def _rotation(self, embedded: torch.Tensor, positions: torch.Tensor) -> Rotation:
        """What turns queries and keys at these ``positions``, as the layers take it."""
        rotation: Rotation = self._rotary(embedded, positions)
        return signed(rotation) if isinstance(self.layers[0], LeanLayer) else rotation

    def _find_plain_rotation(self, width: int, device: torch.device, dtype: torch.dtype) -> Rotation:
        """The same at 0, 1, 2, ..."""
        positions = torch.arange(width, device=device)[None]
        return self._rotation(torch.empty(0, device=device, dtype=dtype), positions)

    def _pass(
        self,
        hidden: torch.Tensor,
        rotation: Rotation,
        *,
        mask: torch.Tensor | None = None,
        cache: DynamicCache | None = None,
        deep: Deep | None = None,
        layers: Iterable[Layer] | None = None,
    ) -> torch.Tensor:
        """Through all layers, from device to device, up to the last norm. ``mask`` is True where a key is seen."""
        for number, layer in enumerate(layers or self.layers):
            device = layer.device
            hidden = hidden.to(device)
            cosines, sines = rotation
            rotation = cosines.to(device), sines.to(device)
            mask = None if mask is None else mask.to(device)
            hidden = layer(hidden, rotation, mask, cache)
            if deep and number < len(deep.layers):
                hidden = deep.added(hidden, number)
        return hidden

    def _rows(self, rows: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """The chosen rows before the last norm, on its device, (n, D)."""
        return rows[chosen].to(device_of(self._norm))

    def _states(self, rows: torch.Tensor) -> torch.Tensor:
        """What of such rows becomes masks, (n, D)."""
        return self._norm(rows) if self._normed else rows

    def _say(self, rows: torch.Tensor) -> torch.Tensor:
        """The likeliest token after each of such rows, (n,)."""
        return self._head(self._norm(rows).to(device_of(self._head))).argmax(-1)  # type: ignore[no-any-return]


def _numbers(values: Sequence[Any], device: torch.device) -> torch.Tensor:
    """Whole numbers, brought to a device without waiting for it."""
    return pinned(torch.tensor(values, dtype=torch.long), device).to(device, non_blocking=True)


def _own_positions(asked: Asked, width: int) -> list[list[list[int]]]:
    """Positions (3, turns, width) of prompts that have their own; behind them each axis goes on by one."""
    axes: list[list[list[int]]] = [[], [], []]
    for prompt, draft in asked:
        *own, following = prompt.positions
        fed = len(draft[:-1])
        for axis, found in enumerate(axes):
            line = [*(position[axis] for position in own), *range(following[axis], following[axis] + fed)]
            found.append(line + [0] * (width - len(line)))
    return axes

"""The language model: checking a drafted answer in one pass, or generating one greedily.

A batch is padded on the right. Attention is causal, so no token ever sees the padding behind it, and a pass over
prompts and drafts needs no mask and no positions but 0, 1, 2, ... or the prompts' own. Only rows that are read go
through the last norm and the language head.

The state that becomes a mask is that of the ``[SEG]`` token itself, at the position where it was fed in: behind the
last norm or before it, as the family was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from watcherd.inference.segmenters.sa2va.network import device_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from watcherd.inference.segmenters.sa2va.prompt import Prompt


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

    def answers(self) -> list[Answer | None]:
        """Each turn's draft as its answer; None where the model says something else. Waits for the device."""
        said = None if self.said is None else self.said.tolist()
        answers: list[Answer | None] = []
        token = state = 0
        for turn in self.turns:
            segs = len(fed_segs(turn.draft, self.seg))
            agreed = said is None or (
                tuple(said[token : token + len(turn.draft)]) == turn.draft and self._is_one_answer(turn.draft)
            )
            states = self.states[state : state + segs]
            answers.append(Answer(ids=turn.draft, states=states) if agreed else None)
            token, state = token + len(turn.draft), state + segs
        return answers

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


class Language:
    """Runs a Qwen2 or Qwen3, or that of a Qwen-VL, whose layers may be on different devices.

    ``seg`` is the token of a mask, ``ends`` says whether an answer is over with its last token, ``normed`` whether the
    state that becomes a mask is taken behind the last norm.
    """

    def __init__(self, model: Any, seg: int, ends: Callable[[Sequence[int]], bool], *, normed: bool = True) -> None:
        self._embedding: nn.Module = model.model.embed_tokens
        self._rotary: nn.Module = model.model.rotary_emb
        self._layers: list[nn.Module] = list(model.model.layers)
        self._norm: nn.Module = model.model.norm
        self._head: nn.Module = model.lm_head
        self._config = model.config
        self._seg = seg
        self._ends = ends
        self._normed = normed

    def read(self, turns: Sequence[Turn], *, check: bool) -> Drafts:
        """One pass over the prompts and drafts of ``turns``; ``check`` asks what the model would have said itself."""
        hidden = self._prefill(turns, [turn.draft[:-1] for turn in turns])
        width = hidden.shape[1]
        said: list[int] = []
        segs: list[int] = []
        for row, turn in enumerate(turns):
            begin = row * width + len(turn.prompt.ids)
            # The state before a token's position is the one that says the token.
            said += range(begin - 1, begin - 1 + len(turn.draft))
            segs += [begin + position for position in fed_segs(turn.draft, self._seg)]
        flat = hidden.flatten(0, 1)
        return Drafts(
            turns=tuple(turns),
            seg=self._seg,
            ends=self._ends,
            said=self._say(self._rows(flat, said)) if check else None,
            states=self._states(self._rows(flat, segs)),
        )

    def generate(self, turns: Sequence[Turn], max_new_tokens: int) -> list[Answer]:
        """Greedy answers, each until its end or ``max_new_tokens``."""
        cache = DynamicCache(config=self._config)
        hidden = self._prefill(turns, [()] * len(turns), cache=cache)
        prompts, width = [turn.prompt for turn in turns], hidden.shape[1]
        last = [row * width + len(prompt.ids) - 1 for row, prompt in enumerate(prompts)]
        rows = self._rows(hidden.flatten(0, 1), last)
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
        hidden = self._pass(embedded, positions=positions, mask=mask, cache=cache)
        return self._rows(hidden[:, 0], range(len(tokens)))

    def _prefill(
        self, turns: Sequence[Turn], answers: Sequence[Sequence[int]], *, cache: DynamicCache | None = None
    ) -> torch.Tensor:
        """Prompts and what has been answered (turns, longest, D), through all layers."""
        embedded = self._embed(turns, answers)
        positions = self._positions(turns, answers, embedded.shape[1])
        return self._pass(embedded, positions=positions, cache=cache, deep=self._deep(turns, embedded.shape[1]))

    def _positions(self, turns: Sequence[Turn], answers: Sequence[Sequence[int]], width: int) -> torch.Tensor | None:
        """Positions (3, turns, longest) of prompts that have their own; behind them each axis goes on by one."""
        if not turns[0].prompt.positions:
            return None
        found = torch.zeros(len(turns), width, 3, dtype=torch.long)
        for row, (turn, answer) in enumerate(zip(turns, answers, strict=True)):
            own = torch.tensor(turn.prompt.positions)
            length = len(turn.prompt.ids)
            found[row, :length] = own[:-1]
            found[row, length : length + len(answer)] = own[-1] + torch.arange(len(answer))[:, None]
        return found.permute(2, 0, 1).to(device_of(self._embedding))

    def _deep(self, turns: Sequence[Turn], width: int) -> Deep | None:
        """What is added behind the first layers, and where in rows (turns * width, D)."""
        layers = [torch.cat(parts) for parts in zip(*(turn.deep for turn in turns), strict=True)]
        return Deep(places=self._places(turns, width), layers=tuple(layers)) if layers else None

    @staticmethod
    def _places(turns: Sequence[Turn], width: int) -> torch.Tensor:
        """Where the visual tokens stand in rows (turns * width, D)."""
        return torch.tensor([row * width + place for row, turn in enumerate(turns) for place in turn.prompt.visual])

    def _embed(self, turns: Sequence[Turn], answers: Sequence[Sequence[int]]) -> torch.Tensor:
        """Embeddings (turns, longest, D) of prompts and what has been answered, the visual tokens in their places."""
        device = device_of(self._embedding)
        sequences = [(*turn.prompt.ids, *answer) for turn, answer in zip(turns, answers, strict=True)]
        width = max(map(len, sequences))
        ids = torch.tensor([sequence + (0,) * (width - len(sequence)) for sequence in sequences])
        places = self._places(turns, width)
        embedded = self._embedding(ids.to(device))
        visual = torch.cat([turn.visual for turn in turns]).to(device)
        embedded.view(-1, embedded.shape[-1]).index_copy_(0, places.to(device), visual.to(embedded.dtype))
        return embedded  # type: ignore[no-any-return]

    def _pass(
        self,
        hidden: torch.Tensor,
        *,
        positions: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        cache: DynamicCache | None = None,
        deep: Deep | None = None,
    ) -> torch.Tensor:
        """Through all layers, from device to device, up to the last norm. ``mask`` is True where a key is seen."""
        if positions is None:
            positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        rotation = self._rotary(hidden, positions)
        for number, layer in enumerate(self._layers):
            device = device_of(layer)
            hidden = hidden.to(device)
            rotation = tuple(part.to(device) for part in rotation)
            mask = None if mask is None else mask.to(device)
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_embeddings=rotation,
                past_key_values=cache,
                use_cache=cache is not None,
            )
            if deep and number < len(deep.layers):
                hidden = deep.added(hidden, number)
        return hidden

    def _rows(self, hidden: torch.Tensor, chosen: Sequence[int]) -> torch.Tensor:
        """The chosen rows before the last norm, on its device, (n, D)."""
        # An index may be on the CPU whatever it points into.
        index = torch.tensor(list(chosen), dtype=torch.long)
        return hidden[index].to(device_of(self._norm))

    def _states(self, rows: torch.Tensor) -> torch.Tensor:
        """What of such rows becomes masks, (n, D)."""
        return self._norm(rows) if self._normed else rows

    def _say(self, rows: torch.Tensor) -> torch.Tensor:
        """The likeliest token after each of such rows, (n,)."""
        return self._head(self._norm(rows).to(device_of(self._head))).argmax(-1)  # type: ignore[no-any-return]

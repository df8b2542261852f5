"""Which questions about lone pictures are recorded, how many of them are kept, and what is done without the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import qwen_vl_tiny
from tests.sa2va_tiny import tiny_engine
from watcherd.inference.segmenters.sa2va import graphs
from watcherd.inference.segmenters.sa2va.graphs import ASKED, KEPT, Graphs, Question
from watcherd.inference.segmenters.sa2va.prompt import Prompt


class Recorded:
    """Stands for a recording, which needs a GPU."""

    made: list[Question]
    error: Exception | None

    def __init__(self, _engine: Any, question: Question, _pool: Any) -> None:
        self.made.append(question)
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorded.made, Recorded.error = [], None
    monkeypatch.setattr(graphs, "Recording", Recorded)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))


def question(number: int) -> Question:
    return Question(prompt=Prompt(ids=(number,), visual=()), draft=(1,), check=True, grey=True)


def asked(kept: Graphs, number: int, times: int = ASKED + 1) -> Any:
    return [kept.find(question(number)) for _ in range(times)][-1]


def test_a_question_is_recorded_when_it_comes_again_and_again() -> None:
    kept = Graphs(None)  # type: ignore[arg-type] # nobody asks the engine
    assert [kept.find(question(1)) for _ in range(ASKED)] == [None] * ASKED
    first = kept.find(question(1))
    assert isinstance(first, Recorded)
    assert kept.find(question(1)) is first
    assert len(Recorded.made) == 1


def test_so_many_are_kept_and_the_one_that_was_asked_longest_ago_goes() -> None:
    kept = Graphs(None)  # type: ignore[arg-type]
    for number in range(KEPT):
        asked(kept, number)
    oldest = asked(kept, 0, 1)
    asked(kept, KEPT)
    assert asked(kept, 0, 1) is oldest
    assert len(Recorded.made) == KEPT + 1
    asked(kept, 1, 1)
    assert Recorded.made[-1] == question(1), "it was let go of, and is recorded anew"


def test_without_the_memory_pictures_are_launched_as_before_and_other_errors_are_seen() -> None:
    kept = Graphs(None)  # type: ignore[arg-type]
    Recorded.error = torch.OutOfMemoryError("CUDA out of memory.")
    assert asked(kept, 1) is None
    Recorded.error = None
    assert asked(kept, 1, 5) is None
    other = Graphs(None)  # type: ignore[arg-type]
    Recorded.error = RuntimeError("operation not permitted when stream is capturing")
    with pytest.raises(RuntimeError, match="capturing"):
        asked(other, 1)


def test_nothing_is_recorded_on_a_cpu_or_of_a_model_that_sees_in_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine()
    assert Graphs.of(engine) is None
    assert engine._graphs is None
    engine.network.built_on = qwen_vl_tiny.tiny_config("qwen3_vl").built_on
    assert Graphs.of(engine) is None

"""Which model has replicas, and what becomes of the service when one cannot: over pretended replicas and places."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.runs import a_run
from watcherd.config import Cluster, Config, Model
from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference.cluster.nodes import Node
from watcherd.inference.machine.devices import Device
from watcherd.inference.pool.interface import Phase, ReplicaStatus
from watcherd.inference.pool.lanes import Lanes
from watcherd.inference.pool.placement import Plan as OneModelsPlan
from watcherd.inference.pool.placement import PlannedReplica
from watcherd.inference.pool.sharing import Refused, Shared
from watcherd.service import fleet as module
from watcherd.service import growing
from watcherd.service.ending import Ending
from watcherd.service.fleet import Fleet, lane_for
from watcherd.service.placing import Held, Places, placed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

ONE = PlannedReplica(devices=(), weights_gib=None, reserve_gib=0.0, free_gib=None, device_map={"": "cpu"})
PLAN = OneModelsPlan(replicas=(ONE,), unused_devices=(), reason="it fits", dtype="float32")


class Pretended:
    """What `Replicas` is to the fleet: starts nothing, and remembers what was asked."""

    made: list[Pretended] = []  # noqa: RUF012 - emptied for each test

    def __init__(self, _run: Any, lane: Any, _pipeline: Any, *, ready: Any, unusable: Any, carriers: Any) -> None:
        self.lane, self.ready, self.unusable = lane, ready, unusable
        self.numbers: list[int] = []
        self.stopped = False
        self.made.append(self)

    def start(self, specs: Sequence[Any]) -> None:
        self.numbers = [spec.number for spec in specs]
        self.lane.carried_by(self)

    def grow(self, specs: Sequence[Any]) -> None:
        self.numbers += [spec.number for spec in specs]

    def status(self) -> list[Any]:
        return [ReplicaStatus(number=number, phase=Phase.STARTING, devices=("card",)) for number in self.numbers]

    def progressing(self) -> bool:
        return True

    def stop(self, *, within: float) -> None:
        assert within > 0
        self.stopped = True


class Scene:
    """A fleet, and what it is told about places. ``refused``: the models that have none now."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.refused: dict[str, Refused] = {}
        self.asked: list[list[str]] = []
        self.fit_alone: set[str] = set()
        self.planned: list[tuple[str, dict[str, float], list[str]]] = []
        self.frees = [True]
        self.held: list[Held] = []
        self.places: list[Places] = []
        self.folder = folder
        self.ending = Ending()
        self.lanes: Any = Lanes(*(lane_for(name, table) for name, table in config.model_tables.items()))
        stations: Any = SimpleNamespace(wake=lambda: None)
        self.run = a_run(config)
        self.fleet = Fleet(self.run, self.lanes, stations, self.ending)

    def when_free(self, _config: Config, name: str, freed: Any, _held: Any, _places: Any) -> OneModelsPlan | None:
        self.planned.append((name, dict(freed), [each.lane.name for each in Pretended.made if not each.stopped]))
        return PLAN if name in self.fit_alone else None

    def is_free(self, _config: Config, _plan: Any, _held: Any, _places: Any) -> bool:
        return self.frees.pop(0)

    def placed(self, _config: Config, names: Sequence[str], held: Held, places: Places) -> Shared:
        self.asked.append(list(names))
        self.held.append(held)
        self.places.append(places)
        plans = {name: PLAN for name in names if name not in self.refused}
        return Shared(plans=plans, refused={name: self.refused[name] for name in names if name in self.refused})

    def start(self) -> None:
        self.fleet.start(self.folder)

    def of(self, name: str) -> Pretended:
        return [each for each in Pretended.made if each.lane.name == name][-1]

    def ready(self, name: str) -> None:
        self.lanes.get(name).became_ready(self.lanes.get(name).intended, follows_runs=False)
        self.of(name).ready()


def three(**changes: Model) -> Config:
    return Config(models={"retina": Model(segmenter="none"), "new": Model(segmenter="none")} | changes)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    Pretended.made.clear()
    monkeypatch.setattr(module, "Replicas", Pretended)

    def make(config: Config) -> Scene:
        found = Scene(tmp_path, config)
        monkeypatch.setattr(module, "placed", found.placed)
        monkeypatch.setattr(growing, "placed", found.placed)
        monkeypatch.setattr(module, "when_free", found.when_free)
        monkeypatch.setattr(module, "is_free", found.is_free)
        return found

    return make


WHY = Refused(message="its folder is missing", hint="Mount it.", exit_code=ConfigError.exit_code)


def states(found: Scene) -> dict[str, str]:
    return {each["name"]: each["state"] for each in found.fleet.models()}


def test_the_service_is_ready_when_each_model_is_or_has_its_reason(scene: Callable[..., Scene]) -> None:
    found = scene(three())
    found.refused = {"retina": WHY}
    found.start()
    assert {"default": "loading", "retina": "broken", "new": "loading"} == states(found)
    found.ready("default")
    assert not found.fleet.settled
    found.of("new").unusable(SimpleNamespace(message="damaged", hint="Copy it anew.", exit_code=69))
    assert found.fleet.settled
    assert {"default": "ready", "retina": "broken", "new": "broken"} == states(found)
    assert found.ending.failure is None
    assert ["its folder is missing", "damaged"] == [why.message for why in found.fleet.without_replicas().values()]
    assert not found.lanes.get("new").is_carried


def test_no_model_at_all_ends_the_service_with_the_first_ones_reason(scene: Callable[..., Scene]) -> None:
    found = scene(three())
    found.refused = dict.fromkeys(("default", "retina", "new"), WHY)
    with pytest.raises(ConfigError, match="its folder is missing"):
        found.start()


def test_the_last_one_that_fails_ends_it_too(scene: Callable[..., Scene]) -> None:
    found = scene(Config())
    found.start()
    found.of("default").unusable(SimpleNamespace(message="damaged", hint="", exit_code=69))
    assert isinstance(found.ending.failure, UnavailableError)


def test_a_reload_stops_what_goes_begins_what_comes_and_leaves_the_rest(scene: Callable[..., Scene]) -> None:
    found = scene(three())
    found.start()
    for name in ("default", "retina", "new"):
        found.ready(name)
    stays, goes, changes = (found.of(name) for name in ("default", "retina", "new"))
    fresh = Config(models={"new": Model(segmenter="none", dtype="float16"), "fourth": Model(segmenter="none")})
    assert "new: fourth, changed: new, removed: retina" == found.fleet.follow_config(fresh)
    found.run.settings.replace(fresh)
    found.fleet._reconcile(fresh)
    assert [False, True, True] == [stays.stopped, goes.stopped, changes.stopped]
    assert [["default", "retina", "new"], ["new", "fourth"]] == found.asked
    assert {"default": "ready", "new": "loading", "fourth": "loading"} == states(found)
    assert not found.lanes.get("retina").is_carried
    numbers = [number for each in Pretended.made for number in each.numbers]
    assert sorted(set(numbers)) == numbers  # each replica of a run has a number of its own


def test_what_can_change_of_a_loaded_model_does_not_load_it_anew(scene: Callable[..., Scene]) -> None:
    found = scene(three())
    found.start()
    fresh = three(retina=Model(segmenter="none", threshold=0.1, share=4.0))
    assert "" == found.fleet.follow_config(fresh)
    found.fleet._reconcile(fresh)
    assert not found.of("retina").stopped
    assert 4.0 == found.lanes.get("retina").share


def test_a_reload_tries_again_what_had_no_replicas(scene: Callable[..., Scene]) -> None:
    found = scene(three())
    found.refused = {"retina": WHY}
    found.start()
    found.refused = {}
    found.fleet._reconcile(three())
    assert ["retina"] == found.asked[-1]
    assert "loading" == states(found)["retina"]


def test_who_is_placed_later_is_placed_beside_what_the_others_hold(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Theirs alone: one that is told to give its place is not in its own way."""
    monkeypatch.setattr(module, "holds", lambda _plan: {"card": 3.0})
    found = scene(three())
    found.refused = {"retina": WHY}
    found.start()
    found.refused = {}
    found.fleet._reconcile(three())
    loading = {"card": 6.0}
    assert [Held(), Held(promised=loading, to_come=loading)] == found.held
    assert Held(promised={"card": 3.0}, to_come={"card": 9.0}) == found.fleet._held({"default", "new"})


def test_one_that_was_told_to_go_cannot_end_the_service_any_more(scene: Callable[..., Scene]) -> None:
    found = scene(Config())
    found.start()
    old = found.of("default")
    found.fleet._reconcile(Config(model=Model(segmenter="none")))
    old.unusable(SimpleNamespace(message="damaged", hint="", exit_code=69))
    assert found.ending.failure is None
    assert "loading" == states(found)["default"]


def test_the_pauses_between_two_tries_grow(scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr(module, "time", clock)
    found = scene(three())
    found.refused = {"retina": WHY}
    found.start()
    due = []
    for _ in range(5):
        due.append(found.fleet._seats.now()["retina"].due)
        found.fleet._bring(["retina"], three())
    assert [60, 120, 240, 480, 600] == due


FULL = Refused(message="it does not fit", for_room=True)


def test_one_that_finds_no_room_beside_the_others_waits_for_theirs(scene: Callable[..., Scene]) -> None:
    found = scene(three())
    found.start()
    found.refused, found.fit_alone = {"fourth": FULL, "huge": FULL}, {"fourth"}
    fresh = three(fourth=Model(segmenter="none"), huge=Model(segmenter="none"))
    found.fleet.follow_config(fresh)
    found.fleet._reconcile(fresh)
    assert ("waiting", "broken") == (states(found)["fourth"], states(found)["huge"])
    reasons = found.fleet.without_replicas()
    assert "There is no room for it beside default, retina, new: it does not fit" == reasons["fourth"].message


def test_a_swap_ends_one_and_begins_the_other_and_the_first_waits_with_the_reason(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the other goes is found out before the first ends, and the driver gets the moment that it needs."""
    monkeypatch.setattr(module, "holds", lambda _plan: {"card": 3.0})
    monkeypatch.setattr(module, "RELEASE_LOOK_SECONDS", 0.0)
    found = scene(three())
    found.refused = {"new": replace(FULL, fits_alone=True)}
    found.start()
    goes = found.of("retina")
    found.refused, found.fit_alone, found.frees = {"retina": replace(FULL, fits_alone=True)}, {"new"}, [False, True]
    found.planned.clear()
    found.fleet._swap("new", ("retina",))
    assert goes.stopped
    assert not found.lanes.get("retina").is_carried
    assert found.lanes.get("new").is_carried
    assert {"default": "loading", "retina": "waiting", "new": "loading"} == states(found)
    assert ("new", {"card": 3.0}, ["default", "retina"]) == found.planned[0]
    assert [["retina"]] == found.asked[1:]
    assert [] == found.frees


@pytest.mark.parametrize("plans", [False, True])
def test_where_what_was_planned_is_not_free_in_time_it_is_planned_anew(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch, plans: bool
) -> None:
    monkeypatch.setattr(module, "RELEASE_SECONDS", -1.0)
    found = scene(three())
    found.refused = {"new": replace(FULL, fits_alone=True)}
    found.start()
    found.refused, found.fit_alone, found.frees = {}, {"new"} if plans else set(), [False]
    found.fleet._swap("new", ("retina",))
    assert [["new"], ["retina"]] == found.asked[1:]


def test_one_that_has_given_its_place_comes_back_at_once_where_there_is_room_for_both(
    scene: Callable[..., Scene],
) -> None:
    found = scene(three())
    found.refused = {"new": replace(FULL, fits_alone=True)}
    found.start()
    found.refused = {}
    found.fleet._swap("new", ("retina",))
    assert {"default", "retina", "new"} == {name for name, state in states(found).items() if state == "loading"}


# ------------------------------------------------------------------------------------------------------- other machines


class PretendedCluster:
    """What `Cluster` is to the fleet, with the machines that a test gives it."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = self.usable = nodes
        self.trouble = ""

    def start(self) -> None: ...
    def stop(self) -> None: ...


def machine(name: str, born: str = "1", cards: int = 1) -> Node:
    found = tuple(
        Device(index=index, uuid=f"{name}-{index}", name="card", total_gib=24.0, free_gib=24.0)
        for index in range(cards)
    )
    return Node(name=name, address="10.0.0.2", born=born, cards=found)


def clustered(scene: Callable[..., Scene], *nodes: Node, local: bool = True) -> tuple[Scene, PretendedCluster]:
    found = scene(Config(cluster=Cluster(engine="ray", local=local)))
    cluster: Any = PretendedCluster(*nodes)
    found.fleet.machines._cluster = cluster
    return found, cluster


def grow_on(found: Scene) -> None:
    growing.grow(found.fleet._seats, found.fleet.machines, found.run.config, found.fleet._specs)


def test_a_machine_that_joins_gets_replicas_without_a_restart(scene: Callable[..., Scene]) -> None:
    """Once; and once more after it has left and come back with nothing of ours on it."""
    found, cluster = clustered(scene, machine("one"))
    found.start()
    assert Places(local=True, nodes=(machine("one"),), why_none="no worker has joined it") == found.places[-1]
    grow_on(found)
    assert [0, 1] == found.of("default").numbers, "the machine of the start has a card that carries nothing"
    cluster.usable = cluster.nodes = (machine("one"), machine("two", cards=2))
    grow_on(found)
    assert [0, 1, 2] == found.of("default").numbers
    assert [machine("two", cards=2)] == list(found.places[-1].nodes)
    assert not found.places[-1].local
    grow_on(found)
    assert [0, 1, 2] == found.of("default").numbers
    cluster.usable = cluster.nodes = (machine("one"),)
    grow_on(found)
    cluster.usable = cluster.nodes = (machine("one"), machine("two", born="2"))
    grow_on(found)
    assert [0, 1, 2, 3] == found.of("default").numbers


def test_a_machine_that_would_compute_in_another_type_is_left_out(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model has one identity, whichever machine computes it."""
    found, cluster = clustered(scene)
    found.start()
    monkeypatch.setattr(growing, "placed", lambda *_: Shared(plans={"default": replace(PLAN, dtype="bfloat16")}))
    cluster.usable = cluster.nodes = (machine("old"),)
    grow_on(found)
    assert [0] == found.of("default").numbers


def test_without_any_machine_the_service_waits_for_one(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not end, its inbox opens, and systemd hears that all is well."""
    found, cluster = clustered(scene, local=False)
    monkeypatch.setattr(module, "placed", placed)
    found.start()
    assert found.fleet.settled
    assert found.fleet.progressing()
    assert found.ending.failure is None
    (model,) = found.fleet.models()
    assert "No machine of the cluster is there yet: no worker has joined it." == model["why"]
    monkeypatch.setattr(module, "placed", found.placed)
    cluster.usable = cluster.nodes = (machine("one"),)
    found.fleet._bring(["default"], found.run.config)
    assert "loading" == states(found)["default"]

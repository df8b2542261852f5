"""The models of the service: which one has replicas, where, and why one has none.

Each model has a seat. A model that cannot be loaded, or finds no room, keeps its seat with the reason, and the others
go on; it is tried again after a pause, and at a reload. The service ends only when no model can do anything any more.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from watcherd.config import Model, as_named
from watcherd.config.reload import with_what_needs_no_load
from watcherd.inference.machine.cards import Cards
from watcherd.inference.messages import ReplicaSpec
from watcherd.inference.pool.lanes import Lane
from watcherd.inference.pool.sharing import Refused, holds
from watcherd.linux.threads import NamedThread
from watcherd.logs import get_logger
from watcherd.service.growing import grow
from watcherd.service.machines import Machines
from watcherd.service.placing import Held, is_free, placed, to_come, when_free
from watcherd.service.replicas import Replicas
from watcherd.service.seats import AGAIN_SECONDS, Seat, Seats
from watcherd.service.swapping import Swapping
from watcherd.state.run import meant_by

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from watcherd.config import Config
    from watcherd.inference.machine.cards import Card
    from watcherd.inference.messages import LoadFailed
    from watcherd.inference.pool.interface import ReplicaStatus
    from watcherd.inference.pool.lanes import Lanes
    from watcherd.inference.pool.placement import Plan
    from watcherd.pipeline.stations import Pipeline
    from watcherd.service.ending import Ending
    from watcherd.state.run import Run
    from watcherd.store import ModelIdentity

LOOK_SECONDS = 5.0
"""Seconds between two looks whether one is due, or is to give its place to another."""
RELEASE_SECONDS = 10.0
"""Seconds that a driver may take to count as free what another model has just given."""
RELEASE_LOOK_SECONDS = 0.2


def lane_for(name: str, table: Model) -> Lane[ModelIdentity]:
    """A lane whose model nobody has loaded yet."""
    return Lane(name, meant=meant_by(table), share=table.share)


class Fleet:
    """All models' replicas. The main thread starts, asks and stops; the thread ``models`` follows reloads and tries
    again; replicas' threads tell of their ends. The lock guards what a reload wants."""

    def __init__(self, run: Run, lanes: Lanes[ModelIdentity], pipeline: Pipeline, ending: Ending) -> None:
        self._run = run
        self._lanes = lanes
        self._pipeline = pipeline
        self._ending = ending
        self._lock = threading.Lock()
        self._seats = Seats()
        self._wanted: Config | None = None
        self._scratch: Path | None = None
        self._numbers = count()
        self._wake = threading.Event()
        self._cards = Cards(())
        self.machines = Machines(run.config, self._wake.set)
        self._swapping = Swapping(run, lanes, self._plan_without)
        self._log = get_logger()

    # ---------------------------------------------------------------------------------------------- the main thread

    def start(self, scratch: Path) -> None:
        """Place all models on the machine's devices, and start their replicas.

        Raises `WatcherdError` when not one of them can be.
        """
        self._scratch = scratch
        self.machines.start()
        config = self._run.config
        for name, table in config.model_tables.items():
            self._seats.put(name, Seat(table=table))
        self._bring(list(config.model_tables), config)
        if (error := self._seats.hopeless()) is not None:
            raise error

    @property
    def settled(self) -> bool:
        """Whether every model is ready, or has the reason why it is not."""
        return all(seat.why or self._lanes.get(name).is_ready for name, seat in self._seats.now().items())

    def status(self) -> list[ReplicaStatus]:
        """Every replica as it is now; none before they are started."""
        return [status for each in self._seats.replicas() for status in each.status()]

    def models(self) -> list[dict[str, Any]]:
        """Every model as it is now, as the live status shows it."""
        return [self._shown(name, seat) for name, seat in self._seats.now().items()]

    def without_replicas(self) -> dict[str, Refused]:
        """The models that can do nothing, with the reasons."""
        return {name: seat.why for name, seat in self._seats.now().items() if seat.why is not None}

    def progressing(self) -> bool:
        """Whether at least one replica is ready for work, or shows signs of life within its deadline; or none is there
        because its machine is waited for."""
        waits = any(seat.why is not None and seat.why.waits for seat in self._seats.now().values())
        return waits or any(each.progressing() for each in self._seats.replicas())

    @property
    def cards(self) -> tuple[Card, ...]:
        """The GPUs as they were seen last."""
        return (*self._cards.latest, *self.machines.cards)

    def follow_config(self, config: Config) -> str:
        """Models come, change and go as this configuration says; what follows, in words. Called before others go by
        it: from then on each name in it has its lane."""
        old = self._seats.now()
        new = config.model_tables
        for name, table in new.items():
            if name not in old and not any(lane.name == name for lane in self._lanes.all()):
                self._lanes.add(lane_for(name, table))
        changed = [name for name in new if name in old and _is_another(old[name].table, new[name])]
        with self._lock:
            self._wanted = config
        self._wake.set()
        news = {"new": sorted(new.keys() - old.keys()), "changed": changed, "removed": sorted(old.keys() - new.keys())}
        return ", ".join(f"{what}: {', '.join(names)}" for what, names in news.items() if names)

    def stop(self, *, within: float) -> None:
        """Let the batches that are being computed end, ``within`` seconds at most, unless somebody hurries us."""
        self._wake.set()
        self.machines.stop()
        everybody = self._seats.replicas()
        stoppers = [
            NamedThread(target=each.stop, kwargs={"within": within}, name="stopper", daemon=True) for each in everybody
        ]
        for stopper in stoppers:
            stopper.start()
        while any(stopper.is_alive() for stopper in stoppers):
            stoppers[0].join(0.1)
            if self._ending.hurry.is_set():
                for each in everybody:
                    each.kill()
            stoppers = [stopper for stopper in stoppers if stopper.is_alive()]

    # ------------------------------------------------------------------------------------------- the thread ``models``

    def follow(self) -> None:
        """Follow reloads, and try again what has no replicas, until the service stops."""
        while not self._run.stopping.is_set():
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            with self._lock:
                wanted, self._wanted = self._wanted, None
            if wanted is not None:
                self._reconcile(wanted)
            now = time.monotonic()
            config = self._run.config
            due = [
                name
                for name, seat in self._seats.now().items()
                if seat.why is not None and (seat.due <= now or (seat.why.waits and self.machines.places.nodes))
            ]
            if (due := [name for name in due if name in config.model_tables]) and not self._run.stopping.is_set():
                self._bring(due, config)
            grow(self._seats, self.machines, config, self._specs)
            if (swap := self._swapping.decide(self._seats.now(), time.monotonic())) is not None:
                self._swap(*swap)

    def _waits_for_room(self, name: str, why: Refused) -> Refused:
        """What is said of a model that has found no room: that it waits for the others', if it would have theirs."""
        others = [other for other, seat in self._seats.now().items() if seat.replicas is not None and other != name]
        if why.for_room and not why.fits_alone and others and self._plan_without(name, others):
            return why.beside(", ".join(others))
        return why

    def _plan_without(self, name: str, gone: Collection[str]) -> Plan | None:
        """Where a model would go without these."""
        seats = self._seats.now()
        freed: Counter[str] = Counter()
        for each in gone:
            freed.update(seats[each].holds)
        return when_free(self._run.config, name, freed, self._held({name, *gone}), self.machines.places)

    def _held(self, but: Collection[str]) -> Held:
        """What models with replicas were promised, leaving some out; what is still to come of it, of all of them."""
        promised: Counter[str] = Counter()
        coming: Counter[str] = Counter()
        for name, seat in self._seats.now().items():
            if seat.replicas is None:
                continue
            coming.update(to_come(seat.holds, seat.replicas.status()))
            if name not in but:
                promised.update(seat.holds)
        return Held(promised=promised, to_come=coming)

    def _swap(self, waiter: str, going: Sequence[str]) -> None:
        """One gets a place, others give it; these come back if there is room for them still.

        Where it goes is found out while the others are still at work: that takes a while.
        """
        config = self._run.config
        tables = config.model_tables
        plan = self._plan_without(waiter, going)
        for name in going:
            self._end(name)
            why = Refused(message=f"It has given its place to {waiter}, which had work and none.", fits_alone=True)
            self._seats.put(name, Seat(table=tables.get(name, Model()), why=why, due=time.monotonic() + AGAIN_SECONDS))
        self._log.info("model_swapped", model_name=waiter, reason=f"in place of {', '.join(going)}")

        def comes_free(plan: Plan) -> bool:
            """A driver may need a moment until it counts the memory of a process that has ended as free."""
            deadline = time.monotonic() + RELEASE_SECONDS
            while not is_free(config, plan, self._held({waiter, *going}), self.machines.places):
                if time.monotonic() > deadline or self._run.stopping.wait(RELEASE_LOOK_SECONDS):
                    return False
            return True

        if plan is not None and comes_free(plan):
            self._place({waiter: plan}, config)
        else:
            self._bring([waiter], config)
        if not self._run.stopping.is_set():
            self._bring(going, config)

    def _reconcile(self, config: Config) -> None:
        """End what is not wanted any more, begin what is new, and try what had no replicas once more."""
        old, new = self._seats.now(), config.model_tables
        ended = [name for name, seat in old.items() if name not in new or _is_another(seat.table, new[name])]
        for name in ended:
            self._end(name)
        for name, table in new.items():
            lane = self._lanes.get(name)
            if name not in old or name in ended:
                lane.means(meant_by(table), table.share)
                self._seats.put(name, Seat(table=table))
            else:
                lane.weighs(table.share)
                self._seats.put(name, replace(self._seats.now()[name], table=table))
        fresh = [name for name, seat in self._seats.now().items() if seat.replicas is None]
        if fresh and not self._run.stopping.is_set():
            self._bring(fresh, config)

    def _end(self, name: str) -> None:
        """A model goes: its batches end, and what nobody has begun goes back into the queue."""
        seat = self._seats.take_away(name)
        self._lanes.get(name).carried_by(None)
        self._log.info("model_leaves", model_name=name, segmenter=seat.table.segmenter)
        if seat.replicas is not None:
            seat.replicas.stop(within=self._run.config.devices.batch_seconds)
            self._seats.gone(seat.replicas)

    # ------------------------------------------------------------------------------------------------- bringing them up

    def _bring(self, names: Sequence[str], config: Config) -> None:
        """Place these models beside those that run, and start their replicas."""
        found = placed(config, names, self._held(names), self.machines.places)
        for name, why in found.refused.items():
            self._refuse(name, self._waits_for_room(name, why))
        self._place(found.plans, config)

    def _place(self, plans: Mapping[str, Plan], config: Config) -> None:
        threads = _threads(len(self.status()) + sum(len(each.replicas) for each in plans.values()))
        for name, each in plans.items():
            self._log.info(
                "model_placed", reason=each.reason, segmenter=config.model_called(name).segmenter, model_name=name
            )
            self._begin(name, self._specs(config, name, each, threads), each)

    def _begin(self, name: str, specs: Sequence[ReplicaSpec], plan: Plan) -> None:
        lane = self._lanes.get(name)

        def unusable(failed: LoadFailed) -> None:
            message, hint = as_named(failed.message, name), as_named(failed.hint, name)
            why = Refused(message=message, hint=hint, exit_code=failed.exit_code)
            self._is_unusable(name, replicas, why)

        def ready() -> None:
            self._is_ready(name, replicas)

        replicas = Replicas(
            self._run, lane, self._pipeline, ready=ready, unusable=unusable, carriers=self.machines.carrier
        )
        self._cards.watch(uuid for spec in specs for uuid in spec.visible if not spec.node)

        def seated(seat: Seat) -> Seat | None:
            if self._run.stopping.is_set():
                return None
            return replace(
                seat, replicas=replicas, why=None, since=time.monotonic(), holds=holds(plan), dtype=plan.dtype
            )

        self._seats.begin(name, seated, partial(replicas.start, specs))

    def _specs(self, config: Config, name: str, plan: Plan, threads: int) -> list[ReplicaSpec]:
        """What each replica's process is told at its start."""
        assert self._scratch is not None
        return [
            ReplicaSpec(
                number=number,
                name=name,
                model=config.model_called(name),
                placement=replica.placement(plan.dtype),
                visible=replica.visible,
                cache=config.state.cache,
                stack=self._scratch / f"replica-{number}.stack",
                log=config.log,
                hidden_names=config.privacy.names == "hidden",
                threads=0 if replica.visible or replica.node else threads,
                node=replica.node,
            )
            for replica in plan.replicas
            for number in [next(self._numbers)]
        ]

    # --------------------------------------------------------------------------------------------- what stands against

    def _is_ready(self, name: str, replicas: Replicas) -> None:
        """One of a model's replicas has loaded it. Told by its thread."""
        self._seats.is_ready(name, replicas)
        self._pipeline.wake()
        self._ending.wake.set()

    def _is_unusable(self, name: str, replicas: Replicas, why: Refused) -> None:
        """A model's last replica has given up. Told by its thread; of one that was to go anyway nothing follows."""
        if not self._refuse(name, why, replicas):
            return
        self._lanes.get(name).carried_by(None)
        if (error := self._seats.hopeless()) is not None:
            self._ending.fail(error)

    def _refuse(self, name: str, why: Refused, replicas: Replicas | None = None) -> bool:
        before = self._seats.refuse(name, why, time.monotonic(), replicas=replicas)
        if before is not None and (before is why or before.message != why.message) and len(self._seats.now()) > 1:
            self._log.error("model_unusable", model_name=name, error=why.message, advice=why.hint)
        self._ending.wake.set()
        return before is not None

    def _shown(self, name: str, seat: Seat) -> dict[str, Any]:
        lane = self._lanes.get(name)
        identity = lane.intended
        state = "ready" if lane.is_ready else "loading"
        if seat.why is not None:
            state = "waiting" if seat.why.fits_alone else "broken"
        return {
            "name": name,
            "state": state,
            **{key: getattr(identity, key) for key in ("segmenter", "model", "revision", "dtype")},
            "share": lane.share,
            "computed_s": round(lane.spent, 3),
            "why": seat.why.message if seat.why else None,
            "todo": seat.why.hint if seat.why else None,
        }


def _is_another(old: Model, new: Model) -> bool:
    """Whether a model has to be loaded anew for this change."""
    return with_what_needs_no_load(old, new) != new


def _threads(replicas: int) -> int:
    """For torch in each replica on the CPU; 0: as torch likes."""
    return max(1, (os.cpu_count() or 1) // replicas) if replicas > 1 else 0

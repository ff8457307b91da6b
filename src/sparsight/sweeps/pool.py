"""Who looks at the shards: this process, or workers of Ray that may die and come back."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sparsight.cluster import ray_at
from sparsight.errors import InputError, SparsightError
from sparsight.networks import Network
from sparsight.sweeps.items import Item
from sparsight.sweeps.look import look, on_threads
from sparsight.sweeps.rows import Noted, columns, note
from sparsight.sweeps.settings import SweepSettings
from sparsight.sweeps.shards import Shards

__all__ = ["Setup", "here", "on_workers"]

Progress = Callable[[str, int, int], None]

_AHEAD = 2  # shards that a worker has at a time: it need not wait for the next
_PATIENCE = 0.5  # seconds between looks at how far workers are
_DEATHS = 3  # of a worker on the same image, before it is passed over
_ALONE = 2  # deaths on the same shard, before its images are looked at one by one
_LOST = 12  # deaths in a row without any shard
_SILENCE = 300.0  # seconds without any worker
_KILLER = "the worker that looked at it died each time: look at it alone"


@dataclass(frozen=True, eq=False)
class Setup:
    """All that a worker needs to know.

    Attributes
    ----------
    network
        On the processor; a worker moves its own copy to ``device``.
    device
        Where workers look.
    settings
        What they do.
    items
        All images.
    folder
        The sweep's; every worker must see it under this name.
    token
        What is in there, so that a worker can tell that it does.
    """

    network: Network
    device: str
    settings: SweepSettings
    items: Sequence[Item]
    folder: Path
    token: str

    def images(self, shard: int) -> Sequence[Item]:
        """List the images of a shard."""
        size = self.settings.shard
        return self.items[shard * size : (shard + 1) * size]

    def unchanged(self, shard: int, noted: Noted | None) -> bool:
        """Say whether the images of a shard are what they were when it was done."""
        items = self.images(shard)
        return noted is not None and all(
            item.unchanged(stamp, digest)
            for item, (stamp, digest) in zip(items, noted, strict=True)
        )

    @property
    def count(self) -> int:
        """How many shards there are."""
        return -(-len(self.items) // self.settings.shard)

    def work(
        self,
        network: Network,
        shard: int,
        *,
        skip: Mapping[int, str] | None = None,
        alone: bool = False,
        done: Callable[[int], None] | None = None,
    ) -> int:
        """Look at a shard and write it.

        Parameters
        ----------
        network
            On its device.
        shard
            Which one.
        skip
            Images not to look at, and why.
        alone
            Look at no two images at once.
        done
            Called with how many are done.

        Returns
        -------
        int
            How many images it has.
        """
        shards, items = Shards(self.folder, self.token), self.images(shard)

        def watch(numbers: Collection[int], count: int) -> None:
            shards.watch(shard, numbers, count)
            if done is not None:
                done(count)

        found = look(network, self.settings, items, skip=skip, alone=alone, watch=watch)
        noted = [(item.stamp, item.digest()) for item in items]
        shards.write(shard, found, note(columns(network, self.settings), noted))
        return len(items)


def here(setup: Setup, todo: Iterable[int], progress: Progress, done: int) -> None:
    """Look at shards in this process, one after the other."""
    total = len(setup.items)
    with on_threads(setup.settings.threads):
        for shard in todo:
            before = done
            done += setup.work(
                setup.network,
                shard,
                done=lambda count, n=before: progress("images", n + count, total),  # type: ignore[misc]
            )


@lru_cache(maxsize=1)
def _fetched(reference: Any) -> Setup:
    import ray

    found: Setup = ray.get(reference)
    return found


class _Worker:
    """Holds the network once, and looks at whatever shard it is given."""

    def __init__(self) -> None:
        self._network: Network | None = None

    def ping(self) -> bool:
        """Answer, once the worker has begun."""
        return True

    def work(
        self, references: Sequence[Any], shard: int, skip: dict[int, str], alone: bool
    ) -> int | SparsightError:
        """Look at a shard; what a user can do something about comes back as it is."""
        setup = _fetched(references[0])
        try:
            if self._network is None:
                self._network = self._begin(setup)
            return setup.work(self._network, shard, skip=skip, alone=alone)
        except SparsightError as error:
            return error

    def _begin(self, setup: Setup) -> Network:
        import torch

        file = setup.folder / "sweep.json"
        if not file.is_file() or setup.token not in file.read_text("utf-8"):
            raise InputError(
                f"a worker does not see {setup.folder}: give a folder that all machines share"
            )
        torch.set_num_threads(setup.settings.threads)
        return setup.network.to(setup.device)


def on_workers(
    setup: Setup,
    todo: Iterable[int],
    progress: Progress,
    done: int,
    *,
    workers: int,
    address: str | None,
) -> None:
    """Look at shards on workers of Ray, a few shards ahead of each; a dead worker's are done again.

    Parameters
    ----------
    setup
        What workers must know.
    todo
        Shards.
    progress
        Called with how many images are done.
    done
        Images of shards that are there already.
    workers
        How many.
    address
        Of a cluster; none to begin one here.

    Raises
    ------
    SparsightError
        What a worker met that a user can do something about.
    InputError
        If workers keep dying.
    """
    threads = setup.settings.threads
    gpus = 1.0 if setup.device.startswith("cuda") else 0.0
    with ray_at(address, workers * threads, "sweep") as ray:
        has = ray.cluster_resources()
        for what, each in (("CPU", float(threads)), ("GPU", gpus)):
            if workers * each > has.get(what, 0.0):
                raise InputError(
                    f"{workers} workers need {workers * each:g} {what}, and there are "
                    f"{has.get(what, 0.0):g}: give fewer workers (--workers)"
                )
        kind = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=-1)(_Worker)
        pool = [kind.remote() for _ in range(workers)]
        _Queue(setup, deque(todo), progress, done, ray, pool).run()


class _Queue:
    """Shards to do, under way, and lost with their worker.

    A worker gets shards once it has answered, and after it died, once it answers again.
    """

    def __init__(
        self, setup: Setup, todo: deque[int], progress: Progress, done: int, ray: Any,
        pool: Sequence[Any],
    ) -> None:  # fmt: skip
        self._setup, self._todo, self._progress, self._done = setup, todo, progress, done
        self._ray, self._pool = ray, pool
        self._shards = Shards(setup.folder, setup.token)
        self._references = [ray.put(setup)]  # in a list: Ray does not fetch it for every call
        self._under_way: dict[Any, tuple[int, int]] = {}  # reference to shard and worker
        self._asked: dict[Any, int] = {}  # reference to worker that is to answer
        self._lost_shards: Counter[int] = Counter()
        self._deaths: Counter[int] = Counter()  # by image
        self._in_a_row = 0
        self._heard = time.monotonic()

    def run(self) -> None:
        for worker in range(len(self._pool)):
            self._ask(worker)
        while self._todo or self._under_way:
            waiting = [*self._under_way, *self._asked]
            ready, _ = self._ray.wait(waiting, timeout=_PATIENCE)
            for reference in ready:
                if reference in self._asked:
                    self._answered(reference)
                else:
                    self._take(reference)
            if not self._under_way and time.monotonic() - self._heard > _SILENCE:
                raise InputError(
                    f"no worker answers for {_SILENCE:.0f} seconds: look at the cluster "
                    "(ray status), or use workers=0 (--workers 0)"
                )
            self._tell()

    def _ask(self, worker: int) -> None:
        self._asked[self._pool[worker].ping.remote()] = worker

    def _answered(self, reference: Any) -> None:
        worker = self._asked.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError:
            time.sleep(_PATIENCE)
            self._ask(worker)
            return
        self._heard = time.monotonic()
        self._fill(worker)

    def _fill(self, worker: int) -> None:
        """Keep a worker busy, but at the end leave shards for those who have none."""
        has = sum(other == worker for _, other in self._under_way.values())
        while self._todo and has < (_AHEAD if len(self._todo) > len(self._pool) else 1):
            self._give(worker)
            has += 1

    def _give(self, worker: int) -> None:
        shard = self._todo.popleft()
        numbers = (item.number for item in self._setup.images(shard))
        skip = {number: _KILLER for number in numbers if self._deaths[number] >= _DEATHS}
        reference = self._pool[worker].work.remote(
            self._references, shard, skip, self._lost_shards[shard] >= _ALONE
        )
        self._under_way[reference] = shard, worker

    def _take(self, reference: Any) -> None:
        shard, worker = self._under_way.pop(reference)
        try:
            found = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            self._lost(shard, worker, error)
            return
        if isinstance(found, SparsightError):
            raise found
        self._done += found
        self._in_a_row = 0
        self._heard = time.monotonic()
        self._fill(worker)

    def _lost(self, shard: int, worker: int, error: Exception) -> None:
        """Put a dead worker's shard back, the first to be done, and count its death once."""
        self._todo.appendleft(shard)
        open_then = self._shards.watched(shard)["open"]
        self._shards.forget(shard)
        if open_then:
            self._lost_shards[shard] += 1
            for number in open_then:
                self._deaths[int(number)] += 1
        if worker in self._asked.values():
            return
        self._in_a_row += 1
        if self._in_a_row >= max(_LOST, _DEATHS * len(self._pool)):
            raise InputError(
                f"workers died {self._in_a_row} times in a row ({str(error).splitlines()[0]}): "
                "give fewer workers, a smaller chunk, or workers=0 to see why"
            ) from error
        self._ask(worker)

    def _tell(self) -> None:
        running = {shard for shard, _ in self._under_way.values()}
        further = sum(self._shards.watched(shard)["done"] for shard in running)
        total = len(self._setup.items)
        self._progress("images", min(self._done + further, total), total)

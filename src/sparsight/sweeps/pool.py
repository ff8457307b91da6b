"""Who looks at the shards: this process, or workers of Ray that may die and come back."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sparsight.cluster import ray_at
from sparsight.errors import InputError, SparsightError
from sparsight.networks import Network
from sparsight.sweeps.look import Item, look, on_threads
from sparsight.sweeps.rows import columns
from sparsight.sweeps.settings import SweepSettings
from sparsight.sweeps.shards import Shards

__all__ = ["Setup", "here", "on_workers"]

Progress = Callable[[str, int, int], None]

_AHEAD = 2  # shards that a worker has at a time: it need not wait for the next
_PATIENCE = 0.5  # seconds between looks at how far workers are
_DEATHS = 3  # of a worker on the same image, before it is passed over
_LOST = 12  # deaths in a row without any shard


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

    @property
    def count(self) -> int:
        """How many shards there are."""
        return -(-len(self.items) // self.settings.shard)

    def work(self, network: Network, shard: int, skip: dict[int, str]) -> int:
        """Look at a shard and write it.

        Parameters
        ----------
        network
            On its device.
        shard
            Which one.
        skip
            Images not to look at, and why.

        Returns
        -------
        int
            How many images it has.
        """
        shards, items = Shards(self.folder), self.images(shard)
        found = look(
            network, self.settings, items, skip=skip,
            watch=lambda numbers, done: shards.watch(shard, numbers, done),
        )  # fmt: skip
        shards.write(shard, found, columns(network, self.settings))
        return len(items)


def here(setup: Setup, todo: Iterable[int], progress: Progress, done: int) -> None:
    """Look at shards in this process, one after the other."""
    total = len(setup.items)
    with on_threads(setup.settings.threads):
        for shard in todo:
            progress("images", done, total)
            done += setup.work(setup.network, shard, {})


@lru_cache(maxsize=1)
def _fetched(reference: Any) -> Setup:
    import ray

    found: Setup = ray.get(reference)
    return found


class _Worker:
    """Holds the network once, and looks at whatever shard it is given."""

    def __init__(self) -> None:
        self._network: Network | None = None

    def work(
        self, references: Sequence[Any], shard: int, skip: dict[int, str]
    ) -> int | SparsightError:
        """Look at a shard; what a user can do something about comes back as it is."""
        setup = _fetched(references[0])
        try:
            if self._network is None:
                self._network = self._begin(setup)
            return setup.work(self._network, shard, skip)
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
        kind = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=-1)(_Worker)
        pool = [kind.remote() for _ in range(workers)]
        _Queue(setup, deque(todo), progress, done, ray, pool).run()


class _Queue:
    """Shards to do, under way, and lost with their worker."""

    def __init__(
        self, setup: Setup, todo: deque[int], progress: Progress, done: int, ray: Any,
        pool: Sequence[Any],
    ) -> None:  # fmt: skip
        self._setup, self._todo, self._progress, self._done = setup, todo, progress, done
        self._ray, self._pool = ray, pool
        self._shards = Shards(setup.folder)
        self._references = [ray.put(setup)]  # in a list: Ray does not fetch it for every call
        self._under_way: dict[Any, tuple[int, Any]] = {}  # reference to shard and worker
        self._deaths: Counter[int] = Counter()  # by image
        self._in_a_row = 0

    def run(self) -> None:
        for worker in list(self._pool) * _AHEAD:
            self._give(worker)
        while self._under_way:
            ready, _ = self._ray.wait(list(self._under_way), timeout=_PATIENCE)
            for reference in ready:
                self._take(reference)
            self._tell()

    def _give(self, worker: Any) -> None:
        if self._todo:
            shard = self._todo.popleft()
            why = "the worker that looked at it died each time: look at it alone"
            numbers = (item.number for item in self._setup.images(shard))
            skip = {number: why for number in numbers if self._deaths[number] >= _DEATHS}
            self._under_way[worker.work.remote(self._references, shard, skip)] = shard, worker

    def _take(self, reference: Any) -> None:
        shard, worker = self._under_way.pop(reference)
        try:
            found = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            self._lost(shard, error)
        else:
            if isinstance(found, SparsightError):
                raise found
            self._done += found
            self._in_a_row = 0
        self._give(worker)

    def _lost(self, shard: int, error: Exception) -> None:
        """Count a death, and put the shard back, the first to be done."""
        self._in_a_row += 1
        if self._in_a_row >= _LOST:
            raise InputError(
                f"workers died {self._in_a_row} times in a row ({str(error).splitlines()[0]}): "
                "give fewer workers, a smaller chunk, or workers=0 to see why"
            ) from error
        for number in self._shards.watched(shard)["open"]:
            self._deaths[int(number)] += 1
        self._shards.forget(shard)
        self._todo.appendleft(shard)
        time.sleep(_PATIENCE)  # it takes a moment to come back

    def _tell(self) -> None:
        running = {shard for shard, _ in self._under_way.values()}
        further = sum(self._shards.watched(shard)["done"] for shard in running)
        self._progress("images", min(self._done + further, len(self._setup.items)),
                       len(self._setup.items))  # fmt: skip

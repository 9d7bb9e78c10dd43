"""Embed a data set in shares, each in a process of this machine or where an engine runs it."""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from threading import RLock

import torch
from tqdm import tqdm

from alprune.data.image_cache.store import caches_folder
from alprune.data.progress_bar import progress_bar
from alprune.errors import AlpruneError, ConfigError, StoreError
from alprune.loop.config import RunConfig
from alprune.loop.embed import Embedded, EmbeddingPlan, embed
from alprune.registry import lookup
from alprune.runs.compare import PROCESSES
from alprune.runs.compare.engines import ENGINES, Job, Lost, Resources, open_engine
from alprune.runs.compare.processes import Processes
from alprune.runs.compare.runs import DEATHS

_LOOK_S = 1.0  # between looks at what the shares have done


def embed_in_shares(
    config: RunConfig,
    shares: int,
    engine: str = PROCESSES,
    resources: Resources | None = None,
) -> Embedded:
    """Embed all images of a data set, each share by a process of its own.

    A share whose process or machine dies is given out again, and embeds what is missing, unless
    `DEATHS` died in a row without an image embedded between them. What was embedded is kept
    whatever happens.

    Args:
        config: Options; `learner` is "frozen". Its data and its cache are under the same paths on
            all machines.
        shares: How many.
        engine: "processes", or a key of `alprune.runs.compare.engines.ENGINES`.
        resources: Of each share.

    Returns:
        What was embedded by all shares together.

    Raises:
        ConfigError: There is no such engine, or it cannot be used.
        StoreError: A share died too often.
        AlpruneError: As from `alprune.loop.embed.embed`.
    """
    lookup("engine", engine, {PROCESSES: None, **ENGINES})
    if shares < 1:
        raise ConfigError(f"jobs must be at least 1, got {shares}.")
    resources = resources or Resources()
    if engine == PROCESSES:
        resources.local_cpus()
    plan = EmbeddingPlan(config)  # decodes the images once, and says what is wrong first
    missing = plan.missing
    if not missing:
        return plan.done()
    out = caches_folder(config.cache).with_name("embed")
    pool = Processes() if engine == PROCESSES else open_engine(engine, resources, out)
    try:
        with progress_bar(total=missing, desc="embedding", unit="image") as bar:
            seen = partial(plan.follow, bar)
            _follow(config, shares, pool.submit, resources.cpus, seen)
    finally:
        pool.close()
    return plan.done()


def _follow(
    config: RunConfig,
    shares: int,
    submit: Callable[..., Job],
    threads: int,
    seen: Callable[[], int],
) -> None:
    def give(share: int) -> Job:
        task = partial(_share, config, (share, shares), threads, os.getcwd())
        return submit(task, f"embed-{share + 1}-of-{shares}")

    present = {share: give(share) for share in range(shares)}
    deaths, known = 0, seen()
    try:
        while present:
            time.sleep(_LOOK_S)
            lost: list[tuple[int, Lost]] = []
            for share, job in list(present.items()):
                if job.done():
                    del present[share]
                    try:
                        failure: AlpruneError | None = job.outcome()
                    except Lost as error:
                        lost.append((share, error))
                    else:
                        if failure is not None:
                            raise failure
            now = seen()
            if lost:
                deaths = 1 if now > known else deaths + 1
                known = now
                if deaths >= DEATHS:
                    raise StoreError(
                        f"{len(lost)} of {shares} shares died {deaths} times in a row "
                        f"({lost[0][1]}), as when memory runs out. What was embedded is kept; "
                        "give fewer --jobs."
                    )
                present |= {share: give(share) for share, _ in lost}
    finally:
        for job in present.values():
            job.stop()


def _share(
    config: RunConfig, share: tuple[int, int], threads: int, place: str
) -> AlpruneError | None:
    """Embed a share in the process that was given for it; return what went wrong."""
    os.chdir(place)  # paths and modules are seen from there
    if place not in sys.path:
        sys.path.insert(0, place)
    torch.set_num_threads(threads)
    tqdm.set_lock(RLock())  # its own one is a semaphore, which a process that is killed leaves
    try:
        embed(config, share, progress=False)
    except AlpruneError as error:
        return error
    return None

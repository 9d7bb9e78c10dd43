"""SIGKILL what embeds images at random instants: is all that was embedded kept, and nothing else?

`alprune embed`, alone and by two processes at once, a run of a frozen learner and a question of
labelling embed a folder of photos and are killed, again and again, until all are embedded; then
the embeddings are removed and the next turn begins. A kill aims at reading the images, at the
network, at beginning a file, at writing it (slowed down, so that kills cut blocks in two), at
taking over what others wrote, or at any instant. After every kill the store is read by a process
that knows nothing: it must hold every embedding that was acknowledged, only embeddings of these
photos, and each as the uninterrupted process computed it. What is embedded when a turn ends must be
all of it, and a last `embed` must find nothing to do.

    python tests/stress/kill_embed.py --kills 200

Needs Linux or macOS (it forks). Exits with 1 at the first difference.

Measured (--kills 200 --seed 11, one thread of an Intel Xeon at 2.3 GHz with other work beside, 253
s): 206 kills (read images 20, network 43, begin a file 10, write 44, take over 40, any instant 49),
89 files with a block cut in two, 59 turns that ended, all with all embeddings.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.sharedctypes import RawArray
from pathlib import Path

import numpy as np
import torch
from kill import wait
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

import alprune
from alprune import data
from alprune.data.image_cache import append_log
from alprune.data.image_cache.append_log import BlockWriter, read_blocks
from alprune.data.image_cache.vectors import VectorStore, VectorTable
from alprune.labelling import open_asking
from alprune.loop import frozen
from alprune.loop.embed import embed
from alprune.training import embeddings
from alprune.training.embeddings import Embedder

PHOTOS, SIDE, DIMENSIONS, BLOCK = 96, 16, 32, 8
WORK = [
    ("read images", data, "load"),
    ("network", Embedder, "_embed"),
    ("begin a file", VectorStore, "_begun"),
    ("write", BlockWriter, "append"),
    ("take over", VectorTable, "refresh"),
]
PHASES = [name for name, _, _ in WORK]
KINDS = ("embed", "two at once", "run", "label")
TEST = ("labelled/test/a", "labelled/test/b")
# Shared with the children: how often they began each phase, the images said to be embedded.
begun, kept = RawArray("i", len(PHASES)), RawArray("b", PHOTOS)


def network(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(input_shape[0], DIMENSIONS, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(DIMENSIONS, classes),
    )


def mark(number: int, owner: object, name: str) -> None:
    """Let a function say in shared memory that it begins."""
    work = getattr(owner, name)

    def marking(*args, **kwargs):
        begun[number] += 1
        return work(*args, **kwargs)

    setattr(owner, name, marking)


def acknowledge(order: dict[bytes, int]) -> None:
    """Let the store say in shared memory what it has written."""
    add = VectorStore.add

    def adding(self, keys, vectors):
        number = add(self, keys, vectors)
        for key in keys:
            kept[order[key.tobytes()]] = 1
        return number

    VectorStore.add = adding


def slowly(file, offset: int, content: memoryview) -> None:
    """Write in pieces, as a full disk cache does."""
    file.seek(offset)
    for begin in range(0, len(content), 100):
        file.write(content[begin : begin + 100])
        time.sleep(0.0005)


def prepare(folder: Path) -> alprune.RunConfig:
    """Write photos, once with labels and once without, and weights; return options to embed them.

    The test photos are a part of the others, so that all have the same embeddings.
    """
    draw = np.random.default_rng(0)
    for part in ("photos/unlabelled", "labelled/train/a", "labelled/train/b", *TEST):
        (folder / part).mkdir(parents=True)
    for number in range(PHOTOS):
        name, kind = f"{number}.png", "ab"[number % 2]
        pixels = draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / "unlabelled" / name)
        parts = ("train", "test") if number < 8 else ("train",)
        for part in parts:
            os.link(folder / "photos/unlabelled" / name, folder / "labelled" / part / kind / name)
    weights = folder / "weights.safetensors"
    torch.manual_seed(0)
    save_file(network(10, (3, SIDE, SIDE)).state_dict(), weights)
    return alprune.RunConfig(
        dataset=f"folder:{folder / 'photos'}",
        cache=str(folder / "cache"),
        learner="frozen",
        model="kill_embed:network",
        pretrained=str(weights),
        image_size=SIDE,
        device="cpu",
    )


def ask(config: alprune.RunConfig, folder: Path) -> None:
    """Begin or resume labelling, up to the first question."""
    names = "dataset cache learner model pretrained image_size device".split()
    options = {} if (folder / "config.toml").exists() else {n: getattr(config, n) for n in names}
    with open_asking(folder, trust_code=True, **options) as asking:
        assert asking.ask().queries


def simulate(config: alprune.RunConfig, folder: Path) -> None:
    """Begin or resume a run on the labelled photos."""
    if (folder / "config.toml").exists():
        alprune.resume(folder, trust_code=True)
    else:
        data = config.dataset.replace("photos", "labelled")
        alprune.run(replace(config, dataset=data, out=str(folder), initial=4, steps=2))


def start(work: Callable[[], object], log: Path) -> int:
    """Fork a child that does some work and speaks into a file, and return its process id."""
    child = os.fork()
    if child:
        return child
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # the parent answers them
            signal.signal(number, signal.SIG_IGN)
        warnings.simplefilter("ignore")
        frozen._latest = None  # what the parent knows
        tqdm.set_lock(threading.RLock())  # tqdm's own is shared: who is killed may hold it
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(file, stream)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def works(config: alprune.RunConfig, kind: str, out: Path) -> list[Callable[[], object]]:
    """Return what the processes of a turn do."""
    if kind == "run":
        return [lambda: simulate(config, out)]
    if kind == "label":
        return [lambda: ask(config, out)]
    return [lambda: embed(config, progress=False)] * (2 if kind == "two at once" else 1)


def stored(config: alprune.RunConfig) -> dict[bytes, np.ndarray]:
    """Read all embeddings that are kept, as a process that begins now."""
    found: dict[bytes, np.ndarray] = {}
    for folder in Path(config.cache).glob("embeddings/*"):
        store = VectorStore(folder, DIMENSIONS)
        for keys, piece in store.news():
            made = store.read(piece, np.arange(len(keys)))
            found |= {key.tobytes(): vector for key, vector in zip(keys, made, strict=True)}
        store.close()
    return found


def check(config: alprune.RunConfig, reference: dict[bytes, np.ndarray]) -> int:
    """Assert that the store holds what was acknowledged, soundly; return how many embeddings."""
    found, must = stored(config), {key for key, done in zip(reference, kept, strict=True) if done}
    assert must <= found.keys(), f"{len(must - found.keys())} of {len(must)} embeddings are lost"
    assert found.keys() <= reference.keys(), "there are embeddings of other images"
    for key, vector in found.items():
        near = np.allclose(vector, reference[key], rtol=2e-3, atol=2e-3)
        assert near, "an embedding is not what the network computes"
    return len(found)


def torn(config: alprune.RunConfig) -> int:
    """Count the files that end with part of a block."""
    count = 0
    for path in Path(config.cache).glob("embeddings/*/*.vectors"):
        ends = [block.end for block in read_blocks(path)]
        count += path.stat().st_size > (ends[-1] if ends else 0)
    return count


def turn(
    config: alprune.RunConfig,
    out: Path,
    kind: str,
    draw: random.Random,
    hit: Counter[str],
    reference: dict[bytes, np.ndarray],
) -> tuple[int, int]:
    """Kill processes of a kind until they have embedded all; return kills and torn files."""
    kills = 0
    while True:
        aim = draw.randrange(len(PHASES) + 1)
        goal = begun[aim] + draw.randint(1, 4) if aim < len(PHASES) else None
        log = out.with_suffix(".log")
        children = [start(work, log) for work in works(config, kind, out)]
        while goal is not None and begun[aim] < goal and any(map(alive, children)):
            time.sleep(0.0002)
        wait(draw.uniform(0, 0.01 if goal is not None else 0.5))
        for child in children:
            os.kill(child, signal.SIGKILL)
        statuses = [os.waitpid(child, 0)[1] for child in children]
        count = check(config, reference)
        if any(map(os.WIFSIGNALED, statuses)):
            kills += 1
            hit[PHASES[aim] if goal is not None else "any instant"] += 1
            continue
        assert not any(statuses), f"a process failed: {log.read_text()}"
        assert count == PHOTOS, f"{count} of {PHOTOS} photos are embedded at the end"
        cut = torn(config)
        frozen._latest = None
        assert embed(config, progress=False).embedded == 0
        return kills, cut


def alive(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def kill_turns(folder: Path, wanted: int, draw: random.Random, stopping: list[int]) -> None:
    """Embed and kill until there were enough kills; print what they came to."""
    config = prepare(folder)
    embed(config, progress=False)
    reference = stored(config)
    assert len(reference) == PHOTOS
    acknowledge({key: number for number, key in enumerate(reference)})
    append_log.write_at = slowly
    hit: Counter[str] = Counter()
    kills, cut, turns, begin = 0, 0, 0, time.perf_counter()
    while kills < wanted and not stopping:
        shutil.rmtree(folder / "cache" / ("embeddings" if turns % 3 else ""))
        kept[:] = [0] * PHOTOS
        kind = KINDS[turns % len(KINDS)]
        done, left = turn(config, folder / f"out-{turns}", kind, draw, hit, reference)
        kills, cut, turns = kills + done, cut + left, turns + 1
        spread = ", ".join(f"{name} {count}" for name, count in hit.items())
        seconds = time.perf_counter() - begin
        print(f"{seconds:5.0f} s: {kills} kills ({spread}), {cut} blocks cut", flush=True)
    short = "" if kills >= wanted else f", STOPPED EARLY of {wanted}"
    print(f"{kills} kills{short}, {turns} turns that ended, all with all embeddings")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))  # for kill_embed:network
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tqdm.monitor_interval = 0  # a thread, which no fork takes along
    embeddings._BLOCK = BLOCK
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.append(1))
    for number, (_, owner, name) in enumerate(WORK):
        mark(number, owner, name)
    with tempfile.TemporaryDirectory() as folder:
        kill_turns(Path(folder), given.kills, random.Random(given.seed), stopping)


if __name__ == "__main__":
    main()

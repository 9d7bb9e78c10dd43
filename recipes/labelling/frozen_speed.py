"""What a frozen learner takes: embedding, rounds, memory, and how long a labeller waits.

    python recipes/labelling/frozen_speed.py                 # all four, about three minutes
    python recipes/labelling/frozen_speed.py embed page      # some of them
    python recipes/labelling/frozen_speed.py large --json    # one JSON object per line

- `embed`: images per second of the embedder, its files included, over those of a bare loop of the
  same network, batch size and input; both in turns, median of the ratios (wanted: 0.95 or more).
- `round`: a round of labelling over 5,000 images, from `prepare` to the questions (2 s).
- `large`: the same over 200,000 (10 s), and the peak of the process's memory (1.5 GB).
- `page`: the longest time from an answer to the next image on the page's server, while rounds over
  5,000 images run behind it (1 s).

The images are made of noise, and so are their embeddings in the last three, which are written into
the cache as if a network had computed them. Each part runs in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alprune import models
from alprune.data.image_cache.vectors import VectorStore, VectorTable
from alprune.labelling import Asking, open_asking
from alprune.labelling.images import load
from alprune.labelling.web import Server
from alprune.loop.frozen import embedder_for
from alprune.models.named_weights import OWN, find_weights
from alprune.models.pretrained import put_weights
from alprune.runs.bench.rounds import take_turns
from alprune.training.augment import normalise
from alprune.training.embeddings import Embedder

CLASSES, SIDE = 10, 32
SMALL, LARGE = 5_000, 200_000
_BROWSER = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())  # it joins the page
NAMES = tuple(f"class {number}" for number in range(CLASSES))


@dataclass(frozen=True)
class Measured:
    """One figure.

    Attributes:
        what: What was measured.
        value: The figure.
        unit: Its unit.
        wanted: The bound; "at least" if `least`, or "at most".
        least: Whether `wanted` is a lower bound.
        detail: Figures behind it.
    """

    what: str
    value: float
    unit: str
    wanted: float
    least: bool = False
    detail: str = ""

    def line(self) -> str:
        """Return it as text."""
        met = self.value >= self.wanted if self.least else self.value <= self.wanted
        bound = f"wanted {'>=' if self.least else '<='} {self.wanted:g}"
        verdict = "yes" if met else "NO"
        return (
            f"{self.what:36} {self.value:8.3f} {self.unit:5} {bound:15} {verdict:4} {self.detail}"
        )


def embed(folder: Path) -> Iterator[Measured]:
    """Compare the embedder with a bare loop over the same network."""
    count, side = 512, 128
    shape, weights = (3, side, side), find_weights(OWN)
    mean, std = weights.preprocessing.of_channels(3)
    network = models.build(OWN, CLASSES, shape)
    put_weights(network, weights.tensors, CLASSES, weights.source)
    embedder = Embedder(network.eval(), shape, mean, std, OWN, weights.digest, folder / "cache")
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, side, side, 3), dtype=torch.uint8, generator=generator)
    keys = np.random.default_rng(0).integers(256, size=(count, 16), dtype=np.uint8)
    body, batch, turns = embedder._body, embedder._predictor.chunk, iter(range(10**6))
    scale = torch.tensor(mean), torch.tensor(std)

    def ours() -> int:
        store = VectorStore(folder / f"turn{next(turns)}", embedder.dimensions)
        table = VectorTable(keys, store)
        embedder.complete(x, table)
        table.close()
        return count

    def bare() -> int:
        with torch.inference_mode():
            for images in x.split(batch):
                body(normalise(images, *scale))
        return count

    speeds = take_turns({"ours": ours, "bare": bare}, 40, least=3)
    detail = f"{speeds.median('ours'):.1f} against {speeds.median('bare'):.1f} images/s"
    yield Measured(
        "embedding over a bare loop", speeds.ratio("ours", "bare"), "", 0.95, True, detail
    )


def round_(folder: Path) -> Iterator[Measured]:
    """Time rounds over a small pool."""
    yield Measured(f"round over {SMALL:,} images", *_rounds(folder, SMALL, 2.0))


def large(folder: Path) -> Iterator[Measured]:
    """Time rounds over a large pool, and read the memory."""
    yield Measured(f"round over {LARGE:,} images", *_rounds(folder, LARGE, 10.0))
    yield Measured(f"memory with {LARGE:,} images", _peak_gb(), "GB", 1.5)


def page(folder: Path) -> Iterator[Measured]:
    """Answer as fast as the server lets, and look at the longest wait for the next image."""
    with _opened(folder, SMALL) as asking:
        server = Server(asking)
        ready = threading.Event()
        thread = threading.Thread(target=server.run, args=(lambda url: ready.set(), False))
        thread.start()
        ready.wait()
        base, _, token = server.url.rpartition("join#")
        waits, busy = [], 0
        try:
            end = time.monotonic() + 45
            _get(base + "join", {"token": token, "name": "me"})
            state = _get(base + "state")
            while time.monotonic() < end:
                begin = time.perf_counter()
                if state["image"] is None:  # no image is there yet: the person waits
                    time.sleep(0.02)
                    state = _get(base + "state")
                    waits.append(time.perf_counter() - begin + (waits.pop() if waits else 0))
                    continue
                number = state["image"]["number"]
                label = NAMES[int(Path(state["image"]["path"]).stem) % CLASSES]
                answer = {"labels": [{"number": number, "label": label}]}
                state = _get(base + "answers", answer)
                if state["image"] is not None:
                    _get(f"{base}image/{state['image']['number']}")
                waits.append(time.perf_counter() - begin)
                busy += bool(state["working"])
                time.sleep(0.5)  # few are faster
        finally:
            server.close()
            thread.join()
        detail = (
            f"median {np.median(waits):.3f} s of {len(waits)} answers, {busy} of them while the "
            f"learner worked, {asking.journal.round} rounds"
        )
        yield Measured("longest wait for the next image", max(waits), "s", 1.0, detail=detail)


def _rounds(folder: Path, count: int, wanted: float) -> tuple[float, str, float, bool, str]:
    """Return the median seconds of three rounds, with what `Measured` takes besides."""
    with _opened(folder, count) as asking:
        taken = []
        while len(taken) < 4:
            asking.tell(_answers(asking))
            begin = time.perf_counter()
            asking.open_round(asking.prepare())
            taken.append(time.perf_counter() - begin)
        first, *others = taken
        labels = len(asking.labels)
    detail = f"first {first:.2f} s, then {', '.join(f'{s:.2f}' for s in others)}; {labels} labels"
    return float(np.median(others)), "s", wanted, False, detail


def _opened(folder: Path, count: int) -> Asking:
    """Begin to label images that are embedded already."""
    photos = folder / "photos"
    options = {"dataset": f"folder:{photos}", "cache": str(folder / "cache"), "budget": 60.0}
    asking = open_asking(
        folder / "asked", classes=NAMES, learner="frozen", image_size=SIDE, query_size=50, **options
    )
    asking.open_round(asking.prepare(), hand_out=False)
    return asking


def _answers(asking: Asking) -> dict[str, str]:
    """Answer a round; the class of an image is in its name."""
    return {
        query.path: NAMES[int(Path(query.path).stem) % CLASSES] for query in asking.journal.open
    }


def make(folder: Path, count: int) -> None:
    """Write images of noise, decode them, and write embeddings of theirs that form classes."""
    photos = folder / "photos" / "unlabelled"
    photos.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for begin in range(0, count, 1000):
        part = photos / f"{begin // 1000:03}"
        part.mkdir()
        noise = draws.integers(256, size=(1000, SIDE, SIDE, 3), dtype=np.uint8)
        for number in range(begin, min(begin + 1000, count)):
            Image.fromarray(noise[number - begin]).save(part / f"{number:07}.bmp")
    options = {"dataset": f"folder:{folder / 'photos'}", "cache": str(folder / "cache")}
    with open_asking(
        folder / "looked", classes=NAMES, learner="frozen", image_size=SIDE, **options
    ) as asking:
        config, train = asking.config, load(asking.config).train
        embedder = embedder_for(config, train)
        table = embedder.table(train.x, train.files)
        assert train.paths is not None
        classes = np.array([int(Path(path).stem) % CLASSES for path in train.paths])
        centres = draws.standard_normal((CLASSES, embedder.dimensions)).astype(np.float32)
        basis = draws.standard_normal((64, embedder.dimensions)).astype(np.float32)
        for begin in range(0, count, 512):
            rows = np.arange(begin, min(begin + 512, count))
            mixed = draws.standard_normal((len(rows), 64)).astype(np.float32) @ basis / 4
            table.fill(rows, (centres[classes[rows]] + mixed).astype(np.float16))
        table.close()


def _get(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with _BROWSER.open(request, timeout=60) as answer:
        content = answer.read()
        return json.loads(content) if answer.headers.get_content_type().endswith("json") else None


def _peak_gb() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


PARTS: dict[str, tuple[Callable[[Path], Iterator[Measured]], int]] = {
    "embed": (embed, 0),
    "round": (round_, SMALL),
    "large": (large, LARGE),
    "page": (page, SMALL),
}
"""What measures, and the size of the pool that is made for it."""


def main() -> None:
    """Measure, each part in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--make", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    if given.folder is None:
        _each_alone(given.parts or list(PARTS), given.json)
    elif given.make is not None:
        make(given.folder, given.make)
    else:
        warnings.filterwarnings("ignore")
        for found in PARTS[given.parts[0]][0](given.folder):
            print(json.dumps(found.__dict__) if given.json else found.line(), flush=True)
        os._exit(0)  # on a slow machine the page's learner may still be busy


def _each_alone(parts: list[str], as_json: bool) -> None:
    own = [sys.executable, os.path.abspath(__file__)]
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="alprune-speed-") as name:
            if count := PARTS[part][1]:
                subprocess.run([*own, "--in", name, "--make", str(count)], check=True)
            subprocess.run([*own, part, "--in", name, *["--json"] * as_json], check=True)


if __name__ == "__main__":
    main()

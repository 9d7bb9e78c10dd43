"""Fifty thousand answers on the labelling page: does an answer take longer than at the start?

Made-up questions in rounds of 50, two people who answer them in turn, a tenth of the images for
both, accuracies after each round. What is measured is the time on the processor of one answer and
the state that the page gets after it, as JSON; medians of 500 answers.

    python tests/stress/label_growth.py --answers 50000

Exits with 1 if the median after all answers is more than twice that of the first 500, when the list
of past answers and the curve of accuracies are still short, or if opening the folder again gives
other answers. Writing is not waited for: the disk is not what is measured.

Measured (--answers 50000, one thread of an Intel Xeon at 2.3 GHz with other work beside): 0.239 ms
for the first 500, 0.307 ms after 5,000 answers, 0.354 ms after 50,000 in 972 rounds; 4,542 images
answered by two; opened again in 3.2 s of the processor with the same answers.
"""

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from alprune.labelling import Asking, Query, Round, open_asking
from alprune.labelling.web.leases import Client
from alprune.labelling.web.queue import LabelQueue

os.fsync = lambda handle: None  # the disk is not what is measured

ROUND, MOST, WINDOW = 50, 2.0, 500
PEOPLE = [Client("s1", "anna", "w1"), Client("s2", "ben", "w2")]
NAMES = [f"kind {number}" for number in range(10)]


def begin(folder: Path) -> Asking:
    images = folder / "photos" / "unlabelled"
    images.mkdir(parents=True)
    for number in range(4):
        Image.fromarray(np.full((8, 8), 60 * number, np.uint8)).save(images / f"{number}.png")
    asking = open_asking(
        folder / "run",
        classes=NAMES,
        dataset=f"folder:{folder / 'photos'}",
        learner="trained",
        device="cpu",
        image_size=8,
        query_size=ROUND,
    )
    asking.set_overlap(10)
    return asking


def ask(asking: Asking, queue: LabelQueue, number: int) -> None:
    """Open a round about images that are not there."""
    queries = []
    for place in range(number * ROUND, (number + 1) * ROUND):
        content = hashlib.blake2b(str(place).encode(), digest_size=16).hexdigest()
        queries.append(Query(f"unlabelled/{place}.jpg", content, "uncertain", NAMES[0], 0.5, 1.0))
    right = 60 + number % 30
    found = {"right": right, "of": 100, "accuracy": right / 100, "low": 0.5, "high": 1.0}
    labelled = number * ROUND
    with asking.lock:
        asking.journal.ask(
            queries,
            learnt={"held_out_accuracy": found},
            labelled=labelled,
            in_folders=0,
            pool=10**6,
        )
        queue.put(
            Round(asking.journal.round, tuple(queries), False, labelled, 0, 10**6, tuple(NAMES))
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--answers", type=int, default=50_000)
    count = parser.parse_args().answers
    with tempfile.TemporaryDirectory() as folder:
        asking = begin(Path(folder))
        queue, times, rounds, begun = LabelQueue(asking), [], 0, time.perf_counter()
        while len(times) < count:
            client = PEOPLE[len(times) % 2]
            state = queue.state(client)
            if state["image"] is None or state["round"]["done"] >= ROUND - 5:
                ask(asking, queue, rounds)
                rounds += 1
                state = queue.state(client)
            number = state["image"]["number"]
            start = time.process_time()
            queue.answer({number: NAMES[number % 10]}, client, fresh=True)
            json.dumps(queue.state(client))
            times.append(time.process_time() - start)
            if len(times) % (count // 10) == 0:
                ms = 1000 * statistics.median(times[-WINDOW:])
                print(f"{len(times):>7,} answers  {ms:.3f} ms", flush=True)
        first = statistics.median(times[:WINDOW])
        last = statistics.median(times[-WINDOW:])
        known = dict(asking.journal.answers), asking.journal.opinions.agreement()
        start = time.process_time()
        asking.close()
        with open_asking(Path(folder) / "run") as again:
            opened_s = time.process_time() - start
            same = (dict(again.journal.answers), again.journal.opinions.agreement()) == known
    print(
        f"{count:,} answers in {rounds:,} rounds: {1000 * first:.3f} ms at first, "
        f"{1000 * last:.3f} ms at last, {last / first:.2f} times; {known[1]}; opened again in "
        f"{opened_s:.1f} s of the processor, {'the same answers' if same else 'OTHER answers'}; "
        f"{time.perf_counter() - begun:.0f} s in all"
    )
    return 0 if same and last <= MOST * first else 1


if __name__ == "__main__":
    sys.exit(main())

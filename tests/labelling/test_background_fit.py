"""However a round in the background ends, people are told, and the next one is made."""

import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from alprune.errors import StoreError
from alprune.labelling.preparation import NothingLeft
from alprune.labelling.web import background_fit
from alprune.labelling.web.background_fit import BackgroundFit

GOOD = SimpleNamespace(images=None, learner=None, queries=())


class Folder:
    """A folder of labelling whose rounds end as they are told, and then no more."""

    def __init__(self, *endings):
        self.config = SimpleNamespace(learner="trained", seed=0)
        self.labels, self.path = {"a.png": "cat"}, Path("birds")
        self.journal = SimpleNamespace(counts=Counter({None: 2}))
        self.endings, self.said, self.threads = iter(endings), [], set()
        self.over, self.halted = threading.Event(), threading.Event()

    def prepare(self):
        self.threads.add(threading.current_thread())
        self.said.append((self.queue.message, self.queue.finished))
        ending = next(self.endings, None)
        if ending is None:
            self.over.set()
            self.halted.wait(10)
            raise KeyboardInterrupt
        if isinstance(ending, BaseException):
            raise ending
        return ending

    def open_round(self, prepared, hand_out):
        return prepared

    def halt(self):
        self.halted.set()


class Queue:
    """A queue in which a round is always due."""

    due, message, finished, working = True, "", "", ""

    def __init__(self):
        self.rounds, self.back = [], []
        self.put_back = self.back.append

    def begin(self):
        return 3

    def put(self, asked):
        self.rounds.append(asked)

    def stock(self, prepared, alike=None):
        pass


@pytest.mark.parametrize(
    ("ending", "message", "finished"),
    [
        (GOOD, "", ""),
        (KeyboardInterrupt(), "", ""),
        (NothingLeft("no image is left"), "", "Done: all images have labels but 2 that you skip"),
        (StoreError("no space left"), "no space left", ""),
        (RuntimeError("a NaN"), "The learner failed: RuntimeError('a NaN'). Your labels are", ""),
    ],
    ids=["well", "halted", "nothing left", "an error of ours", "any other error"],
)
def test_a_round_says_how_it_ended_and_the_next_one_is_made(monkeypatch, ending, message, finished):
    insight = SimpleNamespace(alike={})
    monkeypatch.setattr(background_fit, "look_over", lambda *args: insight)
    monkeypatch.setattr(background_fit, "_LOOK_S", 0.01)
    monkeypatch.setattr(background_fit, "_RETRY_S", 0.01)
    queue, folder = Queue(), Folder(ending, GOOD)
    folder.queue, seen = queue, []
    background = BackgroundFit(folder, queue, SimpleNamespace(update=seen.append))
    background.start()
    assert folder.over.wait(30)
    assert len(folder.threads) == 1
    first, then, after = folder.said
    assert first == after == ("", "")  # a good round takes back what was said
    assert then[0].startswith(message) and then[1].startswith(finished)
    # the answers that it learnt nothing of count for the next round again
    assert queue.back == [3] * isinstance(ending, StoreError | RuntimeError)
    assert bool(then[0]) == bool(message) and bool(then[1]) == bool(finished)
    well = 1 + (ending is GOOD)
    assert queue.rounds == [GOOD] * well and seen == [insight] * well
    assert queue.working and background.stop(wait_s=30)
    assert queue.working == "" and queue.rounds == [GOOD] * well

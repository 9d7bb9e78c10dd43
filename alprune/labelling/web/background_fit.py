"""Fits in the background while a person labels, and exchanges the questions afterwards."""

import threading

from alprune.errors import AlpruneError
from alprune.labelling import Asking
from alprune.labelling.insight import look_over
from alprune.labelling.preparation import NothingLeft
from alprune.labelling.web.overview import Overview
from alprune.labelling.web.queue import LabelQueue
from alprune.loop.frozen import FROZEN

_LOOK_S = 0.25  # between two looks at what is to be done
_FIRST = "Reading the images and choosing the first; the terminal shows how far that is"
_RETRY_S = 20.0  # after something went wrong, or nothing was left to ask


class BackgroundFit:
    """A thread that asks for the next round whenever enough was answered.

    Args:
        asking: The folder.
        queue: Takes the rounds, and messages for the person.
        overview: Takes what the learner says of all images.
    """

    def __init__(self, asking: Asking, queue: LabelQueue, overview: Overview) -> None:
        self._asking, self._queue, self._overview = asking, queue, overview
        self._ending = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="alprune background fit", daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, wait_s: float = 10.0) -> bool:
        """End within a batch; return whether it has, after `wait_s` seconds at most."""
        self._ending.set()
        self._asking.halt()
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if self._asking.config.learner == FROZEN and self._asking.labels and not self._queue.due:
            self._round(exchange=False)  # a second of work, and the grid is filled from the start
        pause_s = _LOOK_S
        while not self._ending.wait(pause_s):
            pause_s = _LOOK_S
            if self._queue.due:
                self._round()
                pause_s = _RETRY_S if self._queue.message or self._queue.finished else _LOOK_S

    def _round(self, exchange: bool = True) -> None:
        """Learn; ask about other images unless those of an earlier day are to stay."""
        asking, queue = self._asking, self._queue
        begun = 0
        try:
            queue.working = "Learning from the labels" if asking.labels else _FIRST
            begun = queue.begin() if exchange else 0
            prepared = asking.prepare()
            if not self._ending.is_set():
                if exchange:
                    queue.put(asking.open_round(prepared, hand_out=False))
                    begun = 0  # these answers were learnt from, whatever fails now
                queue.stock(prepared)
                queue.message = queue.finished = ""
                insight = look_over(
                    prepared.images, prepared.learner, prepared.queries, asking.config.seed
                )
                queue.stock(prepared, insight.alike)
                self._overview.update(insight)
        except KeyboardInterrupt:  # halted
            pass
        except NothingLeft:
            queue.message, queue.finished = "", all_labelled(asking)
        except AlpruneError as error:
            queue.message = str(error)
            queue.put_back(begun)  # the round is tried again
        except Exception as error:  # the person can continue, and should know
            queue.message = f"The learner failed: {error!r}. Your labels are safe."
            queue.put_back(begun)
        finally:
            queue.working = ""


def all_labelled(asking: Asking) -> str:
    """Say that the work is done, and what one may do then."""
    labels, skipped = asking.path / "labels.csv", asking.journal.counts[None]
    but = f" but {skipped:,} that you skipped (Review shows them, too)" if skipped else ""
    return (
        f"Done: all images have labels{but}. Ctrl-C in the terminal writes them to {labels}. "
        "Review shows labels that are doubtful; images that come into the folder are asked about "
        "here."
    )

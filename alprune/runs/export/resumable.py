"""Work of minutes that an interruption does not lose: shown, saved and resumed."""

import hashlib
import io
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import tqdm

from alprune.data import atomic_io
from alprune.errors import StoreError
from alprune.training.budget import Budget

_FORMAT = (
    3  # of what `Work.state` and pieces return; work that was kept in another one begins again
)
BUDGET_S = 600.0  # unless another one is asked for
_SAVED_EVERY_S = 15.0  # the most that a kill costs


class Work(Protocol):
    """Something that is done a batch at a time.

    Attributes:
        done: Batches so far.
        planned: Batches in all, unless the budget ends before.
    """

    done: int
    planned: int

    def run(self, budget: Budget, tick: Callable[[float | None], None]) -> None:
        """Work until all is done or the budget is spent; `tick` after each batch."""

    def state(self) -> dict[str, Any]:
        """Return all that the work changes: tensors and plain values."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring it to a state that `state` returned."""


class Progress:
    """The state of some pieces of work, done one after the other, in a file.

    Args:
        file: Holds it.
        key: Identifies the work, so that no other is resumed.

    Attributes:
        found: What the pieces that are done have found, by name; plain values.
    """

    def __init__(self, file: Path, key: str) -> None:
        self._file, self._key = file, key
        before = _read(file, key) or {"found": {}, "piece": None}
        self.found: dict[str, Any] = before["found"]
        self._piece: dict[str, Any] | None = before["piece"]

    def run(self, name: str, work: Work, budget_s: float) -> None:
        """Do one piece within a budget, from where an earlier call was interrupted.

        Args:
            name: Of the piece, for the file and the terminal.
            work: The piece.
            budget_s: Seconds.

        Raises:
            KeyboardInterrupt: Interrupted; the message says what is kept.
        """
        budget = Budget(budget_s)
        if self._piece is not None and self._piece["name"] == name:
            work.restore(self._piece["work"])
            budget.spend(self._piece["elapsed_s"])
        saved = time.monotonic()
        with tqdm(
            total=work.planned, initial=work.done, desc=name, unit="batch", file=sys.stderr
        ) as bar:

            def keep() -> None:
                elapsed_s = budget.elapsed_s
                self._piece = {"name": name, "elapsed_s": elapsed_s, "work": work.state()}
                self._write()

            def tick(loss: float | None) -> None:
                nonlocal saved
                bar.update(1)
                if loss is not None:
                    bar.set_postfix_str(f"loss {loss:.2f}, at most {budget.remaining_s:.0f} s left")
                if time.monotonic() - saved > _SAVED_EVERY_S:
                    keep()
                    saved = time.monotonic()

            budget.start()
            try:
                work.run(budget, tick)
                keep()  # what follows may fail
            except KeyboardInterrupt:
                kept = self._piece is not None or bool(self.found)
                said = "Interrupted. The same command resumes it." if kept else "Interrupted."
                raise KeyboardInterrupt(said) from None

    def note(self, name: str, value: Any) -> None:
        """Keep what a piece has found, plain values, instead of its state."""
        self.found[name], self._piece = value, None
        self._write()

    def _write(self) -> None:
        content = io.BytesIO()
        torch.save({"key": self._key, "found": self.found, "piece": self._piece}, content)
        try:
            atomic_io.replace(self._file, content.getbuffer())
        except OSError as error:
            raise StoreError(f"cannot write {self._file}: {error}.") from error


def key_of(network: nn.Module, *what: object) -> str:
    """Identify a piece of work by the network that it begins with and what else decides it."""
    digest = hashlib.blake2b(repr((_FORMAT, *what)).encode(), digest_size=16)
    for tensor in network.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(file: Path, key: str) -> dict[str, Any] | None:
    """Return the state that an interrupted call left; None if there is none of this work."""
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return state if state["key"] == key and state["found"] is not None else None
    except FileNotFoundError:
        return None
    except Exception:  # damaged, or not ours: the work begins again
        return None

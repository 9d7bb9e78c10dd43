"""Checkpoints: the state of a run in one checked file, without pickle, and the one before it."""

import json
import threading
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from alprune.errors import StoreError, quoted
from alprune.loop.run_folder import RunFolder

LAYOUT = 2  # of a state: what it holds and under which names
SLOTS = ("checkpoint-0.safetensors", "checkpoint-1.safetensors")
_TEXT_MOST = 2**26  # characters of a state beside its tensors; read, they take ten times that
# The types of a safetensors file.
_KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TENSOR = "$tensor"  # {"$tensor": name} replaces a tensor


def save_checkpoint(folder: RunFolder, number: int, state: Mapping[str, Any]) -> None:
    """Write a state over the older of the two that are kept.

    Args:
        folder: Of the run.
        number: Counts the states of a run without a gap.
        state: Tensors, None, bool, int, float and str, in dicts with str keys and in lists.

    Raises:
        StoreError: It holds something else, or cannot be written; the state before is kept.
    """
    folder.write(SLOTS[number % 2], *_laid_out(*_taken_apart({"number": number, "state": state})))


class CheckpointWriter:
    """Writes the states of a run in a thread beside it, one at a time.

    The run waits only until its tensors are copied: laying them out and waiting for the disk take
    several times as long. A kill in these milliseconds costs one step more, for the state before
    stands.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, number: int, state: Mapping[str, Any]) -> None:
        """Copy a state, which may change afterwards, and begin to write it.

        Args:
            number: As for `save_checkpoint`.
            state: Likewise.

        Raises:
            StoreError: It cannot be packed, or the one before could not be written.
        """
        self.wait()
        text, tensors = _taken_apart({"number": number, "state": state})
        copies = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
        self._thread = threading.Thread(target=self._write, args=(number, text, copies))
        self._thread.start()

    def wait(self) -> None:
        """Return once what was saved is on the disk.

        Raises:
            StoreError: It could not be written; the state before is kept.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, number: int, text: str, tensors: Mapping[str, Tensor]) -> None:
        try:
            self._folder.write(SLOTS[number % 2], *_laid_out(text, tensors))
        except BaseException as error:  # raised by `wait`
            self._error = error


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the newest state that is whole, tensors on the CPU.

    Args:
        path: The run folder.

    Returns:
        The state; None if none was written. A damaged file is named in a warning.

    Raises:
        StoreError: Only damaged ones are there.
    """
    found: list[dict[str, Any]] = []
    damaged: list[str] = []
    for file in (path / slot for slot in SLOTS):
        if file.is_file():
            try:
                found.append(decode(file))
            except StoreError as error:
                damaged.append(str(error))
    if damaged and not found:
        raise StoreError(
            f"{' '.join(damaged)} There is no other. labels.csv and events.jsonl still hold the "
            "labels and the record; start a new run with another --out."
        )
    for message in damaged:
        warnings.warn(f"{message} The one before it is used.", stacklevel=2)
    if not found:
        return None
    state: dict[str, Any] = max(found, key=lambda entry: int(entry["number"]))["state"]
    if state.get("layout", LAYOUT) != LAYOUT:
        raise StoreError(
            f"the checkpoint in {path} has the layout {quoted(state['layout'])}, and this version "
            f"of alprune reads {LAYOUT}. Install the version that wrote it."
        )
    return state


def encode(tree: Mapping[str, Any]) -> bytes:
    """Pack a tree of tensors and plain values into a safetensors file with a checksum.

    Raises:
        StoreError: It holds something that cannot be packed.
    """
    return b"".join(_laid_out(*_taken_apart(tree)))


def _taken_apart(tree: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """Return a tree's plain values as JSON, and its tensors, not copied, by where they stood."""
    tensors: dict[str, Tensor] = {}
    return json.dumps(_without_tensors(tree, "", tensors)), tensors


def _laid_out(text: str, tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """Lay out the file without copying the tensors, which may be large."""
    tensors = {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}
    parts = {name: _bytes(tensor) for name, tensor in tensors.items()}
    metadata = {"alprune": text, "crc32": _checksum(text, tensors)}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    # The widest first: so each begins at a multiple of its width.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    for name in order:
        begin, end = end, end + parts[name].nbytes
        kind, shape = _KINDS[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return [len(head).to_bytes(8, "little"), head, *(parts[name] for name in order)]


def decode(path: Path) -> dict[str, Any]:
    """Read what `encode` packed.

    Raises:
        StoreError: The file is not readable, is damaged or is something else.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            # Copied: a mapped file cannot be replaced on Windows.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        text = metadata["alprune"]
        if len(text) > _TEXT_MOST:
            raise ValueError(f"it has {len(text):,} characters of text; allowed: {_TEXT_MOST:,}")
        if _checksum(text, tensors) != metadata["crc32"]:
            raise ValueError("its checksum does not fit its content")
        tree: dict[str, Any] = _with_tensors(json.loads(text), tensors)
        int(tree["number"]), dict(tree["state"])
    except Exception as error:  # safetensors, JSON, numbers without end, memory ...
        raise StoreError(f"checkpoint {path} is damaged: {error}.") from error
    return tree


def _without_tensors(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = where
        if value.dtype not in _KINDS:
            raise StoreError(f"cannot keep {where}: it is a tensor of {value.dtype}.")
        while name in tensors:
            name += "'"
        tensors[name] = value.detach()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        strange = [key for key in value if not isinstance(key, str) or key == _TENSOR]
        if strange:
            raise StoreError(f"cannot keep {where}: its key {strange[0]!r} must be another str.")
        inside = f"{where}/" if where else ""
        return {k: _without_tensors(v, f"{inside}{k}", tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(v, f"{where}/{i}", tensors) for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StoreError(
        f"cannot keep {where} over an interruption: it is of type {type(value).__name__}; allowed "
        "are tensors, None, bool, int, float and str, in lists and in dicts with str keys."
    )


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {key: _with_tensors(entry, tensors) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_tensors(entry, tensors) for entry in value]
    return value


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return what shows damage; a hash would take a noticeable part of a step."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(_bytes(tensor), crc)
    return f"{crc:08x}"


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data

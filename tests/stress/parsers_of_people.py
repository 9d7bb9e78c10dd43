"""More of what fuzz.py feeds: people's answers, rounds of asking, exported learners, caches."""

import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from mutations import inside_json, other_value
from safetensors import safe_open
from safetensors.torch import save

from alprune import build, prune
from alprune.data.image_cache.index import IndexWriter, read_index
from alprune.data.image_cache.worker import Outcome
from alprune.errors import DataError, StoreError
from alprune.labelling.journal import Journal
from alprune.labelling.read_answers import read_answers, spellings
from alprune.loop.run_folder import CONFIG, RunFolder
from alprune.runs.load import Learned, load_learner, to_bytes
from alprune.training.classifier import Classifier
from alprune.training.input_spec import Inputs

RECORD = "alprune.learner"  # of an exported learner, in the file's metadata
CSV = [
    b",",
    b";",
    b"\t",
    b'"',
    b"\n",
    b"\r\n",
    b"'=",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"path",
    b"label",
]
PATHS = [b"../", b"/etc/passwd", b"\\\\", b"%2e%2e", b"file:///", b"?d=", b"\0", b"a" * 5000]


def parts(words: list[bytes]) -> dict[str, tuple[Any, ...]]:
    """Return the arguments of each parser's Target by its name; `words` are JSON's."""
    return {
        "answers": (_answers(), CSV + PATHS + words, _told, inside_json),
        "asking": ([_asked()], PATHS + words, _journal, inside_json),
        "learner": ([_learner()], words, load_learner, _inside_learner),
        "cache index": ([_index()], words, _known),
    }


def _answers() -> list[bytes]:
    choice = {"from_name": "class", "type": "choices", "value": {"choices": ["cat"]}}
    task = {"data": {"image": "/data/local-files/?d=photos%2Fa.jpg", "path": "a.jpg"}}
    export = [task | {"annotations": [{"result": [choice]}]}]
    return [
        b"path,label\na.jpg,cat\nb/c.png,skip\n",
        "\ufeffpath;label\r\n'=a.jpg;H\u00fchner\r\n".encode(),
        "path\tclass\na.jpg\tcat\n".encode("utf-16"),
        json.dumps(export).encode(),
        json.dumps([{"image": "a.jpg", "choice": "cat", "id": 1}]).encode(),
    ]


def _told(path: Path) -> object:
    """Read answers as CSV and as JSON; taken is what one of both takes."""
    found, refusal = [], None
    for suffix in ("csv", "json"):
        other = path.with_name(f"answers.{suffix}")
        shutil.copyfile(path, other)
        try:
            found += read_answers(other)
        except DataError as error:
            refusal = error
    if refusal is not None and not found:
        raise refusal
    return [list(spellings(given.path, path.parent)) for given in found]


def _asked() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        journal = Journal(folder)
        journal.start({"method": "3sp"}, {})
        journal.declare(["cat", "dog"])
        journal.hold_out(["ab" * 16])
        folder.close()
        return (Path(name) / "events.jsonl").read_bytes()


def _journal(path: Path) -> object:
    run = path.parent / "run"
    run.mkdir(exist_ok=True)
    (run / CONFIG).write_text("")
    shutil.copyfile(path, run / "events.jsonl")
    folder = RunFolder(run, resume=True)
    try:
        return Journal(folder)
    finally:
        folder.close()


def _learner() -> bytes:
    inputs = Inputs(("a", "b"), (1, 28, 28), "uint8", (0.1,), (0.3,))
    batch = (torch.rand(8, 1, 28, 28), torch.arange(8) % 2)
    network = build("lenet-300-100", classes=2)
    pruned = prune(network, "3sp", batch=batch, flops_reduction=0.9, min_channels=2)
    classifier = Classifier(pruned.model, inputs, None)
    return to_bytes(Learned(classifier, "lenet-300-100", pruned.plan, "ended"))


def _inside_learner(content: bytes, words: list[bytes], rng: random.Random) -> bytes:
    """Change the record in the file's head, and leave the file a sound one."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "learner.safetensors"
        path.write_bytes(content)
        try:
            with safe_open(path, "pt") as file:
                metadata = dict(file.metadata() or {})
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            record = json.loads(metadata[RECORD])
        except Exception:  # it was damaged before
            return content
    return save(state, metadata | {RECORD: json.dumps(other_value(record, rng))})


def _index() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "index"
        writer = IndexWriter(path, None, {"size": [8, 8]})
        digest = "00" * 16
        read = Outcome(0, False, 0, 10, 5, digest, digest, "", True)
        writer.append(
            ["a.jpg", "b.jpg"], [read, Outcome(-1, False, 0, 3, 5, digest, digest, "no", True)]
        )
        writer.close()
        return path.read_bytes()


def _known(path: Path) -> object:
    known = read_index(path)
    if known is None:
        raise StoreError("there is no index in it")
    return known

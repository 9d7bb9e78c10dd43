"""Take a run's learner out: a file that classifies images without alprune, or without the run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from alprune.data import atomic_io
from alprune.data.safe_io import user_path
from alprune.errors import StoreError
from alprune.loop.trust import trusting
from alprune.registry import unknown
from alprune.runs.export import onnx
from alprune.runs.export import pt2 as program
from alprune.runs.export import safetensors as tensors
from alprune.runs.export.check import TOLERANCE, Difference, compare, images_for
from alprune.runs.export.fine_tuned import STATE as TUNING
from alprune.runs.export.fine_tuned import FineTuned, FineTuneOptions, fine_tune
from alprune.runs.export.formats import Format, labels_json
from alprune.runs.export.small import STATE as TEACHING
from alprune.runs.export.small import Shrunk, SmallOptions, shrink
from alprune.runs.load import Learned, find_learner

__all__ = [
    "FORMATS",
    "Difference",
    "Exported",
    "FineTuneOptions",
    "FineTuned",
    "Format",
    "Shrunk",
    "SmallOptions",
    "export",
]

FORMATS: dict[str, Format] = {
    "onnx": Format(onnx.write, onnx.run, onnx.require),
    "pt2": Format(program.write, program.run),
    "safetensors": Format(tensors.write, tensors.run),
}
CHECK_IMAGES = 256


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        format: One of `FORMATS`.
        path: The file.
        labels: The JSON file beside it that says what its inputs are and names its outputs.
        state: Of when the learner is, in words.
        calibrated: Whether a temperature is in it.
        difference: How far its probabilities are from the learner's; None if not checked.
        small: What making the learner small came to; None if that was not asked for.
        tuned: What fine-tuning came to; likewise.
    """

    format: str
    path: Path
    labels: Path
    state: str
    calibrated: bool
    difference: Difference | None
    small: Shrunk | None = None
    tuned: FineTuned | None = None


def export(
    path: str | Path,
    formats: str | Sequence[str] = "onnx",
    out: str | Path | None = None,
    *,
    check: bool = True,
    trust_code: bool = False,
    small: SmallOptions | None = None,
    tune: FineTuneOptions | None = None,
) -> list[Exported]:
    """Write a run's learner as files that take stored images and give probabilities.

    What is before and after the network is inside: images `(n, h, w, c)` as they are stored, of
    any number n, are normalised there; out come the softmax's probabilities `(n, classes)`, with
    the temperature of a run that has one (`--hold-out`). BatchNorms are folded away and weight
    masks applied, but not in a safetensors file, which `alprune.load_learner` reads. The run's data
    are not needed. Of a run that has not ended, the last checkpoint's learner is taken, with a
    warning.

    Each file is checked before it is put in its place: it has to give the learner's probabilities
    for images of the run's data or, where these are gone, for random ones.

    Args:
        path: The run folder, or a safetensors file that was exported from one.
        formats: One or more of `FORMATS`.
        out: The file, its ending that of the format; None: `learner` in the run folder (beside
            the file).
        check: Check.
        trust_code: Whether the builder of a network of your own, which the run folder names, may
            be imported.
        small: Make a learner on a frozen backbone small first, as `alprune.runs.export.small` does:
            its run's images are needed for that, and `out` is `learner-small` by default.
        tune: Fine-tune a learner on a frozen backbone, small or not, on its labels, where
            cross-validation finds that this helps, see `alprune.runs.export.fine_tuned`; likewise,
            with `-tuned` added to the name.

    Returns:
        What was written, one record per format.

    Raises:
        StoreError: No learner is there, a file cannot be written, or it fails the check; it is
            not left behind then.
        ModelError: The network cannot be written in that format.
        ConfigError: Unknown format, a package is missing, or the folder names a network of your own
            without `trust_code`.
    """
    chosen = [formats] if isinstance(formats, str) else list(dict.fromkeys(formats))
    for name in chosen:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
        FORMATS[name].require()
    with trusting(trust_code):
        learned = find_learner(path)
    learned.warn()
    source, shrunk, tuned, full = Path(path), None, None, learned
    stem = "learner" + "-small" * (small is not None) + "-tuned" * (tune is not None)
    files = {name: _file(source, out, name, stem, alone=len(chosen) == 1) for name in chosen}
    if small is not None:
        learned, shrunk = shrink(source, learned, small)
    if tune is not None:
        learned, tuned = fine_tune(source, learned, tune, full)
    sample = images_for(learned, CHECK_IMAGES) if check else None
    made = [_write(learned, name, FORMATS[name], files[name], sample) for name in chosen]
    for state, asked in ((TEACHING, small), (TUNING, tune)):
        if asked is not None:  # it is of no use once there are files
            (source / state).unlink(missing_ok=True)
    return [replace(one, small=shrunk, tuned=tuned) for one in made]


def _file(source: Path, out: str | Path | None, name: str, stem: str, alone: bool) -> Path:
    if out is None:
        return (source if source.is_dir() else source.parent) / f"{stem}.{name}"
    file = user_path(out)
    if file.is_dir():
        raise StoreError(f"{out} is a folder; name a file.")
    if file.suffix == f".{name}" or (alone and file.suffix):
        return file
    known = file.suffix.removeprefix(".") in FORMATS
    return file.with_suffix(f".{name}") if known else file.with_name(f"{file.name}.{name}")


def _write(
    learned: Learned, name: str, entry: Format, file: Path, sample: "tuple[Tensor, str] | None"
) -> Exported:
    labels = file.with_name(f"{file.name}.labels.json")
    trial = file.with_name(f".{file.stem}.tmp.{name}")
    difference = None
    try:
        try:
            atomic_io.make_folders(file.parent)
            atomic_io.replace(trial, entry.write(learned))
            if sample is not None:
                images, source = sample
                difference = compare(learned, entry.run(trial, learned), images, source)
                _require(difference, file)
            atomic_io.replace(labels, labels_json(learned))
            atomic_io.rename(trial, file)
            atomic_io.sync_folder(file.parent)
        finally:
            trial.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {file}: {error}.") from error
    calibrated = learned.classifier.temperature is not None
    return Exported(name, file, labels, learned.state, calibrated, difference)


def _require(difference: Difference, file: Path) -> None:
    if difference.largest <= TOLERANCE:
        return
    raise StoreError(
        f"{file} was not written: its probabilities for {difference.source} are up to "
        f"{difference.largest:.3g} from the learner's ({difference.argmax} of {difference.images} "
        f"get another class); at most {TOLERANCE:g} is allowed."
    )

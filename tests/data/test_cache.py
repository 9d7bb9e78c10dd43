import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from forbidden import forbid
from PIL import Image
from tiny_run import options

from alprune.cli import main
from alprune.data import Splits, folder, load
from alprune.data.image_cache import pool as worker_pool
from alprune.data.image_cache import refresh, worker
from alprune.data.image_cache.index import read_index
from alprune.data.image_cache.store import (
    INDEX,
    UNREADABLE,
    cache_of,
    caches_folder,
    list_caches,
    locked,
    remove_cache,
)
from alprune.data.image_cache.worker import Batch, Outcome
from alprune.data.lazy_rows import ChosenRows
from alprune.data.listing import list_folder
from alprune.errors import DataError
from alprune.loop.oracle import Simulation
from alprune.loop.setup import complete, open_session

SIZE = (6, 5)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for part, count in (("train", 8), ("test", 2)):
        for name in ("cat", "dog"):
            for index in range(count):
                draw(root / part / name / f"{index}.png")
    return root


def draw(path: Path, seed: int | None = None) -> None:
    """Write an image of its own, changed long enough ago to be trusted by its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if seed is None:
        seed = crc32("/".join(path.parts[-3:]).encode())
    drawn = np.random.default_rng(seed)
    Image.fromarray(drawn.integers(0, 256, (6, 5, 3), np.uint8)).save(path)
    age(path)


def age(path: Path, seconds: float = 3600) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def read(root: Path, cache: Path | None, **options: Any) -> Splits:
    return load(f"folder:{root}", size=SIZE, cache=cache, **options)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the files that are decoded, as long as that happens in this process."""
    paths: list[str] = []
    plain = worker.Reader.__call__

    def noting(self: worker.Reader, batch: Batch) -> list[Outcome]:
        paths.extend(path for path in batch.paths if batch.first >= 0)
        return plain(self, batch)

    monkeypatch.setattr(worker.Reader, "__call__", noting)
    return paths


def expected(root: Path, part: str) -> np.ndarray:
    files = sorted((root / part).rglob("*.png"))
    return np.stack([np.asarray(Image.open(path)) for path in files])


def place(root: Path, cache: Path) -> Path:
    return cache_of(root, SIZE, cache)


# --- what is decoded again ---------------------------------------------------------------------


def test_a_second_start_decodes_nothing_and_gives_the_same(
    photos: Path, cache: Path, decoded: list[str]
) -> None:
    first = read(photos, cache)
    assert len(decoded) == 20
    assert np.array_equal(first.train.x.numpy(), expected(photos, "train"))
    second = read(photos, cache)
    assert len(decoded) == 20
    assert torch.equal(first.train.x, second.train.x) and torch.equal(first.test.x, second.test.x)
    assert first.digest == second.digest
    assert first.train.paths == second.train.paths


def test_kept_and_unkept_images_have_one_digest(photos: Path, cache: Path) -> None:
    assert read(photos, cache).digest == read(photos, None).digest


def test_a_changed_added_or_deleted_file_costs_only_itself(
    photos: Path, cache: Path, decoded: list[str]
) -> None:
    read(photos, cache)
    draw(photos / "train" / "cat" / "3.png", seed=1)
    draw(photos / "train" / "cat" / "2b.png", seed=2)
    (photos / "train" / "dog" / "0.png").unlink()
    decoded.clear()
    splits = read(photos, cache)
    assert sorted(decoded) == ["train/cat/2b.png", "train/cat/3.png"]
    assert np.array_equal(splits.train.x.numpy(), expected(photos, "train"))
    assert np.array_equal(splits.test.x.numpy(), expected(photos, "test"))
    fresh = read(photos, None)
    assert splits.digest == fresh.digest
    assert splits.train.files is not None and fresh.train.files is not None
    assert np.array_equal(splits.train.files.contents, fresh.train.files.contents)


def test_a_moved_or_touched_file_is_known_by_its_content(
    photos: Path, cache: Path, decoded: list[str]
) -> None:
    read(photos, cache)
    (photos / "train" / "cat" / "3.png").rename(photos / "train" / "dog" / "9.png")
    age(photos / "train" / "cat" / "1.png", 60)
    decoded.clear()
    splits = read(photos, cache)
    assert decoded == []
    assert np.array_equal(splits.train.x.numpy(), expected(photos, "train"))
    assert splits.train.y.tolist() == [0] * 7 + [1] * 9


def test_a_file_that_was_new_is_looked_at_again_though_its_size_and_time_are_the_same(
    photos: Path, cache: Path, decoded: list[str]
) -> None:
    now = time.time_ns()
    for seed, count in ((1, 21), (2, 22)):
        pixels = np.full((6, 5, 3), seed, np.uint8)
        for name, changed in (("new.bmp", now), ("old.bmp", now - 10**12)):
            path = photos / "train" / "dog" / name
            Image.fromarray(pixels).save(path)
            os.utime(path, ns=(changed, changed))
        splits = read(photos, cache)
        assert splits.train.x[-2:, 0, 0, 0].tolist() == [seed, 1]  # the old one is trusted
        assert len(decoded) == count + 1


def test_caches_of_several_sizes_stand_side_by_side(photos: Path, cache: Path) -> None:
    small = load(f"folder:{photos}", size=(3, 3), cache=cache)
    large = load(f"folder:{photos}", size=(6, 5), cache=cache)
    assert (small.train.image_shape, large.train.image_shape) == ((3, 3, 3), (3, 6, 5))
    assert np.array_equal(large.train.x.numpy(), expected(photos, "train"))
    assert len(list_caches(cache)) == 2


# --- broken files ------------------------------------------------------------------------------


def test_broken_files_are_counted_listed_and_not_tried_again(
    photos: Path, cache: Path, decoded: list[str]
) -> None:
    for index in range(7):
        path = photos / "train" / "cat" / f"b{index}.png"
        path.write_bytes(b"no image")
        age(path)
    with pytest.raises(DataError, match="^7 of 27 files .*b0.png.*and 2 more.*unreadable.txt.*--s"):
        read(photos, cache)
    assert len(decoded) == 27
    with pytest.warns(UserWarning, match="^7 of 27 files .*left out"):
        splits = read(photos, cache, skip_unreadable=True)
    assert len(decoded) == 27
    assert len(splits.train) == 16
    lines = (place(photos, cache) / UNREADABLE).read_text().splitlines()
    assert len(lines) == 7
    assert lines[0] == "train/cat/b0.png\tan image in no known format"


def test_a_file_that_was_mended_or_could_not_be_opened_is_tried_again(
    photos: Path, cache: Path
) -> None:
    broken, gone = (photos / "train" / "cat" / f"{name}.png" for name in ("broken", "gone"))
    broken.write_bytes(b"no image")
    age(broken)
    gone.symlink_to("later.png")
    with pytest.warns(UserWarning, match="^2 of 22"):
        read(photos, cache, skip_unreadable=True)
    draw(broken, seed=5)
    draw(photos / "train" / "cat" / "later.png", seed=6)
    splits = read(photos, cache)
    assert len(splits.train) == 19
    assert not (place(photos, cache) / UNREADABLE).exists()


# --- kills, damage, other processes ------------------------------------------------------------


def test_what_was_decoded_before_an_interruption_is_kept(
    photos: Path,
    cache: Path,
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(refresh, "_BATCH", 2)
    monkeypatch.setattr(refresh, "cores", lambda: 1)
    plain = worker.Reader.__call__

    def interrupted(self: worker.Reader, batch: Batch) -> list[Outcome]:
        if len(decoded) >= 10:
            raise KeyboardInterrupt
        return plain(self, batch)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(worker.Reader, "__call__", interrupted)
        read(photos, cache, progress=True)
    assert capsys.readouterr().err == "What was decoded is kept: the next start continues.\n"
    assert len(decoded) == 10
    splits = read(photos, cache)
    assert len(decoded) == 20
    assert np.array_equal(splits.train.x.numpy(), expected(photos, "train"))


KILLED = """
import sys
from alprune.data import load
from alprune.data.image_cache import refresh
refresh.MANY, refresh._BATCH, refresh._SETTLE_S = 1, 2, 0.0
print("ready", flush=True)
load(f"folder:{sys.argv[1]}", size=(6, 5), cache=__import__("pathlib").Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_process_leaves_a_cache_that_the_next_one_completes(
    photos: Path, cache: Path
) -> None:
    for index in range(400):
        draw(photos / "train" / "cat" / f"m{index:03}.png", seed=index)
    for _ in range(4):
        command = [sys.executable, "-c", KILLED, str(photos), str(cache)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.35)
            process.send_signal(signal.SIGKILL)
    known = read_index(place(photos, cache) / INDEX)
    splits = read(photos, cache)
    assert np.array_equal(splits.train.x.numpy(), expected(photos, "train"))
    assert known is None or len(known.paths) <= 420


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("at", [0, 30, -1, -900])
def test_a_damaged_index_is_not_trusted(
    photos: Path, cache: Path, decoded: list[str], at: int
) -> None:
    read(photos, cache)
    damage(place(photos, cache) / INDEX, at)
    splits = read(photos, cache)
    assert np.array_equal(splits.train.x.numpy(), expected(photos, "train"))
    decoded.clear()
    read(photos, cache)
    assert decoded == []


@pytest.mark.parametrize("content", [b"", b"alpr", b"\x80\x04junk" * 50])
def test_what_is_no_index_is_replaced(photos: Path, cache: Path, content: bytes) -> None:
    before = read(photos, cache)
    (place(photos, cache) / INDEX).write_bytes(content)
    assert torch.equal(read(photos, cache).train.x, before.train.x)
    assert len(list(place(photos, cache).glob("rows-*"))) == 1


def test_an_index_of_another_folder_is_not_believed(
    photos: Path, cache: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            for index in range(8 if part == "train" else 2):
                path = other / part / name / f"{index}.png"
                draw(path, seed=index)
                same = photos / part / name / f"{index}.png"
                os.utime(path, ns=(same.stat().st_mtime_ns,) * 2)
    read(photos, cache)
    read(other, cache)
    for path in place(photos, cache).iterdir():
        (place(other, cache) / path.name).write_bytes(path.read_bytes())
    assert np.array_equal(read(other, cache).train.x.numpy(), expected(other, "train"))


def test_damaged_pixels_are_decoded_again(photos: Path, cache: Path, decoded: list[str]) -> None:
    read(photos, cache)
    [rows] = place(photos, cache).glob("rows-*.bin")
    damage(rows, 95)
    decoded.clear()
    splits = read(photos, cache)
    assert len(decoded) == 1
    assert np.array_equal(splits.train.x.numpy(), expected(photos, "train"))


@pytest.mark.parametrize("looked_at", [2**29, 180])
def test_pixels_that_are_cut_off_are_decoded_again(
    photos: Path, cache: Path, looked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "_LOOKED_AT", looked_at)
    read(photos, cache)
    [rows] = place(photos, cache).glob("rows-*.bin")
    os.truncate(rows, 90 * 13 + 5)
    assert np.array_equal(read(photos, cache).train.x.numpy(), expected(photos, "train"))


def test_of_many_images_a_part_is_looked_at_and_all_if_one_is_wrong(
    photos: Path, cache: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "_LOOKED_AT", 90 * 5)
    read(photos, cache)
    [rows] = place(photos, cache).glob("rows-*.bin")
    content = bytearray(rows.read_bytes())
    content[: 90 * 11] = bytes(90 * 11)
    rows.write_bytes(content)
    decoded.clear()
    assert np.array_equal(read(photos, cache).train.x.numpy(), expected(photos, "train"))
    assert len(decoded) == 11


def test_a_second_process_waits_and_finds_all_done(
    photos: Path, cache: Path, decoded: list[str]
) -> None:
    read(photos, cache)
    decoded.clear()
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(place(photos, cache)):
            held.set()
            let_go.wait(200)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(200)
    threading.Timer(0.2, let_go.set).start()
    with pytest.warns(UserWarning, match="another process is decoding the same images"):
        read(photos, cache)
    holder.join()
    assert decoded == []


def test_images_in_use_stay_as_they_are_while_others_are_added_or_the_cache_is_removed(
    photos: Path, cache: Path
) -> None:
    before = load_mapped(photos, cache)
    pixels = expected(photos, "train")
    for index in range(20):
        draw(photos / "train" / "cat" / f"more{index}.png", seed=index)
    read(photos, cache)
    assert np.array_equal(before.numpy(), pixels)
    (place(photos, cache) / INDEX).write_bytes(b"junk")
    read(photos, cache)
    assert np.array_equal(before.numpy(), pixels)
    remove_cache(place(photos, cache))
    assert np.array_equal(before.numpy(), pixels)


def load_mapped(root: Path, cache: Path) -> torch.Tensor:
    options = folder.LoadOptions(size=SIZE, cache=cache, in_memory=0)
    return folder.load(str(root), options).train.x


# --- processes that decode ---------------------------------------------------------------------


def test_processes_decode_to_the_same_as_threads(
    photos: Path, cache: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "train" / "cat" / "x.png").write_bytes(b"no image")
    monkeypatch.setattr(refresh, "MANY", 1)
    monkeypatch.setattr(refresh, "_BATCH", 3)
    with pytest.warns(UserWarning, match="^1 of 21 files"):
        splits = read(photos, cache, skip_unreadable=True)
    assert decoded == []  # not in this process
    (photos / "train" / "cat" / "x.png").unlink()
    assert np.array_equal(splits.train.x.numpy(), expected(photos, "train"))
    assert splits.digest == read(photos, None).digest


def test_a_file_that_kills_its_decoder_is_left_out_and_the_others_are_read(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = """
from alprune.data.image_cache import worker
plain = worker.Reader._one
def one(self, path, row, image):
    if path.name == "5.png":
        import os
        os.kill(os.getpid(), 11)
    return plain(self, path, row, image)
worker.Reader._one = one
from alprune.data.image_cache.worker import serve
"""
    child = worker_pool._CHILD.replace("from alprune.data.image_cache.worker import serve\n", evil)
    monkeypatch.setattr(worker_pool, "_CHILD", child)
    monkeypatch.setattr(refresh, "MANY", 1)
    with pytest.warns(UserWarning, match="^2 of 20.*ended the process, by signal 11"):
        splits = read(photos, cache, skip_unreadable=True)
    assert (len(splits.train), len(splits.test)) == (14, 4)
    for part in ("cat", "dog"):
        (photos / "train" / part / "5.png").unlink()
    assert np.array_equal(splits.train.x.numpy(), expected(photos, "train"))


def test_processes_that_cannot_start_say_so(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "MANY", 1)
    monkeypatch.setattr(worker_pool, "_CHILD", "raise SystemExit(3)")
    with pytest.raises(DataError, match="ended at its start, with status 3"):
        read(photos, cache)


def test_a_decoding_process_imports_no_torch() -> None:
    code = worker_pool._CHILD.replace("serve()\n", "print('torch' in sys.modules)\n")
    command = [sys.executable, "-c", code, json.dumps([*map(str, sys.path)])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- where it lies and what it takes -----------------------------------------------------------


def test_few_files_are_not_kept(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "own"))
    read(photos, None)
    assert not (tmp_path / "own").exists()
    monkeypatch.setattr(folder, "_SMALL", 5)
    read(photos, None)
    [one] = list_caches()
    assert (one.root, one.size, one.path.parent) == (photos, SIZE, tmp_path / "own" / "images")
    assert one.disk_bytes > 0
    assert (tmp_path / "own" / "images" / "CACHEDIR.TAG").read_text().startswith("Signature: 8a47")


def test_the_users_cache_folder_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPRUNE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert caches_folder() == Path("~/.cache/alprune/images").expanduser()
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert caches_folder() == Path("/x/alprune/images")
    monkeypatch.setenv("ALPRUNE_CACHE", "/y")
    assert caches_folder() == Path("/y/images")
    assert caches_folder("/z") == Path("/z/images")


def test_a_cache_among_the_images_is_refused_unless_hidden(photos: Path) -> None:
    with pytest.raises(DataError, match="among the images.*hidden"):
        read(photos, photos / "cache")
    read(photos, photos / ".cache")
    assert len(list_folder(photos)) == 20


def test_a_cache_folder_that_cannot_be_made_is_replaced_by_a_temporary_one(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be kept in .*--cache"):
        read(photos, tmp_path / "file")
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(folder, "_SMALL", 5)
    with pytest.warns(UserWarning, match="cannot be kept.*decoded each time"):
        splits = read(photos, None)
    assert np.array_equal(splits.train.x.numpy(), expected(photos, "train"))


def test_a_disk_that_is_too_full_is_said_before_and_while_decoding(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="20 images of 9000000x9000000 .* more than there is.*--im"):
        load(f"folder:{photos}", size=(9_000_000, 9_000_000), cache=cache)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker, "write_at", full)
    with pytest.raises(DataError, match="No space left on device.*Make room.*so far is kept"):
        read(photos, cache)


def test_progress_says_where_images_are_kept(
    photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(photos, cache, progress=True)
    said = capsys.readouterr().err
    assert f"kept in {place(photos, cache)} (" in said
    read(photos, cache, progress=True)
    assert "kept in" not in capsys.readouterr().err


def test_alprune_cache_lists_and_removes(
    photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(photos, cache)
    name = place(photos, cache).name
    where = ["--cache", str(cache)]
    main(["cache", "list", *where, "--json"], standalone_mode=False)
    [record] = json.loads(capsys.readouterr().out)
    assert (record["name"], record["root"], record["size"]) == (name, str(photos), [*SIZE])
    main(["cache", "list", *where], standalone_mode=False)
    assert name in capsys.readouterr().out
    (place(photos, cache) / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["cache", "remove", *where, "nothing"])
    assert "there is no cache 'nothing'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["cache", "remove", *where, name])
    assert "cannot be removed" in capsys.readouterr().err
    assert (place(photos, cache) / "notes.txt").read_text() == "mine"
    read(photos, cache)
    (place(photos, cache) / "notes.txt").unlink()
    (place(photos, cache) / "lock").unlink()  # as on Windows, whenever it is released
    main(["cache", "remove", *where, "--all"], standalone_mode=False)
    assert "freed" in capsys.readouterr().out
    assert list_caches(cache) == []


def test_a_cache_of_another_user_hides_no_other(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read(photos, cache)
    mine = place(photos, cache)
    theirs = mine.with_name("a-first"), cache / "embeddings" / "a-first"
    for their in theirs:
        their.mkdir(parents=True)
        forbid(monkeypatch, their)
    where = ["--cache", str(cache)]
    main(["cache", "list", *where, "--json"], standalone_mode=False)
    names = [record["name"] for record in json.loads(capsys.readouterr().out)]
    assert names == ["a-first", mine.name, "a-first"]
    with pytest.raises(SystemExit):
        main(["cache", "remove", *where, "--all"])
    assert "a-first" in capsys.readouterr().err and not mine.exists()


def test_a_run_on_images_that_stay_in_the_cache_equals_one_in_memory(
    photos: Path, cache: Path, tmp_path: Path
) -> None:
    weights = []
    for in_memory in (0, 2**20):
        loading = folder.LoadOptions(size=(12, 12), cache=cache, in_memory=in_memory)
        splits = folder.load(str(photos), loading)
        assert isinstance(splits.train.x, ChosenRows) == (in_memory == 0)
        config = options(tmp_path / f"run{in_memory}", initial=6, query_size=2, batch_size=4)
        config = complete(replace(config, dataset=f"folder:{photos}", score_subset=6))
        open_session(config, splits).run(Simulation(splits.train))
        weights.append((tmp_path / f"run{in_memory}" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_decoder_whose_parent_was_killed_writes_nothing_more(
    photos: Path, tmp_path: Path
) -> None:
    """By then the next process may have its rows."""
    late = """
import os, time
from alprune.data.image_cache import worker
plain, parent = worker.Reader._one, os.getppid()
def one(self, path, row, image):
    while os.getppid() == parent:
        time.sleep(0.01)
    return plain(self, path, row, image)
worker.Reader._one = one
from alprune.data.image_cache.worker import serve
"""
    child = worker_pool._CHILD.replace("from alprune.data.image_cache.worker import serve\n", late)
    rows = tmp_path / "rows.bin"
    rows.touch()
    batch = Batch(0, str(photos), ["train/cat/0.png"], 0)
    lines = worker.order_line(rows, tmp_path / "lock-large", SIZE, 1) + worker.batch_line(batch)
    parent = f"""
import os, subprocess, sys
command = [sys.executable, "-c", {child!r}, {json.dumps([*map(str, sys.path)])!r}]
process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
process.stdin.write({lines!r})
process.stdin.flush()
process.stdout.readline()
os.kill(os.getpid(), 9)
"""
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as killed:
        killed.communicate()  # its end is that of both, who share the standard error
    assert rows.stat().st_size == 0


def test_a_quota_of_a_container_counts_as_cores_and_decoders_have_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(worker_pool, "_QUOTA", quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(96)))
    found = []
    for text in ("max 100000", "400000 100000", "150000 100000", "5000 100000", ""):
        quota.write_text(text)
        found.append(worker_pool.cores())
    assert found == [96, 4, 2, 1, 96]
    given: dict[str, Any] = {}

    def refuse(*_: Any, **more: Any) -> None:
        given.update(more)
        raise OSError("no more processes")

    monkeypatch.setattr(worker_pool.subprocess, "Popen", refuse)
    with pytest.raises(DataError, match="no process can be started"):
        worker_pool.Helper(tmp_path, tmp_path, SIZE, 4)._start()
    assert {given["env"][f"{kind}_NUM_THREADS"] for kind in ("OPENBLAS", "OMP", "MKL")} == {"1"}


def test_a_time_of_change_in_the_far_future_is_one_like_others() -> None:
    now, hour = time.time_ns(), 3600 * 10**9
    for modified, is_told in ((now - hour, True), (now + hour // 2, False), (now + 9 * hour, True)):
        assert worker.settled(modified) == (modified if is_told else -1)


def test_an_interruption_leaves_no_process_behind(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "MANY", 1)
    monkeypatch.setattr(refresh, "_BATCH", 2)
    started: list[subprocess.Popen[str]] = []
    plain = worker_pool.Helper._start

    def noting(self: worker_pool.Helper) -> "subprocess.Popen[str]":
        started.append(plain(self))
        return started[-1]

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker_pool.Helper, "_start", noting)
    monkeypatch.setattr(refresh._Reading, "_note", interrupted)
    with pytest.raises(KeyboardInterrupt) as kept_alive:
        read(photos, cache)
    assert started and all(process.returncode is not None for process in started)
    assert kept_alive.traceback

import gzip
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from made_shards import png, write_shards, write_tar

import alprune
from alprune import data
from alprune.data import encoded, shards
from alprune.data.dataset import LoadOptions
from alprune.data.image_cache.decode import Decoder
from alprune.data.image_cache.store import list_caches, remove_cache
from alprune.data.lazy_rows import ChosenRows
from alprune.data.shards import index as indexing
from alprune.data.shards import pixels as keeping
from alprune.data.shards import splits as splitting
from alprune.errors import ConfigError, DataError
from alprune.loop.setup import open_run

SIZE = (6, 7)
DRAWN = np.random.default_rng(0)
TRAIN, TEST = (DRAWN.integers(0, 256, (n, *SIZE, 3), np.uint8) for n in (45, 12))
Y_TRAIN, Y_TEST = np.arange(45) % 3, np.arange(12) % 3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_shards(tmp_path / "set", "train", TRAIN, Y_TRAIN)
    write_shards(tmp_path / "set", "test", TEST, Y_TEST)
    return tmp_path / "set"


def load(root: Path, lazily: bool = True, **options: object) -> data.Splits:
    options = {"size": SIZE, "cache": root.parent / "cache"} | options
    if lazily:
        options["in_memory"] = 0
    return shards.load(str(root), LoadOptions(**options))  # type: ignore[arg-type]


def place(root: Path) -> Path:
    [info] = list_caches(root.parent / "cache")
    return info.path


def decoded(root: Path) -> int:
    """How many images are kept."""
    [checks] = place(root).glob("checks-*.bin")
    return int(np.count_nonzero(np.fromfile(checks, "<u4")))


@pytest.mark.parametrize("lazily", [False, True])
def test_images_and_labels_are_those_of_the_shards(root, lazily):
    splits = load(root, lazily)
    for part, x, y in ((splits.train, TRAIN, Y_TRAIN), (splits.test, TEST, Y_TEST)):
        assert isinstance(part.x, ChosenRows) == lazily
        assert torch.equal(part.x[:], torch.from_numpy(x)) or lazily
        assert torch.equal(part.x[torch.arange(len(x))], torch.from_numpy(x))
        assert part.y.tolist() == y.tolist()
    assert splits.train.classes == ("0", "1", "2") and splits.train.flip
    assert splits.train.mean == pytest.approx((TRAIN / 255).mean((0, 1, 2)))
    assert load(root, lazily).digest == splits.digest


def test_by_name_they_are_resized_and_checked(root):
    splits = data.load(f"shards:{root}")
    assert splits.train.x.shape == (45, 32, 32, 3)
    write_shards(root, "train", TRAIN[:10], [None] * 10)
    with pytest.raises(DataError, match="10 of 45 training images of .* have no label"):
        data.load(f"shards:{root}")


def test_an_image_is_decoded_when_it_is_needed_and_then_kept(root, monkeypatch):
    write_shards(root, "train", np.tile(TRAIN, (30, 1, 1, 1)), np.tile(Y_TRAIN, 30), per_shard=100)
    monkeypatch.setattr(splitting, "_LOOKED_AT", 20)
    x = load(root).train.x
    assert decoded(root) == 20 + len(TEST)
    rows = torch.tensor([7, 1200, 7, 601])
    assert torch.equal(x[rows], torch.from_numpy(TRAIN[rows % 45]))
    assert decoded(root) == 20 + len(TEST) + 3
    # Another process finds them there; nothing is listed again.
    monkeypatch.setattr(indexing, "list_samples", lambda path: pytest.fail("listed again"))
    monkeypatch.setattr(Decoder, "decode", lambda *_: pytest.fail("decoded again"))
    again = load(root).train.x
    assert torch.equal(again[rows], x[rows])
    assert torch.equal(again[torch.tensor([[7], [601]])], x[rows[[0, 3]]][:, None])


def test_what_was_damaged_is_decoded_again(root):
    load(root).train.x[torch.arange(45)]
    [rows] = place(root).glob("rows-*.bin")
    content = bytearray(rows.read_bytes())
    content[-5] ^= 1
    rows.write_bytes(content)
    for _ in range(2):
        assert torch.equal(load(root).train.x[torch.arange(45)], torch.from_numpy(TRAIN))


def test_new_shards_at_the_end_cost_only_their_own_listing(root, monkeypatch):
    before = load(root)
    listed = []
    list_samples = indexing.list_samples
    monkeypatch.setattr(
        indexing, "list_samples", lambda path: listed.append(path.name) or list_samples(path)
    )
    write_shards(root, "train/more", TEST, Y_TEST, per_shard=12)
    after = load(root)
    assert listed == ["00000.tar"] and len(after.train) == 45 + 12
    assert after.train.digest != before.train.digest
    assert torch.equal(after.train.x[torch.arange(45, 57)], torch.from_numpy(TEST))
    # One that changes is found by its time, and all are listed again.
    listed.clear()
    path = write_shards(root, "train", TRAIN[::-1][:10], Y_TRAIN[:10])[0]
    os.utime(path, (1, 1))
    assert torch.equal(load(root).train.x[torch.tensor([0])][0], torch.from_numpy(TRAIN[-1]))
    assert len(listed) == 8


def test_a_listing_that_was_cut_short_goes_on(root, monkeypatch):
    digest = load(root).train.digest
    index = place(root) / "index"
    index.write_bytes(index.read_bytes()[:-30])
    listed = []
    list_samples = indexing.list_samples
    monkeypatch.setattr(
        indexing, "list_samples", lambda path: listed.append(path.name) or list_samples(path)
    )
    assert load(root).train.digest == digest and listed == ["00004.tar"]
    # An index of something else, or none at all, is not believed.
    index.write_bytes(b"alpr and so on")
    assert load(root).train.digest == digest and len(listed) == 1 + 7
    [labels] = place(root).glob("labels-*.bin")
    labels.write_bytes(b"")
    assert load(root).train.digest == digest and len(listed) == 1 + 7 + 7


def test_a_cache_is_listed_and_removed(root):
    splits = load(root)
    [info] = list_caches(root.parent / "cache")
    assert info.root == root.resolve() and info.size == SIZE
    remove_cache(info.path)
    assert list_caches(root.parent / "cache") == []
    # Who has it open goes on.
    assert torch.equal(splits.train.x[torch.tensor([3])][0], torch.from_numpy(TRAIN[3]))


def test_few_small_shards_leave_nothing_behind(root):
    splits = load(root, cache=None)
    assert torch.equal(splits.train.x[torch.tensor([3])][0], torch.from_numpy(TRAIN[3]))
    assert not any(Path(info.path).name.startswith("set-") for info in list_caches())


def test_several_processes_list_many_shards(root, monkeypatch):
    digest = load(root).digest
    monkeypatch.setattr(indexing, "_MANY_BYTES", 0)
    monkeypatch.setattr(indexing, "cores", lambda: 2)
    assert load(root, cache=root.parent / "other").digest == digest
    assert not multiprocessing.active_children()


def die(path):
    os._exit(1)


def test_processes_that_end_or_cannot_begin_are_told_of(root, monkeypatch):
    monkeypatch.setattr(indexing, "_MANY_BYTES", 0)
    monkeypatch.setattr(indexing, "cores", lambda: 2)
    monkeypatch.setattr(indexing, "list_samples", die)
    with pytest.raises(DataError, match="a process that lists shards ended.*__main__"):
        load(root)
    # As in a process that still imports the script that started it.
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(ConfigError, match="a script that starts processes.*__main__"):
        load(root)


def test_classes_have_the_names_of_their_file_or_of_their_labels(root):
    (root / "classes.txt").write_text("ant\nbee\ncat\ndog\n")
    with pytest.raises(DataError, match="1 of 4 classes have no training image: dog"):
        load(root)
    (root / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(DataError, match="a label of .* is 2, and classes.txt names 2 classes"):
        load(root)
    (root / "classes.txt").unlink()
    names = np.array(["cat", "ant", "bee"])
    write_shards(root, "train", TRAIN, names[Y_TRAIN])
    write_shards(root, "test", TEST, names[Y_TEST])
    splits = load(root)
    assert splits.train.classes == ("ant", "bee", "cat")
    assert splits.train.y.tolist() == [[2, 0, 1][y] for y in Y_TRAIN]
    assert splits.test.y.tolist() == [[2, 0, 1][y] for y in Y_TEST]
    (root / "classes.txt").write_text("cat\nant\n")
    with pytest.raises(DataError, match="1 labels of .* are not in its classes.txt: bee"):
        load(root)


def test_what_is_no_sample_is_left_out(root):
    shutil.rmtree(root / "train")
    files = [
        ("a/._7.jpg", b"of a Mac"),
        ("a/7.json", b"{}"),
        ("a/7.cls", b" 1\n"),
        ("a/7.png", png(TRAIN[0])),
        ("b/7.seg.png", png(TRAIN[1])),
        ("b/7.cls", b"0"),
        ("c.cls", b"2"),
        ("d.PNG", png(TRAIN[2])),
        ("d.cls", b"2"),
    ]
    path = write_tar(root / "train.tar", files)
    with tarfile.open(path, "a") as tar:
        folder = tarfile.TarInfo("e.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        link = tarfile.TarInfo("f.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.warns(UserWarning, match=r"1 samples of .* have no image and are left out"):
        splits = load(root)
    assert splits.train.y.tolist() == [1, 0, 2]
    assert torch.equal(splits.train.x[torch.arange(3)], torch.from_numpy(TRAIN[:3]))


def test_grey_images_get_one_channel(root):
    for part, x, y in (("train", TRAIN, Y_TRAIN), ("test", TEST, Y_TEST)):
        write_shards(root, part, x[..., 0], y)
    splits = load(root)
    assert splits.train.image_shape == (1, *SIZE) and not splits.train.flip
    assert torch.equal(splits.train.x[torch.arange(45)], torch.from_numpy(TRAIN[..., :1]))


def _two_images(root):
    write_tar(root / "train" / "9.tar", [("k.png", png(TRAIN[0])), ("k.b.png", png(TRAIN[0]))])


def _cut(root):
    path = root / "train" / "00001.tar"
    path.write_bytes(path.read_bytes()[:2500])


def _joined(root):
    path, other = root / "train" / "00001.tar", root / "train" / "00002.tar"
    path.write_bytes(path.read_bytes() + other.read_bytes())


def _packed(root):
    path = root / "train" / "00001.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))


def _all_packed(root):
    for path in list(root.rglob("*.tar")):
        path.rename(path.with_suffix(".tar.gz"))


def _link_out(root):
    (root / "train" / "z.tar").symlink_to(shutil.copy(root / "test" / "00000.tar", root.parent))


WRONG = {
    "no folder": (lambda root: shutil.rmtree(root), "there is no folder"),
    "nothing to test on": (lambda root: shutil.rmtree(root / "test"), "no .tar file to test on"),
    "no part": (lambda root: write_tar(root / "x.tar", []), "not clear whether 'x.tar'"),
    "two parts": (lambda root: write_tar(root / "train" / "test.tar", []), "not clear whether"),
    "test and val": (lambda root: write_tar(root / "val.tar", []), "shards of test and of val"),
    "two images": (_two_images, "sample 'k' of .*9.tar' has more than one image"),
    "a long label": (
        lambda root: write_tar(root / "train" / "9.tar", [("k.cls", b"x" * 2000)]),
        "label of sample 'k' .* takes 2,000 bytes",
    ),
    "no text": (
        lambda root: write_tar(root / "train" / "9.tar", [("k.cls", b"\xff\xfe")]),
        "9.tar' cannot be read as a tar file: a .cls file is not text",
    ),
    "cut": (_cut, "00001.tar' cannot be read as a tar file: its end is missing"),
    "cut in an image": (
        lambda root: os.truncate(root / "train" / "00001.tar", 2000),
        "00001.tar' cannot be read as a tar file: unexpected end of data",
    ),
    "two in one": (_joined, "what follows at byte [0-9,]+ is not a file of it"),
    "compressed": (_packed, "it is compressed.* Unpack it"),
    "all compressed": (_all_packed, "compressed shards .* Unpack them to .tar"),
    "a link out": (_link_out, "1 link leads out of .*z.tar. Pass --follow-links"),
    "a number that is not a class": (
        lambda root: write_tar(root / "train" / "9.tar", [("k.png", b""), ("k.cls", b"999999999")]),
        "is 999999999, of 58 images: classes are numbered 0..k-1",
    ),
    "nothing in it": (
        lambda root: [write_tar(path, []) for path in (root / "train").iterdir()],
        "hold no images to train on",
    ),
    "no image": (
        lambda root: write_tar(root / "train" / "9.tar", [("k.png", b"none"), ("k.cls", b"0")]),
        "9.tar/k.png' in .*set' cannot be read as an image .* --skip-unreadable",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said(root, wrong):
    damage, said = WRONG[wrong]
    damage(root)
    with pytest.raises(DataError, match=said):
        load(root, lazily=False)


def test_a_link_is_followed_if_that_is_meant(root):
    _link_out(root)
    assert len(load(root, follow_links=True).train) == 45 + 10


def test_a_shard_that_goes_or_is_cut_meanwhile_is_named(root):
    x = load(root).train.x
    (root / "train" / "00002.tar").unlink()
    write_tar(root / "train" / "00003.tar", [])
    remove_cache(place(root))
    fresh = x._stored
    fresh._kept = None
    with pytest.raises(DataError, match="00002.tar' cannot be read: No such file"):
        x[torch.tensor([25])]
    with pytest.raises(DataError, match="00003.tar' was cut short since it was listed"):
        x[torch.tensor([39])]


@pytest.mark.parametrize("lazily", [False, True])
def test_images_that_do_not_decode_are_left_out(root, lazily):
    for part in ("train", "test"):
        files = [("k.png", b"no image at all"), ("k.cls", b"0"), ("l.png", png(TRAIN[0]))]
        write_tar(root / part / "9.tar", [*files, ("l.cls", b"0")])
    with pytest.warns(UserWarning, match=r"k.png' in .* It is left out"):
        splits = load(root, lazily, skip_unreadable=True)
    assert len(splits.test) == 12 + 1
    assert torch.equal(splits.test.x[torch.tensor([12])][0], torch.from_numpy(TRAIN[0]))
    if lazily:
        assert len(splits.train) == 45 + 2
        assert splits.train.unreadable(torch.tensor([44, 45, 46])).tolist() == [False, True, False]
        thin = splits.train.select(torch.tensor([45, 3]))
        assert isinstance(thin.x, ChosenRows)
        assert thin.unreadable(torch.arange(2)).tolist() == [True, False]
        assert thin.digest != splits.train.digest
    else:
        assert len(splits.train) == 45 + 1
        assert not splits.train.unreadable(torch.arange(46)).any()


def test_a_full_disk_is_left_alone(root, monkeypatch):
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda path: usage._replace(free=2**30 - 1))
    with pytest.warns(UserWarning, match="no more decoded images are kept in .* 1.1 GB are free"):
        splits = load(root)
    assert torch.equal(splits.train.x[torch.arange(45)], torch.from_numpy(TRAIN))
    assert decoded(root) == 0


def test_a_disk_whose_files_have_no_holes_is_not_filled_at_the_start(root, monkeypatch):
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(keeping, "_HOLES", False)
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda path: usage._replace(free=2**30))
    with pytest.warns(UserWarning, match="no decoded images are kept in .* 1.07 GB that are free"):
        splits = load(root)
    assert torch.equal(splits.train.x[torch.arange(45)], torch.from_numpy(TRAIN))
    assert not list(place(root).glob("rows-*"))


def test_images_are_read_for_their_names_by_one_process_at_a_time(root, monkeypatch):
    began, go, read = threading.Event(), threading.Event(), encoded._looked_at
    looked = []

    def slow(*asked):
        looked.append(asked)
        began.set()
        go.wait(200)
        return read(*asked)

    monkeypatch.setattr(encoded, "_looked_at", slow)
    other = threading.Thread(target=load, args=(root,), kwargs={"incomplete": True})
    other.start()
    began.wait(200)
    threading.Timer(0.2, go.set).start()
    with pytest.warns(UserWarning, match="another process is decoding the same images"):
        splits = load(root, incomplete=True)
    other.join()
    assert len(looked) == 1 and len(splits.train.paths) == 45


@pytest.mark.parametrize("asked", [(keeping, "write_at"), (shutil, "disk_usage")])
def test_a_disk_that_refuses_costs_only_time(root, monkeypatch, asked):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*asked, refuse)
    with pytest.warns(UserWarning, match="kept in .*No space left on device"):
        splits = load(root)
    assert torch.equal(splits.train.x[torch.arange(45)], torch.from_numpy(TRAIN))


def test_a_run_never_asks_for_an_image_that_cannot_be_read(tmp_path, monkeypatch):
    """A fifth of the pool does not decode; interrupted or not, the same points are asked for."""
    digits = data.load("digits")
    images, y = digits.train.x[:400, :, :, 0].numpy(), digits.train.y[:400]
    images = images if images.dtype == np.uint8 else (images * 15).astype(np.uint8)
    root = tmp_path / "set"
    for path in write_shards(root, "train", images, y.tolist(), per_shard=50):
        with tarfile.open(path) as tar:
            files = [(m.name, tar.extractfile(m).read()) for m in tar.getmembers()]
        broken = [(n, b"broken" if re.search("[05].png", n) else c) for n, c in files]
        write_tar(path, broken)
    write_shards(root, "test", images[:50], y[:50].tolist(), per_shard=50)
    module = tmp_path / "lazy_shards.py"
    module.write_text(
        "from alprune.data import shards\n"
        "from alprune.data.dataset import LoadOptions\n\n\n"
        "def load():\n"
        f"    options = LoadOptions(size=(8, 8), in_memory=0, skip_unreadable=True)\n"
        f"    return shards.load({str(root)!r}, options)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {
        "dataset": "lazy_shards:load", "model": "tiny_learner:build", "method": "3sp",
        "min_channels": 2, "initial": 60, "query_size": 30, "initial_epochs": 2.0, "epochs": 1.0,
        "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = alprune.run(alprune.RunConfig(**options, steps=4, out=str(tmp_path / "a")))
        session, oracle = open_run(alprune.RunConfig(**options, steps=4, out=str(tmp_path / "b")))
        for _ in range(2):
            asked = session.ask()
            session.tell(asked, oracle(asked))
        session.record.folder.close()  # as if the process had been killed
        alprune.resume(tmp_path / "b", trust_code=True)
    events = [alprune.read_events(tmp_path / name) for name in "ab"]
    asked = [[e["acquired"] for e in run if e["event"] == "step"] for run in events]
    assert asked[0] == asked[1] and len(asked[0]) == 5
    points = [point for query in asked[0] for point in query]
    assert len(set(points)) == len(points) > 60
    assert not [point for point in points if point % 5 == 0]
    assert [e for e in events[0] if e["event"] == "warning" and e["about"] == "unreadable"]
    labels = (tmp_path / "a" / "labels.csv").read_text().splitlines()[1:]
    assert len(labels) == whole.labelled
    assert not [line for line in labels if int(line.split(",")[0]) % 5 == 0]


# --- labels that are elsewhere, names that are spelt otherwise ---


def _files(pairs):
    for part in ("train", "test"):
        yield part, [(name.format(part=part), content) for name, content in pairs]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            [("{part}0.png", 0), ("{part}1.png", 1), ("{part}0.cls", b"0"), ("{part}1.cls", b"1")],
            "4 .cls files apart from their images.*tar --sort=name",
        ),
        ([("{part}0.png", 0), ("{part}0.json", b"{}")], "Other files are not read .2 .json"),
        ([("{part}0.png", 0), ("{part}0.txt", b"cat")], "2 .txt.*write the class into a .cls file"),
        ([("{part}0.png", 0)], "Labels are read from a .cls file beside each image"),
    ],
)
def test_where_labels_may_be_instead_is_said_each_time(tmp_path, files, message):
    for part, named in _files(files):
        named = [(name, png(TRAIN[c]) if isinstance(c, int) else c) for name, c in named]
        write_tar(tmp_path / "s" / f"{part}.tar", named)
    for _ in range(2):  # the second time by the index
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(DataError, match=message) as error:
                load(tmp_path / "s")
        assert "alprune ask" not in str(error.value) and "alprune label" not in str(error.value)


def test_shards_of_which_some_lack_labels_send_nobody_to_a_command_that_takes_none(root):
    write_shards(root, "train", TRAIN, [None, *Y_TRAIN[1:]])
    with pytest.raises(DataError, match="1 of 45 training images .* alprune label"):
        data.load(f"shards:{root}", cache=root.parent / "cache")


def test_a_class_of_shards_is_one_however_it_is_written(root):
    names = np.array(["café", "cafe\u0301", "Bee"])
    write_shards(root, "train", TRAIN, names[Y_TRAIN])
    write_shards(root, "test", TEST, names[Y_TEST])
    assert load(root).train.classes == ("Bee", "café")
    (root / "classes.txt").write_text("bee\ncafé \n", encoding="utf-8-sig")
    splits = load(root)
    assert splits.train.classes == ("bee", "café")
    assert splits.train.y.tolist() == [[1, 1, 0][y] for y in Y_TRAIN]


def test_listing_imports_no_torch():
    code = "import sys; import alprune.data.shards.tar; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

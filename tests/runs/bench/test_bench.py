import json

import pytest
import torch
from click.testing import CliRunner

from alprune.cli import main
from alprune.errors import ConfigError
from alprune.runs.bench import BenchSettings, bench, table
from alprune.runs.bench.rounds import Speeds, take_turns
from alprune.runs.bench.rows import Row


class Clock:
    """A clock that moves only when a work says so."""

    def __init__(self):
        self.time, self.calls = 0.0, []

    def work(self, name, takes_s, items=1):
        def run():
            self.calls.append(name)
            self.time += takes_s
            return items

        return run

    def __call__(self):
        return self.time


def test_turns_alternate_and_repeat_short_works():
    clock = Clock()
    works = {"slow": clock.work("slow", 2.0, items=6), "fast": clock.work("fast", 0.4)}
    speeds = take_turns(works, seconds=1.0, turn_s=1.0, least=2, now=clock)
    warm_up, forth, back = ["slow", "fast"], ["slow"] + ["fast"] * 3, ["fast"] * 3 + ["slow"]
    assert clock.calls == warm_up + forth + back
    assert speeds.median("slow") == pytest.approx(3.0)
    assert speeds.median("fast") == pytest.approx(2.5)
    assert speeds.ratio("slow", "fast") == pytest.approx(1.2)


def test_rounds_go_on_until_the_time_is_over():
    clock = Clock()
    speeds = take_turns({"a": clock.work("a", 1.0)}, seconds=4.5, turn_s=1.0, least=3, now=clock)
    assert len(speeds.rounds) == 5


def test_a_ratio_is_taken_within_each_round():
    # A machine that halves its speed for one round: the ratio of medians would say 1.5.
    speeds = Speeds(({"a": 2.0, "b": 1.0}, {"a": 3.0, "b": 1.5}, {"a": 4.0, "b": 2.0}))
    assert speeds.ratio("a", "b") == 2.0
    disturbed = Speeds(({"a": 2.0, "b": 1.0}, {"a": 2.0, "b": 1.0}, {"a": 2.0, "b": 9.0}))
    assert disturbed.ratio("a", "b") == 2.0


@pytest.mark.parametrize(
    ("least", "most", "value", "met", "target"),
    [
        (None, None, 1.0, None, ""),
        (0.95, None, 0.95, True, ">= 0.95"),
        (0.95, None, 0.94, False, ">= 0.95"),
        (None, 0.01, 0.02, False, "<= 0.01"),
        (18.0, 22.0, 20.0, True, "18 to 22"),
        (18.0, 22.0, 22.5, False, "18 to 22"),
    ],
)
def test_a_row_knows_whether_its_target_was_met(least, most, value, met, target):
    row = Row("something", "dense", value, "", least, most)
    assert (row.met, row.target, row.record()["met"]) == (met, target, met)


def test_the_table_shows_what_was_missed():
    lines = table([Row("a", "dense", 0.5, "x", least=1.0), Row("b", "3sp", 1234.5, "y")]).split(
        "\n"
    )
    assert lines[1].split() == ["a", "dense", "0.500", ">=", "1", "NO", "x"]
    assert lines[2].split() == ["b", "3sp", "1234", "y"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ()}, "distinct names"),
        ({"methods": ("3sp", "3sp")}, "distinct names"),
        ({"seconds": 0.0}, "seconds must be more than 0"),
        ({"pool": 7}, "at least 20"),
        ({"methods": ("epi",)}, "prunes during training"),
        ({"methods": ("snp",)}, "Did you mean 'snip'"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        bench(BenchSettings(**({"model": "lenet-5-caffe", "pool": 0} | changes)))


@pytest.fixture(scope="module")
def result():
    settings = BenchSettings(
        methods=("dense", "uniform"),
        model="tiny_learner:build",
        dataset="digits",
        batch_size=32,
        seconds=0.4,
        pool=2000,
        device="cpu",
        precision="fp32",
    )
    told = []
    return bench(settings, tell=told.append), told


def test_the_bench_measures_every_row(result):
    rows = {(row.what, row.method): row for row in result[0].rows}
    assert set(rows) >= {
        ("training / bare loop", "dense"),
        ("training / bare loop", "uniform"),
        ("scoring / bare loop", "uniform"),
        ("loop's own share of a run", "uniform"),
        ("training, times as fast as dense", "uniform"),
        ("one image, BatchNorm not folded", "uniform"),
        ("pool of 2,000 in a file, times the time of a 20th", "uniform"),
    }
    assert all(row.value >= 0 and row.detail for row in rows.values())
    # The tiny network has 16 and 32 channels; without half of its FLOPs at least:
    flops = rows["FLOPs, times fewer", "uniform"]
    assert flops.value >= 2
    weights = rows["parameters, times fewer", "uniform"]
    after, before = (int(n.replace(",", "")) for n in weights.detail.split(" against "))
    assert before == 16 * 9 + 2 * 16 + 32 * 16 * 9 + 2 * 32 + 32 * 10 + 10
    assert weights.value == pytest.approx(before / after)
    assert rows["training, times as fast as dense", "uniform"].least == 2.0


def test_the_bench_tells_what_it_does(result):
    assert {text.split(":")[0] for text in result[1]} >= {"pruning", "training", "scoring"}


def test_the_record_is_json(result):
    record = json.loads(json.dumps(result[0].record()))
    assert record["torch"] == torch.__version__
    assert record["settings"]["methods"] == ["dense", "uniform"]
    assert {"what", "method", "value", "detail", "least", "most", "met"} == set(record["rows"][0])


def test_the_command_prints_json_and_says_what_is_wrong():
    arguments = "bench --methods dense --model lenet-300-100 --seconds 0.3 --pool 0 --json"
    ended = CliRunner().invoke(main, [*arguments.split(), "--device", "cpu"])
    assert ended.exit_code == 0, ended.output
    rows = json.loads(ended.stdout.splitlines()[-1])["rows"]
    assert [row["what"] for row in rows[:2]] == ["training / bare loop", "scoring / bare loop"]
    wrong = CliRunner().invoke(main, ["bench", "--seconds", "0"])
    assert wrong.exit_code == 1 and "seconds must be more than 0" in wrong.stderr

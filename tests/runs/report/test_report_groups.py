import pytest
from made_runs import write_run

from alprune.errors import ConfigError
from alprune.runs.report.groups import baseline_of, group_runs
from alprune.runs.report.runs import read_run


@pytest.fixture
def run(tmp_path):
    made = iter(range(1000))
    return lambda *a, **k: read_run(write_run(tmp_path / str(next(made)), *a, **k))


def test_runs_that_differ_in_seed_folder_and_tests_alone_are_one_group(run):
    runs = [
        run("3sp", 1, config={"out": "b", "eval_every": 8}),
        run("3sp", 0, config={"out": "a", "eval_every": 1}),
        run("dense", 0),
    ]
    groups = group_runs(runs)
    assert [(g.name, [r.seed for r in g.runs]) for g in groups] == [("dense", [0]), ("3sp", [0, 1])]


def test_an_old_run_belongs_to_new_ones_with_defaults(run):
    old = run("3sp", 0)
    new = run("3sp", 1, config={"imbalance": 1, "label_noise": 0.0, "start": "balanced"})
    assert len(group_runs([old, new])) == 1


def test_names_say_what_differs_and_nothing_more(run):
    runs = [
        run("dense", config={"lr": 0.02}),
        run("3sp", config={"lr": 0.05, "flops_reduction": 0.5}),
        run("3sp", config={"lr": 0.05, "flops_reduction": 0.8}),
    ]
    groups = group_runs(runs)
    assert [g.name for g in groups] == [
        "dense",
        "3sp, flops-reduction 0.5",
        "3sp, flops-reduction 0.8",
    ]
    assert groups[0].options == {"method": "dense", "flops_reduction": None, "lr": 0.02}


def test_a_lone_group_is_named_by_its_method(run):
    assert [g.name for g in group_runs([run("3sp", 0), run("3sp", 1)])] == ["3sp"]


def test_an_acquisition_function_passed_from_python_is_told_from_the_option(run):
    own = run("dense", start={"acquisition": "mine:far"})
    assert [g.name for g in group_runs([own, run("dense")])] == ["mine:far", "entropy"]


def test_functions_of_one_name_are_told_apart(run):
    names = ("a:score", "b:score", "k-center", "mine:entropy")
    runs = [run("dense", config={"acquisition": n}, start={"acquisition": n}) for n in names]
    assert [group.name for group in group_runs([*runs, run("dense")])] == [*names, "entropy"]


def test_values_that_are_cut_alike_still_have_names_of_their_own(run):
    long = "folder:" + "x" * 100
    groups = group_runs([run(config={"dataset": long + "1"}), run(config={"dataset": long + "2"})])
    assert len({g.name for g in groups}) == 2
    assert max(len(g.name) for g in groups) < 70


def test_each_group_is_compared_with_the_dense_one_nearest_to_it(run):
    runs = [run(m, config={"acquisition": a}) for m in ("dense", "3sp") for a in ("badge", "bald")]
    groups = group_runs(runs)
    pairs = baseline_of(groups)
    assert {name: base.name for name, base in pairs.items()} == {
        "3sp, badge": "dense, badge",
        "3sp, bald": "dense, bald",
    }


def test_without_a_dense_learner_the_first_group_is_the_baseline(run):
    groups = group_runs([run("uniform"), run("3sp")])
    assert {n: b.name for n, b in baseline_of(groups).items()} == {"3sp": "uniform"}


def test_other_data_are_not_compared_with(run):
    groups = group_runs([run("dense"), run("3sp", config={"dataset": "mnist"})])
    assert baseline_of(groups) == {}


def test_a_baseline_can_be_named_and_a_wrong_name_is_an_error(run):
    groups = group_runs([run("dense"), run("3sp")])
    assert {n: b.name for n, b in baseline_of(groups, "3sp").items()} == {"dense": "3sp"}
    with pytest.raises(ConfigError, match="'3ps'.*there are: 'dense', '3sp'"):
        baseline_of(groups, "3ps")


def test_means_are_of_runs_that_ended_if_any_has(run):
    whole, cut = run("3sp", 0), run("3sp", 1, end=None)
    [group] = group_runs([whole, cut])
    assert group.sound == (whole,)
    [group] = group_runs([cut])
    assert group.sound == (cut,) and group.ended == ()


def test_where_data_and_weights_are_does_not_set_runs_apart(run):
    weights = {"pretrained_digest": "3f"}
    here = run("3sp", 0, config=weights | {"pretrained": "/a/w", "cache": "/a"})
    there = run("3sp", 1, config=weights | {"pretrained": "/b/w"})
    assert len(group_runs([here, there])) == 1
    other = run("3sp", 1, config={"pretrained_digest": "40", "pretrained": "/b/w"})
    assert len(group_runs([here, there, other])) == 2


def test_a_seed_that_is_there_twice_counts_once(run):
    made = [(0, None), (0, "budget"), (0, "budget"), (1, "budget")]
    cut, first, again, other = (run("3sp", seed, end=end) for seed, end in made)
    [group] = group_runs([again, other, first, cut])
    assert len(group.runs) == 4 and group.seeds == group.sound == group.ended == (first, other)

import json
import re
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from forbidden import forbid
from tiny_run import events_of

from alprune.cli import main

FAST = "--model tiny_learner:build --dataset digits --min-channels 2 --device cpu".split()
RUN = ["run", *FAST, "--initial-epochs", 1]


def call(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.mark.parametrize("command", ["run --resume", "watch", "predict", "ask", "export", "report"])
def test_a_folder_of_another_user_ends_in_a_message(tmp_path, monkeypatch, command):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    forbid(monkeypatch, theirs)
    more = {"predict": [tmp_path], "ask": ["--classes", "a,b", "--dataset", f"folder:{tmp_path}"]}
    done = call(*command.split(), theirs, *more.get(command, []))
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.output
    assert done.stderr.startswith("Error: ") and str(theirs) in done.stderr


def test_run_writes_the_folder_and_prints_the_result_as_json(tmp_path):
    out = tmp_path / "run"
    done = call(*RUN, "--steps", 2, "--method", "3sp", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["labelled"] == 120 and record["path"] == str(out)
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "labelled" in done.stderr  # progress goes to stderr


def test_a_recipe_is_read_and_the_command_line_wins(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'dataset = "digits"\nmodel = "tiny_learner:build"\nmethod = "3sp"\nsteps = 9\n'
        "initial_epochs = 1.0\n"
    )
    out = tmp_path / "run"
    done = call("run", "--recipe", recipe, "--steps", 1, "--device", "cpu", "--out", out)
    assert done.exit_code == 0, done.output
    start = json.loads((out / "events.jsonl").read_text().split("\n")[0])
    assert (start["config"]["steps"], start["config"]["method"]) == (1, "3sp")


def test_prune_prints_the_numbers_as_json_and_as_a_table():
    done = call("prune", *FAST, "--method", "3sp-ca", "--flops-reduction", 0.6, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    wanted = "macs_before macs_after params_before params_after flops_reduction widths prune_s"
    assert set(wanted.split()) <= set(record)
    assert record["flops_reduction"] >= 0.6
    table = call("prune", *FAST, "--method", "3sp")
    assert table.exit_code == 0 and "FLOPs" in table.stdout and "parameters" in table.stdout


def test_prune_has_no_budget_that_its_reduction_could_follow(monkeypatch):
    monkeypatch.setattr("alprune.loop.learner.image_s", None)  # nothing is measured
    own = "--model lenet-300-100 --dataset digits --device cpu --method 3sp-ca --json".split()
    done = call("prune", *own)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["flops_reduction"] >= 0.9


def test_prune_of_a_recipe_removes_what_its_run_would(tmp_path, monkeypatch):
    def slow(config, model, *data):
        return sum(parameter.numel() for parameter in model.parameters()) / 10 / 64e3

    monkeypatch.setattr("alprune.loop.learner.image_s", slow)
    quiet = SimpleNamespace(ended=lambda: {"others_share": 0.0})
    monkeypatch.setattr("alprune.loop.auto_reduction.MachineLoad", lambda: quiet)
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'dataset = "digits"\nmodel = "lenet-300-100"\nmethod = "3sp-ca"\nbudget = 60\nsteps = 0\n'
        'initial_epochs = 1.0\nflops_reduction = "auto"\n'
    )
    done = call("prune", "--recipe", recipe, "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    assert "Reduction: " in done.stderr  # why, by measurement
    made = call("run", "--recipe", recipe, "--device", "cpu", "--out", tmp_path / "run")
    assert made.exit_code == 0, made.output
    shown, [pruned] = json.loads(done.stdout), events_of(tmp_path / "run", "prune")
    assert 0 < shown["flops_reduction"] == pruned["flops_reduction"] < 1
    assert shown["widths"] == pruned["widths"]


def test_prune_refuses_a_method_that_prunes_during_training():
    done = call("prune", *FAST, "--method", "epi")
    assert done.exit_code == 1 and "prunes during training" in done.stderr


def test_list_names_every_family():
    done = call("list")
    assert done.exit_code == 0
    for name in ("3sp-ca", "vgg19", "cifar10", "digits", "entropy"):
        assert name in done.stdout
    known = json.loads(call("list", "--json").stdout)
    assert set(known) == {"methods", "models", "datasets", "acquisitions", "starts"}
    assert all(text for family in known.values() for text in family.values())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--method", "3sp-c"], "unknown method '3sp-c'.*Did you mean '3sp-ca'"),
        (["--acquisition", "entrop"], "Did you mean 'entropy'"),
        (["--dataset", "digit"], "Did you mean 'digits'"),
        (["--model", "vgg9"], "unknown model 'vgg9'"),
        (["--dataset", "npz:/nowhere.npz"], "/nowhere.npz"),
        (["--flops-reduction", "0.999999"], "out of reach"),
        (["--flops-reduction", "1.5"], "less than 1"),
        (["--initial", "5"], "--initial 5 is not possible"),
        (["--initial", "1290"], "class .* has"),
        (["--budget", "-3"], "more than 0"),
        (["--recipe", "none.toml"], "cannot read recipe"),
        (["--lr", "nan"], "lr must be"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--momentum", "1.5"], "momentum must be in"),
        (["--method", "epi", "--prune-at", "never"], "prune_at must be 'epi', 'random'"),
        (["--method", "epi", "--epi-criterion", "foo"], "unknown criterion 'foo'"),
        (
            ["--method", "3sp", "--prune-at", "2"],
            "^Error: prune_at .*only epi prunes during training",
        ),
        (["--score-subset", "5"], "must be at least query_size"),
        (["--seed", "99999999999999999999"], "seed must be less than"),
        (["--acquisition", "broken_module:f"], "cannot be imported: ModuleNotFoundError"),
        (["--acquisition", "math:pi"], "is a float; it must be a function"),
        (["--dataset", "npy:x.npz"], "npz:PATH"),
        (["--model", "math:sqrt"], "model 'math:sqrt'"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_1(tmp_path, args, message):
    done = call(*RUN, "--steps", 1, "--out", tmp_path / "run", *args)
    assert done.exit_code == 1, done.output
    assert len(re.findall(r"^Error: ", done.stderr, re.MULTILINE)) == 1
    assert "Traceback" not in done.output
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_pointed_to_resume(tmp_path):
    arguments = [*RUN, "--method", "3sp", "--steps", 1, "--out", tmp_path / "run"]
    assert call(*arguments).exit_code == 0
    done = call(*arguments)
    assert done.exit_code == 1
    assert f"To resume it: alprune run --resume {tmp_path / 'run'}" in done.stderr
    again = call("run", "--resume", tmp_path / "run", "--json")
    assert again.exit_code == 0 and "To go further, give --steps of more than 1" in again.stderr
    assert json.loads(again.stdout)["steps"] == 1
    further = call("run", "--resume", tmp_path / "run", "--steps", 2, "--json")
    assert further.exit_code == 0, further.output
    assert json.loads(further.stdout)["steps"] == 2 and "Resuming at step 0" in further.stderr


def test_resume_takes_no_other_options(tmp_path):
    done = call("run", "--resume", tmp_path, "--lr", 0.1, "--no-flip", "--steps", 3)
    assert done.exit_code == 2
    assert "only --budget and --steps may be given, not --lr, --flip" in done.stderr


def test_resume_of_nothing_is_one_message(tmp_path):
    done = call("run", "--resume", tmp_path / "none")
    assert done.exit_code == 1 and "holds no run to resume" in done.stderr


def test_a_misspelt_option_is_a_usage_error():
    done = call("run", "--bugdet", 5)
    assert done.exit_code == 2 and "--budget" in done.stderr

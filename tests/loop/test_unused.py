"""Options without effect are refused with a reason, where somebody gave them."""

from dataclasses import asdict, replace

import pytest

from alprune.errors import AlpruneError, ConfigError
from alprune.loop.config import OPTIONS, RunConfig
from alprune.loop.defaults import resolve
from alprune.loop.setup import complete
from alprune.loop.unused import NOT_FOR_LABELLING, unused
from alprune.pruning import METHODS
from alprune.runs.compare.grid import cells

GENERAL = ("min_channels", "round_to", "prune_batch", "prune_batches", "score_mode")
OTHERS = {  # a value that is nobody's default
    "flops_reduction": 0.35,
    "params_reduction": 0.35,
    "channels_reduction": 0.35,
    "latency_reduction": 0.35,
    "latency_batch": 3,
    "latency_aware": True,
    "prune_at": "7",
    "epi_criterion": "magnitude",
    "epi_tau": 0.9,
    "epi_window": 3,
    "prune_batch": 17,
    "prune_batches": 2,
    "smoothing": 0.37,
    "temperature": 3.0,
    "rounds": 3,
    "min_channels": 3,
    "round_to": 3,
    "ignore": "stem",
    "local": True,
    "normalised": "follow",
    "score_mode": "eval",
    "redraw_linear": True,
}


def config(method="3sp", **options):
    return RunConfig(method=method, dataset="digits", model="lenet-300-100", steps=1, **options)


@pytest.mark.parametrize(
    ("method", "option", "reason"),
    [
        ("uniform", "smoothing", "only 3sp-ca and latency_aware"),
        ("3sp", "prune_at", "only epi prunes during training"),
        ("3sp", "epi_criterion", "only epi prunes during training"),
        ("3sp", "epi_tau", "only method epi with --prune-at epi"),
        ("snip", "latency_aware", "only epi and methods that score channels once"),
        ("3sp", "rounds", "only 3sp-iterative"),
        ("3sp", "latency_batch", "latency is measured only with"),
        ("3sp-iterative", "latency_reduction", "only methods that score channels once"),
        ("dense", "flops_reduction", "it prunes nothing"),
        ("snip", "min_channels", "it removes no channels"),
        ("snip", "channels_reduction", "params_reduction is the share"),
        ("precrop-params", "flops_reduction", "it takes params_reduction"),
        ("magnitude", "prune_batch", "it looks at no examples"),
        ("3sp-ca", "temperature", "only grasp and structured-grasp"),
        ("snip", "redraw_linear", "only grasp"),
        ("synflow", "score_mode", "it looks at no examples"),
    ],
)
def test_an_option_without_effect_is_refused_with_the_reason(method, option, reason):
    with pytest.raises(ConfigError, match=rf"^{option} \(.*no effect with .*{method}.*{reason}"):
        complete(config(method, **{option: OTHERS[option]}))


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_uses_by_default_is_never_refused(method):
    whole = resolve(config(method))
    assert not unused(whole) and not unused(RunConfig(**asdict(whole)))
    assert unused(replace(config(method), smoothing=whole.smoothing)) == {}
    quantities = [f"{name}_reduction" for name in METHODS[method].reductions]
    if method != "dense":
        assert not unused(config(method, **{quantities[0]: 0.35}))


@pytest.mark.parametrize("option", OTHERS)
def test_each_option_of_pruning_has_an_effect_with_some_method(option):
    extra = {"latency_reduction": 0.5} if option == "latency_batch" else {}
    extra[option] = OTHERS[option]
    assert any(option not in unused(config(method, **extra)) for method in METHODS)
    other = "synflow" if option in GENERAL else "dense"
    assert option in unused(config(other, **{option: OTHERS[option]}))


def test_a_fixed_epoch_leaves_the_indicator_without_effect():
    assert unused(config("epi", epi_tau=0.9, epi_window=3)) == {}
    assert set(unused(config("epi", epi_tau=0.9, epi_window=3, prune_at="4"))) == {
        "epi_tau",
        "epi_window",
    }


def test_a_method_of_your_own_may_use_all_options():
    assert unused(config("own_criterion:mine", **OTHERS)) == {}


def test_a_frozen_learner_takes_no_option_of_pruning_or_training():
    given = config("3sp-ca", learner="frozen", lr=0.3, flops_reduction=0.5)
    assert set(unused(given)) == {"lr", "flops_reduction"}
    with pytest.raises(ConfigError, match="effect with a frozen learner.*choose another learner"):
        complete(given)


def test_a_run_of_before_is_opened_with_options_that_have_no_effect():
    assert complete(config("uniform", smoothing=0.4), new=False).smoothing == 0.4


def test_a_comparison_takes_an_option_that_any_of_its_methods_uses(tmp_path):
    both = cells(config(flops_reduction=0.6), {"method": ["dense", "3sp"]}, tmp_path)
    assert [cell.config.flops_reduction for cell in both] == [None, 0.6]
    kept = cells(config(smoothing=0.4), {"method": ["uniform", "3sp-ca"]}, tmp_path)
    assert [cell.config.smoothing for cell in kept] == [0.4, 0.4]
    with pytest.raises(ConfigError, match="^smoothing .0.4. has no effect with method 'dense'"):
        cells(config(smoothing=0.4), {"method": ["dense", "uniform"]}, tmp_path)


@pytest.mark.parametrize("option", sorted(set(NOT_FOR_LABELLING) - {"out", "pretrained_digest"}))
def test_labelling_says_why_it_takes_no_option_of_simulated_runs(tmp_path, option):
    from alprune.labelling import open_asking

    kind = type(OPTIONS[option].default)
    value = {
        "prune_at": "3",
        "epi_criterion": "magnitude",
        "sync_batchnorm": True,
        "epi_tau": 0.9,
    }.get(option, 1.5 if kind is float and option != "label_noise" else 1)
    value = 0.5 if option == "label_noise" else value
    with pytest.raises(AlpruneError, match=f"^{option} has no effect in labelling: "):
        open_asking(tmp_path / "x", dataset=f"folder:{tmp_path}", **{option: value})
    assert not (tmp_path / "x").exists()

"""Build a learner by name, with He initialisation and without touching global random state."""

import difflib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from alprune.errors import AlpruneError, ConfigError, ModelError, failure, quoted
from alprune.models.cost import forward_only, keeping_modes, keeping_state
from alprune.models.init import forked_rng, he_normal_
from alprune.models.registry import LIBRARIES, MODELS, ModelEntry, Shape
from alprune.models.stems import replace_stem
from alprune.registry import lookup

_WITH_SIDE_OUTPUTS = ("googlenet", "inception_v3")
_CIFAR = (3, 32, 32)


def build(name: str, classes: int, input_shape: Shape | None = None, seed: int = 0) -> nn.Module:
    """Build a learner on the CPU.

    Args:
        name: A key of `MODELS`, whose weights are drawn by `he_normal_`;
            `torchvision:NAME` or `timm:NAME` for a classifier of these libraries, untrained; or
            `package.module:function`, called as `function(classes=..., input_shape=...)`, or
            with these by position if its parameters have other names, and returning an
            `nn.Module`. The last two keep their own initialisation.
        classes: Number of outputs.
        input_shape: `(c, h, w)` of one input; by default the paper's (3x224x224 for
            torchvision). A torchvision network for other than 3 channels gets a new first
            convolution.
        seed: Of all random draws; the global random state stays as it was.

    Returns:
        The network, mapping `(b, c, h, w)` to logits `(b, classes)`.

    Raises:
        ConfigError: Unknown name, or not callable in this way.
        ModelError: `classes` or `input_shape` not possible for this learner, or what was built
            isn't an `nn.Module` that maps them to `(b, classes)`.
    """
    if classes < 1:
        raise ModelError(f"model {name!r}: got {classes} classes; at least 1 is needed.")
    if input_shape is not None and (len(input_shape) != 3 or min(input_shape) < 1):
        raise ModelError(
            f"model {name!r}: got input shape {tuple(input_shape)}; expected (channels, height, "
            "width), each at least 1."
        )
    with forked_rng(seed):
        if name.startswith(LIBRARIES):
            check_name(name)
            library, _, network = name.partition(":")
            if library == "timm":
                return _from_timm(network, classes, input_shape)
            return _from_torchvision(network, classes, input_shape or published_shape(name))
        found = lookup("model", name, MODELS)
        if not isinstance(found, ModelEntry):
            return _from_user(name, found, classes, input_shape or _CIFAR)
        return _from_registry(name, found, classes, input_shape or found.input_shape, seed)


def _from_registry(
    name: str, entry: ModelEntry, classes: int, shape: Shape, seed: int
) -> nn.Module:
    if min(shape[1:]) < entry.least:
        raise ModelError(
            f"model {name!r}: got inputs of {shape[1]}x{shape[2]} pixels; it takes "
            f"{entry.least}x{entry.least} or more. Resize the images or choose a smaller model."
        )
    model = entry.build(classes, shape)
    he_normal_(model, torch.Generator().manual_seed(seed))
    return model


def check_name(name: str) -> None:
    """Refuse a name that `build` does not know; code of the user's is imported.

    Raises:
        ConfigError: Unknown; the message lists what is known, or the nearest names.
    """
    library, colon, network = name.partition(":")
    if not name.startswith(LIBRARIES):
        lookup("model", name, MODELS)
        return
    known = _torchvisions() if library == "torchvision" else _timms()
    # timm adds the name of the weights, resnet18.a1_in1k, which build leaves random
    if network not in known and network.partition(".")[0] not in known:
        near = difflib.get_close_matches(network[:200], known, n=5, cutoff=0.5)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(f"unknown {library} model {quoted(network)}.{hint}")


def published_shape(name: str) -> Shape:
    """Return the input `(c, h, w)` that a listed network was published for.

    Raises:
        ConfigError: No library has a network of this name.
    """
    if name in MODELS:
        return MODELS[name].input_shape
    check_name(name)
    if name.startswith("timm:"):
        import timm

        found = timm.get_pretrained_cfg(name.partition(":")[2], allow_unregistered=True)
        if found is None:
            return (3, 224, 224)
        channels, height, width = found.input_size
        return channels, height, width
    return (3, 299, 299) if name.endswith(":inception_v3") else (3, 224, 224)


def _torchvisions() -> list[str]:
    from torchvision import models  # takes more than a second to import

    return models.list_models(module=models)


def _timms() -> list[str]:
    import timm  # takes seconds to import

    return timm.list_models()


def _from_torchvision(name: str, classes: int, shape: Shape) -> nn.Module:
    options: dict[str, Any] = {}
    if name in _WITH_SIDE_OUTPUTS:  # for training, which would make theirs a tuple
        options = {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):  # one position a patch: these are made for one size
        options = {"image_size": shape[1]}
    if name == "maxvit_t":
        options = {"input_size": shape[1:]}
    from torchvision import models

    try:
        model = models.get_model(name, weights=None, num_classes=classes, **options)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise _not_for_size(f"torchvision:{name}", shape, error) from error
    if shape[0] != 3:
        replace_stem(model, shape[0])
    return _checked(f"torchvision:{name}", model, classes, shape)


def _from_timm(name: str, classes: int, shape: Shape | None) -> nn.Module:
    published = published_shape(f"timm:{name}")
    shape = shape or published
    options = {"num_classes": classes, "in_chans": shape[0], "pretrained": False}
    sized = {"img_size": shape[1:]} if shape[1:] != published[1:] else {}
    try:
        model = _create(name, options, sized)
    except Exception as error:  # many networks' constructors, each with errors of its own
        raise _not_for_size(f"timm:{name}", shape, error) from error
    return _checked(f"timm:{name}", model, classes, shape)


def _create(name: str, options: dict[str, Any], sized: dict[str, Any]) -> nn.Module:
    import timm

    try:
        return timm.create_model(name, **options, **sized)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **options)  # takes any size


def _not_for_size(name: str, shape: Shape, error: Exception) -> ModelError:
    return ModelError(
        f"model {name!r} cannot be made for images of {shape[1]}x{shape[2]} pixels: {error}. "
        "Choose another --image-size (most were published at 224)."
    )


def _from_user(name: str, function: object, classes: int, shape: Shape) -> nn.Module:
    contract = f"expected {name.partition(':')[2]}(classes=..., input_shape=...) -> nn.Module"
    if not callable(function):
        raise ConfigError(f"model {name!r} is a {type(function).__name__}; {contract}.")
    given: tuple[Any, ...] = ()
    named: dict[str, Any] = {"classes": classes, "input_shape": shape}
    try:
        signature = inspect.signature(function)
        if not _binds(signature, *given, **named) and _binds(signature, classes, shape):
            given, named = (classes, shape), {}
        signature.bind(*given, **named)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model {name!r}: {error}; {contract}.") from error
    try:
        model = function(*given, **named)
    except AlpruneError:
        raise
    except Exception as error:
        raise ModelError(failure(f"model {name!r}", error)) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {name!r} returned a {type(model).__name__}; {contract}.")
    return _checked(name, model, classes, shape)


def _binds(signature: inspect.Signature, *given: Any, **named: Any) -> bool:
    try:
        signature.bind(*given, **named)
    except TypeError:
        return False
    return True


def _checked(name: str, model: nn.Module, classes: int, shape: Shape) -> nn.Module:
    """Run one blank input through a network whose limits are not recorded."""
    try:
        with forward_only(model):
            logits = model(torch.zeros(1, *shape))
    except Exception as error:  # a forward may raise anything
        raise ModelError(
            f"model {name!r} fails on an input of shape {tuple(shape)}: {error}. Give the input "
            "shape that it takes, on the CPU and in float32."
        ) from error
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if got != (1, classes):
        raise ModelError(
            f"model {name!r} maps an input of shape {(1, *shape)} to {got}; expected a tensor of "
            f"shape {(1, classes)}, (batch, classes)."
        )
    _check_training(name, model, classes, shape)
    return model


def _check_training(name: str, model: nn.Module, classes: int, shape: Shape) -> None:
    """Refuse a network that returns or keeps something else in training than in evaluation.

    Buffers that take their shape from the first images have it afterwards.
    """
    changed = _after_training(name, model, classes, shape)
    if changed:
        with keeping_modes(model), torch.no_grad():
            model.eval()(torch.zeros(1, *shape))
        changed = _after_training(name, model, classes, shape)
    for key, (size, after) in changed.items():
        raise ModelError(
            f"model {name!r} changes the shape of its buffer {key!r} in training, from {size} "
            f"to {after}: checkpoints and averaged weights need one shape. Keep it as a "
            "plain attribute."
        )


def _after_training(
    name: str, model: nn.Module, classes: int, shape: Shape
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the buffers that a forward in training gives other shapes: both shapes, by name."""
    before = {key: tuple(buffer.shape) for key, buffer in model.named_buffers()}
    with keeping_modes(model), keeping_state(model), forked_rng(0), torch.no_grad():
        try:
            out = model.train()(torch.zeros(2, *shape))
        except Exception:  # two images of zeros can be too few for it
            return {}
        after = {key: tuple(buffer.shape) for key, buffer in model.named_buffers()}
    got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    if got != (2, classes):
        raise ModelError(
            f"model {name!r} returns {got} in training mode for 2 inputs; expected a tensor of "
            f"shape {(2, classes)}, as in evaluation. Leave outputs for further losses away."
        )
    sizes = {key: (size, after.get(key, size)) for key, size in before.items()}
    return {key: (size, new) for key, (size, new) in sizes.items() if new != size}

"""Fit torchvision's networks to small or grey images."""

from torch import nn

from alprune.errors import ModelError


def replace_stem(model: nn.Module, channels: int) -> None:
    """Let the first convolution read `channels` input channels, in place, with fresh weights.

    Raises:
        ModelError: The network has no convolution.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            fresh = nn.Conv2d(
                channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                bias=module.bias is not None,
            )
            model.set_submodule(name, fresh)
            return
    raise ModelError(f"a network without convolutions can't be fitted to {channels} channels.")


def keep_resolution(model: nn.Module, count: int) -> None:
    """Set the first `count` strided convolutions to stride 1, in place."""
    strided = [m for m in model.modules() if isinstance(m, nn.Conv2d) and max(m.stride) > 1]
    for module in strided[:count]:
        module.stride = (1, 1)

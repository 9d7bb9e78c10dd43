"""Load a state dict that lost its metadata on the way through a file."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load tensors by name, with the versions of layers that `module` itself would save.

    Some networks, such as torchvision's MNASNet, read a version from the state dict's metadata,
    which safetensors does not keep.

    Raises:
        RuntimeError: Names or shapes do not fit, as from `load_state_dict`.
    """
    whole = OrderedDict(state)
    whole._metadata = getattr(module.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    module.load_state_dict(whole)

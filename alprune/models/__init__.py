"""The learners by name: architectures, initialisation, pretrained weights, what they cost."""

from typing import TYPE_CHECKING

from alprune.registry import lazy

if TYPE_CHECKING:
    from alprune.models.construct import build, check_name, published_shape
    from alprune.models.init import StartsFromImages, he_normal_, reinit
    from alprune.models.pretrained import load_pretrained
    from alprune.models.registry import INITS, MODELS, ModelEntry, is_listed

__all__ = [
    "INITS",
    "MODELS",
    "ModelEntry",
    "StartsFromImages",
    "build",
    "check_name",
    "he_normal_",
    "is_listed",
    "load_pretrained",
    "published_shape",
    "reinit",
]

__getattr__ = lazy(
    __name__,
    {
        "alprune.models.construct": ["build", "check_name", "published_shape"],
        "alprune.models.init": ["StartsFromImages", "he_normal_", "reinit"],
        "alprune.models.pretrained": ["load_pretrained"],
        "alprune.models.registry": ["INITS", "MODELS", "ModelEntry", "is_listed"],
    },
)

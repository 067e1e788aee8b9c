"""dinokit: learn from unlabelled pictures, freeze the result, use it for every vision job.

    import dinokit
    backbone = dinokit.load("dinokit_vitt16")
    features = backbone.encode("street.jpg", size=448)

Names are imported when they are first used, so `import dinokit` costs almost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinokit.backbones.features import Features, Grid
    from dinokit.errors import UserError
    from dinokit.inference.backbone import Backbone, load
    from dinokit.inference.save import save

_PLACES = {
    "load": "dinokit.inference.backbone",
    "Backbone": "dinokit.inference.backbone",
    "save": "dinokit.inference.save",
    "Features": "dinokit.backbones.features",
    "Grid": "dinokit.backbones.features",
    "UserError": "dinokit.errors",
}

__all__ = ["Backbone", "Features", "Grid", "UserError", "load", "save"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'dinokit' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""dinokit: learn from unlabelled pictures, freeze the result, use it for every vision job.

    import dinokit
    backbone = dinokit.load("dinokit_vitt16")
    features = backbone.encode("street.jpg", size=448)

Names are imported when they are first used, so `import dinokit` costs almost nothing. The jobs (`Segmenter`, ...) are
what the files in `tasks/` list in their `__all__`.
"""

from importlib import import_module
from pkgutil import iter_modules
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
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    if name[:1].isupper():
        for job in _jobs():
            if name in getattr(job, "__all__", ()):
                return getattr(job, name)
    raise AttributeError(f"module 'dinokit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for job in _jobs() for name in getattr(job, "__all__", ()))])


def _jobs() -> list[Any]:
    tasks = import_module("dinokit.tasks")
    return [import_module(f"{tasks.__name__}.{module.name}") for module in iter_modules(tasks.__path__)]

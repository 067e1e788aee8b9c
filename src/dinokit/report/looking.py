"""What a backbone sees in one photo, read no larger than a page can hold."""

from dataclasses import replace

from dinokit.backbones.features import Features
from dinokit.images.geometry import lay_out
from dinokit.images.read import Picture
from dinokit.inference.backbone import Backbone
from dinokit.inference.views import View

_WIDEST = 2.0  # more oblong photos are read smaller, so that they have as many patches as one of this shape


def look(backbone: Backbone, picture: Picture, size: int, name: str) -> Features:
    """The class token of the picture uint8 [H, W, 3], and the patches that make the sharpest map of it.

    Read at a short side of `size` pixels, smaller for an oblong one. Raises `ReadError` with the picture's `name` for
    too many patches.
    """
    height, width = picture.shape[:2]
    ratio = max(height, width) / min(height, width)
    side = size if ratio <= _WIDEST else max(round(size * (_WIDEST / ratio) ** 0.5), min(size, 1))
    layout = lay_out(height, width, side, backbone.spec.side_multiple, name=name)
    [(maps, last)] = backbone.encode_layers([View.of(picture, layout)], (backbone.info.map_layer, -1))
    return replace(maps, cls=last.cls)

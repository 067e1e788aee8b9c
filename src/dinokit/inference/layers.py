"""What a head reads: the features of some layers of one picture, with its pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dinokit.backbones.features import Features, Grid
from dinokit.errors import UserError
from dinokit.images.geometry import Size, lay_out
from dinokit.images.read import Picture, Source, name_of, read
from dinokit.inference.backbone import Backbone
from dinokit.inference.tiled import tile_side
from dinokit.inference.views import View


@dataclass(frozen=True)
class Look:
    """How a job looks at pictures."""

    layers: tuple[int, ...] = (-1,)
    """Blocks whose features are read (from 0; negative from the end), through the final norm."""
    size: Size | None = None
    """The short side in pixels, (height, width) or "native"; None: the size that the model was trained at."""
    tile: int | None = None
    """Side in pixels of the overlapping tiles in which larger pictures are looked at; None: see `Backbone.encode`."""

    most_patches: int | None = None
    """Pictures of more are not looked at; None: see `images.geometry`."""

    def of(self, backbone: Backbone) -> Look:
        """The same with layers counted from 0, the model's own size, and tiles of whole patches.

        Raises `UserError` for a layer that there is not, and for a tile that holds no patch.
        """
        wrong = [layer for layer in self.layers if not -backbone.depth <= layer < backbone.depth]
        if wrong or not self.layers:
            what = f"there is no block {wrong[0]}" if wrong else "layers is empty"
            raise UserError(what, f"blocks are 0 to {backbone.depth - 1}, or -1 for the last")
        tile = None if self.tile is None else tile_side(self.tile, backbone.spec.side_multiple)
        layers = tuple(layer % backbone.depth for layer in self.layers)
        size = backbone.info.image_size if self.size is None else self.size
        return replace(self, layers=layers, size=size, tile=tile)


def layer_widths(backbone: Backbone, layers: Sequence[int]) -> list[int]:
    """Width D of the features of each layer; those of a ConvNeXt differ."""
    widths = getattr(backbone.spec, "widths", None) or (backbone.embed_dim,) * backbone.depth
    return [widths[layer] for layer in layers]


@dataclass(frozen=True)
class PictureFeatures:
    """One picture as a job sees it."""

    picture: Picture
    """uint8 [H, W, 3]"""
    layers: tuple[Features, ...]
    """One for each layer of the look, each a batch of one picture: cls [1, D], patches [1, h, w, D]."""

    @property
    def grid(self) -> Grid:
        """Where the cells of the last layer lie in the picture."""
        grid = self.layers[-1].grid
        assert grid is not None
        return grid


def lay_out_view(backbone: Backbone, picture: Picture, look: Look, name: str) -> View:
    """The view of a picture that `look` asks for. Raises `ReadError` with its `name` for too many patches."""
    size = backbone.info.image_size if look.size is None else look.size
    multiple = backbone.spec.side_multiple
    layout = lay_out(picture.shape[0], picture.shape[1], size, multiple, name=name, most=look.most_patches)
    return View.of(picture, layout, backbone.info.statistics.grey)


def check_finite(layers: Sequence[Features], name: str) -> None:
    """Raise `UserError` with the `name` of a picture where a number of its features is not finite."""
    if not all(bool(part.isfinite().all()) for layer in layers for part in (layer.cls, layer.patches)):
        raise UserError(f"the features of {name} are not finite", "take --precision fp32, or check the model")


def look_at(backbone: Backbone, picture: Picture, look: Look, name: str) -> PictureFeatures:
    """Look at a picture that is read. Raises `ReadError` and `UserError` with its `name` as `read_pictures`."""
    [layers] = backbone.encode_layers([lay_out_view(backbone, picture, look, name)], look.layers, tile=look.tile)
    check_finite(layers, name)
    return PictureFeatures(picture, layers)


def read_pictures(
    backbone: Backbone, sources: Sequence[Source], look: Look, batch_size: int = 16
) -> Iterator[PictureFeatures]:
    """Read pictures and their features one after another, in order; at most `batch_size` are held at a time.

    Raises `ReadError` for a picture that cannot be read, and `UserError` for features that are not finite.
    """
    for first in range(0, len(sources), batch_size):
        part = sources[first : first + batch_size]
        pictures = [read(source, channels=backbone.spec.in_channels) for source in part]
        views = [lay_out_view(backbone, p, look, name_of(s)) for p, s in zip(pictures, part, strict=True)]
        found = backbone.encode_layers(views, look.layers, batch_size, look.tile)
        for source, picture, layers in zip(part, pictures, found, strict=True):
            check_finite(layers, name_of(source))
            yield PictureFeatures(picture, layers)

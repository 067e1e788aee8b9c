"""The features of a set of pictures at one look, each computed once: what a head learns from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from dinokit.backbones.features import Features
from dinokit.data.pictures import Pictures
from dinokit.data.track import Track
from dinokit.images.read import Picture, read
from dinokit.inference.backbone import Backbone
from dinokit.inference.cache import FeatureCache, hash_of
from dinokit.inference.layers import Look, check_finite, lay_out_view
from dinokit.inference.views import View

CHUNK = 16
"""Pictures that are decoded while those before them are looked at."""


class StoredFeatures(Sequence[tuple[Features, ...]]):
    """The features of each picture of a set, one for each layer of the look; from the cache, or computed and kept.

    reduce: applied to each layer before it is kept, for jobs that need less than all patches; its name is in the key.
    """

    def __init__(
        self,
        backbone: Backbone,
        pictures: Pictures,
        look: Look,
        cache: FeatureCache,
        reduce: tuple[str, Callable[[Features], Features]] | None = None,
    ) -> None:
        self.backbone, self.pictures, self.look, self.cache = backbone, pictures, look.of(backbone), cache
        self.reduce = reduce
        self._keys: dict[int, str] = {}
        view = json.dumps([self.look.layers, self.look.size, self.look.tile])
        self._common = (backbone.fingerprint, str(backbone.dtype), view) + (() if reduce is None else reduce[:1])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> tuple[Features, ...]:  # type: ignore[override]
        """The features of picture `i` in float16 or float32, a batch of one for each layer. Raises `ReadError`."""
        return self.cache.get(self._key(i)) or self._compute([i])[0]

    def prepare(self, track: Track) -> None:
        """Compute what the cache does not have yet; a `CacheWarning` where it cannot hold all.

        Raises `ReadError` naming a picture that cannot be read.
        """
        missing = [i for i in range(len(self)) if self.cache.get(self._key(i)) is None]
        if missing:
            for _ in track(self._compute_each(missing), len(self), "computing features", len(self) - len(missing)):
                pass

    def _compute_each(self, indices: Sequence[int]) -> Iterator[int]:
        chunks = [indices[first : first + CHUNK] for first in range(0, len(indices), CHUNK)]
        with ThreadPoolExecutor(2) as pool:
            decoding = [pool.submit(self._view, i) for i in chunks[0]]
            for chunk, following in zip(chunks, [*chunks[1:], []], strict=True):
                views = [future.result() for future in decoding]
                decoding = [pool.submit(self._view, i) for i in following]
                found = self._encode(chunk, views)
                if chunk is chunks[0]:
                    self.cache.check_room(found, len(self))
                yield from chunk

    def _compute(self, indices: Sequence[int]) -> list[tuple[Features, ...]]:
        return self._encode(indices, [self._view(i) for i in indices])

    def _encode(self, indices: Sequence[int], views: Sequence[View]) -> list[tuple[Features, ...]]:
        found = self._look(views)
        for i, layers in zip(indices, found, strict=True):
            check_finite(layers, self.pictures.place(i))
        if self.reduce is not None:
            found = [tuple(self.reduce[1](layer) for layer in layers) for layers in found]
        for i, layers in zip(indices, found, strict=True):
            self.cache.put(self._key(i), layers)
        return found

    def picture(self, i: int) -> Picture:
        """The pixels of picture `i`. Raises `ReadError`."""
        return read(self.pictures.read_bytes(i), self.pictures.place(i), channels=self.backbone.spec.in_channels)

    def look_at(self, pictures: Sequence[Picture]) -> list[tuple[Features, ...]]:
        """The features of changed pictures, which are not kept."""
        return self._look(
            [lay_out_view(self.backbone, picture, self.look, "a changed picture") for picture in pictures]
        )

    def _look(self, views: Sequence[View]) -> list[tuple[Features, ...]]:
        """The features of views on the CPU, where heads learn, whatever the backbone's device is."""
        found = self.backbone.encode_layers(views, self.look.layers, tile=self.look.tile)
        return [tuple(layer.to("cpu") for layer in layers) for layers in found]

    def _view(self, i: int) -> View:
        return lay_out_view(self.backbone, self.picture(i), self.look, self.pictures.place(i))

    def _key(self, i: int) -> str:
        if i not in self._keys:
            self._keys[i] = hash_of(*self._common, self.pictures.read_bytes(i))
        return self._keys[i]

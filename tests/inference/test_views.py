"""What a person gives becomes views, and every cell of a view knows where it lies in its picture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_pictures import encode, every_format, photo, tiff
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import dinokit
from dinokit.backbones.catalog import spec_of
from dinokit.backbones.features import Features, Grid
from dinokit.errors import UserError
from dinokit.images.geometry import MAX_PATCHES, Fit, Size, lay_out
from dinokit.images.normalize import IMAGENET, Statistics
from dinokit.images.read import ReadError, read
from dinokit.inference.backbone import Backbone
from dinokit.inference.views import expand, read_views

pytestmark = pytest.mark.usefixtures("one_thread")

PICTURES = Path(__file__).parents[1] / "pictures"
PHOTOS = sorted(PICTURES.glob("*.jpg"))
SPEC = spec_of("dinokit_vitt16")
STRIDED = spec_of("dinov3_convnext_tiny")

SIZES = st.one_of(st.integers(1, 300), st.tuples(st.integers(1, 300), st.integers(1, 300)), st.just("native"))
FITS = st.sampled_from(["resize", "pad"])


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return dinokit.load("random:dinokit_vitt16", precision="fp32")


def test_a_folder_and_a_pattern_are_their_pictures_in_order(backbone: Backbone, tmp_path: Path) -> None:
    for name in ("b.jpg", "a.png", "deep/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(photo(), {"b": "JPEG", "a": "PNG", "d": "WEBP"}[name[0]]))
    (tmp_path / "notes.txt").write_text("no picture")
    names = [Path(str(path)).name for path in expand(tmp_path)]
    assert names == ["a.png", "b.jpg", "c.webp"]
    assert expand([f"{tmp_path}/*.jpg", tmp_path / "a.png"]) == [tmp_path / "b.jpg", tmp_path / "a.png"]
    batch = backbone.encode(tmp_path, size=32)
    assert isinstance(batch, Features)
    assert len(batch) == 3
    torch.testing.assert_close(batch.cls[0], backbone.encode(tmp_path / "a.png", size=32).cls[0])


def test_one_photo_given_in_every_way_has_the_same_features(backbone: Backbone, tmp_path: Path) -> None:
    image, pixels = photo(), np.asarray(photo())
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    (tmp_path / "a.png").write_bytes(encode(image, "PNG"))
    expected = backbone.encode(pixels, size=64).cls
    for source in (str(tmp_path / "a.png"), tmp_path / "a.png", str(tmp_path / "*.png"), encode(image, "PNG"), image):
        torch.testing.assert_close(backbone.encode(source, size=64).cls, expected)
    for source in (pixels.astype(np.uint16) * 257, pixels / 255, tensor, tensor[None], tensor / 255):
        torch.testing.assert_close(backbone.encode(source, size=64).cls, expected)


def test_lists_mix_kinds_and_sizes(backbone: Backbone) -> None:
    batch = torch.rand(2, 3, 48, 64)
    sources = [PHOTOS[0], batch, np.zeros((40, 90), np.float32), every_format()["tiff 16-bit"]]
    found = backbone.encode(sources, size="native")
    assert isinstance(found, list)
    assert [features.grid.sizes[0] for features in found if features.grid] == [
        read(PHOTOS[0]).shape[:2], (48, 64), (48, 64), (40, 90), (64, 96)
    ]  # fmt: skip


def test_networks_of_other_channels_read_pictures_that_have_them() -> None:
    for channels, sources in {
        1: [PHOTOS[0], np.zeros((32, 32), np.uint8), torch.zeros(1, 32, 32)],
        2: [np.zeros((32, 32, 2), np.uint16)],
        6: [
            torch.rand(6, 32, 32),
            tiff(np.zeros((32, 32, 6), np.uint16), photometric="minisblack", planarconfig="contig"),
        ],
    }.items():
        backbone = dinokit.load("random:dinokit_vitt16", in_channels=channels)
        backbone.info = replace(backbone.info, statistics=Statistics((0.5,) * channels, (0.25,) * channels))
        for source in sources:
            assert backbone.encode(source, size=32).cls.isfinite().all()
            assert backbone.encode(source, size=(32, 48), fit="pad").cls.isfinite().all()
    with pytest.raises(UserError, match=r"000000000790\.jpg has 3 channels where the network reads 6"):
        backbone.encode(PHOTOS[0], size=32)


BAD = [
    ([], "no pictures to encode"),
    (torch.zeros(0, 3, 4, 4), "no pictures to encode"),
    (None, "None is no picture"),
    (7, "7 is no picture"),
    ([None], "the picture is of type NoneType"),
    ([np.zeros((4, 4)), np.zeros((4, 4, 4, 4))], r"picture 1 has the shape \[4, 4, 4, 4\]"),
    ([np.zeros((4, 4)), np.full((4, 4), np.nan)], "picture 1 holds NaN"),
    (np.zeros((4, 4), complex), "the array holds complex128 values"),
    (torch.zeros(4, 4), r"the tensor has the shape \[4, 4\]"),
    (b"", "the picture is empty"),
    ("nowhere.jpg", r"nowhere\.jpg is not found"),
    ("nowhere/*.jpg", "matches nothing"),
    ("", "not found"),
]


@pytest.mark.parametrize(("pictures", "message"), BAD)
def test_what_is_no_picture_is_said_in_one_line(backbone: Backbone, pictures: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        backbone.encode(pictures, size=32)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_folder_without_pictures_is_named(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "film.mov").write_bytes(b"x")
    with pytest.raises(UserError, match=r"has no pictures, skipped 1 file: 1 \.mov"):
        backbone.encode(tmp_path)


@given(st.integers(1, 2000), st.integers(1, 2000), SIZES, FITS, st.sampled_from([SPEC, STRIDED]), st.data())
def test_a_point_goes_to_its_cell_and_back(
    height: int, width: int, size: Size, fit: Fit, spec: object, data: st.DataObject
) -> None:
    grid = grid_of(height, width, size, fit, spec)
    x, y = data.draw(st.floats(0, width)), data.draw(st.floats(0, height))
    point = torch.tensor([x, y], dtype=torch.float64)
    torch.testing.assert_close(grid.to_pixels(grid.to_cells(point)), point, atol=1e-9, rtol=1e-12)
    row, col = grid.to_cells(point).tolist()
    assert -0.5 - 1e-9 <= row <= grid.rows - 0.5 + 1e-9
    assert -0.5 - 1e-9 <= col <= grid.cols - 0.5 + 1e-9
    cells = torch.cartesian_prod(torch.arange(grid.rows)[:9], torch.arange(grid.cols)[:9])
    torch.testing.assert_close(grid.to_cells(grid.to_pixels(cells)), cells.double(), atol=1e-9, rtol=1e-12)


@given(st.integers(1, 600), st.integers(1, 600), SIZES, FITS)
def test_cells_inside_are_those_whose_centre_is_in_the_picture(height: int, width: int, size: Size, fit: Fit) -> None:
    grid = grid_of(height, width, size, fit, SPEC)
    inside = grid.inside()
    assert inside.shape == (grid.rows, grid.cols)
    assert fit == "pad" or inside.all()
    rows, cols = inside.any(1), inside.any(0)
    torch.testing.assert_close(inside, rows[:, None] & cols)  # one rectangle
    for cells, side, span in ((rows, height, grid.spans[0][0]), (cols, width, grid.spans[0][1])):
        centres = [(n + 0.5) * span / len(cells) for n in range(len(cells))]
        assume(all(abs(centre - side) > 1e-9 * side for centre in centres))  # on the border either is right
        assert int(cells.sum()) == max(sum(centre < side for centre in centres), 1)


def grid_of(height: int, width: int, size: Size, fit: Fit, spec: object) -> Grid:
    """The grid that `encode` would give, without the pixels."""
    try:
        layout = lay_out(height, width, size, spec.side_multiple, fit)
    except ReadError:
        assume(False)
    assert layout.canvas[0] * layout.canvas[1] <= MAX_PATCHES * spec.side_multiple**2
    rows, cols = (side // spec.patch_size for side in layout.canvas)
    return Grid(rows, cols, ((height, width),), (layout.span(height, width),))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(60, 400), st.integers(60, 400), st.floats(0.2, 0.8), st.floats(0.2, 0.8),
    st.one_of(st.integers(64, 400), st.tuples(st.integers(64, 400), st.integers(64, 400)), st.just("native")),
    FITS, st.sampled_from([SPEC, STRIDED]),
)  # fmt: skip
def test_a_mark_in_the_picture_lies_where_the_grid_says(
    height: int, width: int, down: float, across: float, size: Size, fit: Fit, spec: object
) -> None:
    """The centre of mass of a soft mark, in the view and in the picture: the same place to 0.15 pixels of the view."""
    x, y = across * width, down * height
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    mark = np.exp(-((columns - x) ** 2 + (rows[:, None] - y) ** 2) / (2 * (min(height, width) / 16) ** 2))
    picture = np.round(255 * mark).astype(np.uint8)
    nothing = Statistics((0.0,) * 3, (1.0,) * 3)  # padding is black
    [view] = read_views([picture], size, fit, spec, nothing)
    cells = tuple(side // spec.patch_size for side in view.pixels.shape[1:])
    grid = Grid(*cells, (view.size,), (view.span,))
    found = grid.to_pixels(
        centre_of_mass(view.pixels[0]) / spec.patch_size - 0.5
    )  # (row, col), a view's patch is a cell
    scale = torch.tensor([view.span[1] / view.pixels.shape[2], view.span[0] / view.pixels.shape[1]])
    true = centre_of_mass(torch.from_numpy(picture)).flip(-1)
    assert ((found - true).abs() <= 0.15 * scale + 0.02).all()


def centre_of_mass(values: torch.Tensor) -> torch.Tensor:
    """(y, x) in pixels whose centres lie at .5."""
    weights = values.double()
    rows, cols = (torch.arange(side, dtype=torch.float64) + 0.5 for side in weights.shape)
    return torch.stack([(weights.sum(1) * rows).sum(), (weights.sum(0) * cols).sum()]) / weights.sum()


def test_padded_features_carry_their_grid(backbone: Backbone) -> None:
    wide, tall = np.zeros((100, 250, 3), np.uint8), np.zeros((250, 100, 3), np.uint8)
    batch = backbone.encode([wide, tall], size=(160, 160), fit="pad")
    assert isinstance(batch, Features)
    assert batch.grid is not None
    assert (batch.grid.rows, batch.grid.cols) == (10, 10)
    assert batch.grid.sizes == ((100, 250), (250, 100))
    assert batch.grid.spans == ((250.0, 250.0), (250.0, 250.0))
    assert batch.grid.inside(0).tolist() == [[row < 4] * 10 for row in range(10)]
    torch.testing.assert_close(batch.grid.inside(1), batch.grid.inside(0).T)
    torch.testing.assert_close(batch.grid.to_pixels(torch.tensor([3, 9]), 0).tolist(), [237.5, 87.5])


def test_padding_is_no_colour_to_the_network(backbone: Backbone) -> None:
    [view] = read_views([np.zeros((20, 30, 3), np.uint8)], "native", "pad", backbone.spec, IMAGENET)
    assert view.pixels[:, 20:].unique(dim=1).flatten(1)[:, 0].tolist() == [124, 116, 104]
    assert view.span == (32.0, 32.0)


def test_a_fit_that_is_none_is_named(backbone: Backbone) -> None:
    with pytest.raises(UserError, match='fit is \'crop\': give "resize" or "pad"'):
        backbone.encode(PHOTOS[0], size=32, fit="crop")

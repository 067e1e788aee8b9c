"""Two views of one photo whose geometry is known: matches, points and homographies are right; bad input is one line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from helpers_pictures import PHOTOS
from PIL import Image

from dinokit.cli.app import main
from dinokit.errors import UserError
from dinokit.heads.homography import corner_error, places, transform
from dinokit.images.read import Picture, read
from dinokit.images.warp import warp
from dinokit.inference.backbone import load
from dinokit.tasks.match import Matcher
from dinokit.tasks.match_results import Matches, MatchScore, spread

pytestmark = pytest.mark.usefixtures("one_thread")

PHOTO = read(PHOTOS[0])
SHIFT = np.array([[1.0, 0.0, -30.0], [0.0, 1.0, -20.0], [0.0, 0.0, 1.0]])
TILT = np.array([[0.95, 0.15, 5.0], [-0.12, 0.9, 20.0], [6e-4, -3e-4, 1.0]])
TURN = np.array([[0.0, -1.0, PHOTO.shape[0]], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return Matcher(load("dinokit_vitt16"), size=384)


def view(matrix: np.ndarray, size: tuple[int, int] = (PHOTO.shape[0], PHOTO.shape[1])) -> Picture:
    """The photo after `matrix`."""
    return warp(PHOTO, places(np.linalg.inv(matrix), size))[0]


def test_matches_follow_a_shift_to_the_pixel(matcher: Matcher) -> None:
    matches = matcher.predict(PHOTO, view(SHIFT))
    errors = np.linalg.norm(matches.points2 - transform(SHIFT, matches.points1), axis=1)
    assert len(matches) > 100
    assert (np.diff(matches.score) <= 0).all()
    assert np.median(errors) < 0.5
    assert (errors < 3).mean() > 0.8


def test_features_alone_are_right_to_a_part_of_a_cell(matcher: Matcher) -> None:
    coarse = Matcher(matcher.backbone, size=384, refine=False).predict(PHOTO, view(SHIFT))
    errors = np.linalg.norm(coarse.points2 - transform(SHIFT, coarse.points1), axis=1)
    assert np.median(errors) < 0.35 * 16 * PHOTO.shape[0] / 384


@pytest.mark.parametrize(("matrix", "turned"), [(TILT, False), (TURN, True)], ids=["tilted", "turned"])
def test_a_homography_is_found(matcher: Matcher, matrix: np.ndarray, turned: bool) -> None:
    size = (PHOTO.shape[1], PHOTO.shape[0]) if turned else (PHOTO.shape[0], PHOTO.shape[1])
    found = matcher.homography(PHOTO, view(matrix, size))
    assert corner_error(found.matrix, matrix, (PHOTO.shape[0], PHOTO.shape[1])) < 0.5
    assert found.share > 0.8
    assert found.inliers.shape == (len(found.matches),)
    assert found.draw().shape[1] > PHOTO.shape[1] + size[1]


def test_large_photos_are_warped_in_few_pixels(matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look costs what the network sees, not what a camera has."""
    large = np.asarray(Image.fromarray(PHOTO).resize((PHOTO.shape[1] * 8, PHOTO.shape[0] * 8)))
    matrix = np.diag([8.0, 8, 1]) @ TILT @ np.diag([1 / 8, 1 / 8, 1])
    second = warp(large, places(np.linalg.inv(matrix), (large.shape[0], large.shape[1])))[0]
    views = []

    def watched(picture: Picture, where: np.ndarray) -> tuple[Picture, np.ndarray]:
        views.append(where.shape[:2])
        return warp(picture, where)

    monkeypatch.setattr("dinokit.tasks.match_looks.warp", watched)
    found = Matcher(matcher.backbone, size=256, refine=False).homography(large, second)
    assert max(min(view) for view in views) <= 2 * 256 + 16
    assert corner_error(found.matrix, matrix, (large.shape[0], large.shape[1])) < 8 * 5


def test_points_are_located(matcher: Matcher, tmp_path: Path) -> None:
    asked = [[120.0, 90.0], [180.5, 130.0]]
    found = matcher.locate(asked, PHOTO, view(SHIFT))
    np.testing.assert_allclose(found.points, np.array(asked) - [30, 20], atol=2)
    assert found.maps.shape[0] == 2
    scale = np.array([PHOTO.shape[1] / found.maps.shape[2], PHOTO.shape[0] / found.maps.shape[1]])
    for similarity, place in zip(found.maps, found.points, strict=True):
        col, row = (place / scale).astype(int)
        assert similarity[row, col] > np.quantile(similarity, 0.85)
    found.save(tmp_path / "where.npz")
    assert np.load(tmp_path / "where.npz")["maps"].shape == found.maps.shape


def test_scores_are_those_of_the_errors(matcher: Matcher) -> None:
    points = np.array([[120.0, 90.0, 90.0, 70.0], [150.0, 100.0, 120.0, 180.0]])
    score = matcher.evaluate([(PHOTO, view(SHIFT), SHIFT), (PHOTO, view(SHIFT), points)])
    assert score.corner_errors[0] < 0.5
    assert np.isnan(score.corner_errors[1])
    assert score.inliers[0] > 100
    assert score.point_errors[1][0] < 2 < 80 < score.point_errors[1][1]
    known = MatchScore(np.array([2.0, 8.0, np.inf, np.nan]), np.zeros(4, int), (np.array([1.0]), np.array([3.0, 9.0])))
    assert known.corners_within(3) == 1 / 3
    assert known.points_within(3) == 2 / 3


def test_results_are_saved_so_that_others_read_them(tmp_path: Path) -> None:
    points = np.array([[1.5, 2.5], [30.25, 40.0]])
    matches = Matches(points, points + 5, np.array([0.9, 0.5], dtype=np.float32), PHOTO, PHOTO)
    for ending in ("csv", "npz", "png"):
        matches.save(tmp_path / f"m.{ending}")
    with open(tmp_path / "m.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(rows[1][key]) for key in ("x1", "y1", "x2", "y2", "score")] == [30.25, 40, 35.25, 45, 0.5]
    np.testing.assert_array_equal(np.load(tmp_path / "m.npz")["points2"], points + 5)
    assert Image.open(tmp_path / "m.png").height == PHOTO.shape[0]
    with pytest.raises(UserError, match=r"m\.txt has no ending that can be written: name it \.png"):
        matches.save(tmp_path / "m.txt")


def test_drawn_matches_are_spread() -> None:
    points = np.concatenate([np.zeros((50, 2)), [[100, 0], [0, 100], [100, 100]]])
    assert {tuple(point) for point in points[spread(points, 4)]} == {(0, 0), (100, 0), (0, 100), (100, 100)}
    assert len(spread(points[:2], 4)) == 2


@pytest.mark.parametrize("shape", [(1, 2, 3), (5, 4), (20, 300, 1), (9, 9, 4)])
def test_tiny_and_odd_pictures_are_matched(matcher: Matcher, shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    small = Matcher(matcher.backbone, size=64)
    matches = small.predict(noise, PHOTO)
    assert matches.points1.shape == matches.points2.shape
    assert matches.draw().shape[2] == 3


def test_pictures_with_nothing_in_common_have_no_homography(matcher: Matcher) -> None:
    for seed, side in ((0, 9), (1, 200)):
        noise = np.random.default_rng(seed).integers(0, 255, (side, side, 3)).astype(np.uint8)
        with pytest.raises(UserError, match=r"too few for a homography|no homography explains"):
            Matcher(matcher.backbone, size=160).homography(noise, PHOTO)


def test_bad_input_is_said(matcher: Matcher) -> None:
    blank = np.full((40, 50, 3), 200, dtype=np.uint8)
    with pytest.raises(UserError, match="the second picture has one colour all over: give a picture"):
        matcher.predict(PHOTO, blank)
    with pytest.raises(UserError, match=r"point \(-3, 4\) is outside the first picture: that has \d+ x \d+ pixels"):
        matcher.locate([(1, 1), (-3, 4)], PHOTO, PHOTO)
    with pytest.raises(UserError, match=r"points have shape \[3\]: give \[N, 2\]"):
        matcher.locate([1, 2, 3], PHOTO, PHOTO)  # type: ignore[list-item]
    with pytest.raises(UserError, match=r"point \(nan, 4\) is outside"):
        matcher.locate([(float("nan"), 4)], PHOTO, PHOTO)
    with pytest.raises(UserError, match="ratio is 0: give a number above 0"):
        Matcher(matcher.backbone, ratio=0)
    with pytest.raises(UserError, match=r"at this size the first picture has \d+ x \d+ cells: too few to compare"):
        Matcher(matcher.backbone, size=32).predict(PHOTO, PHOTO)
    with pytest.raises(UserError, match="the truth of a pair is not finite"):
        matcher.evaluate([(PHOTO, PHOTO, np.full((3, 3), np.nan))])
    with pytest.raises(UserError, match=r"the truth of a pair has shape \[2, 2\]"):
        matcher.evaluate([(PHOTO, PHOTO, np.eye(2))])


def test_the_command_says_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(view(SHIFT)).save(tmp_path / "b.png")
    pictures = [str(PHOTOS[0]), str(tmp_path / "b.png"), "--size", "256"]
    assert main(["match", *pictures, "--homography", "--out", str(tmp_path / "h.csv"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(told["matrix"], SHIFT, atol=0.5)
    assert len((tmp_path / "h.csv").read_text().splitlines()) == told["matches"] + 1
    out = tmp_path / "p.png"
    assert main(["match", *pictures, "--point", "120", "90", "--point", "150", "100", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("(120, 90) -> (")
    assert lines[2] == f"written to {out}"
    assert out.stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("a.png missing.png", "missing.png is not found"),
        ("a.png blank.png", "blank.png has one colour all over"),
        ("a.png a.png --out m.doc", "m.doc has no ending that can be written"),
        ("a.png blank.png --out ./blank.png", "blank.png is one of the inputs and would be overwritten"),
        ("a.png a.png --point 1 2 --homography", "--homography and --point were both given"),
        ("a.png a.png --point 900 2", "point (900, 2) is outside the first picture: that has 60 x 40 pixels"),
        ("a.png a.png --ratio 0", "ratio is 0.0"),
        ("a.png a.png --layers 40", "there is no block 40"),
    ],
)
def test_what_is_wrong_is_one_line(
    options: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PHOTO).resize((60, 40)).save("a.png")
    Image.new("RGB", (60, 40), (3, 4, 5)).save("blank.png")
    assert main(["match", *options.split(), "--size", "32"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1

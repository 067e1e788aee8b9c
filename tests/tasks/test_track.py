"""Objects through videos: known motion, files, work that is continued, and what people do wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_pictures import PHOTOS
from numpy.typing import NDArray
from PIL import Image

import dinokit
from dinokit.cli.app import main
from dinokit.data.object_masks import read_objects
from dinokit.data.video import open_video, video_writer
from dinokit.errors import UserError
from dinokit.heads.propagate import PropagateSettings
from dinokit.heads.video_scores import region_score
from dinokit.inference.backbone import Backbone
from dinokit.tasks.track import TrackedFrame, Tracker
from dinokit.tasks.track_files import STATE

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES, HEIGHT, WIDTH = 6, 128, 192


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return dinokit.load("dinokit_vitt16", device="cpu")


def scene(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A round piece of one photo that moves to the right over another, and one that stands still: frame and labels."""
    photos = [np.array(Image.open(path).convert("RGB").resize((WIDTH, HEIGHT))) for path in PHOTOS[:3]]
    frame, labels = photos[0].copy(), np.zeros((HEIGHT, WIDTH), np.uint8)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for key, (left, top) in {3: (50 + 6 * number, 60), 7: (150, 80)}.items():
        inside = (x - left) ** 2 + (y - top) ** 2 < 30**2
        frame[inside] = np.roll(photos[1 if key == 3 else 2], (0, left - 50), (0, 1))[inside]
        labels[inside] = key
    return frame, labels


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """frames/ and masks/, with a mask for each frame, and clip.mkv."""
    root = tmp_path_factory.mktemp("track")
    for name in ("frames", "masks"):
        (root / name).mkdir()
    with video_writer(root / "clip.mkv") as write:
        for number in range(FRAMES):
            frame, labels = scene(number)
            Image.fromarray(frame).save(root / "frames" / f"{number:05d}.png")
            Image.fromarray(labels).save(root / "masks" / f"{number:05d}.png")
            write(frame)
    return root


def test_objects_are_followed(backbone: Backbone) -> None:
    scenes = [scene(number) for number in range(FRAMES)]
    tracker = Tracker(backbone, size=256)
    found = list(tracker.predict((frame for frame, _ in scenes), scenes[0][1]))
    assert [frame.number for frame in found] == list(range(FRAMES))
    np.testing.assert_array_equal(found[0].labels, scenes[0][1])
    last, true = found[-1], scenes[-1][1]
    assert last.objects == (3, 7)
    assert last.probabilities.shape == (3, 16, 24)
    np.testing.assert_allclose(last.probabilities.sum(0), 1, atol=1e-5)
    assert set(np.unique(last.labels)) == {0, 3, 7}
    for key in (3, 7):
        ours = region_score(last.labels == key, true == key)
        assert ours > 0.7, (key, ours)
    assert region_score(last.labels == 3, true == 3) > region_score(scenes[0][1] == 3, true == 3) + 0.15


def test_frames_are_read_one_at_a_time(backbone: Backbone) -> None:
    """An endless stream is followed while it comes in."""
    taken = []

    def camera():  # type: ignore[no-untyped-def]
        while True:
            taken.append(1)
            yield scene(0)[0]

    following = Tracker(backbone, size=64).predict(camera(), scene(0)[1])
    for number in range(1, 4):
        next(following)
        assert len(taken) == number


def test_a_mask_for_each_object(backbone: Backbone) -> None:
    frame, labels = scene(0)
    tracker = Tracker(backbone, size=64)
    found = next(tracker.predict([frame], [labels == 7, labels == 3]))
    assert found.objects == (1, 2)
    np.testing.assert_array_equal(found.labels == 1, labels == 7)
    assert next(tracker.predict([frame], labels == 3)).objects == (1,)
    black_and_white = np.where(labels == 3, 255, 0).astype(np.uint8)
    assert next(tracker.predict([frame], black_and_white)).objects == (1,)


def test_results_can_be_seen_and_kept(backbone: Backbone, tmp_path: Path) -> None:
    frame, labels = scene(0)
    found = next(Tracker(backbone, size=64).predict([frame], labels))
    drawn = found.draw()
    assert drawn.shape == frame.shape
    np.testing.assert_array_equal(drawn[labels == 0], frame[labels == 0])
    assert (drawn[labels > 0] != frame[labels > 0]).any(axis=-1).mean() > 0.9
    found.save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
    np.testing.assert_array_equal(read_objects(tmp_path / "labels.png"), labels)


def test_evaluation_leaves_out_the_first_frame_and_the_last(backbone: Backbone, place: Path, tmp_path: Path) -> None:
    tracker = Tracker(backbone, size=128)
    score = tracker.evaluate(place / "frames", place / "masks")
    assert score.frames == FRAMES - 2
    assert set(score.regions) == {"3", "7"}
    assert 0.6 < score.region < 1
    for number in (0, 2, FRAMES - 1):  # few masks: all but the first count
        shutil.copy(place / "masks" / f"{number:05d}.png", tmp_path)
    assert tracker.evaluate(place / "frames", tmp_path).frames == 2
    (tmp_path / "00000.png").unlink()
    with pytest.raises(UserError, match="no mask for the first frame"):
        tracker.evaluate(place / "frames", tmp_path)


def test_masks_of_nothing_but_void_are_void(backbone: Backbone, place: Path, tmp_path: Path) -> None:
    for number in (0, 2):
        shutil.copy(place / "masks" / f"{number:05d}.png", tmp_path)
    tracker = Tracker(backbone, size=128)
    expected = tracker.evaluate(place / "frames", tmp_path)
    void = np.full_like(scene(3)[1], 255)
    Image.fromarray(void).save(tmp_path / "00003.png")
    found = tracker.evaluate(place / "frames", tmp_path)
    assert found.frames == expected.frames + 1
    for number, region in expected.regions.items():  # nothing counts there, and nothing was found there: 1
        assert found.regions[number] == pytest.approx((region + 1) / 2)
    for number in (0, 3):  # one object, as many programs write it
        Image.fromarray(np.where(scene(number)[1] == 3, 255, 0).astype(np.uint8)).save(tmp_path / f"{number:05d}.png")
    (tmp_path / "00002.png").unlink()
    assert list(tracker.evaluate(place / "frames", tmp_path).regions) == ["1"]


def run(arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["track", *arguments.split()])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def labels_in(folder: Path) -> list[NDArray[np.uint8]]:
    return [read_objects(path) for path in sorted(folder.glob("*.png"))]


def test_the_command_writes_labels_and_goes_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dinokit.tasks.track_files._STORE_EVERY", 2)
    command = f"{place / 'frames'} --mask {place / 'masks' / '00000.png'} --size 64 --queue 2 --device cpu --out "
    code, out, _ = run(command + "whole --json", capsys)
    assert code == 0
    assert json.loads(out) == {"frames": FRAMES, "continued": 0, "objects": 2, "out": "whole"}
    assert [path.name for path in sorted(Path("whole").glob("*.png"))] == [f"{n:05d}.png" for n in range(FRAMES)]

    save = TrackedFrame.save

    def stopped(self: TrackedFrame, path: Path) -> None:
        if self.number == 5:
            raise KeyboardInterrupt
        save(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(TrackedFrame, "save", stopped)
        code, _, err = run(command + "part", capsys)
    assert code == 130
    assert "the same command continues" in err
    code, out, err = run(command + "part", capsys)
    assert (code, out) == (0, f"2 objects through {FRAMES} frames in part\n")
    assert "going on after 4 frames" in err
    assert not (Path("part") / STATE).exists(), "hundreds of MB of a long video"
    code, out, err = run(command + "part --json", capsys)
    assert json.loads(out)["continued"] == FRAMES
    for ours, theirs in zip(labels_in(Path("part")), labels_in(Path("whole")), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    code, _, err = run(command.replace("--size 64", "--size 80") + "part", capsys)
    assert code == 2
    assert "part holds the work of another job (other size)" in err


def test_other_frames_are_another_job(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames, command = tmp_path / "frames", f"--mask {place / 'masks' / '00000.png'} --size 64 --out {tmp_path / 'out'}"
    shutil.copytree(place / "frames", frames)
    assert run(f"{frames} {command}", capsys)[0] == 0
    last = max(frames.iterdir())
    Image.open(last).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(last)
    code, _, err = run(f"{frames} {command}", capsys)
    assert code == 2
    assert "holds the work of another job (other frames_sha256)" in err


def test_the_command_writes_videos(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "seen.mp4"
    code, _, err = run(f"{place / 'clip.mkv'} --mask {place / 'masks' / '00000.png'} --size 64 --out {out}", capsys)
    assert (code, err) == (0, "")
    frames = list(open_video(out))
    assert len(frames) == FRAMES
    assert frames[0].shape == (HEIGHT, WIDTH, 3)

    def stopped(self: TrackedFrame) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrackedFrame, "draw", stopped)
    code, _, err = run(f"{place / 'clip.mkv'} --mask {place / 'masks' / '00000.png'} --size 64 --out {out}", capsys)
    assert code == 130
    assert "the same command begins anew" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("frames --mask small.png --out x", "the mask has 96 x 64 px, the frames of frames have 192 x 128"),
        ("frames --mask none.png --out x", "the mask has no object: give its pixels the number 1"),
        ("frames --mask many.png --out x", "many.png holds object number 2331"),
        ("frames --mask frames/00000.png --out x", "is a colour picture, not object numbers"),
        ("frames --mask mask.jpg --out x", "mask.jpg is a JPEG, which does not keep numbers"),
        ("frames --mask missing.png --out x", "missing.png is not found"),
        ("frames/00000.png --mask masks/00000.png --out x", "is a picture, not a video"),
        ("missing.mp4 --mask masks/00000.png --out x", "missing.mp4 is not found"),
        ("mixed --mask masks/00000.png --out x", "frame b of mixed has 96 x 64 px where the first has 192 x 128"),
        ("clip.mkv --mask masks/00000.png --out ./clip.mkv", "clip.mkv is one of the inputs and would be overwritten"),
        ("frames --mask masks/00000.png --out seen.avi", "seen.avi is no video that can be written"),
        ("frames --mask masks/00000.png --out frames/00000.png/x", "cannot write"),
        ("frames --mask masks/00000.png --out frames", "--out frames holds other files: name a new folder"),
        ("frames --mask masks/00000.png --out x --queue -1", "queue is -1: give a whole number, 0 or more"),
        ("frames --mask masks/00000.png --out x --temperature 0", "temperature is 0"),
        ("frames --mask masks/00000.png --out x --radius nan", "radius is nan"),
        ("frames --mask masks/00000.png --out x --neighbours 0", "neighbours is 0"),
        ("frames --mask masks/00000.png --out x --size 99999", "too many patches"),
    ],
)
def test_what_cannot_work_is_one_line(
    options: str,
    said: str,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    labels = scene(0)[1]
    Image.fromarray(labels[::2, ::2]).save("small.png")
    Image.fromarray(labels * 0).save("none.png")
    Image.fromarray(labels.astype(np.uint16) * 333).save("many.png")
    Image.fromarray(labels).save("mask.jpg")
    Path("mixed").mkdir()
    Image.fromarray(scene(0)[0]).save("mixed/a.png")
    Image.fromarray(scene(0)[0][::2, ::2]).save("mixed/b.png")
    code, out, err = run(f"{options} --model random:dinokit_vitt16", capsys)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1, err


def test_too_many_objects(backbone: Backbone) -> None:
    masks = np.zeros((255, HEIGHT, WIDTH), dtype=bool)
    with pytest.raises(UserError, match="255 masks are too many: give at most 254"):
        Tracker(backbone).predict([scene(0)[0]], masks)


def test_wrong_settings() -> None:
    with pytest.raises(UserError, match="shape is 'ring'"):
        PropagateSettings(shape="ring")  # type: ignore[arg-type]

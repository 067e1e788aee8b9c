"""The page of a run shows what the log says."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dinokit.errors import UserError
from dinokit.report.run_page import HEIGHT, curves_svg, read_log, write_run_page


def write_log(run: Path, lines: list[dict[str, float]]) -> None:
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "recipe.toml").write_text('network = "dinokit_vitt16"\n')


def line(step: int, **more: float) -> dict[str, float]:
    return {"step": step, "seconds": step * 0.5, "loss": 5 / step, "rank": 10.0, **more}


def test_the_page_is_whole_and_has_the_curves_that_the_log_has(tmp_path: Path) -> None:
    write_log(tmp_path, [line(20), line(40, knn=31.5), line(60, knn=35.25)])
    page = write_run_page(tmp_path).read_text()
    assert "best kNN 35.2 %" in page or "best kNN 35.3 %" in page
    assert "logged up to step 60, after 30 seconds" in page
    assert "dinokit_vitt16" in page
    assert "rank" in page
    assert "prototype losses" not in page


def test_curves_are_valid_svg_with_every_point_inside(tmp_path: Path) -> None:
    svg = ElementTree.fromstring(curves_svg([line(step, loss=float(step % 7)) for step in range(1, 2000)]))
    paths = [p.get("d") or "" for p in svg.iter("{http://www.w3.org/2000/svg}path") if p.get("fill") == "none"]
    assert paths
    for path in paths:
        points = [tuple(map(float, point.split())) for point in path.removeprefix("M").split("L")]
        assert len(points) <= 300
        assert all(0 <= x <= 400 and 0 <= y <= HEIGHT for x, y in points)


def test_one_line_of_log_gives_dots() -> None:
    svg = ElementTree.fromstring(curves_svg([line(20)]))
    dots = list(svg.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(dots) == 2
    assert all(40 < float(dot.get("cy") or 0) < HEIGHT - 40 for dot in dots)


def test_legends_lie_below_the_charts() -> None:
    svg = ElementTree.fromstring(curves_svg([line(20, distance=0.5, patch_distance=0.4)]))
    [legend] = [text for text in svg.iter("{http://www.w3.org/2000/svg}text") if len(text)]
    assert [name.text for name in legend] == ["● distance", "● patch distance"]
    others = [float(text.get("y") or 0) for text in svg.iter("{http://www.w3.org/2000/svg}text") if not len(text)]
    assert float(legend.get("y") or 0) > max(others) + 12


def test_a_step_done_twice_counts_once_as_done_last(tmp_path: Path) -> None:
    write_log(tmp_path, [line(20), line(40), line(20, loss=9.0)])
    log = read_log(tmp_path / "log.jsonl")
    assert [entry["step"] for entry in log] == [20, 40]
    assert log[0]["loss"] == 9.0


def test_an_empty_or_broken_log_is_named(tmp_path: Path) -> None:
    write_log(tmp_path, [])
    with pytest.raises(UserError, match=r"log\.jsonl is empty"):
        write_run_page(tmp_path)
    (tmp_path / "log.jsonl").write_text("{broken")
    with pytest.raises(UserError, match="cannot be read"):
        write_run_page(tmp_path)

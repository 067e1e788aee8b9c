"""Models from the Hub and from web addresses: downloaded once, resumed, checked; every refusal says what to do."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoints.hub_server import HubServer, serve
from checkpoints.networks import SPECS, VIT, difference, random_model
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from dinokit.checkpoints import hub
from dinokit.checkpoints.export import export_model
from dinokit.checkpoints.load import load_model
from dinokit.errors import UserError

REPOSITORY = "facebook/dinov3-vits16-pretrain-lvd1689m"
MODEL = random_model(VIT)
pytestmark = [
    pytest.mark.filterwarnings("ignore::dinokit.checkpoints.model.AssumptionWarning"),
    pytest.mark.filterwarnings("ignore::dinokit.checkpoints.export.LossWarning"),
]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        template = running.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield running


def files_of(folder: Path, layout: str = "transformers", spec: str = "mlp") -> dict[str, bytes]:
    """A model in a layout as files by name."""
    model = random_model(SPECS[spec])
    export_model(folder, model.network.state_dict(), model.info, layout)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("layout", ["transformers", "timm", "dinokit"])
def test_a_repository_is_downloaded_once(layout: str, server: HubServer, tmp_path: Path) -> None:
    server.add_repository("someone/model", files_of(tmp_path / "out", layout))
    for _ in range(2):
        model = load_model("someone/model")
        assert difference(MODEL.network, model.network) <= 1e-5
    assert model.info.statistics.mean == MODEL.info.statistics.mean
    given = [path for method, path, _ in server.asked if method == "GET" and path.endswith(".safetensors")]
    assert len(given) == 1


def test_a_catalogue_name_is_its_repository_and_a_revision_can_be_named(server: HubServer, tmp_path: Path) -> None:
    server.add_repository(REPOSITORY, files_of(tmp_path / "out"))
    assert load_model("dinov3_vits16").info.name == "dinov3_vits16"
    assert load_model(REPOSITORY).info.name == "dinov3_vits16"
    assert load_model(f"{REPOSITORY}@main").info.spec == VIT
    assert set(hub.REPOSITORIES) >= {"dinov3_vit7b16_sat493m", "dinov3_convnext_large"}


def test_shards_are_fetched_by_their_index(server: HubServer, tmp_path: Path) -> None:
    files = files_of(tmp_path / "out")
    state = load_file(tmp_path / "out" / "model.safetensors")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    halves = [dict(list(state.items())[:9]), dict(list(state.items())[9:])]
    for name, half in zip(names, halves, strict=True):
        save_file(half, tmp_path / name)
        files[name] = (tmp_path / name).read_bytes()
    del files["model.safetensors"]
    places = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    files["model.safetensors.index.json"] = repr({"weight_map": places}).replace("'", '"').encode()
    server.add_repository("someone/big", files)
    assert difference(MODEL.network, load_model("someone/big").network) <= 1e-5


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("dinov3_vitb16", r"dinov3-vitb16-pretrain-lvd1689m is gated: accept the licence at .*then `hf auth login`"),
        ("nobody/nothing", r"nobody/nothing is no folder here, and no repository .*: check the name"),
        ("someone/empty", r"someone/empty has no config\.json"),
        ("someone/bare", r"someone/bare has no model\.safetensors"),
        ("someone/other", r"config\.json: it is that of a 'dinov2' model"),
        ("someone/ill", "the Hub answers with status 500: try again later"),
        ("dinov3_vitl16plus", "nobody published weights of dinov3_vitl16plus"),
    ],
)
def test_refusals_say_what_to_do(source: str, said: str, server: HubServer, tmp_path: Path) -> None:
    server.gated.add("facebook/dinov3-vitb16-pretrain-lvd1689m")
    server.add_repository("someone/empty", {"README.md": b""})
    server.add_repository("someone/bare", {"config.json": b'{"model_type": "dinov3_vit"}'})
    server.add_repository("someone/other", files_of(tmp_path / "out") | {"config.json": b'{"model_type": "dinov2"}'})
    server.refused["/someone/ill/resolve/main/config.json"] = 500
    with pytest.raises(UserError, match=said):
        load_model(source)


def test_offline_takes_what_is_there_and_says_what_is_not(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_repository("someone/model", files_of(tmp_path / "out", "timm"))
    load_model("someone/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert difference(MODEL.network, load_model("someone/model").network) <= 1e-5
    with pytest.raises(
        UserError, match=r"config\.json of another/model is not in the cache, and HF_HUB_OFFLINE is set"
    ):
        load_model("another/model")
    with pytest.raises(UserError, match="not downloaded yet, and HF_HUB_OFFLINE is set"):
        load_model(f"{server.address}/w.pth")


def test_the_environment_is_heeded_and_a_dead_hub_is_no_stack_trace(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PYTHONPATH": "src"}
    command = [sys.executable, "-m", "dinokit", "info", "dinov3_vits16"]
    for more, said in (({}, "the Hub cannot be reached"), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set")):
        root = Path(__file__).parents[2]
        result = subprocess.run(command, env=environment | more, cwd=root, capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_name_below_a_folder_that_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no file or folder runs/typo: check the path"):
        load_model("runs/typo")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for source in ("someone/model", "dinov3_vits16", "https://example.org/w.pth"):
        with pytest.raises(UserError, match=r"downloads need huggingface_hub: pip install dinokit\[hub\]"):
            load_model(source)


def meta_file(folder: Path) -> tuple[str, bytes]:
    weights = export_model(folder, MODEL.network.state_dict(), MODEL.info, "meta")
    return weights.name, weights.read_bytes()


def test_an_address_is_downloaded_once(server: HubServer, tmp_path: Path) -> None:
    name, content = meta_file(tmp_path / "out")
    server.files[f"/links/{name}"] = content
    for _ in range(2):
        model = load_model(f"{server.address}/links/{name}?Policy=a&Key=b")
        assert difference(MODEL.network, model.network) == 0
    assert len(server.asked) == 1


@pytest.mark.parametrize("way", ["cut", "killed", "killed at the end", "another file"])
def test_a_download_that_broke_off_goes_on(way: str, server: HubServer, tmp_path: Path) -> None:
    name, content = meta_file(tmp_path / "out")
    url, path = f"{server.address}/{name}", f"/{name}"
    server.files[path] = content
    partial = tmp_path / "home" / "dinokit" / hashlib.sha256(url.encode()).hexdigest()[:16] / f"{name}.partial"
    partial.parent.mkdir(parents=True)
    if way == "cut":
        server.cut_after[path] = len(content) // 2
    else:
        begun = {"killed at the end": content, "another file": b"x" * 5000}
        partial.write_bytes(begun.get(way, content[: len(content) // 3]))
    assert difference(MODEL.network, load_model(url).network) == 0
    ranges = [wanted for _, _, wanted in server.asked]
    assert any(ranges) or way == "cut"  # what broke off within its first 10 MB begins anew
    assert not partial.exists()


def test_a_wrong_hash_is_refused_and_not_kept(server: HubServer, tmp_path: Path) -> None:
    name, content = meta_file(tmp_path / "out")
    server.files[f"/{name}"] = content[:-1] + b"x"
    with pytest.raises(UserError, match=r"does not have the hash \w{8} that its name promises"):
        load_model(f"{server.address}/{name}")
    server.files[f"/{name}"] = content
    assert difference(MODEL.network, load_model(f"{server.address}/{name}").network) == 0


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/gone.pth", r"gone\.pth cannot be downloaded \(status 404\): check the address"),
        ("/expired.pth", r"is not given out \(403\): the links in Meta's mail expire"),
        ("/page.html", "names no weights file"),
        ("/", "names no weights file"),
    ],
)
def test_addresses_that_give_nothing(path: str, said: str, server: HubServer) -> None:
    server.refused["/expired.pth"] = 403
    with pytest.raises(UserError, match=said):
        load_model(server.address + path)


def test_a_server_that_is_not_there(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(UserError, match=r"w\.pth cannot be downloaded"):
        load_model("http://127.0.0.1:9/w.pth")


def test_a_page_in_place_of_weights_is_called_one(server: HubServer) -> None:
    server.files["/w.pth"] = b"<!DOCTYPE html><p>please log in"
    with pytest.raises(UserError, match="is a web page"):
        load_model(f"{server.address}/w.pth")


def test_a_hostile_index_reaches_no_file_elsewhere(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "outside.bin")
    folder = tmp_path / "model"
    files_of(folder)
    (folder / "model.safetensors").unlink()
    for content, said in (
        (b'{"weight_map": {"a": "../outside.bin"}}', "is no file beside it"),
        (b'{"weight_map": {"a": "/etc/passwd"}}', "is no file beside it"),
        (b'{"weight_map": 5}', "names no shards"),
        (b"[]", "holds no JSON object"),
        (b"\xff", "cannot be read"),
    ):
        (folder / "model.safetensors.index.json").write_bytes(content)
        with pytest.raises(UserError, match=said):
            load_model(folder)

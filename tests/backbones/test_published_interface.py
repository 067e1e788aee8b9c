"""Programs written for Meta's code run unchanged: the same methods, keys, order of outputs and numbers."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_golden import load_golden
from torch import Tensor, nn

from dinokit.backbones.catalog import spec_of
from dinokit.backbones.network import build
from dinokit.backbones.published_interface import with_published_interface
from dinokit.checkpoints.load import load_model
from dinokit.errors import UserError

REPOSITORY = Path(__file__).parents[2]
GIVEN: dict[str, dict[str, Any]] = {
    "vit_mlp": {},
    "vit_swiglu": {},
    "vit_splus": {},
    "vit_untied": {"norm_eps": 1e-6},
    "vit_plain": {"rope_normalize": "max"},
    "convnext_small_cfg": {},
}
pytestmark = [
    pytest.mark.filterwarnings("ignore::dinokit.checkpoints.model.AssumptionWarning"),
    pytest.mark.usefixtures("one_thread"),
]


def published(name: str, folder: Path, **given: Any) -> tuple[Any, dict[str, Tensor]]:
    tensors, _ = load_golden(name)
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    torch.save(state, folder / "w.pth")
    model = load_model(folder / "w.pth", **GIVEN[name], **given)
    network = with_published_interface(model.network, model.info.spec).eval()
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    return network, tensors


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", GIVEN)
def test_fields_of_forward_features(name: str, tmp_path: Path) -> None:
    network, tensors = published(name, tmp_path)
    for picture in ("img0", "img1"):
        found = network.forward_features(tensors[f"in.{picture}"])
        for field in ("x_norm_clstoken", "x_norm_patchtokens", "x_prenorm", "x_storage_tokens"):
            if f"out.{picture}.{field}" in tensors:
                assert_equal(found[field], tensors[f"out.{picture}.{field}"])
        assert torch.equal(network(tensors[f"in.{picture}"]), found["x_norm_clstoken"])
    assert network(tensors["in.img0"], is_training=True).keys() == found.keys()
    if "in.img0.masks" in tensors:
        masked = network.forward_features(tensors["in.img0"], tensors["in.img0.masks"])
        assert_equal(masked["x_prenorm"], tensors["out.img0.masked.x_prenorm"])
    both = network.forward_features([tensors["in.img0"], tensors["in.img1"]], [None, None])
    assert torch.equal(both[1]["x_norm_clstoken"], found["x_norm_clstoken"])


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in GIVEN if name.startswith("vit")])
def test_intermediate_layers_of_a_vit(name: str, tmp_path: Path) -> None:
    network, tensors = published(name, tmp_path)
    last = network.n_blocks - 1
    found = network.get_intermediate_layers(
        tensors["in.img0"], n=2, reshape=True, return_class_token=True, return_extra_tokens=True
    )
    for block, (patches, cls, storage) in zip((last - 1, last), found, strict=True):
        names = [f"out.img0.inter_norm_reshape.{block}.{kind}" for kind in ("patch", "cls", "storage")]
        for ours, key in zip((patches, cls, storage), names, strict=True):
            assert_equal(ours, tensors.get(key, ours))
        assert names[0] in tensors
    (raw,) = network.get_intermediate_layers(tensors["in.img0"], n=[0], norm=False)
    assert_equal(raw, tensors["out.img0.inter_raw.0.all"][:, 1 + network.n_storage_tokens :])
    turned = network.get_intermediate_layers(tensors["in.img0"], n=[last, 0])  # in the order of the blocks
    assert torch.equal(turned[1], network.get_intermediate_layers(tensors["in.img0"])[0])
    with pytest.raises(AssertionError, match="do not exist"):
        network.get_intermediate_layers(tensors["in.img0"], n=[last + 1])


def test_local_crops_have_their_norm_in_training(tmp_path: Path) -> None:
    network, tensors = published("vit_untied", tmp_path)
    pictures, masks = [tensors["in.img0"], tensors["in.img1"]], [tensors["in.img0.masks"], None]
    for place, found in enumerate(network.train()(pictures, masks=masks, is_training=True)):
        for field in ("x_norm_clstoken", "x_norm_patchtokens", "x_storage_tokens"):
            assert_equal(found[field], tensors[f"train_list.{place}.{field}"])


@torch.no_grad()
@pytest.mark.parametrize(("grid", "given"), [("pnone", {}), ("p16", {"patch_size": 16})])
def test_intermediate_layers_of_a_convnext(grid: str, given: dict[str, int], tmp_path: Path) -> None:
    network, tensors = published("convnext_small_cfg", tmp_path, **given)
    layers = {"all4": 4, "last1": 1, "list13": [1, 3]}
    checked = 0
    for kind, options in (("raw", {"norm": False}), ("norm", {}), ("norm_flat", {})):
        for case, n in layers.items():
            reshape = kind != "norm_flat"
            found = network.get_intermediate_layers(
                tensors["in.img0"], n, reshape=reshape, return_class_token=True, **options
            )
            for place, (patches, cls) in enumerate(found):
                start = f"out.img0.inter.{grid}.{kind}.{case}.{place}"
                if f"{start}.patch" in tensors:
                    assert_equal(patches, tensors[f"{start}.patch"])
                    assert_equal(cls, tensors[f"{start}.cls"])
                    checked += 1
    assert checked >= 8


@pytest.fixture
def hub() -> Any:
    """`torch.hub.load` of this repository, as people call it."""
    before = list(sys.path)
    yield lambda entry, **options: torch.hub.load(str(REPOSITORY), entry, source="local", **options)
    sys.path[:] = before


def test_torch_hub_gives_untrained_networks(hub: Any) -> None:
    entries = runpy.run_path(str(REPOSITORY / "hubconf.py"))
    assert {"dinov3_vits16", "dinov3_vit7b16", "dinov3_convnext_large", "Weights"} <= entries.keys()
    vit, convnext = (hub(name, pretrained=False) for name in ("dinov3_vits16", "dinov3_convnext_tiny"))
    assert (vit.embed_dim, vit.num_features, vit.n_blocks, vit.num_heads) == (384, 384, 12, 6)
    assert (vit.patch_size, vit.n_storage_tokens, len(vit.blocks)) == (16, 4, 12)
    assert {"norm.weight", "norms.3.weight"} <= convnext.state_dict().keys()
    assert sum(parameter.numel() for parameter in vit.parameters()) == 21_601_152
    assert sum(parameter.numel() for parameter in convnext.parameters()) == 27_820_128


@torch.no_grad()
def test_torch_hub_loads_weights_by_path_and_refuses_another_network(hub: Any, tmp_path: Path) -> None:
    network = build(spec_of("dinov3_vits16")).bfloat16()
    nn.init.normal_(network.norm.bias)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    for weights in (str(tmp_path / "w.pth"), (tmp_path / "w.pth").as_uri()):
        model = hub("dinov3_vits16", weights=weights, check_hash=True).eval()
        assert model.norm.bias.dtype == torch.float32
        found = model(torch.ones(1, 3, 32, 32))
    assert_equal(found, network.float().eval()(torch.ones(1, 3, 32, 32)).cls)
    with pytest.raises(UserError, match="holds no dinov3_vitb16"):
        hub("dinov3_vitb16", weights=str(tmp_path / "w.pth"))

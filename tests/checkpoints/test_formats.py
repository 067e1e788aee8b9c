"""Weights keep the number format that they are stored in, and stay in their file until they are used."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dinokit
from dinokit.backbones.network import build
from dinokit.backbones.vit import ViTSpec
from dinokit.checkpoints.export import NAMES, export_model
from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import ModelInfo

SPEC = ViTSpec(64, 2, 1, 128)
quiet = pytest.mark.filterwarnings(
    "ignore::dinokit.checkpoints.model.AssumptionWarning", "ignore::dinokit.checkpoints.export.LossWarning"
)


@quiet
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", NAMES)
def test_the_stored_format_is_kept(layout: str, dtype: torch.dtype, tmp_path: Path) -> None:
    state = build(SPEC).to(dtype).state_dict()
    weights = export_model(tmp_path, state, ModelInfo("test", SPEC), layout)
    back = load_model(weights if layout == "meta" else tmp_path).network
    assert back.norm.weight.dtype == back.blocks[0].attn.qkv.weight.dtype == dtype  # type: ignore[union-attr]
    assert all(parameter.requires_grad for parameter in back.parameters())
    assert all(torch.equal(value, state[key]) for key, value in back.state_dict().items() if "periods" not in key)


def test_double_precision_becomes_single(tmp_path: Path) -> None:
    torch.save(build(SPEC).double().state_dict(), tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="assumed"):
        assert load_model(tmp_path / "w.pth").network.norm.weight.dtype == torch.float32


def test_a_backbone_widens_its_network_when_it_is_asked_for(tmp_path: Path) -> None:
    network = build(SPEC).bfloat16()
    export_model(tmp_path, network.state_dict(), ModelInfo("test", SPEC))
    backbone = dinokit.load(tmp_path, precision="fp32")
    pictures = torch.randn(1, 3, 32, 32)
    before = backbone(pictures).cls
    assert backbone.stored.norm.weight.dtype == torch.bfloat16
    dinokit.save(backbone, tmp_path / "narrow")
    assert backbone.network.norm.weight.dtype == torch.float32
    with torch.no_grad():
        assert (backbone.network(pictures).cls - before).abs().max() <= 1e-5
        backbone.network.norm.bias += 1
    backbone.refresh()
    assert (backbone(pictures).cls - before - 1).abs().max() <= 1e-5
    assert load_model(tmp_path / "narrow").network.norm.weight.dtype == torch.bfloat16


MEASURE = """
import sys, warnings
from pathlib import Path
from dinokit.checkpoints.load import load_model
def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
warnings.simplefilter("ignore")
load_model("dinokit_vitt16")
before = own()
model = load_model(sys.argv[1])
print(own() - before)
"""


@quiet
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(("layout", "share"), [("dinokit", 0.1), ("meta", 0.1), ("timm", 0.1), ("transformers", 0.4)])
def test_weights_stay_in_their_file(layout: str, share: float, tmp_path: Path) -> None:
    spec = ViTSpec(1024, 8, 16, 4096)  # 202 MB; transformers' queries, keys and values are joined in memory
    with torch.device("meta"):
        state = {key: torch.zeros(value.shape, dtype=torch.bfloat16, device="cpu")
                 for key, value in build(spec).state_dict().items()}  # fmt: skip
    state["rope_embed.periods"] = spec.rope.periods(64)
    weights = export_model(tmp_path, state, ModelInfo("big", spec), layout)
    command = [sys.executable, "-c", MEASURE, str(weights if layout == "meta" else tmp_path)]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < share * weights.stat().st_size / 2**20 + 20

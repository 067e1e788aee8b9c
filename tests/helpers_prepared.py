"""What the tests of prepared networks share: a small network, number formats, forms of attention."""

import pytest
import torch

from dinokit.backbones.vit import VisionTransformer, ViTSpec
from dinokit.inference import attention, few_sizes, linear

CPU = torch.device("cpu")
FORMATS = [torch.float32, torch.bfloat16]
FORMS: list[attention.Form] = ["sdpa", "sdpa padded", "written out"]


def random_network(**changes: object) -> VisionTransformer:
    """Two blocks with every parameter far from its initial value."""
    torch.manual_seed(0)
    options = {"width": 64, "depth": 2, "heads": 2, "ffn_hidden": 96, "patch_size": 8, "layer_scale": 1.0}
    network = VisionTransformer(ViTSpec(**(options | changes))).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def few_sizes_from_now_on(monkeypatch: pytest.MonkeyPatch, exact: int) -> None:
    monkeypatch.setattr(few_sizes, "EXACT", exact)
    monkeypatch.setattr(linear, "_last_rows", few_sizes.FewSizes())
    monkeypatch.setattr(attention, "_lengths", few_sizes.FewSizes())

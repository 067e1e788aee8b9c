"""Small networks of every kind with weights that show in the features, for tests of layouts."""

from dataclasses import replace

import torch
from torch import nn

from dinokit.backbones.convnext import ConvNeXtSpec
from dinokit.backbones.network import Network, Spec, build
from dinokit.backbones.rope import RopeSpec
from dinokit.backbones.vit import ViTSpec
from dinokit.checkpoints.model import LoadedModel, ModelInfo

VIT = ViTSpec(64, 2, 2, 160, rope=RopeSpec(rescale=2.0))
SPECS: dict[str, Spec] = {
    "mlp": VIT,
    "swiglu": replace(VIT, ffn="swiglu", ffn_hidden=168, registers=2),
    "odd swiglu": replace(VIT, ffn="swiglu", ffn_hidden=171),
    "no bias": replace(VIT, qkv_bias=False, mask_k_bias=False, local_cls_norm=True),
    "plain": replace(VIT, registers=0, layer_scale=None, norm_eps=1e-6, patch_size=8),
    "base 50": replace(VIT, heads=4, rope=RopeSpec(50.0)),
    "grey": replace(VIT, in_channels=1),
    "convnext": ConvNeXtSpec((1, 1, 2, 1), (16, 24, 32, 48)),
    "convnext 5": ConvNeXtSpec((1, 2, 1, 1), (8, 16, 24, 40), in_channels=5, norm_eps=1e-5),
}


def random_model(spec: Spec, name: str = "test") -> LoadedModel:
    """A network all of whose parameters are drawn, so that a wrong one changes the features."""
    torch.manual_seed(0)
    network = build(spec).eval()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.3, 0.2)
        else:
            nn.init.normal_(parameter, 0, 0.08)
    mean, std = (0.4, 0.5, 0.45, 0.3, 0.35), (0.2, 0.25, 0.22, 0.3, 0.28)
    info = ModelInfo(name, spec, image_size=96)
    statistics = replace(info.statistics, mean=mean[: spec.in_channels], std=std[: spec.in_channels])
    return LoadedModel(network, replace(info, statistics=statistics))


def pictures(spec: Spec) -> torch.Tensor:
    """Two normalised pictures [2, C, 64, 96]."""
    return torch.randn(2, spec.in_channels, 64, 96, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def difference(first: Network, second: Network) -> float:
    """The largest difference of any feature."""
    mine, theirs = (network.eval()(pictures(first.spec)) for network in (first, second))
    return max((mine.cls - theirs.cls).abs().max().item(), (mine.patches - theirs.patches).abs().max().item())

"""Speed of a frozen ViT-S/16 on 8 pictures of 224 px beside Hugging Face transformers, in the same process.

Both networks have the same random weights (LayerScale drawn as large as in trained ones, so that every branch
counts), the same threads and take turns; transformers uses its default attention (SDPA). Run from the repository's
root: `python -m benchmarks.inference [--rounds 40]`; writes benchmarks/results/inference.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.machine import interleaved, linear_peak, median_ratio
from benchmarks.results import write
from dinokit.backbones.catalog import spec_of
from dinokit.backbones.vit import VisionTransformer, ViTSpec
from dinokit.inference import attention
from dinokit.inference.prepared import prepare

NETWORK, BATCH, SIDE = "dinov3_vits16", 8, 224
OURS, THEIRS = "dinokit", "transformers"
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
BARS = {"fp32": 1.2, "bf16": 1.1}
"""How many times faster than transformers in the same number format."""


def random_network(name: str) -> VisionTransformer:
    torch.manual_seed(0)
    network = VisionTransformer(spec_of(name)).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("gamma"):
                parameter.uniform_(0.1, 1.0)
            elif key.endswith("bias") or "norm" in key:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def in_transformers(network: VisionTransformer) -> Any:
    """The same network with the same weights as a `DINOv3ViTModel`."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    spec = network.spec
    config = DINOv3ViTConfig(
        patch_size=spec.patch_size,
        hidden_size=spec.width,
        intermediate_size=spec.ffn_hidden,
        num_hidden_layers=spec.depth,
        num_attention_heads=spec.heads,
        hidden_act="gelu",
        layer_norm_eps=spec.norm_eps,
        rope_theta=spec.rope.base or 100.0,
        query_bias=True,
        key_bias=False,
        value_bias=True,
        num_register_tokens=spec.registers,
        image_size=SIDE,
    )
    model: Any = DINOv3ViTModel(config)
    model.load_state_dict(transformers_keys(network.state_dict(), spec))
    return model.eval()


_TOP_KEYS = {
    "cls_token": "embeddings.cls_token",
    "storage_tokens": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
_BLOCK_KEYS = {
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "norm1": "norm1",
    "norm2": "norm2",
}


def transformers_keys(state: dict[str, Tensor], spec: ViTSpec) -> dict[str, Tensor]:
    """Meta's key layout (ours) in that of transformers 5; MLP networks only."""
    found = {theirs: state[ours] for ours, theirs in _TOP_KEYS.items()}
    found["embeddings.mask_token"] = state["mask_token"][None]
    for number in range(spec.depth):
        ours, theirs = f"blocks.{number}.", f"model.layer.{number}."
        for key in (key for key in state if key.startswith(ours)):
            for start, target in _BLOCK_KEYS.items():
                if key.startswith(ours + start):
                    found[theirs + target + key.removeprefix(ours + start)] = state[key]
        for part, weight in zip("qkv", state[ours + "attn.qkv.weight"].chunk(3), strict=True):
            found[f"{theirs}attention.{part}_proj.weight"] = weight
        for part, bias in zip("qkv", state[ours + "attn.qkv.bias"].chunk(3), strict=True):
            if part != "k":
                found[f"{theirs}attention.{part}_proj.bias"] = bias
    return found


def flops(spec: ViTSpec, tokens: int) -> float:
    """Floating-point operations of the products of one picture, attention included."""
    linear = 4 * spec.width * spec.width + 2 * spec.width * spec.ffn_hidden
    block = 2 * tokens * linear + 4 * tokens * tokens * spec.width
    return float(spec.depth * block + 2 * tokens * spec.in_channels * spec.patch_size**2 * spec.width)


def runners(network: VisionTransformer, pictures: Tensor) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """By name, a function that gives the class token [B, D] and the patches [B, h*w, D]."""
    runs: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {}
    prefix = 1 + network.spec.registers
    for name, dtype in FORMATS.items():
        model = in_transformers(network).to(dtype)
        prepared = prepare(network, torch.device("cpu"), dtype)

        def theirs(model: Any = model, dtype: torch.dtype = dtype) -> tuple[Tensor, Tensor]:
            out = model(pixel_values=pictures.to(dtype)).last_hidden_state.float()
            return out[:, 0], out[:, prefix:]

        def ours(prepared: Any = prepared) -> tuple[Tensor, Tensor]:
            features = prepared(pictures)
            return features.cls, features.tokens

        runs[f"{THEIRS} {name}"], runs[f"{OURS} {name}"] = theirs, ours
    return runs


def measure(rounds: int) -> dict[str, Any]:
    network = random_network(NETWORK)
    pictures = torch.randn(BATCH, 3, SIDE, SIDE)
    reference = network(pictures)
    runs = runners(network, pictures)
    before = {name: linear_peak(dtype) for name, dtype in FORMATS.items()}
    seconds = interleaved(runs, rounds)
    peaks = {name: max(before[name], linear_peak(dtype)) for name, dtype in FORMATS.items()}
    work = BATCH * flops(network.spec, reference.tokens.shape[1] + 1 + network.spec.registers)
    rows = []
    for name, run in runs.items():
        cls, patches = run()
        form = name.split()[1]
        median = statistics.median(seconds[name])
        rows.append(
            {
                "name": name,
                "ms": round(median * 1e3, 1),
                "best_ms": round(min(seconds[name]) * 1e3, 1),
                "pictures_per_second": round(BATCH / median, 1),
                "times_transformers_fp32": round(median_ratio(seconds[f"{THEIRS} fp32"], seconds[name]), 2),
                "times_transformers_same": round(median_ratio(seconds[f"{THEIRS} {form}"], seconds[name]), 2),
                "share_of_peak": round(1e-12 * work / median / peaks[form], 3),
                "worst_patch_cosine": round(_worst_cosine(patches, reference.tokens), 6),
                "worst_cls_cosine": round(_worst_cosine(cls, reference.cls), 6),
            }
        )
    return {
        "job": f"{NETWORK} (random weights), {BATCH} x {SIDE} px, transformers with its default attention (SDPA)",
        "peak_tflops": {name: round(peak, 3) for name, peak in peaks.items()},
        "chosen": _chosen(network),
        "rounds": rounds,
        "rows": rows,
    }


def _chosen(network: VisionTransformer) -> dict[str, str]:
    found = {}
    for name, dtype in FORMATS.items():
        packed = prepare(network, torch.device("cpu"), dtype).packed
        forms = {form for key, form in attention.chosen_forms().items() if key[0] == dtype}
        found[name] = f"products {'packed (oneDNN)' if packed else 'public'}, attention {', '.join(sorted(forms))}"
    return found


def _worst_cosine(a: Tensor, b: Tensor) -> float:
    return torch.cosine_similarity(a.double(), b.double(), dim=-1).min().item()


def show(result: dict[str, Any]) -> None:
    console = Console(width=130)
    table = Table("", "ms", "pictures/s", "× transf. fp32", "× same format", "of peak", "worst patch", "worst cls")
    for row in result["rows"]:
        speeds = [f"{row['ms']:.1f}", f"{row['pictures_per_second']:.1f}", f"{row['times_transformers_fp32']:.2f}"]
        speeds += [f"{row['times_transformers_same']:.2f}", f"{row['share_of_peak']:.0%}"]
        table.add_row(row["name"], *speeds, f"{row['worst_patch_cosine']:.6f}", f"{row['worst_cls_cosine']:.6f}")
    console.print(result["job"], result["peak_tflops"], result["chosen"], table, sep="\n")
    rows = {row["name"]: row["times_transformers_same"] for row in result["rows"]}
    for name, bar in BARS.items():
        reached = rows[f"{OURS} {name}"]
        console.print(f"{name}: {reached:.2f} x, bar {bar}: {'reached' if reached >= bar else 'MISSED'}")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    result = measure(parser.parse_args().rounds)
    path = write("inference", result)
    show(result)
    print(path)


if __name__ == "__main__":
    main()

"""Speed of frozen networks beside Hugging Face transformers and timm, in the same process.

    python -m benchmarks.inference [--rounds 25] [--device cpu]

All programs have the same random weights (norms, biases and scales drawn away from their initial values, so that
every branch counts), written by `dinokit.save` and read by the other programs themselves; they have the same threads
and take turns. transformers uses its default attention (SDPA). Writes benchmarks/results/inference.json, or
inference-cuda.json with `--device cuda`, where the network under torch.compile takes part.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import interleaved, linear_peak, median_ratio
from benchmarks.results import write
from dinokit.backbones.catalog import spec_of
from dinokit.backbones.features import Features
from dinokit.backbones.network import Network, build
from dinokit.backbones.vit import VisionTransformer, explicit_attention
from dinokit.checkpoints.model import LoadedModel, ModelInfo
from dinokit.inference import attention
from dinokit.inference.backbone import Backbone
from dinokit.inference.save import save

OURS, THEIRS = "dinokit", "transformers"
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A network and the pictures that it looks at."""

    network: str
    batch: int
    side: int
    bars: tuple[float, float]
    """How many times faster than transformers in fp32 and in bf16 we want to be."""

    @property
    def title(self) -> str:
        """Name for people."""
        return f"{self.network}, {self.batch} x {self.side} px"


CASES = (
    Case("dinov3_vits16", 8, 224, (1.2, 1.35)),
    Case("dinov3_vits16", 1, 512, (1.0, 1.3)),
    Case("dinov3_vitb16", 8, 224, (1.2, 1.35)),
    Case("dinov3_convnext_tiny", 8, 224, (1.0, 1.2)),
)
GPU_CASES = tuple(
    Case(f"dinov3_vit{size}16", batch, side, (1.0, 1.0)) for size in "sbl" for batch, side in ((64, 224), (16, 512))
)


def random_network(name: str) -> Network:
    """An untrained network in which every branch counts."""
    torch.manual_seed(0)
    network = build(spec_of(name)).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("gamma"):
                parameter.uniform_(0.1, 1.0)
            elif key.endswith("bias") or "norm" in key:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def flops(network: Network, pictures: Tensor) -> int:
    """Floating-point operations of products and convolutions, attention included."""
    network = deepcopy(network)
    if isinstance(network, VisionTransformer):
        network.use_attention(explicit_attention)  # whose products are counted
    with FlopCounterMode(display=False) as counter:
        network(pictures)
    return counter.get_total_flops()


def runners(network: Network, case: Case, pictures: Tensor, device: torch.device) -> dict[str, Run]:
    """By name, what looks at the pictures once."""
    from timm import create_model
    from transformers import AutoModel

    runs: dict[str, Run] = {}
    backbones = {name: _backbone(network, case, device, name) for name in FORMATS}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a layout leaves out does not change speed
        for layout in (THEIRS, "timm"):
            save(backbones["fp32"], Path(folder) / layout, layout=layout)
        for name, dtype in FORMATS.items():
            theirs = AutoModel.from_pretrained(Path(folder) / THEIRS, dtype=dtype).eval().to(device)
            timm = create_model(f"local-dir:{folder}/timm", pretrained=True, num_classes=0).eval().to(device, dtype)
            runs[f"{THEIRS} {name}"] = lambda model=theirs, dtype=dtype: model(pixel_values=pictures.to(dtype))
            runs[f"timm {name}"] = lambda model=timm, dtype=dtype: model.forward_features(pictures.to(dtype))
    for name, backbone in backbones.items():
        runs[f"{OURS} {name}"] = lambda prepared=backbone.prepared: prepared(pictures)
        if device.type == "cuda":
            compiled = _backbone(network, case, device, name, "compile")
            runs[f"{OURS} {name} compiled"] = lambda prepared=compiled.prepared: prepared(pictures)
    return runs


def _backbone(network: Network, case: Case, device: torch.device, precision: str, runtime: Any = "torch") -> Backbone:
    model = LoadedModel(network, ModelInfo(case.network, network.spec, image_size=case.side))
    return Backbone(model, str(device), precision, runtime)


def measure(case: Case, rounds: int, device: torch.device, peaks: dict[str, float]) -> dict[str, Any]:
    """The rows of one case."""
    network = random_network(case.network)
    pictures = torch.randn(case.batch, 3, case.side, case.side)
    reference, work = network(pictures), flops(network, pictures)
    runs = runners(network.to(device), case, pictures.to(device), device)
    seconds = interleaved(runs, rounds)
    rows = []
    for name, run in runs.items():
        form = name.split()[1]
        median = statistics.median(seconds[name])
        rows.append(
            {
                "name": name,
                "ms": round(median * 1e3, 1),
                "best_ms": round(min(seconds[name]) * 1e3, 1),
                "pictures_per_second": round(case.batch / median, 1),
                "times_transformers_fp32": round(median_ratio(seconds[f"{THEIRS} fp32"], seconds[name]), 2),
                "times_transformers_same": round(median_ratio(seconds[f"{THEIRS} {form}"], seconds[name]), 2),
                "share_of_peak": round(1e-12 * work / median / peaks[form], 3),
                **(_cosines(run(), reference) if name.startswith(OURS) else {}),
            }
        )
    return {"case": case.title, "gflop_per_picture": round(work / case.batch / 1e9, 2), "rows": rows}


def _cosines(found: Features, reference: Features) -> dict[str, float]:
    """The worst cosine between ours and the readable network in fp32."""
    pairs = {"worst_patch": (found.tokens, reference.tokens), "worst_cls": (found.cls, reference.cls)}
    return {
        name: round(torch.cosine_similarity(ours.cpu().double(), theirs.double(), dim=-1).min().item(), 6)
        for name, (ours, theirs) in pairs.items()
    }


def show(case: Case, result: dict[str, Any], console: Console) -> None:
    """Print the rows of one case and whether the bars were reached."""
    header = ("", "ms", "pictures/s", "× transf. fp32", "× same format", "of peak", "worst patch", "worst cls")
    table = Table(*header, title=result["case"])
    for row in result["rows"]:
        cosines = [f"{row[name]:.6f}" if name in row else "" for name in ("worst_patch", "worst_cls")]
        speeds = [f"{row['ms']:.1f}", f"{row['pictures_per_second']:.1f}", f"{row['times_transformers_fp32']:.2f}"]
        speeds += [f"{row['times_transformers_same']:.2f}", f"{row['share_of_peak']:.0%}"]
        table.add_row(row["name"], *speeds, *cosines)
    console.print(table)
    rows = {row["name"]: row["times_transformers_same"] for row in result["rows"]}
    for name, bar in zip(FORMATS, case.bars, strict=True):
        reached = rows[f"{OURS} {name}"]
        console.print(f"{name}: {reached:.2f} x, bar {bar}: {'reached' if reached >= bar else 'MISSED'}")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="part of a network's name")
    options = parser.parse_args()
    device, console = torch.device(options.device), Console(width=130)
    results = []
    for case in GPU_CASES if device.type == "cuda" else CASES:
        if options.only in case.title:
            peaks = {name: linear_peak(dtype, device=device) for name, dtype in FORMATS.items()}
            results.append({**measure(case, options.rounds, device, peaks), "peak_tflops": peaks})
            show(case, results[-1], console)
    chosen = sorted({f"{key[0]}, {key[2]} heads: {form}" for key, form in attention.chosen_forms().items()})
    name = "inference" if device.type == "cpu" else f"inference-{device.type}"
    console.print(write(name, {"rounds": options.rounds, "attention": chosen, "cases": results}))


if __name__ == "__main__":
    main()

"""The training loop: one object that changes while it runs, its steps as methods.

Every random draw of step n is a function of (seed, n): a resumed run sees what an undisturbed one would have.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinokit.backbones.vit import VisionTransformer, explicit_attention
from dinokit.checkpoints.folders import make_folder
from dinokit.checkpoints.model import LoadedModel, ModelInfo
from dinokit.checkpoints.save import write_atomically
from dinokit.errors import UserError
from dinokit.heads.knn import knn_accuracy
from dinokit.images.geometry import resize
from dinokit.images.normalize import normalize
from dinokit.inference.precision import choose_dtype
from dinokit.pretrain import checkpointing
from dinokit.pretrain.crops import Crops, make_crops
from dinokit.pretrain.masks import MaskBatch, batch_masks
from dinokit.pretrain.monitor import Monitor
from dinokit.pretrain.optimizer import apply_schedule, build_optimizer, clip_gradients, parameter_groups
from dinokit.pretrain.pictures import ProbePictures, TrainingPictures, probe_pictures
from dinokit.pretrain.recipe import Recipe
from dinokit.pretrain.recipe_file import recipe_to_toml
from dinokit.pretrain.student_teacher import StudentTeacher

SAVE_SECONDS = 600
"""A run that is killed loses no more than this."""


@dataclass(frozen=True)
class Status:
    """What the loop reports after every logged step."""

    step: int
    steps: int
    """0 for a run without end."""
    seconds: float
    """Of training, over all sittings."""
    images_per_second: float
    seconds_left: float
    """About; 0 for a run without end."""
    numbers: dict[str, float]
    warnings: tuple[str, ...] = ()
    """Signs of collapse that are new, with their remedies."""


class Pretraining:
    """A pretraining run in the folder `run`, on one device; continues from the folder's latest checkpoint."""

    def __init__(
        self,
        recipe: Recipe,
        pictures: TrainingPictures,
        run: Path,
        start: LoadedModel,
        start_source: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.recipe, self.pictures, self.run_folder = recipe, pictures, run
        self.device = device or torch.device("cpu")
        sharpest = 2 * start.info.spec.depth // 3  # later patches tell where they lie (docs/model-card.md)
        self.info = replace(start.info, image_size=recipe.crops.global_size, map_layer=sharpest, assumptions=())
        self.schedules = recipe.schedules()
        self.networks = self._build_networks(trainable(start), start_source)
        self.optimizer = self._build_optimizer()
        self.dtype = choose_dtype("auto", self.device)
        self.probe: ProbePictures | None = probe_pictures(pictures) if recipe.run.probe_every else None
        self.step, self.seconds, self.stopping = 0, 0.0, False
        self.torn = False
        """Whether a step was broken off while it changed the networks."""
        self.other_pictures = False
        """Whether a continued run was started with other pictures or weights."""
        self.monitor = Monitor(grace=recipe.optimizer.warmup)
        self._resume()

    def _resume(self) -> None:
        """Go on from the latest checkpoint, if there is one."""
        progress = checkpointing.resume(self.run_folder, self.networks, self.optimizer)
        if progress is not None:
            self.step, self.seconds = int(progress["step"]), float(progress["seconds"])
            self.monitor.signs.update(progress.get("signs", {}))
            self.other_pictures = progress.get("pictures") != self._proportions()

    def _build_networks(self, backbone: VisionTransformer, source: str | None) -> StudentTeacher:
        objective = self.recipe.build_objective()
        torch.manual_seed(self.recipe.run.seed)
        heads = objective.heads(backbone.spec.width)
        self.heads_loaded = [] if source is None else checkpointing.load_heads(source, heads)
        if self.device.type == "cpu":
            backbone.use_attention(explicit_attention)
        networks = StudentTeacher(backbone, objective, heads).to(self.device)
        for block in networks.student.backbone.blocks:
            block.drop_path = self.recipe.drop_path  # type: ignore[assignment]
        return networks

    def _build_optimizer(self) -> torch.optim.AdamW:
        settings = self.recipe.optimizer
        groups = parameter_groups(
            self.networks.student.named(),
            self.networks.student.backbone.spec.depth,
            layer_decay=settings.layer_decay,
            patch_embed_multiplier=settings.patch_embed_multiplier,
            published_decay=settings.published_decay,
        )
        return build_optimizer(groups, betas=(settings.beta1, settings.beta2))

    @property
    def steps(self) -> int:
        return self.recipe.run.steps

    @property
    def finished(self) -> bool:
        """Whether the recipe's end is reached."""
        return bool(self.steps) and self.step >= self.steps

    def run(self, report: Callable[[Status], None] | None = None, stepped: Callable[[int], None] | None = None) -> None:
        """Train until the recipe's end, or until `stop` is called. Saves on the way out, whatever the reason.

        report: called at logged steps; stepped: at each, with its number.
        """
        if self.finished:
            return
        settings = self.recipe.run
        make_folder(self.run_folder)
        checkpointing.shorten_log(self.run_folder, self.step)
        write_atomically(self.run_folder / "recipe.toml", recipe_to_toml(self.recipe).encode())
        mark, marked, saved = time.perf_counter(), self.step, time.perf_counter()
        try:
            while not self.stopping and not self.finished:
                parts = self.train_step()
                self.step += 1
                self.torn = False
                if stepped is not None:
                    stepped(self.step)
                if parts and self._logs():
                    now = time.perf_counter()
                    rate = (self.step - marked) * settings.batch / (now - mark)
                    self.seconds += now - mark
                    status = self._log(parts, rate)
                    if report is not None:
                        report(status)
                    mark, marked = time.perf_counter(), self.step
                due = self.step % settings.save_every == 0 or time.perf_counter() - saved > SAVE_SECONDS
                if due and self.monitor.healthy:
                    self.save()
                    saved = time.perf_counter()
        finally:
            self.seconds += time.perf_counter() - mark
            if self.step > 0 and not self.torn and not self.monitor.lost:
                self.save()

    def _logs(self) -> bool:
        """Whether this step is logged: every so often, where it is probed, and the last."""
        periods = (self.recipe.run.log_every, self.recipe.run.probe_every)
        return self.finished or self.stopping or any(period and self.step % period == 0 for period in periods)

    def stop(self) -> None:
        """End the run after the step in progress."""
        self.stopping = True

    def train_step(self) -> dict[str, float]:
        """One step: crops, both networks, loss, gradients, optimiser, teacher. Returns the numbers of the step."""
        now = self.schedules.at(self.step)
        torch.manual_seed(_seed(self.recipe.run.seed, self.step))  # drop path and RoPE draw from the global generator
        crops, masks = self.make_batch()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            losses, teacher = self.networks(crops, masks, now)
        if not self.monitor.finite(self.step, "loss", losses.total.item()):
            return {}
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        norms = clip_gradients(self.networks.student.parts(), self.recipe.optimizer.clip)
        if not self.monitor.finite(self.step, "gradient", sum(norms.values())):
            return {}
        apply_schedule(self.optimizer, now.lr, now.weight_decay, now.last_layer_lr)
        self.torn = True
        self.optimizer.step()
        self.networks.update_teacher(now.momentum)
        numbers = {"loss": losses.total.item(), **{key: value.item() for key, value in losses.parts.items()}}
        self.monitor.see(teacher.global_cls[0])
        return {**numbers, "lr": now.lr, **{f"gradient_{name}": norm for name, norm in norms.items()}}

    def make_batch(self) -> tuple[Crops, MaskBatch]:
        """Crops and masks of the current step, on the device."""
        settings = self.recipe
        pixels, aspects = self.pictures.batch(self.step, settings.run.batch)
        crop_settings = settings.crops_at(self.step)
        statistics = (self.info.statistics.mean, self.info.statistics.std)
        generator = torch.Generator().manual_seed(_seed(settings.run.seed + 1, self.step))
        patch = self.info.spec.patch_size
        crops = make_crops(pixels.to(self.device), aspects, crop_settings, statistics, generator, self.dtype, patch)
        side = crop_settings.global_size // patch
        masked = self.networks.objective.masks_crops(self.schedules.at(self.step))
        masks = batch_masks(
            2 * settings.run.batch,
            (side, side),
            probability=settings.masks.probability if masked else 0.0,
            ratio=settings.masks.ratio,
            roll=settings.masks.roll,
            rng=np.random.default_rng((settings.run.seed, self.step)),
        )
        return crops, replace(
            masks,
            masks=masks.masks.to(self.device),
            indices=masks.indices.to(self.device),
            weights=masks.weights.to(self.device),
        )

    def _log(self, parts: dict[str, float], rate: float) -> Status:
        health, warnings = self.monitor.check(self.step, parts)
        numbers = {**parts, "rank": health.rank, "variance": health.variance}
        if self.probe is not None and (self.step % self.recipe.run.probe_every == 0 or self.finished):
            numbers["knn"] = self.measure_knn(self.probe)
        left = self.recipe.steps_left(self.step) * self.recipe.run.batch / rate
        status = Status(self.step, self.steps, self.seconds, rate, left, numbers, tuple(warnings))
        line: dict[str, Any] = {
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "images_per_second": round(rate, 1),
        }
        line |= {key: float(f"{value:.5g}") for key, value in numbers.items()}
        if warnings:
            line["warnings"] = warnings
        with open(self.run_folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return status

    def measure_knn(self, probe: ProbePictures) -> float:
        """kNN top-1 in per cent of the teacher's class token, pictures whole, at the size of the global crops.

        The queries are trained on like all pictures, without labels; what is held out is their labels.
        """
        size = self.recipe.crops_at(self.step).global_size
        bank, queries = (self._labelled_tokens(probe, chosen, size) for chosen in (probe.bank, probe.queries))
        return knn_accuracy(bank, queries).top1

    def _labelled_tokens(self, probe: ProbePictures, chosen: Tensor, size: int) -> tuple[Tensor, Tensor]:
        tokens = self.class_tokens(probe.squares(chosen), size)
        labels = probe.part.labels[chosen]
        readable = labels >= 0  # known now that they were read
        return tokens[readable], labels[readable]

    @torch.no_grad()
    def class_tokens(self, blocks: Iterable[Tensor], size: int) -> Tensor:
        """The teacher's class tokens [N, D] of whole pictures, blocks of uint8 [B, 3, S, S], read at `size`."""
        tokens = []
        for block in blocks:
            batch = normalize(resize(block, (size, size)), self.info.statistics).to(self.device)
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                tokens.append(self.networks.teacher.backbone(batch).cls.float().cpu())
        return torch.cat(tokens)

    def _proportions(self) -> list[Any]:
        mixture = self.pictures.mixture
        return [list(mixture.lengths), [float(weight) for weight in mixture.weights]]

    def save(self) -> ModelInfo:
        """Write the checkpoint of this step and the model."""
        progress = {
            "seconds": self.seconds,
            "signs": self.monitor.signs,
            "pictures": self._proportions(),
        }
        checkpointing.save_checkpoint(self.run_folder, self.info, self.step, self.networks, self.optimizer, progress)
        return checkpointing.save_run_model(self.run_folder, self.networks, self.info)


def trainable(start: LoadedModel) -> VisionTransformer:
    """The network to start from, in float32. `UserError` if it is one that pretraining cannot mask patches of."""
    if not isinstance(start.network, VisionTransformer):
        raise UserError(f"{start.info.name} is a ConvNeXt, which has no patches to mask", "pretrain a ViT")
    return start.network.float()


def _seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)

"""The pictures of `dinokit embed` shared among the workers of a Ray cluster, or of this machine, by Ray Data.

Workers read the pictures themselves, from where they lie (on a cluster: a file system that all nodes have), and give
back vectors in the order of the list. What is kept, written and continued stays with the process that started them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dinokit.checkpoints.model import LoadedModel
from dinokit.errors import UserError
from dinokit.inference.backbone import Backbone
from dinokit.inference.embedding_table import Vectors
from dinokit.inference.stream import Seen, Stream

BLOCK = 256
"""Pictures that a worker takes at a time."""
_OWN_PROCESSORS = 2
"""Logical processors left to Ray's own tasks: with as many workers as processors it waits for ever."""


@dataclass(frozen=True)
class _Task:
    """What a worker needs, without the parts of a backbone that cannot travel."""

    stream: Stream[Vectors]
    model: LoadedModel
    device: str
    precision: str
    numbers: range
    folder: str
    threads: int


class _Worker:
    """One process with a backbone of its own."""

    def __init__(self, reference: Any) -> None:
        import ray

        task: _Task = ray.get(reference)
        os.chdir(task.folder)
        torch.set_num_threads(task.threads)
        self.numbers = task.numbers
        self.stream = replace(task.stream, backbone=Backbone(task.model, task.device, task.precision))

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The pictures of one block as a table."""
        start = int(batch["id"][0]) * BLOCK
        for chunk in self.stream.chunks(self.numbers[start : start + BLOCK]):
            yield _to_table(chunk, self.stream.backbone.embed_dim)


def chunks_by_workers(stream: Stream[Vectors], numbers: range, workers: int) -> Generator[list[Seen[Vectors]], None, None]:
    """What `stream.chunks(numbers)` gives, computed by `workers` processes. `UserError` without Ray."""
    try:
        import ray.data
    except ImportError:
        raise UserError("--ray needs Ray", "pip install dinokit[ray]") from None
    if not len(numbers):
        return
    with _connected(workers), _quiet_and_in_order():
        processors = int(ray.cluster_resources().get("CPU", 0)) - _OWN_PROCESSORS
        threads = max(processors // workers, 1)
        backbone = stream.backbone
        precision = "bf16" if backbone.dtype == torch.bfloat16 else "fp32"
        model = LoadedModel(backbone.network.cpu(), backbone.info)
        task = _Task(replace(stream, backbone=None), model, backbone.device.type, precision, numbers, os.getcwd(), threads)  # type: ignore[arg-type]
        blocks = -(-len(numbers) // BLOCK)
        found = ray.data.range(blocks, override_num_blocks=min(blocks, 4096)).map_batches(
            _Worker,
            fn_constructor_args=(ray.put(task),),
            batch_size=1,
            concurrency=workers,
            num_cpus=threads,
            num_gpus=1 if backbone.device.type == "cuda" else 0,
        )
        for table in found.iter_batches(batch_size=None, prefetch_batches=2):
            yield _from_table(table)


@contextmanager
def _connected(workers: int) -> Iterator[None]:
    """The cluster that RAY_ADDRESS names, or a Ray of this machine alone; what was already there is left there."""
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        processors = max(os.cpu_count() or 1, workers) + _OWN_PROCESSORS
        ray.init(address="local", num_cpus=processors, include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet_and_in_order() -> Iterator[None]:
    """Ray Data keeps the order of rows and says nothing on the terminal."""
    from ray.data import DataContext

    context, log = DataContext.get_current(), logging.getLogger("ray.data")
    before = context.execution_options.preserve_order, context.enable_progress_bars, log.level
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before[:2]
        log.setLevel(before[2])


def _to_table(chunk: list[Seen[Vectors]], width: int) -> dict[str, Any]:
    """A chunk as columns; `vectors` [pictures, columns, D], zeros for pictures that could not be read."""
    columns = max((len(seen.found) for seen in chunk if seen.found is not None), default=1)
    nothing = (np.zeros(width, np.float32),) * columns
    return {
        "shape": np.array([seen.shape for seen in chunk], np.int64),
        "unreadable": np.array([seen.unreadable for seen in chunk], object),
        "vectors": np.array([nothing if seen.found is None else seen.found for seen in chunk], np.float32),
    }


def _from_table(table: dict[str, Any]) -> list[Seen[Vectors]]:
    rows = zip(table["shape"], table["unreadable"], table["vectors"], strict=True)
    return [
        Seen(unreadable=str(reason)) if reason else Seen((int(shape[0]), int(shape[1])), tuple(vectors))
        for shape, reason, vectors in rows
    ]

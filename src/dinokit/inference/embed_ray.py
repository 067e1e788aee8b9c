"""The pictures of `dinokit embed` shared among the workers of a Ray cluster, or of this machine, by Ray Data.

Workers read the pictures themselves, from where they lie (on a cluster: a file system that all nodes have), and give
back vectors in the order of the list. What is kept, written and continued stays with the process that started them.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from copy import deepcopy
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
_MOST_TASKS = 4096
_TOLD = re.compile(r"dinokit\.errors\.UserError: (.*)")
"""What a worker said to the person, in Ray's account of its end."""


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

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One block of pictures: `number`, `shape`, `unreadable` and `vectors` [pictures, columns, D] of each.

        The whole of it at once: what Ray repeats after a failure must come in the same pieces.
        """
        start = int(batch["id"][0]) * BLOCK
        numbers = self.numbers[start : start + BLOCK]
        seen = [one for chunk in self.stream.chunks(numbers) for one in chunk]
        columns = max((len(one.found) for one in seen if one.found is not None), default=1)
        nothing = (np.zeros(self.stream.backbone.embed_dim, np.float32),) * columns
        return {
            "number": np.array(numbers, np.int64),
            "shape": np.array([one.shape for one in seen], np.int64),
            "unreadable": np.array([one.unreadable for one in seen], object),
            "vectors": np.array([nothing if one.found is None else one.found for one in seen], np.float32),
        }


def chunks_by_workers(
    stream: Stream[Vectors], numbers: range, workers: int
) -> Generator[list[Seen[Vectors]], None, None]:
    """What `stream.chunks(numbers)` gives, computed by `workers` processes. `UserError` without Ray."""
    try:
        import ray.data
    except ImportError:
        raise UserError("--ray needs Ray", "pip install dinokit[ray]") from None
    if not len(numbers):
        return
    blocks = -(-len(numbers) // BLOCK)
    workers = min(workers, blocks)
    with _connected(workers), _quiet_and_in_order():
        threads = max((int(ray.cluster_resources()["CPU"]) - _OWN_PROCESSORS) // workers, 1)
        found = ray.data.range(blocks, override_num_blocks=min(blocks, _MOST_TASKS)).map_batches(
            _Worker,
            fn_constructor_args=(ray.put(_describe(stream, numbers, threads)),),
            batch_size=1,
            concurrency=workers,
            num_cpus=threads,
            num_gpus=1 if stream.backbone.device.type == "cuda" else 0,
        )
        done = numbers.start
        try:
            for table in found.iter_batches(batch_size=None):
                assert list(table["number"]) == list(range(done, done + len(table["number"])))
                done += len(table["number"])
                yield _seen(table)
        except ray.exceptions.RayError as problem:
            told = _TOLD.search(str(problem))
            what = told[1] if told else f"a worker of Ray failed ({type(problem).__name__})"
            raise UserError(what, "" if told else "what is finished is kept; Ray's logs say more") from problem


def _describe(stream: Stream[Vectors], numbers: range, threads: int) -> _Task:
    backbone = stream.backbone
    network = backbone.network if backbone.device.type == "cpu" else deepcopy(backbone.network).cpu()
    precision = "bf16" if backbone.dtype == torch.bfloat16 else "fp32"
    still: Any = None  # each worker makes its own backbone
    return _Task(
        replace(stream, backbone=still),
        LoadedModel(network, backbone.info),
        backbone.device.type,
        precision,
        numbers,
        os.getcwd(),
        threads,
    )


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
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before[:2]
        log.setLevel(before[2])


def _seen(table: dict[str, Any]) -> list[Seen[Vectors]]:
    rows = zip(table["shape"], table["unreadable"], table["vectors"], strict=True)
    return [
        Seen(unreadable=str(reason)) if reason else Seen((int(shape[0]), int(shape[1])), tuple(vectors))
        for shape, reason, vectors in rows
    ]

"""Campaigns of faults: thousands of damaged pictures and checkpoints, and `dinokit embed` killed at any moment.

Every case runs in a process of its own kind, watched from outside: an unexpected exception, a crash, a hang, more
memory than a case may take, or a hostile pickle that ran, is a failure and is printed with what repeats it:
`python -m benchmarks.faults --case pictures 123`. Run from the repository's root:
`python -m benchmarks.faults [--cases 2000] [--kills 20]`; writes benchmarks/results/faults.json.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import re
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.fault_cases import check_sources, try_checkpoint, try_picture
from benchmarks.kills import kill_campaign
from benchmarks.results import show, write

CAMPAIGNS: dict[str, Callable[[int, Path], tuple[str, str]]] = {
    "pictures": try_picture,
    "checkpoints": try_checkpoint,
}
MEMORY = {"pictures": 1400 << 20, "checkpoints": 300 << 20}
"""Bytes that a case may add at its peak: a picture of the most pixels that are read has 7 bytes each on the way; a
checkpoint of 2 MB may unpack to ten times that and a bit, and is copied."""
SECONDS = 60
_ADDRESS_SPACE = 8 << 30


def work(campaign: str, folder: Path, pipe: Connection) -> None:
    """Run the cases whose numbers come through the pipe; answer (what, how it ended, bytes at the peak, trace)."""
    torch.set_num_threads(1)
    os.environ["TMPDIR"] = str(folder)
    check_sources(folder)
    CAMPAIGNS[campaign](0, folder)  # what is made once does not count
    limit = _status("VmSize") + _ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send(None)
    while True:
        number = pipe.recv()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
        before = _status("VmRSS")
        try:
            what, end = CAMPAIGNS[campaign](number, folder)
            trace = ""
        except Exception as problem:  # what must not be
            what, end, trace = type(problem).__name__, "FAILED", traceback.format_exc()
        pipe.send((what, end, max(_status("VmHWM") - before, 0), trace))


def _status(name: str) -> int:
    """A figure of this process in bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) << 10


class Worker:
    """A process that runs cases of one campaign and is started again when it dies or hangs."""

    def __init__(self, campaign: str, folder: Path) -> None:
        self.campaign, self.folder = campaign, folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(self.campaign, self.folder, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def run(self, number: int) -> tuple[str, str, int, str]:
        """What `work` answers; crashes and hangs are failures, too."""
        self.pipe.send(number)
        try:
            if self.pipe.poll(SECONDS):
                answer: tuple[str, str, int, str] = self.pipe.recv()
                return answer
            what = "hang"
        except EOFError:
            what = "crash"
        self.stop()
        code = self.process.exitcode
        self._start()
        return what, "FAILED", 0, f"{what}, exit code {code}"

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def run_campaign(campaign: str, cases: range, folder: Path) -> dict[str, Any]:
    """All cases; failures are printed as they come."""
    worker = Worker(campaign, folder)
    ends: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    failures, peak, slowest = [], 0, (0.0, -1)
    for number in cases:
        started = time.perf_counter()
        what, end, memory, trace = worker.run(number)
        slowest, peak = max(slowest, (time.perf_counter() - started, number)), max(peak, memory)
        if end != "FAILED" and memory > MEMORY[campaign]:
            end, trace = "FAILED", f"{memory >> 20} MiB"
        ends[end] += 1
        kinds.setdefault(what.split(":")[0], Counter())[end] += 1
        if end == "FAILED":
            failures.append({"case": number, "what": what, "trace": trace})
            print(f"{campaign} {number} {what}: {trace}", file=sys.stderr, flush=True)
    worker.stop()
    return {
        "cases": len(cases),
        "refused": ends["refused"],
        "read": ends["read"],
        "failed": ends["FAILED"],
        "peak_mib": round(peak / 2**20, 1),
        "slowest_seconds": round(slowest[0], 2),
        "slowest_case": slowest[1],
        "kinds": {kind: dict(counts) for kind, counts in sorted(kinds.items())},
        "failures": failures[:20],
    }


def main() -> None:
    """Run, print, write; the exit code says whether anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="of each campaign")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--case", nargs=2, metavar=("CAMPAIGN", "NUMBER"), help="repeat one case here, with its trace")
    parser.add_argument("--no-results", action="store_true", help="do not write the results file")
    given = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if given.case:
            os.environ["TMPDIR"] = temporary
            print(*CAMPAIGNS[given.case[0]](int(given.case[1]), folder))
            return
        results: dict[str, Any] = {name: run_campaign(name, range(given.cases), folder) for name in CAMPAIGNS}
        if given.kills:
            results["kills"] = kill_campaign(given.kills, folder)
    columns = ("cases", "refused", "read", "failed", "peak_mib", "slowest_seconds")
    show("damaged files", ("campaign", *columns), [(name, *(results[name][c] for c in columns)) for name in CAMPAIGNS])
    with contextlib.suppress(KeyError):
        show("embed, killed", ("figure", "value"), list(results["kills"].items()))
    if not given.no_results:
        print(write("faults", results))
    sys.exit(any(results[name]["failed"] for name in results))


if __name__ == "__main__":
    main()

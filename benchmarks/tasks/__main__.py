"""Runs the jobs and prints their tables."""

import argparse
import json
import time
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from benchmarks import tasks
from benchmarks.data import data_folder
from benchmarks.machine import describe
from benchmarks.results import RESULTS, show_rows
from benchmarks.tasks.models import both_models

FILE = RESULTS / "tasks.json"


def _done() -> dict[str, Any]:
    """What was measured before."""
    return dict(json.loads(FILE.read_text())) if FILE.exists() else {}


def main() -> None:
    names = [module.name for module in iter_modules(tasks.__path__) if module.name not in ("__main__", "models")]
    parser = argparse.ArgumentParser(description=tasks.__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("jobs", nargs="*", choices=[*names, []], help="which jobs; all of them without")
    parser.add_argument("--model", default="dinokit_vitt16")
    parser.add_argument("--again", action="store_true")
    chosen = parser.parse_args()
    models, data = both_models(chosen.model), data_folder()
    fingerprint = models[chosen.model].fingerprint
    for name in chosen.jobs or names:
        done = _done()
        job = import_module(f"benchmarks.tasks.{name}")
        weights = "any" if getattr(job, "ANY_MODEL", False) else fingerprint
        if chosen.again or done.get(name, {}).get("weights") != weights:
            started = time.perf_counter()
            rows = job.measure(models, data)
            seconds = round(time.perf_counter() - started)
            done = _done()  # others may measure other jobs meanwhile
            done[name] = {"weights": weights, "machine": describe(), "seconds": seconds, "rows": rows}
            FILE.write_text(json.dumps(dict(sorted(done.items())), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        show_rows(done[name]["rows"])


if __name__ == "__main__":
    main()

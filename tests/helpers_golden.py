"""Reference outputs of the published code, stored in tests/golden."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def load_golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of the golden file `name`."""
    return load_file(GOLDEN / f"{name}.safetensors"), json.loads((GOLDEN / f"{name}.json").read_text())

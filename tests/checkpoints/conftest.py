"""What the tests of files of weights share."""

from pathlib import Path

import pytest

from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.save import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good model of one block."""
    model = load_model("random:dinokit_vitt16", depth=1)
    path = tmp_path_factory.mktemp("model")
    save_model(path, model.network.state_dict(), model.info)
    return path

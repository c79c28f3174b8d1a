"""kfac-jax, in an environment of its own, trains what the others train."""

import os
import pathlib

import keras
import numpy as np
import pytest

from parts import contenders, datasets, models
from parts.kfac_run import PACKAGES, KfacRun

# It came with Python 3.11.
tomllib = pytest.importorskip("tomllib")
ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_what_the_program_says_to_install_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(PACKAGES.split()) < set(project["dependency-groups"]["kfac"])


needs_kfac = pytest.mark.skipif(
    "KFAC_PYTHON" not in os.environ,
    reason="kfac-jax needs an environment of its own: set KFAC_PYTHON to its interpreter",
)


@needs_kfac
@pytest.mark.parametrize("name", ["mlp64", "autoencoder"])
def test_kfac_jax_trains_the_same_network(name, tmp_path):
    data = datasets.load("digits").head(300)
    task = contenders.TASKS[name]
    data = data.reconstruction() if task.reconstruction else data
    python = pathlib.Path(os.environ["KFAC_PYTHON"])
    if task.reconstruction:
        layers = [keras.layers.Dense(12, "tanh"), keras.layers.Dense(64)]
        model = keras.Sequential([keras.Input((64,)), *layers])
    else:
        model = models.mlp(data.shape, 30, 20)
    common = model, task.loss, data, 50, 0
    first = model.get_weights()
    arguments = {"learning_rate": 1e-30, "damping": 1.0}
    run = KfacRun(python, tmp_path, *common, arguments)
    before = run.evaluate()
    run.train(seconds=0.05)
    assert run.steps > 0
    # Steps of no length: what comes back are the weights that went there.
    assert run.evaluate() == pytest.approx(before, nan_ok=True)
    for a, b in zip(model.get_weights(), first):
        np.testing.assert_allclose(a, b, atol=1e-7)
    run.close()
    run = KfacRun(python, tmp_path, *common, {"learning_rate": 0.01, "damping": 1.0})
    run.train(seconds=1.0)
    assert run.seconds >= 1.0 and run.evaluate()["loss"] < 0.9 * before["loss"]
    run.close()

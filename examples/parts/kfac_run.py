"""A run of kfac-jax, in a process and an environment of its own."""

import itertools
import json
import pathlib
import subprocess

import keras
import numpy as np

from parts.training import Evaluation

PACKAGES = "kfac-jax==0.0.8 jax==0.7.2"
_numbers = itertools.count()


def how_to_install(python):
    folder = python.parents[1]
    return f"python3 -m venv {folder} && {folder}/bin/pip install {PACKAGES}"


class KfacRun:
    """What `Run` is for a Keras optimizer: the same network, weights and batches.

    Its weights come back into the Keras model, where they are evaluated as all others.

    Args:
        python: the interpreter of the environment that has kfac-jax.
        folder: for files, the same for all runs on the same data.
        model: `keras.Model` of Dense layers, one after the other.
        loss: of every example, for the evaluation.
        data: `Data`.
        batch_size: int.
        seed: int, decides the order of the batches.
        arguments: dict of `learning_rate` and `damping`.
    """

    def __init__(self, python, folder, model, loss, data, batch_size, seed, arguments):
        self._model, self._weights = model, folder / f"weights_{next(_numbers)}.npz"
        self.steps_per_epoch = len(data.x) // batch_size
        self.seconds, self.steps, self.diverged = 0.0, 0, False
        self._evaluation = Evaluation(model, loss, data)
        layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        weights = {f"w{i}": w for i, w in enumerate(model.get_weights())}
        np.savez(self._weights, **weights)
        if not (folder / "data.npz").exists():
            np.savez(folder / "data.npz", x=data.x.reshape(len(data.x), -1), y=data.y)
        job = {
            "folder": str(folder),
            "weights": str(self._weights),
            "activations": [layer.activation.__name__ for layer in layers],
            "batch_size": batch_size,
            "seed": seed,
            **arguments,
        }
        self._process = subprocess.Popen(
            [python.absolute(), "-m", "parts.kfac_worker", json.dumps(job)],
            # The folder that `parts` lies in.
            cwd=pathlib.Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def train(self, seconds):
        self._process.stdin.write(json.dumps({"seconds": seconds}) + "\n")
        self._process.stdin.flush()
        for name, value in self._answer().items():
            setattr(self, name, value)

    def evaluate(self, count=None):
        with np.load(self._weights) as weights:
            self._model.set_weights([weights[f"w{i}"] for i in range(len(weights.files))])
        return self._evaluation(count)

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._weights.unlink()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise RuntimeError(
                f"kfac-jax stopped with exit status {self._process.returncode}; what it said "
                "is above. Leave it out with --optimizer, which lists the others."
            )
        return json.loads(line)

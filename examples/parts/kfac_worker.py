"""Trains a network of Dense layers with kfac-jax, for `time_to_target.py`.

Runs in an environment of its own: kfac-jax wants another NumPy and JAX than TensorFlow.
It is told what to do in lines of JSON and answers in lines of JSON, so that it can take
turns with other optimizers: it only computes while it is asked to.

    {"seconds": 2.5}    train until the clock shows so many seconds, write the weights
"""

import json
import math
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import kfac_jax
import numpy as np

from parts.datasets import epoch_batches

_ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "linear": lambda z: z}


class KfacRun:
    """A network of Dense layers, trained by K-FAC on the batches that Keras's runs see.

    Args:
        job: dict: `folder`, where `data.npz` (x, y) and `weights.npz` (every kernel and
            bias in order) lie; `activations`, a name per layer; `batch_size`, `seed`,
            `learning_rate`, `damping`.
    """

    def __init__(self, job):
        folder = pathlib.Path(job["folder"])
        self._weights = pathlib.Path(job["weights"])
        with np.load(folder / "data.npz") as data:
            self.x, self.y = data["x"], data["y"]
        with np.load(self._weights) as weights:
            arrays = [jnp.asarray(weights[f"w{i}"]) for i in range(len(weights.files))]
        self.params = list(zip(arrays[::2], arrays[1::2]))
        self.batch_size, self.seed = job["batch_size"], job["seed"]
        self.activations = [_ACTIVATIONS[name] for name in job["activations"]]
        self.seconds, self.steps, self.diverged = 0.0, 0, False
        self._order = None, None
        self._hyper = {
            "learning_rate": jnp.asarray(job["learning_rate"]),
            "momentum": jnp.asarray(0.9),
            "damping": jnp.asarray(job["damping"]),
        }
        self.optimizer = kfac_jax.Optimizer(
            jax.value_and_grad(self.loss),
            l2_reg=0.0,
            use_adaptive_learning_rate=False,
            use_adaptive_momentum=False,
            use_adaptive_damping=False,
            num_burnin_steps=0,
            # On CPU inverses of 1000 × 1000 take most of the time: as in Martens and Grosse.
            inverse_update_period=20,
        )
        self._warm_up()

    def loss(self, params, batch):
        x, y = batch
        for (kernel, bias), activation in zip(params, self.activations):
            x = activation(x @ kernel + bias)
        if jnp.issubdtype(y.dtype, jnp.integer):
            kfac_jax.register_softmax_cross_entropy_loss(x, y)
            return -jnp.mean(jax.nn.log_softmax(x)[jnp.arange(len(y)), y])
        kfac_jax.register_sigmoid_cross_entropy_loss(x, y)
        # Of every image, summed over its pixels.
        return jnp.mean(jnp.sum(jax.nn.softplus(x) - x * y, axis=-1))

    def train(self, seconds):
        while self.seconds < seconds and not self.diverged:
            begin = time.perf_counter()
            loss = self._step()
            self.seconds += time.perf_counter() - begin
            self.steps += 1
            self.diverged = not math.isfinite(loss)
        arrays = [array for pair in self.params for array in pair]
        np.savez(self._weights, **{f"w{i}": a for i, a in enumerate(arrays)})
        return {"seconds": self.seconds, "steps": self.steps, "diverged": self.diverged}

    def _step(self):
        epoch, step = divmod(self.steps, len(self.x) // self.batch_size)
        if self._order[0] != epoch:
            batches = epoch_batches(len(self.x), self.batch_size, self.seed, epoch)
            self._order = epoch, batches
        batch = self._order[1][step]
        self.key, key = jax.random.split(self.key)
        self.params, self.state, stats = self.optimizer.step(
            self.params,
            self.state,
            key,
            batch=(self.x[batch], self.y[batch]),
            global_step_int=self.steps,
            **self._hyper,
        )
        loss = float(stats["loss"])
        jax.block_until_ready(self.params)
        return loss

    def _warm_up(self):
        """Compiles by making two steps, and goes back to the first weights."""
        # The optimizer takes the arrays it is given for its own.
        before = [tuple(np.array(a) for a in pair) for pair in self.params]
        for last in (False, True):
            self.key = jax.random.PRNGKey(self.seed)
            batch = self.x[: self.batch_size], self.y[: self.batch_size]
            self.params = jax.tree.map(jnp.array, before)
            self.state = self.optimizer.init(self.params, self.key, batch)
            if not last:
                for self.steps in range(2):
                    self._step()
        self.steps = 0


def main():
    run = KfacRun(json.loads(sys.argv[1]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(run.train(json.loads(line)["seconds"])), flush=True)


if __name__ == "__main__":
    main()

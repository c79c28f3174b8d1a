"""Mends Keras's `fit` for replicas that have unequal parts of the first batch, are spread
over several workers, or accumulate gradients. There `fit` fails with any optimizer. And `fit`
tells a `ProxProp` the batch size.
"""

import functools

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import trainer as of_keras
from keras.src.optimizers import base_optimizer

from keras_proxprop.keras_seams.batch_size import batch_size_of
from keras_proxprop.keras_seams.replica_branches import cond_around_replicas


def check_strategy(strategy):
    """Raises an error for a `tf.distribute.Strategy` with which no `ProxProp` trains."""
    distribute = tf.distribute
    if isinstance(strategy, distribute.ParameterServerStrategy):
        raise ValueError(
            "ProxProp does not train under a ParameterServerStrategy: workers step there each "
            "by itself, and no batch is the batch of all. Use a MirroredStrategy, or a "
            f"MultiWorkerMirroredStrategy. Received: strategy={strategy!r}"
        )
    if isinstance(strategy, (distribute.TPUStrategy, distribute.experimental.TPUStrategy)):
        raise ValueError(
            "ProxProp does not train under a TPUStrategy: it was never run on a TPU, and "
            "solves nearly singular problems in float64. Use a MirroredStrategy, or a "
            f"MultiWorkerMirroredStrategy. Received: strategy={strategy!r}"
        )
    if keras.distribution.distribution() is not None:
        raise ValueError(
            "Keras's own distribution does nothing on TensorFlow: the model would train on "
            "one device. Use a MirroredStrategy, or a MultiWorkerMirroredStrategy. "
            f"Received: distribution={keras.distribution.distribution()!r}"
        )


def install():
    """Mends `fit` in all these cases; a second call changes nothing."""
    trainer = of_keras.TensorFlowTrainer
    if hasattr(trainer._maybe_symbolic_build, "_proxprop"):
        return
    build, reduce = trainer._maybe_symbolic_build, of_keras.reduce_per_replica

    @functools.wraps(build)
    def build_from_own_part(self, iterator=None, data_batch=None):
        """Builds the model from one replica's part of the first batch. Keras adds up the parts
        of all, which have different sizes, and are not all on this worker. And the optimizer
        is told that a training begins, and the batch size."""
        # Imported here, since the optimizer's module imports this one.
        from keras_proxprop.optimizers.finding import find_proxprop

        proxprop = find_proxprop(getattr(self, "optimizer", None))
        compiled = proxprop is not None
        if compiled:
            check_strategy(self.distribute_strategy)
            if iterator is not None:
                proxprop.damped_steps.begin()
            if proxprop._curvatures is not None:
                proxprop._curvatures.expect(batch_size_of(iterator, data_batch))
        if iterator is not None and self._distribute_strategy is not None and compiled:
            results = self._distribute_strategy.experimental_local_results
            # Before the batches come one or two step numbers, depending on Keras's version.
            for *_, batches in iterator:
                batch = next(batches)
                data_batch = tf.nest.map_structure(lambda part: results(part)[0], batch)
                iterator = None
                break
        return build(self, iterator=iterator, data_batch=data_batch)

    @functools.wraps(reduce)
    def reduce_scalars(values, strategy, reduction):
        """Reduces scalars, too. Keras reduces along an axis, which a scalar does not have."""
        mean = reduction in ("auto", "mean")
        if not (mean and of_keras._collective_all_reduce_multi_worker(strategy)):
            return reduce(values, strategy, reduction)
        return keras.tree.map_structure(
            lambda value: strategy.reduce("MEAN", value, axis=None), values
        )

    build_from_own_part._proxprop = True
    trainer._maybe_symbolic_build = build_from_own_part
    of_keras.reduce_per_replica = reduce_scalars
    base_optimizer.ops = _Ops()


class _Ops:
    """Keras's operations for its optimizers, with a `cond` inside which replicas may meet."""

    def __getattr__(self, name):
        return getattr(keras.ops, name)

    @staticmethod
    def cond(pred, true_fn, false_fn):
        if not tf.distribute.has_strategy() or tf.distribute.in_cross_replica_context():
            return keras.ops.cond(pred, true_fn, false_fn)
        # In Keras's accumulation of gradients the branches return nothing.
        pred = tf.convert_to_tensor(pred)
        return cond_around_replicas(pred, lambda: true_fn() or (), lambda: false_fn() or ())

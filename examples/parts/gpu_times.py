"""Times, kernels and host round trips of steps on this machine's device."""

import collections
import pathlib
import statistics
import tempfile
import time

import keras
import tensorflow as tf

from parts.gpu_tasks import LOSS, NETS, OPTIMIZERS, compiled, images

# Names of kernels that multiply or solve in float64.
_DOUBLE = ("dgemm", "d884", "double", "dtrsm", "dpotrf", "f64")


class _Timer(keras.callbacks.Callback):
    """Notes the seconds of every step; its logs are read, so the device is done."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(time.perf_counter() - self._begin)


def _run(model, data, steps):
    timer = _Timer()
    model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=[timer])
    return timer.seconds


def _data(batch):
    return tf.data.Dataset.from_tensor_slices(images(4 * batch)).batch(batch).cache().repeat()


def _peak():
    """Returns the most MiB that the GPU has held since the last call, `nan` without one."""
    if not tf.config.list_logical_devices("GPU"):
        return float("nan")
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    tf.config.experimental.reset_memory_stats("GPU:0")
    return peak


def steps(report, args):
    """Seconds of a step in units of Adam's, in turns; the first step; the GPU's memory."""
    for net, batch in args.steps:
        for jit in args.jit:
            data, models, first, peak = _data(batch), {}, {}, {}
            for name in args.optimizers:
                _peak()
                begin = time.perf_counter()
                models[name] = compiled(net, name, jit)
                _run(models[name], data, 1)
                first[name] = time.perf_counter() - begin
                _run(models[name], data, args.warm)
                peak[name] = _peak()
            seconds, slowest = collections.defaultdict(list), {}
            for _ in range(args.turns):
                for name, model in models.items():
                    # The first step of a `fit` starts the input pipeline.
                    times = _run(model, data, args.turn_steps + 1)[1:]
                    seconds[name].append(statistics.median(times))
                    slowest[name] = max(times)
            for name, own in seconds.items():
                report(
                    f"{net}, batch {batch}, XLA {jit}, {name}",
                    ms=1e3 * statistics.median(own),
                    over_adam=statistics.median(map(_divided, own, seconds["adam"])),
                    slowest_ms=1e3 * slowest[name],
                    first_s=first[name],
                    peak_mib=peak[name],
                )
            keras.backend.clear_session()


def _divided(a, b):
    return a / b


def profile(report, args):
    """Kernels, copies to the host and float64 kernels of one step, from TensorFlow's profiler.

    Beyond Adam's, a steady step copies nothing to the host.
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    for net, batch in args.profile:
        for jit in args.jit:
            adam = None
            for name in args.optimizers:
                model, data = compiled(net, name, jit), _data(batch)
                _run(model, data, args.warm)
                with tempfile.TemporaryDirectory() as folder:
                    tf.profiler.experimental.start(folder)
                    number = len(_run(model, data, 4))
                    tf.profiler.experimental.stop()
                    space = xplane_pb2.XSpace()
                    for path in pathlib.Path(folder).rglob("*.xplane.pb"):
                        space.MergeFromString(path.read_bytes())
                counts = {what: n / number for what, n in _counted(space).items()}
                adam = adam or counts
                ok = counts["to_host"] <= adam["to_host"] + 0.5 if counts["kernels"] else None
                report(f"{net}, batch {batch}, XLA {jit}, {name}", ok, **counts)


def _counted(space):
    """Returns what ran on the GPU's streams, by kind."""
    counts = dict.fromkeys(("kernels", "float64", "to_host", "from_host", "busy_ms"), 0.0)
    for plane in space.planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                label = plane.event_metadata[event.metadata_id].name
                copied = {"MemcpyD2H": "to_host", "MemcpyH2D": "from_host"}
                kind = next((to for name, to in copied.items() if name in label), "kernels")
                counts[kind] += 1
                counts["float64"] += any(name in label for name in _DOUBLE)
                counts["busy_ms"] += event.duration_ps / 1e9
    return counts


def target(report, args):
    """Seconds until the training loss is what the best of Adam's rates ends with."""
    for net, batch in args.target:
        x, y = images(args.items)
        curves = {}
        rates = [("adam", rate) for rate in (1e-3, 3e-3)] + [("proxprop", None)]
        for name, rate in rates:
            keras.utils.set_random_seed(0)
            model = NETS[net]()
            optimizer = keras.optimizers.Adam(rate) if rate else OPTIMIZERS[name]()
            model.compile(optimizer=optimizer, loss=LOSS, jit_compile=args.jit[-1])
            start = model.get_weights()
            # Compiles, which is not counted, and is undone.
            model.fit(x[:batch], y[:batch], batch_size=batch, verbose=0)
            model.set_weights(start)
            spent, curve = 0.0, []
            for _ in range(args.epochs):
                begin = time.perf_counter()
                model.fit(x, y, batch_size=batch, verbose=0)
                spent += time.perf_counter() - begin
                curve.append((spent, model.evaluate(x, y, batch_size=500, verbose=0)))
            curves[name, rate] = curve
        ends = [curve[-1] for (name, _), curve in curves.items() if name == "adam"]
        seconds, goal = min(ends, key=lambda end: end[1])
        reached = [spent for spent, loss in curves["proxprop", None] if loss <= goal]
        own = reached[0] if reached else float("nan")
        report(f"{net}, batch {batch}", loss=goal, adam_s=seconds, proxprop_s=own)

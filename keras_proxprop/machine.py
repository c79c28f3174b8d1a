"""What a machine's work costs: the constants that all prices are counted with."""

import dataclasses

import tensorflow as tf

from keras_proxprop.arguments import check_choice
from keras_proxprop.in_thread import InThread

_used = InThread(None)


@dataclasses.dataclass(frozen=True)
class Machine:
    """Prices, in multiply-adds of a matrix product that keeps float32's accuracy.

    Attributes:
        kind: "CPU" or "GPU".
        note: what reports add to a title.
        plain: a multiply-add of a layer's own products, which may keep less accuracy.
        launch: what an operation costs however small it is.
        choice: what it costs to choose between two forms at run time.
        write: writing one number of a copy.
        factorize: the inverse Cholesky factor of an `n × n` matrix, for every n³.
        latency: an `n × n` matrix of fewer rows than this takes longer for the launches that
            wait for one another than for its n³.
        correlation: a multiply-add of images with themselves.
        channels: images of fewer channels than this take as long as if they had so many.
        at_once: how much work of rare steps does not make such a step much longer.
    """

    kind: str
    note: str
    plain: float
    launch: float
    choice: float
    write: float
    factorize: float
    latency: float
    correlation: float
    channels: float
    at_once: float

    def inverse_factor(self, n, matrices=1):
        """Returns the price of the inverse Cholesky factors of a stack of `n × n` matrices."""
        return self.factorize * (matrices * n**3 + self.latency**2 * n)


# Measured on one core and on two cores: `examples/prices.py` measures them again.
CPU = Machine(
    kind="CPU",
    note="",
    plain=1,
    launch=0,
    # Some ten microseconds; the rest is for its forms, all of which are traced and kept in
    # the graph.
    choice=2e6,
    write=100,
    factorize=4,
    latency=0,
    correlation=0.7,
    channels=20,
    # Five to ten milliseconds.
    at_once=4e8,
)

# Peaks of an A100 with 40 GB, in multiply-adds and bytes a second, from NVIDIA's data sheet:
# TF32 on tensor cores, 156 TFLOP/s; float32 without tensor cores, 19.5 TFLOP/s (as much as
# float64 on tensor cores; other GPUs do float64 at 1/32 or 1/64 of that); memory, 1,555 GB/s.
TF32, FLOAT32, BYTES = 78e12, 9.75e12, 1.555e12
# A kernel's launch: about five microseconds, from NVIDIA's guides to CUDA graphs.
LAUNCH = 5e-6
# Three products in TF32 have the accuracy of one in float32: hi·hi + hi·lo + lo·hi.
SPLIT = 3
# Such multiply-adds a second.
PRODUCTS = TF32 / SPLIT

GPU = Machine(
    kind="GPU",
    note=", priced for a GPU (an A100 at its peak)",
    plain=1 / SPLIT,
    launch=LAUNCH * PRODUCTS,
    # The host waits for a number before it launches what comes next.
    choice=2 * LAUNCH * PRODUCTS,
    # A number of four bytes is read once and written once.
    write=2 * 4 / BYTES * PRODUCTS,
    # n³/6 multiply-adds for the factor and n³/2 for its inverse, by solving for the identity;
    # solvers of triangular systems do not use tensor cores.
    factorize=(1 / 6 + 1 / 2) * PRODUCTS / FLOAT32,
    # Factorizations and triangular solves are bound by latency below about this size.
    latency=1000,
    correlation=1,
    # The smallest tile of a product on tensor cores is 64 × 64, from NVIDIA's guide to them.
    channels=64,
    # Five milliseconds.
    at_once=5e-3 * PRODUCTS,
)

_KINDS = {"CPU": CPU, "GPU": GPU}


def in_force():
    """Returns the `Machine` by which prices are counted here: that of `used`, else that on
    which a step would run."""
    return _used.value or of_device(None, tf.distribute.get_strategy())


def used(machine):
    """Context in which prices are those of a `Machine`."""
    return _used.set(machine)


def of_device(device, strategy):
    """Returns the `Machine` of a kind of device.

    Args:
        device: "CPU", "GPU", or `None`: what the replicas of the strategy run on; without
            such, a GPU where TensorFlow sees one.
        strategy: `tf.distribute.Strategy`.
    """
    if device is None:
        try:
            places = map(tf.DeviceSpec.from_string, strategy.extended.worker_devices)
        except RuntimeError:
            # TensorFlow's default strategy, which knows of no devices.
            places = tf.config.list_logical_devices()
        device = "GPU" if "GPU" in {place.device_type for place in places} else "CPU"
    return _KINDS[check_choice("device", device, tuple(_KINDS))]

"""The paper's two propositions about one step, on small nets in float64.

The penalty energy, from which the paper derives both algorithms, is written out in
NumPy; its partial derivatives are taken by complex steps, which are exact to rounding.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close

import keras_proxprop
from keras_proxprop import ImplicitGradientTape

SIZES = [4, 5, 6, 3]
BATCH = 7
# Powers of two: Keras keeps a learning rate in float32.
TAUS = [0.125, 1.0]


class Net:
    """Three layers, tanh between them: data, weights, and a forward pass in NumPy.

    A weight is `[features + 1, units]`, the bias its last row, as in `φ(θ, a) = [a 1] θ`.
    """

    def __init__(self):
        random = np.random.default_rng(0)
        self.x = random.normal(size=[BATCH, SIZES[0]])
        self.y = np.eye(SIZES[-1])[random.integers(0, SIZES[-1], BATCH)]
        self.theta = {
            layer: random.normal(size=[n + 1, m]) / np.sqrt(n)
            for layer, (n, m) in enumerate(zip(SIZES, SIZES[1:]), 1)
        }

    def forward(self):
        z, a = {}, {0: self.x}
        for layer in (1, 2):
            z[layer] = phi(self.theta[layer], a[layer - 1])
            a[layer] = np.tanh(z[layer])
        return z, a

    def loss(self, z):
        """Softmax cross-entropy on the last `z`, its mean over the batch."""
        log_p = z - np.log(np.sum(np.exp(z), axis=1, keepdims=True))
        return -np.sum(self.y * log_p) / BATCH

    def energy(self, theta, a, z, gamma, rho):
        """The paper's penalty energy."""
        energy = self.loss(phi(theta[3], a[2]))
        for layer in (1, 2):
            energy += gamma / 2 * np.sum((np.tanh(z[layer]) - a[layer]) ** 2)
            energy += rho / 2 * np.sum((phi(theta[layer], a[layer - 1]) - z[layer]) ** 2)
        return energy

    def keras_model(self, optimizer):
        units = zip(SIZES[1:], ["tanh", "tanh", "softmax"])
        model = keras.Sequential(
            [keras.Input(SIZES[:1], dtype="float64")]
            + [keras.layers.Dense(n, activation=f, dtype="float64") for n, f in units]
        )
        for layer, theta in zip(model.layers, self.theta.values()):
            layer.set_weights([theta[:-1], theta[-1]])
        loss = keras.losses.CategoricalCrossentropy(dtype="float64")
        model.compile(optimizer, loss=loss, run_eagerly=True)
        return model

    def trained(self, optimizer):
        """Returns the weights of the Keras model after one `train_on_batch`."""
        model = self.keras_model(optimizer)
        model.train_on_batch(self.x, self.y)
        pairs = [layer.get_weights() for layer in model.layers]
        return {i: np.vstack(pair) for i, pair in enumerate(pairs, 1)}


def phi(theta, a):
    return a @ theta[:-1] + theta[-1]


def partial(energy, of):
    """Returns the derivative of `energy()` with respect to the array `of`, by complex steps.

    Args:
        energy: function of an array that takes the place of `of`.
    """
    gradient = np.zeros_like(of)
    for index in np.ndindex(of.shape):
        moved = of.astype(complex)
        moved[index] += 1e-30j
        gradient[index] = energy(moved).imag / 1e-30
    return gradient


def algorithm_1(net, tau, proximal_tau=None):
    """Returns the weights after one sweep of the paper's Algorithm 1, with γ = ρ = 1/τ.

    Args:
        tau: step size of all gradient steps on the penalty energy.
        proximal_tau: where given, step (c) is the proximal step with this τ_θ.
    """
    z, a = net.forward()
    theta, old_a = dict(net.theta), dict(a)

    def gradient_of(name, layer, **others):
        variables = {"theta": theta, "a": a, "z": z, **others}

        def energy(value):
            moved = {**variables, name: {**variables[name], layer: value}}
            return net.energy(**moved, gamma=1 / tau, rho=1 / tau)

        return partial(energy, variables[name][layer])

    # (a) a gradient step on the last weights and the last activation, both from the old.
    theta_step, a_step = gradient_of("theta", 3), gradient_of("a", 2)
    theta[3] = theta[3] - tau * theta_step
    a[2] = a[2] - tau * a_step
    for layer in (2, 1):
        # (b) gradient steps on z and on the activation before it (the data stay).
        z[layer] = z[layer] - tau * gradient_of("z", layer)
        if layer > 1:
            a[layer - 1] = a[layer - 1] - tau * gradient_of("a", layer - 1)
        # (c) a step on the weights, at the old activation.
        at_old = {**a, layer - 1: old_a[layer - 1]}
        if proximal_tau is None:
            theta[layer] = theta[layer] - tau * gradient_of("theta", layer, a=at_old)
        else:
            theta[layer] = proximal(old_a[layer - 1], z[layer], theta[layer], proximal_tau)
    return theta


def proximal(a, z, theta, tau):
    """Returns `argmin_θ ½‖φ(θ, a) - z‖² + 1/(2τ) ‖θ - θ_l‖²`, as one least-squares problem."""
    a = np.column_stack([a, np.ones(len(a))])
    rows = np.vstack([a, np.eye(len(theta)) / np.sqrt(tau)])
    return np.linalg.lstsq(rows, np.vstack([z, theta / np.sqrt(tau)]))[0]


def assert_steps(net, actual, expected):
    for layer, old in net.theta.items():
        assert_close(actual[layer] - old, expected[layer] - old, 1e-9)


@pytest.mark.filterwarnings("ignore:No layer of model")
@pytest.mark.parametrize("tau", TAUS)
def test_proposition_1_a_sweep_of_gradient_steps_is_the_explicit_step(tau):
    net = Net()
    sgd = keras.optimizers.SGD(learning_rate=tau)
    explicit = keras_proxprop.ProxProp(sgd, exclude=[keras.layers.Dense], memory=None)
    assert_steps(net, net.trained(explicit), algorithm_1(net, tau))


# With γ = ρ = 1/τ and gradient steps of size τ on E, (a) and (b) move every variable by τ
# times the gradient of the loss: z½ = z - τ ∂L/∂z. So (c) is the proximal step with τ D
# in the place of D, and moves the weights by τ P: SGD with learning rate τ on our
# directions. The paper has τ = 1 here, hence its learning rate of 1.
@pytest.mark.parametrize("solver", ["exact", "cg"])
@pytest.mark.parametrize("proximal_tau", [0.05, 20.0])
@pytest.mark.parametrize("tau", TAUS)
def test_a_sweep_with_proximal_steps_on_the_weights_is_our_step(tau, proximal_tau, solver):
    net = Net()
    if solver == "cg":
        # More iterations than a layer has features: exact.
        solver = keras_proxprop.solvers.ConjugateGradient(20)
    sgd = keras.optimizers.SGD(learning_rate=tau)
    optimizer = keras_proxprop.ProxProp(sgd, tau=proximal_tau, solver=solver, memory=None)
    assert_steps(net, net.trained(optimizer), algorithm_1(net, tau, proximal_tau))


def test_the_two_sweeps_differ_in_all_layers_but_the_last():
    # Else the tests above could not tell them apart.
    net = Net()
    explicit, implicit = algorithm_1(net, 1.0), algorithm_1(net, 1.0, 20.0)
    for layer in (1, 2):
        step = np.linalg.norm(explicit[layer] - net.theta[layer])
        assert np.linalg.norm(explicit[layer] - implicit[layer]) > 0.1 * step
    np.testing.assert_array_equal(explicit[3], implicit[3])


def random_net(seed, dtype):
    """Returns a random net, convolutional for odd seeds, with its inputs and targets."""
    random = np.random.default_rng(seed)
    activations = ["relu", "tanh", "gelu", None]
    layers = []
    if seed % 2:
        shape = (8, 6, 5, int(random.integers(1, 4)))
        for _ in range(random.integers(1, 3)):
            channels, size = (int(n) for n in random.integers(2, 5, 2))
            f = activations[random.integers(4)]
            layer = keras.layers.Conv2D(
                channels, size, activation=f, padding="same", dtype=dtype
            )
            layers.append(layer)
        layers.append(keras.layers.Flatten(dtype=dtype))
    else:
        shape = (int(random.integers(2, 30)), int(random.integers(1, 20)))
    for _ in range(random.integers(1, 4)):
        f = activations[random.integers(4)]
        units = int(random.integers(2, 12))
        layers.append(keras.layers.Dense(units, activation=f, dtype=dtype))
    layers.append(keras.layers.Dense(3, dtype=dtype))
    model = keras.Sequential([keras.Input(shape[1:], dtype=dtype), *layers])
    return model, random.normal(size=shape), random.normal(size=(shape[0], 3))


def directions_and_gradients(model, x, y, **arguments):
    """Returns the implicit directions and TensorFlow's own gradients, in float64."""
    weights = model.trainable_weights
    x, y = tf.cast(x, weights[0].dtype), tf.cast(y, weights[0].dtype)
    with ImplicitGradientTape(model, **arguments) as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    directions = tape.gradient(loss, weights)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    gradients = tape.gradient(loss, [w.value for w in weights])
    return [[np.float64(g) for g in each] for each in (directions, gradients)]


def inner_product(p, g):
    return sum(np.sum(a * b) for a, b in zip(p, g))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(4))
def test_proposition_2_the_direction_is_one_of_descent(seed, dtype):
    model, x, y = random_net(seed, dtype)
    for tau in (1e-6, 1e-3, 1.0, 1e3, 1e6):
        for solver in ("auto", keras_proxprop.solvers.ConjugateGradient(2)):
            p, g = directions_and_gradients(
                model, x, y, tau=tau, solver=solver, final_layer="implicit"
            )
            # Kernel and bias are one problem: their direction is one of descent together.
            for layer in range(0, len(p), 2):
                assert inner_product(p[layer : layer + 2], g[layer : layer + 2]) > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_small_tau_gives_tau_times_the_gradient(seed):
    model, x, y = random_net(seed, "float64")
    for solver in ("exact", "cg"):
        p, g = directions_and_gradients(model, x, y, tau=1e-9, solver=solver)
        for direction, gradient in zip(p[:-2], g[:-2]):
            assert_close(direction / 1e-9, gradient, 1e-5)
        # The final layer's step is explicit: the gradient itself.
        for direction, gradient in zip(p[-2:], g[-2:]):
            assert_close(direction, gradient, 1e-12)

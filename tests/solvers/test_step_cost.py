"""What the exact step computes, read off the compiled graph, and what is shared."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_proxprop
from keras_proxprop import machine
from keras_proxprop.rows.base import Rows
from keras_proxprop.rows.matrix import MatrixRows
from keras_proxprop.solvers import ConjugateGradient, Exact, price
from keras_proxprop.solvers.auto import ITERATIONS, Auto
from keras_proxprop.tau import Tau

L = keras.layers


def compiled(model, x, y, **arguments):
    """Returns one step as XLA compiles it, as text."""

    @tf.function(jit_compile=True)
    def step(x, y):
        with keras_proxprop.ImplicitGradientTape(model, **arguments) as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        return tape.gradient(loss, model.trainable_variables)

    return step.experimental_get_compiler_ir(x, y)(stage="optimized_hlo")


def compiled_dots(*step, **arguments):
    """Returns the shapes of all matrix products of one step."""
    hlo = compiled(*step, **arguments)
    products = re.findall(r"= f32\[([\d,]*)\](?:\{[^}]*\})? (?:dot|custom-call)\(", hlo)
    return [tuple(int(n) for n in shape.split(",") if n) for shape in products]


@pytest.fixture
def mlp():
    return keras.Sequential([keras.Input((30,)), L.Dense(40), L.Dense(50), L.Dense(3)])


def count(shapes, *wanted):
    return sum(shape in (wanted, wanted[::-1]) for shape in shapes)


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_a_weight_gradient_sized_product_is_made_once_per_layer(mlp, form):
    x, y = tf.random.normal([8, 30]), tf.random.normal([8, 3])
    shapes = compiled_dots(mlp, x, y, solver=Exact(form))
    if form == "dual":
        # (K⁻¹ A)ᵀ D is the only one: AᵀD is nowhere.
        assert count(shapes, 30, 40) == count(shapes, 40, 50) == 1
        assert count(shapes, 31, 40) == count(shapes, 41, 50) == 0
    else:
        # AᵀD once, and what is left of it once in the branch that refines; the solve makes
        # products of the shape with the bias's row only.
        assert count(shapes, 30, 40) == 2
        assert count(shapes, 40, 50) == 2


def test_conjugate_gradients_on_few_rows_make_one_product_of_a_weights_size(mlp):
    x, y = tf.random.normal([8, 30]), tf.random.normal([8, 3])
    shapes = compiled_dots(mlp, x, y, solver=ConjugateGradient(3))
    assert count(shapes, 30, 40) == count(shapes, 40, 50) == 1
    assert count(shapes, 31, 40) == count(shapes, 41, 50) == 0


# With what is excluded, nothing steps implicitly.
@pytest.mark.filterwarnings("ignore:No layer of model")
def test_batch_normalization_makes_no_sums_that_its_backpropagation_does_not_make():
    norm = L.BatchNormalization()
    model = keras.Sequential([keras.Input((9, 5)), norm, L.Activation("tanh"), L.Dense(2)])
    x, y = tf.random.normal([7, 9, 5]), tf.random.normal([7, 9, 2])
    sums = [compiled(model, x, y, exclude=e).count(" reduce(") for e in ((), [norm])]
    assert sums[0] == sums[1] > 0


def test_layers_that_read_the_same_tensor_share_one_factorization():
    inputs = keras.Input((20,))
    heads = [L.Dense(width)(inputs) for width in (4, 5, 6)]
    model = keras.Model(inputs, L.Dense(2)(L.concatenate(heads)))
    x, y = tf.random.normal([7, 20]), tf.random.normal([7, 2])
    outer = count(compiled_dots(model, x, y, solver=Exact("dual")), 7, 7)
    one = keras.Sequential([keras.Input((20,)), L.Dense(15), L.Dense(2)])
    assert outer == count(compiled_dots(one, x, y, solver=Exact("dual")), 7, 7)


def test_shared_factorization_gives_each_head_its_own_direction():
    inputs = keras.Input((6,))
    heads = [L.Dense(width, use_bias=width != 4)(inputs) for width in (3, 4, 5)]
    model = keras.Model(inputs, L.Dense(2)(L.concatenate(heads)))
    x, y = tf.random.normal([9, 6]), tf.random.normal([9, 2])

    def directions(exclude):
        with keras_proxprop.ImplicitGradientTape(model, exclude=exclude) as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
        return tape.gradient(loss, model.trainable_variables)

    together = directions(())
    names = [layer.name for layer in model.layers if isinstance(layer, L.Dense)][:3]
    for i, name in enumerate(names):
        alone = directions([other for other in names if other != name])
        for v, a, b in zip(model.trainable_variables, together, alone):
            if v.path.startswith(name + "/"):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7, err_msg=str(i))


class Shape(Rows):
    """Rows of a size that nobody computes with."""

    count = None

    def __init__(self, count, features):
        super().__init__(False, features, tf.float32)
        self.count, self.gram_cost = count, features**2


@pytest.mark.parametrize(
    "count, features, columns, form",
    [
        (64, 785, 1000, "dual"),
        (500, 3073, 4000, "dual"),
        (8192, 513, 512, "primal"),
        (20_000, 20_000, 10, f"cg-{ITERATIONS}"),
    ],
)
def test_auto_takes_the_cheapest_form(count, features, columns, form):
    chosen, price = Auto().choice(Shape(count, features), columns)
    assert chosen == form
    assert price > 0


def test_cg_is_taken_above_the_stated_multiple_only():
    rows = Shape(1000, 1000)
    for columns in (1, 10, 100, 1000):
        form, _ = Auto().choice(rows, columns)
        exact = min(price.primal_and_dual(rows, columns, 1000).values())
        limit = 30 * price.backpropagation(rows, columns, 1000)
        assert form.startswith("cg") == (exact > limit)


def test_rows_of_unequal_replicas_are_counted_once_for_a_choice(monkeypatch):
    # Five here and five elsewhere: as a tensor, where not all replicas have five.
    monkeypatch.setattr(price.replicas, "total_count", lambda count: tf.constant(5) + count)
    cost = machine.in_force().choice
    names = price.run_cheapest(
        MatrixRows(tf.zeros([5, 3]), False),
        lambda count: {"a": count * cost, "b": 12.0 * cost},
        tf.constant,
    )
    assert names.numpy() == b"a"


def test_the_choice_at_run_time_follows_the_batch():
    x = tf.random.normal([400, 100])
    ran = []

    @tf.function(input_signature=[tf.TensorSpec([None, 100])])
    def step(x):
        rows = MatrixRows(x, True)
        return price.run_cheapest(
            rows,
            lambda n: price.primal_and_dual(rows, 10, n),
            lambda form: tf.constant({"primal": 0, "dual": 1}[form]),
        )

    for n in (4, 400):
        ran.append(int(step(x[:n])))
        rows = MatrixRows(x[:n], True)
        costs = price.primal_and_dual(rows, 10, n)
        assert ran[-1] == int(costs["dual"] < costs["primal"])
    assert ran == [1, 0]


@pytest.mark.parametrize("count", [8, 500])
def test_xla_compiles_the_chosen_form_only(count):
    @tf.function(
        jit_compile=True,
        input_signature=[tf.TensorSpec([None, 100]), tf.TensorSpec([None, 60])],
    )
    def step(x, d):
        return Exact().solve(MatrixRows(x, True), d, Tau(1.0))

    x, d = tf.random.normal([count, 100]), tf.random.normal([count, 60])
    hlo = step.experimental_get_compiler_ir(x, d)(stage="optimized_hlo")
    factorized = {n for n in (count, 101) if f"f64[{n},{n}]" in hlo}
    assert factorized == {min(count, 101)}

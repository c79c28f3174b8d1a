"""`summary` says which layers step implicitly, why the others do not, and in which form."""

import keras
import numpy as np
import pytest
from helpers import assert_equal_weights, steps

import keras_proxprop
from keras_proxprop import ImplicitGradientTape, ProxProp, RowAdam, solvers
from keras_proxprop.reports.summary import layer_reports

layers = keras.layers


def sequential():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, "relu", name="a"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(4, name="b"),
            layers.Softmax(),
        ]
    )


def functional():
    inputs = keras.Input((6,))
    a = layers.Dense(5, "relu", name="a")(inputs)
    norm = layers.BatchNormalization(name="norm")(a)
    return keras.Model(inputs, layers.Dense(4, name="b")(norm))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.b = layers.Dense(4, name="b")
        self.norm = layers.BatchNormalization(name="norm")
        self.a = layers.Dense(5, "relu", name="a")

    def call(self, x, training=False):
        return self.b(self.norm(self.a(x), training=training))


def called():
    model = Subclassed()
    model(np.zeros((2, 6)))
    return model


def nested():
    inner = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, "relu", name="a"),
            layers.BatchNormalization(name="norm"),
        ]
    )
    return keras.Sequential([keras.Input((6,)), inner, layers.Dense(4, name="b")])


def trained():
    model = Subclassed()
    model.compile(optimizer=ProxProp(), loss="mse", jit_compile=False)
    model.fit(np.zeros((8, 6)), np.zeros((8, 4)), batch_size=5, verbose=0)
    return model


def test_the_rate_of_row_adam_follows_the_rows_and_others_have_one():
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(3, 5, padding="same", name="conv"),
            layers.Flatten(),
            layers.Dense(4, name="dense"),
            layers.Dense(2, name="last"),
        ]
    )

    def rates(optimizer):
        return {r.name: r.rate for r in layer_reports(model, 64, optimizer)}

    expected = {"conv": 256 ** (1 / 3), "dense": 1, "last": 1}
    assert rates(ProxProp(RowAdam())) == pytest.approx(expected)
    assert set(rates(ProxProp("adam")).values()) == {1}


KINDS = [sequential, functional, called, nested, trained]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_every_kind_of_model_has_a_row_per_weighted_layer(make):
    reports = {r.name: r for r in layer_reports(make(), batch_size=9)}
    assert {name: r.step for name, r in reports.items()} == {
        "a": "implicit",
        "norm": "implicit",
        "b": "explicit: final layer",
    }
    assert {name: r.weights for name, r in reports.items()} == {"a": 35, "norm": 10, "b": 24}
    assert (reports["a"].row_count, reports["a"].features) == (9, 7)


def test_the_table_is_printed_with_its_totals(capsys):
    keras_proxprop.summary(functional(), batch_size=64)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Implicit steps of 'functional', batch size 64"
    assert [c in lines[1] for c in ("Layer", "Step", "Rows × features", "Solver")] == [
        True
    ] * 4
    a, norm, b, total = lines[3:]
    assert a.split()[:4] == ["a", "(Dense)", "35", "implicit"]
    assert "64 × 7" in a and "memory/100" in a
    assert norm.split()[:4] == ["norm", "(BatchNormalization)", "10", "implicit"]
    assert "64 × 2" in norm and "closed" in norm
    assert "explicit: final layer" in b
    assert total.startswith("45 of 69 trainable weights step implicitly")


def test_without_a_batch_size_it_is_what_fit_takes(capsys):
    keras_proxprop.summary(functional())
    out = capsys.readouterr().out
    assert "batch size 32" in out and "32 × 7" in out


def test_it_reports_for_the_optimizer_that_the_model_is_compiled_with():
    model = functional()
    assert steps(model)["b"] == "explicit: final layer"
    model.compile(optimizer=ProxProp(final_layer="implicit"), loss="mse")
    assert steps(model)["b"] == "implicit"
    model.compile(
        optimizer=keras.optimizers.LossScaleOptimizer(ProxProp(exclude="a")), loss="mse"
    )
    assert steps(model)["a"] == "explicit: excluded"
    assert steps(model, optimizer=ProxProp())["a"] == "implicit"


@pytest.mark.parametrize("solver", ["auto", "exact"])
def test_the_form_follows_the_batch_size(solver):
    model = keras.Sequential([keras.Input((200,)), layers.Dense(50), layers.Dense(4)])
    reports = {
        b: layer_reports(model, b, ProxProp(solver=solver, memory=None))[0] for b in (16, 4000)
    }
    assert {b: r.solver for b, r in reports.items()} == {16: "dual", 4000: "primal"}
    assert {b: r.row_count for b, r in reports.items()} == {16: 16, 4000: 4000}
    assert all(0 < r.extra for r in reports.values())


@pytest.mark.parametrize(
    "solver, form", [(solvers.Exact("dual"), "dual"), (solvers.ConjugateGradient(4), "cg-4")]
)
def test_a_chosen_form_is_reported(solver, form):
    reports = layer_reports(functional(), 64, ProxProp(solver=solver, memory=None))
    assert reports[0].solver == form


def test_rows_count_positions_pixels_and_calls():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, name="conv")(inputs)
    twice = layers.Dense(4, name="twice")
    x = twice(twice(x))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    rows = {r.name: (r.row_count, r.features) for r in layer_reports(model, 10)}
    assert rows["conv"] == (10 * 3 * 3, 3 * 3 * 3 + 1)
    assert rows["twice"] == (2 * 10 * 3 * 3, 5)


def test_axes_of_unknown_length_count_as_64():
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    assert layer_reports(model, 2)[0].row_count == 2 * 64 * 64


def test_several_inputs_are_known_from_a_recorded_call():
    class TwoInputs(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.last = (layers.Dense(3, name=n) for n in ("a", "b", "last"))

        def call(self, first, second):
            return self.last(self.a(first) + self.b(second["x"][0]))

    model = TwoInputs()
    with ImplicitGradientTape(model):
        model(np.zeros((2, 4)), {"x": [np.zeros((2, 5))]})
    assert {r.name: r.features for r in layer_reports(model)} == {"a": 5, "b": 6, "last": 0}


def test_unknown_input_shapes_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"model.build\(input_shape\)"):
        keras_proxprop.summary(Subclassed())


def test_a_summary_leaves_the_model_as_it_is():
    model = nested()
    values = [v.numpy() for v in model.variables]
    attributes = [set(vars(layer)) for layer in model._flatten_layers()]
    keras_proxprop.summary(model)
    assert_equal_weights([v.numpy() for v in model.variables], values)
    assert [set(vars(layer)) for layer in model._flatten_layers()] == attributes


def test_backpropagation_of_a_lookup_is_not_that_of_its_whole_vocabulary():
    tokens = keras.Input((7,), dtype="int32")
    tied = layers.ReversibleEmbedding(1000, 4)
    logits = tied(layers.Embedding(50, 4)(tokens) + tied(tokens), reverse=True)
    lookup, both = sorted(
        layer_reports(keras.Model(tokens, logits), 2), key=lambda r: r.backpropagation
    )
    assert lookup.kind == "Embedding" and lookup.backpropagation == 3 * 2 * 7 * 4
    # Of the entries of lookups and of logits, each with as many weights as a token has.
    assert both.backpropagation == 3 * 2 * 7 * (4 + 1000) * 4

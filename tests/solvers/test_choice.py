"""Of the forms that a solver has the cheapest is taken."""

import numpy as np
import pytest
import tensorflow as tf
from solver_cases import unknown

from keras_proxprop import machine, solvers
from keras_proxprop.rows.matrix import MatrixRows
from keras_proxprop.solvers import price
from keras_proxprop.solvers.auto import ITERATIONS, Auto
from keras_proxprop.tau import Tau


def test_auto_takes_the_smaller_matrix():
    assert Auto().choice(unknown(64, 4000), 1000)[0] == "dual"
    assert Auto().choice(unknown(100_000, 100), 16)[0] == "primal"
    assert solvers.Exact().choice(unknown(64, 4000), 1000)[0] == "dual"
    assert solvers.Exact().choice(unknown(100_000, 100), 16)[0] == "primal"


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_smaller_matrix_is_taken_at_run_time_where_the_batch_size_is_unknown(jit_compile):
    def dual_is_taken(x):
        return price.run_cheapest(
            MatrixRows(x, bias=False),
            lambda count: price.primal_and_dual(MatrixRows(x, bias=False), 6, count),
            lambda form: tf.constant(form == "dual"),
        )

    taken = tf.function(
        dual_is_taken,
        input_signature=[tf.TensorSpec([None, 100], tf.float32)],
        jit_compile=jit_compile,
    )
    assert taken(tf.zeros([8, 100]))
    assert not taken(tf.zeros([500, 100]))


@pytest.mark.parametrize("saved, forms", [(0.9, ["a"]), (1.1, ["a", "b"])])
def test_there_is_a_choice_at_run_time_only_where_it_can_save_more_than_it_costs(saved, forms):
    cost = machine.in_force().choice

    def prices(count):
        # With one row "b" saves nearly all of what "a" costs; "c" is never the cheapest.
        return {"b": count * cost / 10, "a": (saved + 0.1) * cost, "c": 3 * cost}

    tried = []

    def run(form):
        tried.append(form)
        return tf.constant(form)

    taken = tf.function(
        lambda x: price.run_cheapest(MatrixRows(x, bias=False), prices, run),
        input_signature=[tf.TensorSpec([None, 100], tf.float32)],
    )
    assert taken(tf.zeros([5, 100])) == forms[-1]
    assert taken(tf.zeros([50, 100])) == "a"
    assert sorted(tried) == forms
    assert price.cheapest(unknown(64, 100), prices, batch_known=False)[0] == "a"


def test_auto_takes_cg_where_both_matrices_are_huge():
    form, price = Auto().choice(unknown(20_000, 20_000), 20)
    exact = solvers.Exact().choice(unknown(20_000, 20_000), 20)[1]
    assert form.startswith("cg")
    assert price < exact / 100


def test_auto_solves_20000_classes_exactly():
    assert Auto().choice(unknown(64, 512), 20_000)[0] == "dual"


def test_where_auto_takes_cg_it_does_what_cg_does():
    random = np.random.default_rng(0)
    rows = MatrixRows(tf.constant(random.normal(size=(400, 400))), bias=False)
    d, tau = tf.constant(random.normal(size=(400, 1))), Tau(tf.constant(0.7, tf.float64))
    cg = solvers.ConjugateGradient(ITERATIONS)
    assert Auto().choice(rows, 1) == cg.choice(rows, 1)
    # Two replicas would tell each other the gradient, and the product of every iteration.
    assert Auto().traffic(rows, 1) == cg.traffic(rows, 1) == (1 + ITERATIONS) * 400
    ((p,), _), ((expected,), _) = (solver.solve(rows, d, tau) for solver in (Auto(), cg))
    np.testing.assert_array_equal(p, expected)
    assert Auto.from_config(Auto().get_config()).choice(rows, 1) == cg.choice(rows, 1)


@pytest.mark.parametrize(
    "count, features, columns, sent",
    [
        # The rows and `D`; a Gram matrix's upper triangle and the gradient; the gradient and
        # a product for each iteration.
        (3, 1000, 50, 3 * 1000 + 3 * 50),
        (5000, 3, 2, 3 * 4 // 2 + 3 * 2),
        (400, 400, 1, 3 * 400),
    ],
    ids=["dual", "gram", "rows"],
)
def test_replicas_that_make_cg_send_what_its_cheapest_form_needs(
    count, features, columns, sent
):
    cg = solvers.ConjugateGradient(2)
    assert cg.traffic(unknown(count, features), columns) == sent

"""Of the forms that a solver has the cheapest is taken."""

import pytest
import tensorflow as tf
from solver_cases import unknown

from keras_proxprop import solvers
from keras_proxprop.rows.matrix import MatrixRows
from keras_proxprop.solvers import price
from keras_proxprop.solvers.auto import Auto


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


def test_auto_takes_cg_where_both_matrices_are_huge():
    form, price = Auto().choice(unknown(20_000, 20_000), 20)
    exact = solvers.Exact().choice(unknown(20_000, 20_000), 20)[1]
    assert form.startswith("cg")
    assert price < exact / 100


def test_auto_solves_20000_classes_exactly():
    assert Auto().choice(unknown(64, 512), 20_000)[0] == "dual"

"""Small weights step together: what comes of it is what comes of one step after another."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_proxprop import ScheduleFreeAdam

SHAPES = ((3, 4), (4,), (), (2, 3, 2, 5), (0, 4), (130, 70), (1, 7), (4, 4))


def variables(dtypes):
    random = np.random.default_rng(0)
    return [
        keras.Variable(random.normal(size=shape), dtype=dtype)
        for shape, dtype in zip(SHAPES, dtypes * len(SHAPES))
    ]


def stepped(optimizer, made, compiled):
    random = np.random.default_rng(1)
    optimizer.build(made)

    def step(*gradients):
        optimizer.apply(list(gradients), made)

    step = tf.function(step) if compiled else step
    for scale in (1.0, 30.0, 0.1):
        step(*(tf.cast(scale * random.normal(size=v.shape), v.dtype) for v in made))
    return [np.asarray(v.numpy(), "float64") for v in (*made, *optimizer.variables)]


@pytest.mark.parametrize("dtypes", [("float32",), ("float32", "float64"), ("float16",)])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("arguments", [{}, {"clipnorm": 0.1}, {"weight_decay": 0.1}], ids=str)
def test_steps_and_slots_are_those_of_one_after_another(
    dtypes, compiled, arguments, monkeypatch
):
    together = stepped(ScheduleFreeAdam(0.002, **arguments), variables(dtypes), compiled)
    monkeypatch.setattr(ScheduleFreeAdam, "goes_together", lambda self, variable: False)
    monkeypatch.delattr(ScheduleFreeAdam, "update_together")
    alone = stepped(ScheduleFreeAdam(0.002, **arguments), variables(dtypes), compiled)
    unit = np.finfo("float16" if dtypes == ("float16",) else "float32").eps
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=8 * unit, atol=8 * unit)


def test_only_those_with_a_gradient_step_and_only_small_ones_go_together(monkeypatch):
    groups = []
    update = ScheduleFreeAdam.update_together

    def noted(self, gradients, variables, learning_rate):
        groups.append([tuple(variable.shape) for variable in variables])
        update(self, gradients, variables, learning_rate)

    monkeypatch.setattr(ScheduleFreeAdam, "update_together", noted)
    made = variables(("float32",))
    optimizer, before = ScheduleFreeAdam(0.002), made[0].numpy()
    optimizer.build(made)
    sparse = tf.IndexedSlices(tf.ones((1, 4)), [2], [4, 4])
    gradients = [None, *(tf.ones(v.shape) for v in made[1:-1]), sparse]
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply(gradients, made)
    # (130, 70) is large, (3, 4) has no gradient; a sparse one is made dense, as ever.
    assert groups == [[shape for shape in SHAPES[1:] if shape != (130, 70)]]
    np.testing.assert_array_equal(made[0].numpy(), before)


def test_a_subclass_that_makes_steps_of_its_own_is_asked_for_each():
    class Still(ScheduleFreeAdam):
        def update_step(self, gradient, variable, learning_rate):
            stepped_with.append(tuple(variable.shape))

    stepped_with, made = [], variables(("float32",))
    stepped(Still(0.002), made, False)
    assert stepped_with == 3 * list(SHAPES)

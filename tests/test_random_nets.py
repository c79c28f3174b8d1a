"""Over random nets and data a direction solves its problem, descends, and is finite.

More of them: `pytest tests/test_random_nets.py --hypothesis-profile=long`.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import event, given, note
from hypothesis import strategies as st
from layer_problems import problems, steps
from random_nets import KINDS, data, nets

from keras_proxprop import CurvatureMemory, ImplicitGradientTape, ProxProp

# What the README promises of an exact step in float32, where it is not damped.
PROMISED = 1e-3
# By which part of itself memory raises the diagonal of a Gram matrix.
FLOOR = 1e-5
# Unit roundoffs of the dtypes that layers compute in.
ROUNDOFF = {"float16": 5e-4, "bfloat16": 4e-3, "float32": 6e-8, "float64": 1e-16}
TAUS = st.one_of(st.just("auto"), st.floats(-6, 6).map(lambda power: 10**power))


def losses(kind, model):
    """Returns a loss of a model's outputs, and of its regularizers."""

    def loss(outputs):
        outputs = tf.cast(outputs, "float64" if outputs.dtype == tf.float64 else "float32")
        target = tf.range(tf.cast(tf.size(outputs), outputs.dtype), dtype=outputs.dtype)
        target = tf.reshape(tf.sin(target), tf.shape(outputs))
        if kind == "zero":
            target = tf.stop_gradient(outputs)
        value = tf.reduce_mean((outputs - target) ** 2)
        return tf.add_n([value, *(tf.cast(part, value.dtype) for part in model.losses)])

    return loss


def flat(parts):
    """Returns all entries of some tensors in one vector, in float64."""
    arrays = [tf.convert_to_tensor(part).numpy() for part in parts]
    return np.concatenate([array.astype(float).reshape(-1) for array in arrays])


def roundoff(step):
    """Returns that of the sums `AᵀD`."""
    layer = step.layer
    # In a net all in half precision `D` is as off as what the layers after made of it.
    return ROUNDOFF[layer.compute_dtype if step.made.is_composite else layer.variable_dtype]


def one_tau(tau, a):
    """Returns τ of a problem with Jacobian `a` as a number."""
    return 1 / (0.1 * np.mean(np.sum(a**2, axis=0)) + 1e-12) if tau == "auto" else tau


def proximal(a, gradient, errors, tau):
    """Returns `(AᵀA + I/τ)⁻¹ g`, the condition of the matrix scaled to unit diagonal, and how
    much `errors` in the entries of `g` may change the direction."""
    matrix = a.T @ a + np.eye(a.shape[1]) / tau
    scale = 1 / np.sqrt(np.diag(matrix))
    values, vectors = np.linalg.eigh(matrix * scale[:, None] * scale)
    values = np.maximum(values, 1e-18)
    inverse = scale[:, None] * ((vectors / values) @ vectors.T) * scale
    rounded = np.linalg.norm(np.abs(inverse) @ errors)
    return inverse @ gradient, values[-1] / values[0], rounded


@pytest.mark.filterwarnings("ignore:.* damped. the inputs")
@given(
    net=nets(),
    batch=st.sampled_from([1, 2, 3, 8]),
    kind=st.sampled_from(KINDS),
    tau=TAUS,
    solver=st.sampled_from(["auto", "exact", "cg"]),
    memory=st.booleans(),
    loss_kind=st.sampled_from(["mse", "mse", "mse", "zero"]),
    seed=st.integers(0, 9),
)
def test_a_direction_solves_its_problem_descends_and_is_finite(
    net, batch, kind, tau, solver, memory, loss_kind, seed
):
    keras.utils.set_random_seed(seed)
    model = net.model()
    x = data(net, batch, kind, seed)
    loss = losses(loss_kind, model)
    memory = CurvatureMemory(layers="all") if memory and solver != "cg" else None
    optimizer = ProxProp(tau=tau, solver=solver, final_layer="implicit", memory=memory)
    model(x)
    expected = steps(net, model, x, loss)
    with tf.GradientTape() as tape:
        value = loss(model(x, training=True))
    variables = model.trainable_variables
    gradients = tape.gradient(value, variables)
    with ImplicitGradientTape(model, **optimizer.step_arguments()) as tape:
        value = loss(model(x, training=True))
    directions = tape.gradient(value, variables)
    check(expected, variables, gradients, directions, tau, solver, memory, tape.damped.numpy())


def check(expected, variables, gradients, directions, tau, solver, memory, damped):
    of = {id(v): i for i, v in enumerate(variables)}
    if not np.all(np.isfinite(flat(gradients))):
        event("the gradient is not finite")
        return
    for step in expected:
        indices = [of[id(v)] for v in step.layer.trainable_variables]
        for own, a, right, terms in problems(step):
            note(f"{step.made} on {step.inputs.shape}")
            p, g = (flat([all_[indices[i]] for i in own]) for all_ in (directions, gradients))
            if tau == "auto" and "GRU" in step.made.kinds:
                # Its problems, two or three, have a τ each.
                assert np.all(np.isfinite(p)), "a direction is not finite"
                continue
            dtype = step.layer.compute_dtype
            if "RMSNormalization" in step.made.kinds and dtype == step.layer.variable_dtype:
                if dtype in ("float16", "bfloat16"):
                    # `RMSNormalizationBlock` says why.
                    np.testing.assert_array_equal(p, g)
                    continue
            lost = 16 * roundoff(step)
            errors = lost * terms
            if step.layer.variable_dtype in ("float16", "bfloat16"):
                # Where the layer's own gradient is off, by its rounding, so is the direction.
                errors = errors + np.abs(g - right)
            exact, condition, rounded = proximal(a, right, errors, one_tau(tau, a))
            if (
                step.layer.variable_dtype == "float16"
                and np.max(np.abs(exact)) > np.finfo("float16").max
            ):
                # No step is made.
                event("the direction is none of float16")
                continue
            assert np.all(np.isfinite(p)), "a direction is not finite"
            held = as_held(exact, [step.layer.trainable_variables[i] for i in own])
            check_descent(p, g, held, right, lost, terms)
            if solver == "cg" or damped:
                continue
            tolerance = 1e-10 if dtype == "float64" else PROMISED
            tolerance += 1e3 * ROUNDOFF["float64"] * condition
            tolerance += 2 * FLOOR * condition if memory else 0
            rounded += np.linalg.norm(held - exact)
            check_solution(p, exact, tolerance, rounded, not np.any(g))


def as_held(direction, weights):
    """Returns a direction, rounded to the dtype of its weights."""
    dtype = weights[0].dtype
    # What rows of a lookup add up to is lost where each row by itself is too small.
    least = 1e-6 if dtype == "float16" else 0.0
    return flat([tf.cast(np.where(np.abs(direction) < least, 0.0, direction), dtype)])


def check_descent(p, g, exact, right, lost, terms):
    """Fails where `p` does not descend, unless rounding could have done that to `exact`."""
    inner = exact @ right
    clear = inner > 10 * lost * np.linalg.norm(terms) * np.linalg.norm(exact)
    # In float16 all of a gradient may be too small to be held.
    clear = clear and np.any(g)
    event(f"descent is {'clear' if clear else 'lost in rounding'}")
    assert p @ g > 0 or not clear, f"no descent: {p @ g}, not {inner}"


def check_solution(p, exact, tolerance, rounded, is_zero):
    error, length = np.linalg.norm(p - exact), np.linalg.norm(exact)
    allowed = tolerance * length + rounded
    clear = allowed < 0.1 * length
    event(f"solution is {'clear' if clear else 'zero' if is_zero else 'lost in rounding'}")
    if clear or is_zero:
        assert error <= allowed, f"error {error / length:.1e}, allowed {allowed / length:.1e}"

"""Random nets and data for property tests: chains of layers of every kind."""

import dataclasses
import random

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers
from random_layers import Made

SMALL = st.integers(1, 4)
ACTIVATIONS = st.sampled_from([None, "relu", "tanh", "gelu", "softplus"])
RECURRENT = ("SimpleRNN", "LSTM", "GRU")
POLICIES = ("float32", "float64", "mixed_bfloat16", "mixed_float16", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Net:
    """Layers with an activation after each, a policy, and the inputs' shape."""

    shape: tuple
    layers: tuple
    activations: tuple
    policy: str

    def model(self):
        chain = []
        for made, activation in zip(self.layers, self.activations):
            chain += [made.layer(self.policy)]
            chain += [layers.Activation(activation, dtype=self.policy)] if activation else []
        dtype = "float64" if self.policy == "float64" else "float32"
        dtype = "int32" if self.layers[0].takes_ids else dtype
        return keras.Sequential([keras.Input(self.shape, dtype=dtype), *chain])


def draw_layer(draw, shape):
    """Returns a `Made` that fits inputs of a shape, without the batch's axis."""
    channels, order = shape[-1], len(shape) - 1
    names = ["Dense", "Dense", "Twice", "Parallel", "PReLU"]
    names += ["BatchNormalization", "LayerNormalization", "RMSNormalization"]
    names += ["GroupNormalization", "LayerScale"]
    if order == 1:
        names += [*RECURRENT, "EinsumDense", "MultiHeadAttention"]
        names += ["GroupQueryAttention", "Bidirectional"]
    if order:
        names += ["TimeDistributed"]
        names += [f"Conv{order}D", f"Conv{order}D", f"Conv{order}DTranspose"]
    if order in (1, 2):
        names += [f"DepthwiseConv{order}D", f"SeparableConv{order}D"]
    name = draw(st.sampled_from(names))
    bias, units = {"use_bias": draw(st.booleans())}, draw(SMALL)
    if name in ("Dense", "Parallel"):
        return Made(name, {"units": units, **bias, **draw_regularizer(draw)})
    if name == "Twice":
        return Made(name, {"units": channels, **bias})
    if name in RECURRENT:
        return draw_recurrent(draw, name)
    if name == "Bidirectional":
        inside = draw_recurrent(draw, draw(st.sampled_from(RECURRENT)))
        merged = draw(st.sampled_from(["concat", "sum", "mul"]))
        return Made(name, {"merge_mode": merged}, inside)
    if name == "TimeDistributed":
        return Made(name, {}, draw_layer(draw, shape[1:]))
    if name == "LayerScale":
        return Made(name, {"init_values": 0.5, "projection_dim": channels})
    if name == "EinsumDense":
        equations = ["abc,cd->abd", "abc,bcd->abd", "abc,bd->adc"]
        equation = draw(st.sampled_from(equations))
        size = {"d": units, "b": shape[0], "c": channels}
        arguments = {"equation": equation}
        arguments["output_shape"] = tuple(size[axis] for axis in equation[-2:])
        # A bias along other axes than the kernel's steps explicitly.
        axes = {"bias_axes": "bd" if equation == "abc,bcd->abd" else "d"}
        return Made(name, {**arguments, **(axes if bias["use_bias"] else {})})
    if name == "MultiHeadAttention":
        return Made(name, {"num_heads": min(units, 2), "key_dim": 2, **bias})
    if name == "GroupQueryAttention":
        heads = {"head_dim": 2, "num_query_heads": 2, "num_key_value_heads": 1}
        return Made(name, {**heads, **bias})
    if name == "GroupNormalization":
        divisors = [n for n in range(1, channels + 1) if channels % n == 0]
        return Made(name, {"groups": draw(st.sampled_from(divisors))})
    if "Conv" in name:
        return Made(name, {**draw_convolution(draw, name, shape), **bias})
    return Made(name, {})


def draw_recurrent(draw, name):
    arguments = {"units": draw(st.integers(1, 3)), "use_bias": draw(st.booleans())}
    # An orthogonal matrix, which is Keras's default, cannot be made in bfloat16.
    arguments["recurrent_initializer"] = "glorot_uniform"
    return Made(name, {**arguments, "return_sequences": draw(st.booleans())})


def draw_embedding(draw, width):
    arguments = {"input_dim": 5, "output_dim": width}
    # Came with Keras 3.12.
    if hasattr(layers, "ReversibleEmbedding") and draw(st.booleans()):
        tied = {"tie_weights": draw(st.booleans())}
        return Made("LookupAndProjection", {**arguments, **tied})
    return Made("Embedding", arguments)


def draw_regularizer(draw):
    return draw(
        st.sampled_from([{}, {}, {"kernel_regularizer": keras.regularizers.L2(0.125)}])
    )


def draw_convolution(draw, name, shape):
    """Returns arguments of a convolution with at least one window."""
    order, channels = len(shape) - 1, shape[-1]
    kernel = [draw(st.integers(1, min(3, n))) for n in shape[:-1]]
    kind = draw(st.sampled_from(["plain", "strided", "dilated"]))
    paddings = ["valid", "same"] + ["causal"] * (name == "Conv1D")
    arguments = {"kernel_size": kernel, "padding": draw(st.sampled_from(paddings))}
    if kind == "strided":
        arguments["strides"] = draw(st.integers(1, 3))
    elif kind == "dilated" and arguments["padding"] != "valid" and "Trans" not in name:
        arguments["dilation_rate"] = draw(st.integers(1, 2))
    if name.startswith(("Depthwise", "Separable")):
        arguments["depth_multiplier"] = draw(st.integers(1, 2))
    groups = 1
    if name == f"Conv{order}D":
        groups = draw(st.sampled_from([n for n in (1, channels) if channels % n == 0]))
        arguments["groups"] = groups
    if not name.startswith("Depthwise"):
        arguments["filters"] = draw(st.integers(1, 2)) * groups
    return arguments


def output_shape(made, shape):
    """Returns the shape of a layer's outputs, without the batch's axis."""
    # Initializers draw seeds from Python's generator, which is Hypothesis's here.
    state = random.getstate()
    shape = made.layer("float32").compute_output_shape((2, *shape))[1:]
    random.setstate(state)
    return shape


@st.composite
def nets(draw, policies=POLICIES):
    order = draw(st.sampled_from([0, 0, 1, 1, 2, 2, 3]))
    shape = tuple(draw(st.integers(1, 4 if order < 3 else 3)) for _ in range(order))
    shape = first = (*shape, draw(SMALL))
    chain = []
    if order == 1 and draw(st.booleans()):
        first = shape[:1]
        chain.append(draw_embedding(draw, shape[1]))
        shape = output_shape(chain[0], first)
    for _ in range(draw(st.integers(0 if chain else 1, 3))):
        chain.append(draw_layer(draw, shape))
        shape = output_shape(chain[-1], shape)
        if 0 in shape:
            chain.pop()
            break
    activations = tuple(draw(ACTIVATIONS) for _ in chain)
    return Net(first, tuple(chain), activations, draw(st.sampled_from(policies)))


KINDS = ("normal", "zeros", "duplicates", "constant", "scales", "huge", "tiny", "sparse")


def data(net, batch, kind, seed):
    """Returns inputs of a kind, as an array."""
    rng = np.random.default_rng(seed)
    shape = (batch, *net.shape)
    if net.layers[0].takes_ids:
        return rng.integers(1 if kind in ("zeros", "constant") else 5, size=shape)
    x = rng.normal(size=shape)
    if kind == "zeros":
        x *= 0
    elif kind == "duplicates":
        x[:] = x[:1]
        x[..., -1] = x[..., 0]
    elif kind == "constant":
        x[..., 0] = 1.7
    elif kind == "scales":
        x *= 10 ** rng.uniform(-5, 5, size=shape[-1])
    elif kind in ("huge", "tiny"):
        x *= {"huge": 1e5, "tiny": 1e-5}[kind]
    elif kind == "sparse":
        x = np.maximum(x - 0.5, 0)
    return x.astype("float64" if net.policy == "float64" else "float32")

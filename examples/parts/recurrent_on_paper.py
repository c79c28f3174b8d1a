"""What a recurrent layer on a GPU loses without cuDNN: launches, counted in its loops."""

import keras
import tensorflow as tf

from keras_proxprop import ImplicitGradientTape, machine

L = keras.layers
BATCH, TIME, UNITS = 64, 100, 512
LAYERS = {"LSTM": L.LSTM, "GRU": L.GRU}
# What cuDNN launches for a step in time, each way: a product, and all gates in one kernel.
CUDNN = 2
# Operations that compute nothing: they name, place or shape what is there.
NO_KERNEL = {
    "Const",
    "Identity",
    "Placeholder",
    "Reshape",
    "ReadVariableOp",
    "StopGradient",
    "While",
    "StatelessWhile",
}


def launches(layer_class):
    """Returns how many kernels TensorFlow's loops launch for a step in time, both ways."""
    inputs = keras.Input((TIME, UNITS))
    layer = layer_class(UNITS, use_cudnn=False)
    model = keras.Model(inputs, L.Dense(1)(layer(inputs)))

    @tf.function(autograph=False)
    def step(x):
        with ImplicitGradientTape(model, tau="auto") as tape:
            loss = tf.reduce_sum(model(x, training=True))
        return tape.gradient(loss, model.trainable_variables)

    graph = step.get_concrete_function(tf.TensorSpec([BATCH, TIME, UNITS])).graph
    bodies = {
        op.get_attr("body").name for op in graph.get_operations() if op.type.endswith("While")
    }
    library = {f.signature.name: f for f in graph.as_graph_def().library.function}
    return sum(_is_kernel(node) for name in bodies for node in library[name].node_def)


def _is_kernel(node):
    # What is not float counts steps of the loop, on the host.
    floating = any(
        node.attr[key].type in (tf.float32.as_datatype_enum,) for key in ("T", "dtype")
    )
    return floating and node.op not in NO_KERNEL and not node.op.startswith("TensorList")


def recurrent_table():
    """Prints what each layer's step takes in TensorFlow's loop and by cuDNN."""
    print(
        "| layer | launches a step in time: loop | cuDNN | ms: loop | cuDNN | loop / cuDNN |"
    )
    print("|---|---|---|---|---|---|")
    for name, layer_class in LAYERS.items():
        gates = 4 if name == "LSTM" else 3
        # Backpropagation through two kernels of this many columns, for every step in time.
        products = 3 * 2 * BATCH * UNITS * gates * UNITS / machine.TF32
        counts = launches(layer_class), 2 * CUDNN
        loop, cudnn = (TIME * (count * machine.LAUNCH + products) for count in counts)
        figures = f"{counts[0]} | {counts[1]} | {1e3 * loop:.1f} | {1e3 * cudnn:.1f}"
        what = f"{name}({UNITS}), batch {BATCH}, {TIME} steps"
        print(f"| {what} | {figures} | {loop / cudnn:.1f} |", flush=True)

"""Trains a small vision transformer on scikit-learn's digits, with Adam and with ProxProp.

python examples/vit.py
python examples/vit.py --quick
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from parts.comparison import compare, parsed
from parts.transformer import block, with_places

L = keras.layers


def make_model(width=32, heads=4, depth=3):
    """Returns a transformer over the 16 patches of 2 × 2 pixels."""
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(width, 2, strides=2, name="patches")(inputs)
    x = with_places(L.Reshape((16, width))(x))
    for _ in range(depth):
        x = block(x, heads)
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(inputs, L.Dense(10)(x))


def main():
    args = parsed(__doc__, epochs=10, batch_size=64, quick="one layer, few images")
    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 8, 8, 1).astype("float32")
    x, x_val, y, y_val = train_test_split(x, y, test_size=0.2, random_state=args.seed)
    if args.quick:
        x, y = x[:256], y[:256]
    depth = 1 if args.quick else 3
    compare(lambda: make_model(depth=depth), (x, y, x_val, y_val), args)


if __name__ == "__main__":
    main()

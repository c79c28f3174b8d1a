"""Cross-validates a scikit-learn pipeline whose last part is a Keras model.

python examples/with_scikit_learn.py
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import keras_proxprop


def make_model(X, y, width=32):
    """Returns a compiled model for these features and one-hot classes.

    Keras gives the two by these names.
    """
    model = keras.Sequential(
        [
            keras.Input(X.shape[1:]),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(y.shape[-1], activation="softmax"),
        ]
    )
    # Each fit makes its own: an optimizer belongs to one model.
    model.compile(optimizer=keras_proxprop.ProxProp(), loss="categorical_crossentropy")
    return model


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--folds", type=int, default=3)
    args = parser.parse_args(argv)
    keras.utils.set_random_seed(0)
    classifier = keras.wrappers.SKLearnClassifier(make_model, model_kwargs={"width": 32})
    pipeline = make_pipeline(StandardScaler(), classifier)
    # A clone, which every fold makes, forgets the classifier's `fit_kwargs` in Keras 3.15.
    fit = {"epochs": args.epochs, "batch_size": 32, "verbose": 0}
    params = {f"sklearnclassifier__{name}": value for name, value in fit.items()}
    x, y = load_breast_cancer(return_X_y=True)
    scores = cross_val_score(pipeline, x, y, cv=args.folds, params=params)
    print("accuracy of every fold:", *(f"{score:.3f}" for score in scores))
    return scores


if __name__ == "__main__":
    main()

"""A model, and directions that a tape makes for it."""

import tensorflow as tf
from scenarios import data

from keras_proxprop import ImplicitGradientTape, ProxProp

X, Y = map(tf.constant, data(8))


def new():
    return ProxProp("sgd", 0.1, tau=1.0, memory=None)


def directions(model, x=X, y=Y, tape=ImplicitGradientTape):
    with tape(model) if tape is ImplicitGradientTape else tape() as recorded:
        loss = tf.reduce_mean(tf.square(y - model(x)))
    return recorded.gradient(loss, model.trainable_variables)


def plain(model, x=X, y=Y):
    return directions(model, x, y, tf.GradientTape)

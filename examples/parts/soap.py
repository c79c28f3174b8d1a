"""SOAP: Adam in the eigenbasis of Shampoo's preconditioners."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="examples")
class SOAP(keras.optimizers.Optimizer):
    """Optimizer that implements SOAP.

    Every axis of a weight with two axes or more has an averaged matrix `G Gᵀ` of gradients and
    a basis near its eigenvectors, which a power step and a QR decomposition refresh every
    `precondition_frequency` steps. The second moment is Adam's, of gradients in these bases.
    Weights with one axis, or none, take Adam's steps; so do axes that are too long. The first
    step only makes the bases.

    Args:
        learning_rate: a float or a schedule. Defaults to `0.003`.
        beta_1: decay rate of the mean of gradients. Defaults to `0.95`.
        beta_2: decay rate of the mean of their squares, and of the matrices. Defaults to
            `0.95`.
        epsilon: what is added to the root of the mean of squares. Defaults to `1e-8`.
        weight_decay: decoupled, of all weights. Defaults to `0.01`.
        precondition_frequency: steps between refreshes of the bases. Defaults to `10`.
        max_precond_dim: the longest axis that has a basis. Defaults to `10000`.
        axes: which axes may have a basis; 0 is that of a `Dense` kernel's inputs. Defaults to
            `None`: all.
        name: name of the optimizer. Defaults to `"soap"`.
        **kwargs: arguments of every Keras optimizer.

    Source: Vyas et al., *SOAP: Improving and Stabilizing Shampoo using Adam*, ICLR 2025,
    Algorithm 3, and its authors' code.
    """

    def __init__(
        self,
        learning_rate=0.003,
        beta_1=0.95,
        beta_2=0.95,
        epsilon=1e-8,
        weight_decay=0.01,
        precondition_frequency=10,
        max_precond_dim=10000,
        axes=None,
        name="soap",
        **kwargs,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.precondition_frequency = precondition_frequency
        self.max_precond_dim = max_precond_dim
        self.axes = axes

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._means, self._squares = self.add_optimizer_variables(
            variables, ["mean", "square"]
        )
        self._grams, self._bases = [], []
        for variable in variables:
            axes = self._axes(variable.shape)
            self._grams.append([self._square(axis, "zeros") for axis in axes])
            self._bases.append([self._square(axis, "identity") for axis in axes])

    def _axes(self, shape):
        """Returns the lengths of a weight's axes, `None` for those without a basis."""
        if len(shape) < 2:
            return [None] * len(shape)
        wanted = range(len(shape)) if self.axes is None else self.axes
        allowed = {axis for axis in wanted if shape[axis] <= self.max_precond_dim}
        return [length if axis in allowed else None for axis, length in enumerate(shape)]

    def _square(self, length, initializer):
        if length is None:
            return None
        return self.add_variable((length, length), initializer, name=f"axis_{initializer}")

    def update_step(self, gradient, variable, learning_rate):
        # The gradient of an embedding comes as slices.
        gradient = tf.convert_to_tensor(gradient)
        index = self._get_variable_index(variable)
        mean, square = self._means[index], self._squares[index]
        grams, bases = self._grams[index], self._bases[index]
        step = tf.convert_to_tensor(self.iterations)
        # A step that only makes bases comes first; the paper counts from the one after it.
        first, count = step == 0, tf.cast(tf.maximum(step, 1), "float32")
        self._average_grams(grams, gradient, tf.where(first, 0.0, self.beta_2), first)

        def move():
            mean.assign(self.beta_1 * mean + (1 - self.beta_1) * gradient)
            turned = _turned(gradient, bases)
            square.assign(self.beta_2 * square + (1 - self.beta_2) * turned**2)
            quotient = _turned(mean.value, bases) / (tf.sqrt(square) + self.epsilon)
            bias = tf.sqrt(1 - self.beta_2**count) / (1 - self.beta_1**count)
            variable.assign_sub(learning_rate * bias * _turned(quotient, bases, back=True))

        # Weights without a basis have none to wait for, but their first step counts as well.
        tf.cond(first, lambda: None, move)
        if any(basis is not None for basis in bases):
            due = step % self.precondition_frequency == 0
            made = tf.where(first, 0, tf.where(due, 1, 2))
            refresh = lambda: _refresh(grams, bases, square)  # noqa: E731
            tf.switch_case(made, [lambda: _make(grams, bases), refresh, lambda: None])

    def _average_grams(self, grams, gradient, beta, first):
        for axis, gram in enumerate(grams):
            if gram is not None:
                others = [a for a in range(len(grams)) if a != axis]
                outer = tf.tensordot(gradient, gradient, [others, others])
                gram.assign(beta * gram + (1 - beta) * outer)

    def get_config(self):
        names = "beta_1 beta_2 epsilon precondition_frequency max_precond_dim axes".split()
        return super().get_config() | {name: getattr(self, name) for name in names}


def _turned(tensor, bases, back=False):
    """Returns a tensor in the bases of its axes, or back from them."""
    for basis in bases:
        # The first axis goes and comes back as the last, so that all have had their turn.
        if basis is None:
            tensor = tf.transpose(tensor, [*range(1, len(bases)), 0])
        else:
            tensor = tf.tensordot(tensor, basis, [[0], [1 if back else 0]])
    return tensor


def _make(grams, bases):
    for gram, basis in zip(grams, bases):
        if gram is not None:
            basis.assign(tf.reverse(tf.linalg.eigh(tf.convert_to_tensor(gram))[1], [1]))


def _refresh(grams, bases, square):
    """Makes one power step of every basis; the second moments follow the order of its axes."""
    squares = tf.convert_to_tensor(square)
    for axis, (gram, basis) in enumerate(zip(grams, bases)):
        if gram is not None:
            power = tf.matmul(gram, basis)
            order = tf.argsort(
                tf.reduce_sum(basis * power, axis=0), direction="DESCENDING", stable=True
            )
            squares = tf.gather(squares, order, axis=axis)
            basis.assign(tf.linalg.qr(tf.gather(power, order, axis=1))[0])
    square.assign(squares)

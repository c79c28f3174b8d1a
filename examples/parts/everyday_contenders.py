"""The optimizers of `everyday.py`, and the learning rates that are tried with each."""

import dataclasses
import functools
import math
from collections.abc import Callable

import keras

from keras_proxprop import ProxProp, ScheduleFreeAdam
from parts.contenders import muon
from parts.schedule_free import ScheduleFreeAdamW
from parts.soap import SOAP

SCHEDULES = ("constant", "cosine")
# How many times a grid may be made longer by a rate, while the best is at its end.
_LONGER = 2


@dataclasses.dataclass(frozen=True)
class Contender:
    """An optimizer, and the grid of its learning rates.

    Args:
        make: function of a learning rate, a number or a schedule, that returns the optimizer.
        rates: function that returns the learning rates to try.
        schedules: those that each rate is tried with.
        longer: whether the grid goes on while the best rate is at its end.
        default: the rate that is trained with all seeds, too, whether it is best or not.
    """

    make: Callable
    rates: Callable
    schedules: tuple = SCHEDULES
    longer: bool = True
    default: Callable = lambda: None


def _grid(*rates):
    return lambda: list(rates)


_ADAM = _grid(3e-4, 1e-3, 3e-3, 1e-2)


def proxprop_default():
    """Returns the learning rate of a `ProxProp` with nothing typed."""
    return float(f"{float(ProxProp().learning_rate):.6g}")


def multiples():
    """Returns the learning rates of ×1/4, ×1/2, ×1, ×2 and ×4."""
    return [proxprop_default() * factor for factor in (0.25, 0.5, 1, 2, 4)]


def _ours(**arguments):
    """Returns the contender that is a `ProxProp` with these arguments."""
    return Contender(
        lambda rate: ProxProp(learning_rate=rate, **arguments),
        multiples,
        ("constant",),
        longer=False,
        default=proxprop_default,
    )


def _inside(inner, rates, schedules=SCHEDULES):
    """Returns the contender with implicit directions for another optimizer."""
    # The optimizer's own epsilon is made for gradients, and too large for directions.
    return Contender(lambda rate: ProxProp(inner(rate, epsilon=1e-12)), rates, schedules)


def _soap(**arguments):
    """Returns the contender that is a SOAP with these arguments."""
    # Its authors leave out axes as long as a vocabulary.
    return Contender(
        lambda rate: SOAP(rate, max_precond_dim=1000, **arguments),
        _grid(1e-3, 3e-3, 1e-2, 3e-2),
    )


_optimizers = keras.optimizers
# {name: Contender}: those that are trained unless told.
CONTENDERS = {
    "adam": Contender(_optimizers.Adam, _ADAM),
    "adamw": Contender(_optimizers.AdamW, _ADAM),
    "schedule-free": Contender(
        ScheduleFreeAdamW, _grid(1e-3, 2.5e-3, 1e-2, 3e-2), ("constant",)
    ),
    "soap": _soap(),
    "muon": Contender(muon, _ADAM),
    "lion": Contender(_optimizers.Lion, _grid(3e-5, 1e-4, 3e-4, 1e-3)),
    "proxprop": _ours(),
}
# More of them, to be asked for by name.
VARIANTS = {
    "proxprop-implicit": _ours(final_layer="implicit"),
    "proxprop-batch": _ours(memory=None),
    "proxprop-adam": _inside(_optimizers.Adam, _ADAM),
    # What steps inside ProxProp, with plain gradients: the share of its averages.
    "averaged-gradients": Contender(
        ScheduleFreeAdam, multiples, ("constant",), default=proxprop_default
    ),
    "proxprop-schedule-free": _inside(
        ScheduleFreeAdamW, _grid(1e-3, 3e-3, 1e-2, 3e-2), ("constant",)
    ),
    # What of SOAP and of Muon is a matter of the inputs, and what of the outputs.
    "soap-inputs": _soap(axes=(0,)),
    "soap-outputs": _soap(axes=(1,)),
    "proxprop-muon": Contender(lambda rate: ProxProp(muon(rate)), _ADAM),
    "proxprop-adam-95": _inside(
        functools.partial(_optimizers.Adam, beta_1=0.95, beta_2=0.95), _ADAM
    ),
    "proxprop-cosine": Contender(
        lambda rate: ProxProp(learning_rate=rate), multiples, ("cosine",)
    ),
}
ALL = CONTENDERS | VARIANTS


def learning_rate(rate, schedule, steps):
    """Returns what an optimizer takes as its learning rate."""
    if schedule == "constant":
        return rate
    return keras.optimizers.schedules.CosineDecay(rate, steps)


def trials(contender, losses):
    """Returns the rates that are still to be tried with a schedule.

    Args:
        contender: `Contender`.
        losses: `{rate: final training loss}` of what was tried.
    """
    rates = contender.rates()
    ends = min(rates) / 10 ** (_LONGER / 2), max(rates) * 10 ** (_LONGER / 2)
    while not (missing := [rate for rate in rates if rate not in losses]):
        low, high, top = min(rates), max(rates), best(losses, rates)
        if not contender.longer or top not in (low, high):
            break
        # The next of 1, 3, 10, 30, ... times a power of ten.
        power = round(2 * math.log10(top)) + (1 if top == high else -1)
        new = float(f"{10 ** (power / 2):.0e}")
        if not ends[0] * 0.9 < new < ends[1] * 1.1:
            break
        rates.append(new)
    return missing


def best(losses, rates=None):
    """Returns the rate with the lowest loss; what diverged is worse than any."""
    rates = rates or list(losses)
    return min(rates, key=lambda r: math.inf if math.isnan(losses[r]) else losses[r])

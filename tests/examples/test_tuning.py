"""How `time_to_target.py` tunes the contenders, and what they are."""

import math

import pytest

from parts import contenders
from parts.contenders import text


def walked(name, loss, task="mlp64", farthest=3):
    """Returns the tuned arguments, and how many trials it took, for a loss of arguments."""
    losses = {}
    while missing := contenders.trials(name, task, losses, farthest):
        assert not {text(m) for m in missing} & set(losses)
        losses |= {text(m): loss(**m) for m in missing}
    return contenders.tuned(name, task, losses, farthest), len(losses)


def test_the_best_of_three_is_taken_where_it_is_in_the_middle():
    best, trials = walked("adam", lambda learning_rate: abs(math.log(learning_rate / 1e-3)))
    assert best == {"learning_rate": 1e-3} and trials == 3


@pytest.mark.parametrize("target, expected, trials", [(0.01, 0.01, 5), (1.0, 0.0316, 5)])
def test_the_grid_goes_on_while_its_best_is_at_the_end(target, expected, trials):
    best, count = walked("adam", lambda learning_rate: abs(math.log(learning_rate / target)))
    assert best == {"learning_rate": pytest.approx(expected)} and count == trials


def test_what_diverges_is_never_the_best():
    def loss(learning_rate, damping):
        return math.nan if damping < 0.5 or learning_rate > 0.02 else 1 / learning_rate

    best, _ = walked("kfac-jax", loss)
    assert best == {"learning_rate": 0.00949, "damping": 1.0}


def test_tau_is_tuned_at_the_best_learning_rate():
    def loss(learning_rate, tau):
        return abs(math.log(learning_rate / 3e-3)) + abs(math.log(tau / 20))

    best, trials = walked("proxprop-tau", loss)
    assert best == {"learning_rate": 0.00316, "tau": 10.0}
    # Three and one more, then two new and one more.
    assert trials == 7


def test_an_untuned_optimizer_needs_no_trials():
    assert walked("proxprop-untuned", None) == ({}, 0)
    assert text({}) == "defaults"


def test_a_quick_grid_has_three_trials():
    assert walked("adam", lambda learning_rate: learning_rate, farthest=1)[1] == 3


def test_every_contender_makes_an_optimizer_with_its_arguments():
    for name, contender in contenders.CONTENDERS.items():
        if contender.make:
            arguments = contenders.start(name, "mlp64")
            optimizer = contender.make(**arguments)
            expected = arguments.get("learning_rate", 1e-3)
            assert float(optimizer.learning_rate) == pytest.approx(expected), name
            if "tau" in arguments:
                assert float(optimizer.tau) == arguments["tau"]


def test_a_contender_differs_from_the_defaults_in_memory_alone():
    configs = [
        contenders.CONTENDERS[name].make(learning_rate=1e-3).get_config()
        for name in ("proxprop", "proxprop-batch")
    ]
    assert configs[0].pop("memory") and configs[1].pop("memory") is None
    for config in configs:
        assert config.pop("tau") == "auto"
        config.pop("name")
        config["inner_optimizer"]["config"].pop("name")
    assert configs[0] == configs[1]

"""Deep image nets against peers: the nets, a run, and the table."""

import keras
import pytest

import from_scratch
from parts import datasets, deep_nets

# The numbers of convolutions that the nets say they have.
CONVOLUTIONS = {"plain": 21, "residual": 51, "preactivated": 35, "gated": 51 + 2 * 16}


@pytest.mark.parametrize("net", CONVOLUTIONS)
def test_a_deep_net_has_the_convolutions_that_it_says(net):
    model = deep_nets.NETS[net]()
    kernels = [weight for weight in model.weights if len(weight.shape) == 4]
    assert len(kernels) == CONVOLUTIONS[net] and model.output_shape == (None, 10)


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD(0.0), keras.optimizers.Adam(0.01)])
def test_a_run_trains_and_validates(optimizer):
    def make():
        layers = keras.layers.Flatten(), keras.layers.Dense(10, "softmax")
        return keras.Sequential([keras.Input((12, 12, 3)), *layers])

    found = from_scratch.train(make, optimizer, datasets.load("digits"), 0, 40)
    learns = float(optimizer.learning_rate) > 0
    assert (found["loss"] < 1.5) == (found["val_loss"] < 1.5) == learns
    assert (found["val_accuracy"] > 0.5) == learns


def test_the_table_has_the_best_rate_of_each_peer(tmp_path, capsys):
    out = tmp_path / "rows.csv"
    out.write_text(
        "net,optimizer,rate,seed,steps,loss,val_loss,val_accuracy\n"
        "A,Adam,0.001,0,5,0.5,0.7,0.5\nA,Adam,0.003,0,5,0.4,0.8,0.5\n"
        "A,ProxProp(),,0,5,0.3,0.6,0.5\nA,Adam,0.001,1,5,0.2,0.7,0.5\n"
    )
    from_scratch.main(["--report", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines[0] == "| A | 0 | 5 | 0.400, 0.800 (0.003) | – | 0.300, 0.600 | – |"
    assert lines[1] == "| A | 1 | 5 | 0.200, 0.700 (0.001) | – | – | – |"

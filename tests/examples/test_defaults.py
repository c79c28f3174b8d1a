"""`examples/defaults.py`: what it trains, goes on with, and prints."""

import keras

import defaults
from keras_proxprop import ProxProp
from parts import results


def lines(table):
    cells = [[c.strip() for c in line.strip("| ").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in cells[2:]}


def test_it_goes_on_where_it_was_stopped(tmp_path, capsys, monkeypatch):
    arguments = ["--quick", "--dataset", "digits", "--out", str(tmp_path), "--task", "lstm"]
    defaults.main([*arguments, "--setting", "default"])
    first = capsys.readouterr().out
    assert first.count("seed 0") == 5
    assert float(lines(first.split("\n\n")[1])["default"][0]) > 0
    row, more = results.read(tmp_path / "runs.csv")[0], []

    def trained(net, setting, *_):
        more.append(setting)
        return {**row, "setting": setting}

    monkeypatch.setattr(defaults, "trained", trained)
    defaults.main([*arguments, "--setting", "default", "tau=1"])
    assert more == ["tau=1"]


def rows(*losses, setting="default", net="vit"):
    return [
        {"net": net, "seed": seed, "setting": setting, "loss": loss}
        for seed, loss in enumerate(losses)
    ]


def test_the_table_has_medians_of_ratios_to_the_best_adam():
    table = lines(
        defaults.report(
            rows(2.0, 4.0, 8.0, setting="Adam 0.001")
            + rows(3.0, 3.0, float("nan"), setting="Adam 0.01")
            + rows(1.0, 1.5, 4.0)
            + rows(1.0, float("nan"), float("nan"), setting="tau=1")
        )
    )
    assert table["default"] == ["0.5", "0.5"]
    assert table["tau=1"] == ["diverged", "–"]
    assert table["the best Adam's loss"][0] == "3"
    assert "memory=None" not in table


def test_every_setting_makes_an_optimizer_and_the_default_is_the_default():
    made = {name: make() for name, make in defaults.SETTINGS.items()}
    assert all(isinstance(o, keras.optimizers.Optimizer) for o in made.values())

    def config(optimizer):
        return {**optimizer.get_config(), "name": None}

    assert config(made["default"]) == config(ProxProp())
    assert config(made["tau=1"]) != config(ProxProp())

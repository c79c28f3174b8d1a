"""Fine-tuning against Adam: the runs, those that are missing, and the table."""

from unittest import mock

import keras

import fine_tuning
from keras_proxprop import ProxProp
from parts import results

FEW = {
    "Adam": (keras.optimizers.Adam, (1e-3,)),
    "ProxProp()": (ProxProp, ("",)),
}


def test_the_program_makes_the_runs_that_are_missing(tmp_path, capsys):
    out = tmp_path / "rows.csv"
    small = ["--nets", "convolutions", "--dataset", "digits", "--images", "300"]
    small += ["--epochs", "2", "--seeds", "1", "--out", str(out)]
    with mock.patch.object(fine_tuning, "OPTIMIZERS", FEW):
        fine_tuning.main(small)
        rows = results.read(out)
        fine_tuning.main(small)
    assert rows == results.read(out) and len(rows) == 2 * 2
    assert [row["task"] for row in rows] == ["near"] * 2 + ["far"] * 2
    near, far = rows[1], rows[3]
    # It begins from weights that know the near classes.
    assert near["val_accuracy"] > 0.6 and far["val_accuracy"] > 0.3
    assert "| convolutions | near | " in capsys.readouterr().out


def test_the_table_has_means_over_seeds_of_adams_best_rate(tmp_path, capsys):
    out = tmp_path / "rows.csv"
    out.write_text(
        "net,task,optimizer,rate,seed,epoch,val_loss,val_accuracy\n"
        "A,near,Adam,0.001,0,2,0.5,0.7\nA,near,Adam,0.001,1,4,0.6,0.8\n"
        "A,near,Adam,0.01,0,2,0.4,0.7\nA,near,Adam,0.01,1,4,0.8,0.8\n"
        "A,near,ProxProp(),,0,1,0.3,0.9\n"
    )
    fine_tuning.main(["--report", "--out", str(out)])
    line = capsys.readouterr().out.splitlines()[-1]
    adam = "0.550, 75.0% after 3 (0.001)"
    assert line == f"| A | near | {adam} | 0.300, 90.0% after 1 | – |"

"""`examples/everyday.py`: its tasks, what it trains and goes on with, and its tables."""

import math

import keras
import numpy as np
import pytest

import everyday
from keras_proxprop import ProxProp
from parts import (
    datasets,
    everyday_contenders,
    everyday_images,
    everyday_run,
    everyday_task,
    results,
)
from parts.everyday_report import curve, report
from parts.everyday_run import points, train
from parts.everyday_tasks import TASKS

FASHION_COUNT = 4400


@pytest.fixture(autouse=True)
def made_up_images(monkeypatch):
    """Images of the size of Fashion-MNIST's, which need not be here."""
    load = datasets.load

    def images(name):
        if name == "digits":
            return load(name)
        random = np.random.default_rng(0)
        y = random.integers(10, size=FASHION_COUNT).astype("int32")
        # An image of its own for every class, and little noise: there is something to learn.
        x = random.integers(2, size=(10, 28, 28, 1))[y] * 0.8
        x = (x + 0.2 * random.uniform(size=x.shape)).astype("float32")
        return datasets.Data(x[:-200], y[:-200], x[-200:], y[-200:])

    def forget():
        everyday_images.fashion.cache_clear()
        everyday_images.flat_fashion.cache_clear()
        everyday_task._loaded.cache_clear()

    forget()
    monkeypatch.setattr(datasets, "load", images)
    yield
    forget()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_a_model_whose_losses_are_numbers_and_its_seed_decides_it(name):
    task = TASKS[name]
    first, again, other = (task.model(seed) for seed in (0, 0, 1))
    evaluate = task.evaluator(first)
    assert all(math.isfinite(evaluate()[key]) for key in ("loss", "val_loss"))
    own, same, different = (
        np.concatenate([w.numpy().ravel() for w in m.trainable_variables])
        for m in (first, again, other)
    )
    np.testing.assert_array_equal(own, same)
    assert not np.array_equal(own, different)
    assert task.batch_size <= len(task.data.x)


def adam():
    return keras.optimizers.Adam(3e-3)


CASES = [(name, ProxProp) for name in ("gan", "vae", "tied", "physics", "metric", "lora")]


# The Dense layers of "lora" step explicitly, and it has no others.
@pytest.mark.filterwarnings("ignore:No layer of model")
@pytest.mark.parametrize("name, make", [*CASES, ("gan", adam), ("physics", adam)])
def test_unusual_models_train_with_any_optimizer(name, make):
    rows, first = train(TASKS[name], make(), seed=0, steps=12)
    assert [row["step"] for row in rows] == points(12)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert first > 0 and rows[0]["seconds"] == rows[1]["seconds"] == 0


def test_the_loss_of_a_run_is_that_of_a_fixed_part_of_the_examples():
    task, adam = TASKS["small"], keras.optimizers.Adam(1e-2)
    rows, _ = train(task, adam, seed=2, steps=20)
    model = task.model(2)
    model.compile(keras.optimizers.Adam(1e-2), task.loss, jit_compile=False)
    for batch in datasets.epoch_batches(len(task.data.x), task.batch_size, 2, 0)[:20]:
        model.train_on_batch(task.data.x[batch], task.data.y[batch])
    outputs = model.predict(task.data.x[: task.evaluated], verbose=0)
    expected = np.mean((outputs - task.data.y[: task.evaluated]) ** 2)
    assert rows[-1]["loss"] == pytest.approx(expected, rel=1e-4)
    outputs = model.predict(task.data.x_val, verbose=0)
    assert rows[-1]["val_loss"] == pytest.approx(
        np.mean((outputs - task.data.y_val) ** 2), rel=1e-4
    )


def test_a_diverged_run_stops_and_has_no_loss():
    rows, _ = train(TASKS["small"], keras.optimizers.SGD(1e30), seed=0, steps=50)
    assert rows[-1]["step"] < 50 and math.isnan(rows[-1]["loss"])
    assert math.isnan(everyday.summary(rows, 0.0)["loss"])


def arguments(tmp_path, *more):
    return ["--out", str(tmp_path), "--tasks", "small", "classes", *more]


def test_it_goes_on_where_it_was_stopped_and_draws_the_picture(tmp_path, capsys, monkeypatch):
    names = ["--contenders", "adam", "proxprop", "soap"]
    everyday.main(arguments(tmp_path, "--quick", *names, "--part", "1/2"))
    rows = results.read(tmp_path / "runs.csv")
    assert {r["task"] for r in rows} == {"small"}
    assert [r["contender"] for r in rows] == ["adam"] * 2 + ["proxprop"] + ["soap"] * 2
    assert (tmp_path / "everyday_quick.png").exists()
    assert "### Floors" in capsys.readouterr().out

    def train(*_):
        raise AssertionError("All of this is there.")

    monkeypatch.setattr(everyday, "train", train)
    everyday.main(arguments(tmp_path, "--quick", *names, "--part", "1/2"))
    everyday.main(arguments(tmp_path, "--quick", *names, "--report"))
    with pytest.raises(AssertionError, match="there"):
        everyday.main(arguments(tmp_path, "--quick", *names))


def made_up(monkeypatch, losses):
    """Lets runs have the loss that a function of contender, rate and seed says."""
    asked = []

    def train(self, task, budget, name, schedule, rate, seed):
        asked.append((name, schedule, rate, seed))
        what = self._what(task, budget, name, schedule, rate, seed)
        loss = losses(name, schedule, rate, seed)
        end = {"step": 10, "seconds": 5.0, "loss": loss, "val_loss": loss + 1}
        start = {"step": 0, "seconds": 0.0, "loss": 9.0, "val_loss": 9.0}
        rows = [r | {"val_accuracy": math.nan} for r in (start, end)]
        results.append(self.csv, [what | everyday.summary(rows, 0.0)])

    monkeypatch.setattr(everyday.Benchmark, "_train", train)
    return asked


def test_rates_are_tuned_with_one_seed_and_the_best_has_all(tmp_path, monkeypatch):
    asked = made_up(
        monkeypatch, lambda name, schedule, rate, _: abs(math.log(rate / 2e-3)) + 1
    )
    everyday.main(["--out", str(tmp_path), "--tasks", "small", "--contenders", "adam", "lion"])
    adam = [a[1:] for a in asked if a[0] == "adam"]
    grid = everyday_contenders.CONTENDERS["adam"].rates()
    tuning = [(schedule, rate, 0) for schedule in ("constant", "cosine") for rate in grid]
    finals = [(s, 3e-3, seed) for s in ("constant", "cosine") for seed in (1, 2)]
    assert adam == tuning + finals
    # The best of Lion's rates is at the end of its grid, which goes on, and only one schedule
    # has more seeds.
    lion = [a[1:] for a in asked if a[0] == "lion"]
    tried = [rate for schedule, rate, seed in lion if schedule == "constant" and not seed]
    assert tried == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    assert {a[0] for a in lion if a[2]} == {"constant"}


def test_slow_contenders_are_tuned_in_a_quarter_of_the_steps(tmp_path, monkeypatch):
    asked = made_up(
        monkeypatch, lambda name, schedule, rate, _: abs(math.log(rate / 2e-3)) + 1
    )
    everyday.main(["--out", str(tmp_path), "--tasks", "mlp64", "--contenders", "muon"])
    rows = results.read(tmp_path / "runs.csv")
    assert len(asked) == len(rows) == 9
    assert [r["budget"] for r in rows] == [0.25] * 8 + [1.0]
    assert (rows[-1]["rate"], rows[-1]["seed"]) == (3e-3, 0)


def test_a_grid_ends_after_two_more_rates_and_what_diverged_is_worst():
    adam = everyday_contenders.CONTENDERS["adam"]
    losses = dict.fromkeys(adam.rates(), 1.0)
    for expected in (3e-2, 1e-1):
        falling = {rate: 1 / rate for rate in losses}
        assert everyday_contenders.trials(adam, falling) == [expected]
        losses[expected] = 1.0
    assert everyday_contenders.trials(adam, {rate: 1 / rate for rate in losses}) == []
    diverged = {3e-4: math.nan, 1e-3: 2.0, 3e-3: 1.0, 1e-2: math.nan}
    assert everyday_contenders.trials(adam, diverged) == []
    assert everyday_contenders.best(diverged) == 3e-3


def test_the_table_says_which_floors_hold(tmp_path, monkeypatch, capsys):
    default = everyday_contenders.proxprop_default()

    def losses(name, schedule, rate, seed):
        if name == "proxprop":
            return 0.6 + 0.1 * seed if rate == default else 0.5 * max(1, rate / default)
        return {"adam": 1.0, "schedule-free": 0.65}[name] + rate

    made_up(monkeypatch, losses)
    names = ["adam", "schedule-free", "proxprop"]
    everyday.main(["--out", str(tmp_path), "--tasks", "small", "--contenders", *names])
    out = capsys.readouterr().out
    cells = [c.strip() for c in out.split("### Floors")[1].splitlines()[6].split("|")[1:-1]]
    # 0.7 in the median; Adam has 1.0003, Schedule-Free 0.651, ours at a quarter 0.5.
    assert cells[:4] == ["small", "0.7", "**1.08**", "**1.4**"]
    assert cells[4] == "1.7 / 1.65"
    # It is at Adam's loss after (9 - 1) / (9 - 0.7) of the time.
    assert float(cells[5]) == pytest.approx(8 / 8.3, abs=0.005)
    assert cells[6] == "**never**" and cells[7:] == ["–", "–"]
    assert "not above the best peer's: on 0 of 1" in out


def test_seconds_are_steps_times_what_a_step_takes_with_all_in_turns(tmp_path, monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(everyday_run.time, "process_time", lambda: next(ticks) / 500)
    monkeypatch.setattr(everyday_run, "_TIMED", 25)
    arguments = ["--out", str(tmp_path), "--tasks", "small", "--contenders", "adam", "lion"]
    for _ in range(2):
        everyday.main([*arguments, "--step-times"])
    times = results.read(tmp_path / "step_times.csv")
    assert [(r["contender"], r["milliseconds"]) for r in times] == [
        ("adam", 2.0),
        ("lion", 2.0),
    ]
    row = {"curve": "0 0 1.5; 10 7.5 0.25", "milliseconds": None}
    start, end = {"step": 0, "seconds": 0, "loss": 1.5}, {"step": 10, "loss": 0.25}
    assert curve(row | {"milliseconds": 2.0}) == [start, end | {"seconds": 0.02}]
    assert curve(row) == [start, end | {"seconds": 7.5}]


def test_every_contender_makes_an_optimizer_of_a_rate_and_of_a_schedule():
    for contender in everyday_contenders.ALL.values():
        for schedule in contender.schedules:
            rate = everyday_contenders.learning_rate(contender.rates()[0], schedule, 100)
            assert isinstance(contender.make(rate), keras.optimizers.Optimizer)
    default = everyday_contenders.proxprop_default()
    assert everyday_contenders.multiples() == [default * f for f in (0.25, 0.5, 1, 2, 4)]


def test_the_report_does_without_peers_that_were_not_trained(tmp_path):
    start = {"step": 0, "seconds": 0.0, "loss": 2.0, "val_loss": 2.0, "val_accuracy": math.nan}
    row = {"task": "small", "contender": "adam", "schedule": "constant", "rate": 1e-3}
    row |= {"budget": 0.5, "seed": 0, "quick": 0} | everyday.summary([start, start], 0.0)
    text = report([row], tmp_path)
    assert "0.5 of the steps" in text and "| small | 2 (0.001) | – |" in text
    assert not list(tmp_path.iterdir())

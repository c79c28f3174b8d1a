"""What `mutations.py` breaks of memory, of steps and of plans: see `mutation_cases.py`."""

from mutation import Mutation

AVERAGED = "test_memory.py steps_are_those_of_the_averaged and 0.5"
MUTATIONS_OF_STEPS = [
    Mutation(
        "decay of memory for all that is new",
        "memory/averages.py",
        "(1 - kept) * new",
        "kept * new",
        AVERAGED,
    ),
    Mutation(
        "sum over rows for their mean in memory",
        "memory/averages.py",
        "number = keep * number + (1 - keep) * rows",
        "number = keep * number + (1 - keep)",
        AVERAGED,
    ),
    Mutation(
        "memory without a bound for outliers",
        "memory/averages.py",
        "scaled = limited(batch, mean, last)",
        "scaled = tf.ones_like(down)",
        "test_memory_outliers.py ten_batches",
    ),
    Mutation(
        "a first batch of outliers that fades like any",
        "memory/averages.py",
        "tf.where(weight <= 2 * share, ",
        "tf.where(weight <= 0 * share, ",
        "test_outliers_over_nets.py recovers",
    ),
    Mutation(
        "memory of a step that is skipped",
        "memory/averaged_gram.py",
        "step_if(replicas.every(finite()), assign)",
        "assign()",
        "test_memory_outliers.py leaves_no_trace",
    ),
    Mutation(
        "memory that is not saved",
        "optimizers/wrapper.py",
        "store[name] = array",
        "pass",
        "test_memory_state.py state_is_saved",
    ),
    Mutation(
        "exponent of the rows in a step's length",
        "optimizers/row_adam.py",
        "_EXPONENT = 1 / 3",
        "_EXPONENT = 1 / 2",
        "test_row_adam.py cube_root",
    ),
    Mutation(
        "weights of the points in a schedule-free average",
        "optimizers/schedule_free_adam.py",
        "share = (POWER + 1) / (t + POWER)",
        "share = 1 / t",
        "test_schedule_free_adam.py many_steps",
    ),
    Mutation(
        "steps that get shorter as their number, not as its root",
        "optimizers/schedule_free_adam.py",
        "tf.sqrt(1 + t / FULL_STEPS)",
        "(1 + t / FULL_STEPS)",
        "test_schedule_free_adam.py many_steps",
    ),
    Mutation(
        "steps that are cut before the mean of squares is corrected",
        "optimizers/schedule_free_adam.py",
        "tf.maximum(self._too_long(), size / LARGEST)",
        "self._too_long() * tf.maximum(1.0, size / LARGEST)",
        "test_schedule_free_adam.py accumulated",
    ),
    Mutation(
        "steps on a batch much unlike those before as long as they come",
        "optimizers/schedule_free_adam.py",
        "size / LARGEST)",
        "0.0)",
        "test_schedule_free_adam.py unlike_those_before",
    ),
    Mutation(
        "rows of an embedding that forget while nobody looks them up",
        "optimizers/schedule_free_adam.py",
        "return tf.where(seen, squares, mean_square)",
        "return squares",
        "test_schedule_free_adam.py not_looked_up and graph",
    ),
    Mutation(
        "labels of the batch in an embedding's step",
        "optimizers/step_lengths.py",
        "size.row_count is not None and not size.lookup",
        "size.row_count is not None",
        "test_step_lengths.py no_shorter_than_a_half",
    ),
    Mutation(
        "steps of an embedding as short as it begins",
        "optimizers/step_lengths.py",
        "ROW = 0.5",
        "ROW = 0.0",
        "test_step_lengths.py no_shorter_than_a_half",
    ),
    Mutation(
        "items for labels in a step's length",
        "problem.py",
        "max(labels, default=1)",
        "1",
        "test_step_lengths.py fit_steps_as_summary",
    ),
    Mutation(
        "explicit steps everywhere",
        "plan.py",
        "            elif id(block.layer) in final:",
        "            elif True:",
        "test_golden.py hidden_layer",
    ),
]

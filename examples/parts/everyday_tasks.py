"""The tasks of `everyday.py`: `TASKS`, `{name: Task}`.

A task trains with any optimizer:

    model = TASKS["small"].model(seed=0)
    model.compile(optimizer=ProxProp(), loss=TASKS["small"].loss)
    model.fit(TASKS["small"].data.x, TASKS["small"].data.y, batch_size=...)

or by `parts.everyday_run.train(TASKS["small"], ProxProp(), seed=0)`.
"""

from parts import (
    everyday_images,
    everyday_physics,
    everyday_special,
    everyday_text,
    everyday_tuning,
    everyday_vectors,
)

TASKS = {
    **everyday_vectors.TASKS,
    **everyday_images.TASKS,
    **everyday_text.TASKS,
    **everyday_special.TASKS,
    **everyday_tuning.TASKS,
    **everyday_physics.TASKS,
}

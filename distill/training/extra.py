"""The packages of the extra ``train``."""

import importlib.util

from distill.errors import InputError

NEEDED = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "tensorboard")


def check_extra() -> None:
    """Raise InputError where what trains is not installed; imports none of it."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"training needs {', '.join(missing)}: `bin/distill train` brings them, elsewhere pip "
            "install 'distill[cpu,train]', or distill[gpu,train] on a machine with a GPU"
        )


def quiet() -> None:
    """No bars and no advice of these packages: a training tells of itself."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()

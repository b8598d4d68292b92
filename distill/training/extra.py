"""The packages of the extra ``train``."""

import importlib.util
import os

from distill.errors import InputError

NEEDED = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "tensorboard")

TELEMETRY = "HF_HUB_DISABLE_TELEMETRY"


def check_extra() -> None:
    """Raise InputError where what trains is not installed; imports none of it."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"training needs {', '.join(missing)}: `bin/distill train` brings them, elsewhere pip "
            "install 'distill[cpu,train]', or distill[gpu,train] on a machine with a GPU"
        )


def send_nothing() -> None:
    """Have these packages tell their makers nothing, unless the environment says otherwise.

    TRL reports each trainer that is made, with the device and the kind of model.
    """
    if TELEMETRY in os.environ:
        return
    from huggingface_hub import constants

    os.environ[TELEMETRY] = "1"
    constants.HF_HUB_DISABLE_TELEMETRY = True  # it has read the environment


def quiet() -> None:
    """No bars and no advice of these packages: a training tells of itself."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()

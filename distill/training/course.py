"""The course of a training, whatever the method.

::

    data set ──► rows are this method's ──► weights ──► parity ──► steps ──► adapter or model
                         (refused)                    (refused)     │               │
                                                          checkpoints, events   training.json
"""

import shutil
from dataclasses import replace
from pathlib import Path

from distill.errors import InputError
from distill.training import record
from distill.training.alone import alone
from distill.training.data import DataSet
from distill.training.extra import check_extra, send_nothing
from distill.training.fitting import OnProgress, fit
from distill.training.gate import gate
from distill.training.method import Method, OnPhase
from distill.training.plan import refuse_loops
from distill.training.settings import TrainSettings
from distill.training.trained import Trained
from distill.user_folders import all_private


def train(
    method: Method,
    data: Path,
    settings: TrainSettings,
    on_progress: OnProgress | None = None,
    on_phase: OnPhase = lambda _: None,
) -> Trained:
    """Train on a data set of `distill export`, in a process that does nothing else.

    A training that was stopped goes on where it was; one that has ended is only told again. Raises
    InputError where the settings, the data, the model or the folder can't be used, and where
    another training is at work in the folder.
    """
    check_extra()
    send_nothing()
    settings.check()
    refuse_loops(settings.out)
    method.check_options()
    rows = DataSet.read(data)
    if rows.format not in method.formats:
        names = ", ".join(method.formats)
        raise InputError(f"{method.name} trains on {names}; {data} has rows of {rows.format}")
    method.check(rows, settings)
    with alone(settings.out, "training"), all_private():
        return _train(method, rows, settings, on_progress, on_phase)


def _train(
    method: Method,
    rows: DataSet,
    settings: TrainSettings,
    on_progress: OnProgress | None,
    on_phase: OnPhase,
) -> Trained:
    asked = record.asked(method, rows, settings)
    if (done := record.earlier(settings.out, asked)) is not None:
        return replace(done, is_new=False)
    from distill.training import weights as of_weights

    on_phase("loading the model")
    weights = of_weights.load(settings)
    made = method.trainer(weights, rows, settings)
    parity = gate(method, rows, weights, settings, on_phase)
    record.begin(settings.out, asked)
    on_phase(made.at_first)
    fitted = fit(made.trainer, settings, on_progress)
    if not settings.weights.exists():
        weights.save(settings.weights)
    trained = Trained(
        out=settings.out,
        weights=settings.weights,
        is_adapter=weights.is_adapter,
        fitted=fitted,
        rows=made.rows,
        parity=str(parity),
        warnings=[*rows.manifest["warnings"], *made.warnings],
    )
    record.end(asked, trained, weights)
    shutil.rmtree(settings.checkpoints, ignore_errors=True)
    return trained

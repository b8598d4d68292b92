"""A tiny model with true ids, log-probabilities and hashes: what trainers and gates are tried on.

``tiny_model`` writes a folder as vLLM would load it, ``tiny_adapter`` a LoRA adapter of it, and
``TinyWorker`` answers worker calls with them: sampled by transformers, from a KV cache, one call at
a time. Equal calls in equal order give equal answers in every process.
"""

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from distill import LMResponse, ModelHandler, Usage
from distill.protocol.worker_link import ModelCard
from distill.worker_server.adapter_files import AdapterFiles
from distill.worker_server.detokenise import detokeniser_of
from distill.worker_server.fingerprint import fingerprint
from distill.worker_server.model import ModelFolder

Messages = Sequence[Mapping[str, str]]
WINDOW_TOKENS = 2048
MAX_TOKENS = 16
"""Of an answer, where the call does not say."""
SPREAD = 0.5
"""Standard deviation of the weights: at 0.02 all tokens would be all but equally likely."""


def tiny_model(
    folder: Path, tokenizer: Any, *, seed: int = 0, spread: float = SPREAD, head_size: int = 8
) -> Path:
    """A Llama of two layers with random weights (float32), and this tokenizer.

    vLLM has no attention for heads of less than 32 on a CPU.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)  # other tests run beside these
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=2 * head_size,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=WINDOW_TOKENS,
        initializer_range=spread,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_adapter(folder: Path, model: Path, *, seed: int = 0, spread: float = SPREAD) -> Path:
    """A LoRA adapter of rank 4 for the model in a folder; its weights are random, not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        wanted = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj", "up_proj"])
        adapted = get_peft_model(base, wanted)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=spread)
        adapted.save_pretrained(str(folder))
    return folder


class TinyWorker(ModelHandler):
    """A worker on the model of a folder; ``adapter`` is loaded on it as version 1.

    ``dtype`` is the type that it computes in. With ``logprobs_mode`` processed_logprobs its
    log-probabilities are those after temperature and filters. ``said`` are fields of its card that
    are not the truth.
    """

    model = "tiny"
    endpoint = ""
    window_tokens = WINDOW_TOKENS

    def __init__(
        self,
        folder: Path,
        adapter: Path | None = None,
        *,
        dtype: str = "float32",
        logprobs_mode: str = "raw_logprobs",
        said: Mapping[str, Any] | None = None,
    ) -> None:
        from transformers import AutoTokenizer

        self._base = ModelFolder(self.model, Path(folder).resolve())
        self._dtype, self._mode = dtype, logprobs_mode
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        hashes = fingerprint(self._base, self._base.path.parent / "hashes")
        card = ModelCard(
            model=self.model, weights_hash=hashes.weights, tokenizer_hash=hashes.tokenizer,
            template_hash=hashes.template, dtype=dtype, device="cpu", engine="transformers",
            engine_version="0", window_tokens=WINDOW_TOKENS, logprobs_mode=logprobs_mode,
        )  # fmt: skip
        self._card = msgspec.structs.replace(card, **(said or {}))
        self._versions: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._lm = self._loaded()
        if adapter is not None:
            self.load_adapter(adapter)

    def _loaded(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        dtype = getattr(torch, self._dtype)
        return AutoModelForCausalLM.from_pretrained(self._base.path, dtype=dtype).eval()

    def card(self) -> ModelCard:
        return self._card

    def load_adapter(self, path: str | Path, name: str | None = None) -> int:
        """Answer with this adapter from the next call on; its version, from 1 for each name."""
        from peft import PeftModel

        files = AdapterFiles.read(str(path), self._base)
        with self._lock:
            name = name or Path(path).name
            self._versions[name] += 1
            self._lm = PeftModel.from_pretrained(self._loaded(), str(path)).eval()
            self._card = msgspec.structs.replace(
                self._card, adapter=name, weights_version=self._versions[name],
                adapter_hash=files.sha256,
            )  # fmt: skip
            return self._versions[name]

    def drop_adapter(self) -> None:
        """Answer as the model itself again."""
        with self._lock:
            self._lm = self._loaded()
            self._card = msgspec.structs.replace(
                self._card, adapter=None, weights_version=0, adapter_hash=""
            )

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        ids = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, return_dict=False
        )
        return self._said(list(ids), kw)

    def chat_batch(self, message_batches: Sequence[Messages], **kw: Any) -> list[LMResponse]:
        return [self.chat(messages, **kw) for messages in message_batches]

    def complete_batch(self, prompts: Sequence[str], **kw: Any) -> list[LMResponse]:
        return [self._said(self.tokenizer(prompt)["input_ids"], kw) for prompt in prompts]

    def _said(self, prompt_ids: list[int], kw: Mapping[str, Any]) -> LMResponse:
        started_s = time.monotonic()
        with self._lock:
            ids, logprobs = self._sampled(prompt_ids, kw)
            card = self._card
        ended = ids[-1] == self.tokenizer.eos_token_id
        detokeniser = detokeniser_of(self.tokenizer)
        assert detokeniser is not None
        return LMResponse(
            detokeniser.text(prompt_ids, ids[:-1] if ended else ids),
            Usage(len(prompt_ids), len(ids)), self.model, time.monotonic() - started_s,
            "stop" if ended else "length", card=card, prompt_token_ids=tuple(prompt_ids),
            token_ids=tuple(ids), logprobs=tuple(logprobs),
        )  # fmt: skip

    def _sampled(
        self, prompt_ids: list[int], kw: Mapping[str, Any]
    ) -> tuple[list[int], list[float]]:
        """Token ids, the one that ends them included, and a log-probability (nats) for each."""
        import torch

        prompt = torch.tensor([prompt_ids])
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(self._seed(prompt_ids, kw.get("seed")))
            made = self._lm.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), output_logits=True,
                output_scores=True, return_dict_in_generate=True, **_generation(kw),
            )  # fmt: skip
        ids = made.sequences[0, len(prompt_ids) :]
        steps = made.scores if self._mode == "processed_logprobs" else made.logits
        logits = torch.cat(steps).float()
        logprobs = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        return ids.tolist(), logprobs.tolist()

    def _seed(self, prompt_ids: Sequence[int], seed: int | None) -> int:
        """The call's own; else another one each time that this prompt is asked."""
        if seed is not None:
            return seed
        asked = str(prompt_ids)
        self._asked[asked] += 1
        digest = sha256(f"{self._asked[asked]} {asked}".encode()).digest()
        return int.from_bytes(digest[:4])


def _generation(kw: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling parameters of a call as those of ``generate``."""
    given: dict[str, Any] = {"max_new_tokens": kw.get("max_tokens") or MAX_TOKENS}
    if penalty := kw.get("repetition_penalty"):
        given["repetition_penalty"] = penalty
    if not kw.get("temperature"):
        return given | {"do_sample": False}
    names = ("temperature", "top_p", "min_p")
    given |= {name: kw[name] for name in names if kw.get(name)}
    return given | {"do_sample": True, "top_k": max(0, kw.get("top_k", 0))}

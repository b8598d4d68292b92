"""What runs inside vLLM's own processes: the three things that vLLM lacks there.

vLLM mixes ``Inside`` into its worker class (``worker_extension_cls``), which imports this
module in that process. It therefore imports nothing of vLLM, and little else.

1. EngineCore outlives an owner that was killed with SIGKILL, holding its memory. The import
   starts a watch that ends it: by pidfd, not PR_SET_PDEATHSIG, because that signal comes when
   the *thread* that started the process ends, which may be any thread of a user's program.
2. On CPU, a request with a seed whose prompt is computed in two steps ends the whole engine
   ("CPU Generator does not use offset", vLLM 0.32): ``distill_keep_seeds``.
3. On CPU, a request without an adapter that is computed beside one with an adapter is answered by
   an adapter as well, if two are loaded, and adapters make a worker slow (vLLM 0.32):
   ``distill_own_lora``.
"""

import os
import select
import shutil
import signal
import sys
import threading
from typing import Any

from distill.worker_server import lora_operators

OWNER_VARIABLE = "DISTILL_ENGINE_OWNER_PID"
SCRATCH_VARIABLE = "DISTILL_ENGINE_SCRATCH"
LORA_MODULES = ("vllm.lora.ops.torch_ops.lora_ops", "vllm.lora.punica_wrapper.punica_cpu")
"""Where vLLM's LoRA operators for CPU are, and where their names are imported to."""
LORA_OPERATORS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
"""Those that multiply by adapters; all others call these."""


class Inside:
    """Mixed into vLLM's worker; its methods are called through ``collective_rpc``."""

    model_runner: Any

    def distill_keep_seeds(self) -> bool:
        """Make seeds safe on CPU; True where there was something to do.

        A step that computes only a part of a prompt samples a token and throws it away; vLLM
        then winds the request's generator back, which CPU generators can't. So they sit such
        a step out: never drawn from, nothing to wind back.
        """
        runner = self.model_runner
        if str(getattr(runner, "device", "")) != "cpu":
            return False
        sample_tokens = runner.sample_tokens

        def without_discarded(*args: Any, **kw: Any) -> Any:
            generators: dict[int, Any] = runner.input_batch.generators
            discarded = runner.discard_request_mask.np[: runner.input_batch.num_reqs]
            resting = {i: generators.pop(i) for i in list(generators) if discarded[i]}
            try:
                return sample_tokens(*args, **kw)
            finally:
                generators.update(resting)

        runner.sample_tokens = without_discarded
        return True

    def distill_own_lora(self) -> bool:
        """Have ``lora_operators`` in the place of vLLM's for CPU; True where they were there."""
        modules = [sys.modules[name] for name in LORA_MODULES if name in sys.modules]
        for module in modules:
            for name in LORA_OPERATORS:
                setattr(module, name, getattr(lora_operators, name))
        return bool(modules)


def _end_with(owner_fd: int) -> None:
    select.select([owner_fd], [], [])
    _end()


def _end() -> None:
    scratch = os.environ.get(SCRATCH_VARIABLE)
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)


def _watch_owner() -> None:
    owner = os.environ.get(OWNER_VARIABLE)
    if not owner or int(owner) == os.getpid():
        return
    try:
        owner_fd = os.pidfd_open(int(owner))
    except ProcessLookupError:  # gone while we were being imported
        _end()
        return
    threading.Thread(target=_end_with, args=(owner_fd,), name="owner-watch", daemon=True).start()


_watch_owner()

"""What runs inside vLLM's own processes: the two things that vLLM lacks there.

vLLM mixes ``Inside`` into its worker class (``worker_extension_cls``), which imports this
module in that process. It therefore imports nothing of vLLM, and little else.

1. EngineCore outlives an owner that was killed with SIGKILL, holding its memory. The import
   starts a watch that ends it: by pidfd, not PR_SET_PDEATHSIG, because that signal comes when
   the *thread* that started the process ends, which may be any thread of a user's program.
2. On CPU, a request with a seed whose prompt is computed in two steps ends the whole engine
   ("CPU Generator does not use offset", vLLM 0.32): ``distill_keep_seeds``.
"""

import os
import select
import shutil
import signal
import threading
from typing import Any

OWNER_VARIABLE = "DISTILL_ENGINE_OWNER_PID"
SCRATCH_VARIABLE = "DISTILL_ENGINE_SCRATCH"


class Inside:
    """Mixed into vLLM's worker; its method is called through ``collective_rpc``."""

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

"""``python -m distill.worker_server``: the worker server's command line.

Exit codes: 0 drained or told to stop, 2 bad arguments, 3 no driver at the endpoint,
4 the engine could not start or died.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.protocol.endpoints import is_private
from distill.protocol.keys import (
    KEY_VARIABLE,
    KeyRefused,
    WorkerKey,
    read_worker_key,
    worker_key_from,
)
from distill.worker_server.process import die_with_parent
from distill.worker_server.settings import LORA_RANKS

EXIT_ARGUMENTS = 2


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments; exits with 2 and the usage where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m distill.worker_server",
        description="Serve one model on one device to a distill engine.",
    )
    parser.add_argument("--connect", required=True, metavar="ENDPOINT", help="the driver's address")
    parser.add_argument("--key", metavar="FILE", help="the key for an endpoint that is tcp")
    parser.add_argument(
        "--redial-s", type=_positive, default=60, metavar="N", help="dial a tcp endpoint this long"
    )
    parser.add_argument("--worker", required=True, metavar="NAME", help="this worker's name")
    parser.add_argument("--model", help="a folder or Hugging Face id (default: a small model)")
    parser.add_argument("--gpu", metavar="ID", help="index or UUID; 0+1 for both as one")
    parser.add_argument("--cores", type=_cores, metavar="0,1", help="CPU cores instead of a GPU")
    parser.add_argument("--window-tokens", type=_positive, help="prompt and answer together")
    parser.add_argument("--slots", type=_positive, help="requests in flight at most")
    parser.add_argument(
        "--max-lora-rank", type=_rank, metavar="N", help="take LoRA adapters of this rank at most"
    )
    parser.add_argument("--chat-template", metavar="FILE", help="Jinja, in place of the model's")
    parser.add_argument(
        "--engine", type=_json_object, default={}, metavar="JSON", help="vLLM engine arguments"
    )
    parser.add_argument("--verbose", action="store_true", help="vLLM's own log lines, too")
    parser.add_argument("--announce", action="store_true", help="say on stderr how it goes")
    parser.add_argument(
        "--outlive-parent", action="store_true", help="go on when the starting process ends"
    )
    parsed = parser.parse_args(arguments)
    if parsed.gpu is not None and parsed.cores is not None:
        parser.error("--gpu and --cores exclude each other")
    return parsed


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _rank(text: str) -> int:
    value = _positive(text)
    if value > LORA_RANKS[-1]:
        raise argparse.ArgumentTypeError(f"a rank is at most {LORA_RANKS[-1]}")
    return value


def _cores(text: str) -> tuple[int, ...]:
    """``0,1`` or ``0-3,8``."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return tuple(found)


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value


def _key(endpoint: str, file: str | None) -> WorkerKey | None:
    """The key of an endpoint that needs one: of a file, or of the environment, and off it."""
    text = os.environ.pop(KEY_VARIABLE, None)
    if is_private(endpoint):
        return None
    if file is not None:
        return read_worker_key(Path(file))
    if text is not None:
        return worker_key_from(text, KEY_VARIABLE)
    raise KeyRefused(f"{endpoint} needs a key: --key FILE, or its text in {KEY_VARIABLE}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until the end; returns the exit code."""
    options = parse(arguments)
    if not options.outlive_parent:
        die_with_parent()
    # After die_with_parent: importing zmq may start threads.
    from distill.worker_server.loading import Options
    from distill.worker_server.server import serve

    try:
        key = _key(options.connect, options.key)
    except KeyRefused as error:
        print(f"worker server {options.worker}: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_ARGUMENTS
    return serve(
        Options(
            endpoint=options.connect,
            worker=options.worker,
            model=options.model,
            gpu=options.gpu,
            cores=options.cores,
            window_tokens=options.window_tokens,
            slots=options.slots,
            max_lora_rank=options.max_lora_rank,
            chat_template=options.chat_template,
            engine=options.engine,
            verbose=options.verbose,
            announce=options.announce,
            key=key,
            redial_s=options.redial_s,
        )
    )


if __name__ == "__main__":
    code = main()
    # Not sys.exit: a model that is still loading holds a thread that nothing can stop.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

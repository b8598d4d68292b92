"""Who answers worker calls, and on which devices."""

import click

from distill.flags.rates import rates
from distill.flags.together import together

window_tokens = click.option(
    "--window-tokens",
    type=click.IntRange(min=256),
    metavar="N",
    help="The worker's context window, if it should be less than the model's.",
)
max_lora_rank = click.option(
    "--max-lora-rank",
    type=click.IntRange(min=1, max=512),
    metavar="N",
    help="Take LoRA adapters up to this rank (default: none, or that of the highest --adapter).",
)
chat_template = click.option(
    "--chat-template",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True),
    metavar="FILE",
    help="A chat template (Jinja) in place of the worker model's own; a base model has none.",
)
devices = together(
    click.option(
        "--gpus",
        metavar="0,1",
        help="One worker server on each of these GPUs; 0+1,2+3 for one on each pair. Indices, or "
        "UUIDs of GPUs and MIG slices as `nvidia-smi -L` lists them.",
    ),
    click.option(
        "--cores",
        metavar="0-3,4-7",
        help="Without a GPU: one worker server on each of these sets of CPU cores (default: one on "
        "all).",
    ),
)
ray = together(
    click.option(
        "--ray",
        is_flag=False,
        flag_value="",
        metavar="[HOST:PORT]",
        help="Workers on a Ray cluster: the one at this address; without one that of RAY_ADDRESS, "
        "else the one that `ray start` has made this machine part of, else a new one on this "
        "machine only.",
    ),
    click.option(
        "--num-workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="With --ray: how many worker servers (default: 1).",
    ),
    click.option(
        "--gpus-per-worker",
        type=click.IntRange(min=1),
        metavar="N",
        help="With --ray: GPUs of each, tensor-parallel (default: 1).",
    ),
    click.option(
        "--cores-per-worker",
        type=click.IntRange(min=1),
        metavar="N",
        help="With --ray: CPU cores of each, and no GPU.",
    ),
)
supervisor_devices = together(
    click.option(
        "--supervisor-gpus",
        metavar="4+5",
        help="The GPUs of --supervisor local:MODEL, as --gpus. Without it (and --supervisor-cores) "
        "the workers, which then have the same model, answer for the supervisor as well.",
    ),
    click.option("--supervisor-cores", metavar="4-7", help="The same for CPU cores, as --cores."),
)
joining = together(
    click.option(
        "--listen",
        metavar="tcp://ADDRESS:PORT",
        help="Let workers on other machines join, with a key: ADDRESS is an address, a name or an "
        "interface of this machine, or * for all; PORT may be 0, for a free one.",
    ),
    click.option(
        "--no-local-workers",
        "only_joined",
        is_flag=True,
        help="Start no worker here: wait for those that join.",
    ),
)
model = click.option(
    "--worker",
    metavar="MODEL",
    show_default="SmolLM2-135M-Instruct",
    help="The worker model: a Hugging Face id or folder, or, with --worker-url, the name that "
    "the server knows it by.",
)
workers = together(
    model,
    click.option(
        "--worker-url",
        metavar="URL",
        help="Use an OpenAI-compatible server as worker; vLLM is then neither "
        "installed nor run. Its key, if it needs one, is in DISTILL_WORKER_KEY.",
    ),
    rates("worker", "the server of --worker-url"),
    devices,
    ray,
    supervisor_devices,
    window_tokens,
    click.option(
        "--adapter",
        "adapters",
        multiple=True,
        metavar="[NAME=]PATH",
        help="A LoRA adapter's folder (repeatable). The first answers in place of the bare model, "
        "unless it is --supervisor local:NAME; each is asked by its name: "
        "worker(prompt, model=NAME).",
    ),
    max_lora_rank,
    chat_template,
    joining,
)
"""Of an engine."""

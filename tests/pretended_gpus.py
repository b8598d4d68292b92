"""GPUs that are not there, as far as `nvidia-smi` tells of them."""

from pathlib import Path


def pretend_gpus(folder: Path, count: int) -> str:
    """A new folder for the front of PATH, with a `nvidia-smi` that lists so many: 0, GPU-00, …"""
    program = folder / "nvidia-smi"
    folder.mkdir()
    lines = (f"echo '{n}, GPU-0{n}, Pretended {n}, 9000, 9000'" for n in range(count))
    program.write_text(f'#!/bin/sh\ncase "$1" in --query-gpu*) {"; ".join(lines)};; esac\n')
    program.chmod(0o755)
    return str(folder)

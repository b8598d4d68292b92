"""``python -m distill.placement``: the placer's command line.

Exit codes: 0 told to end, 2 bad arguments, 3 the cluster or the driver can't be reached.
"""

import argparse
import os
import sys


def main() -> int:
    """Run until the driver says Shutdown; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m distill.placement",
        description="Place worker servers on a Ray cluster for a distill engine.",
    )
    parser.add_argument("--connect", required=True, metavar="ENDPOINT", help="the driver's address")
    parser.add_argument("--address", metavar="HOST:PORT", help="the cluster (default: ray.init's)")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs a worker server")
    parser.add_argument("--cores", type=int, default=0, metavar="N", help="CPU cores each, instead")
    options = parser.parse_args()
    from distill.placement.placer import Needs, serve

    return serve(options.connect, options.address, Needs(options.gpus, options.cores))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Ray's threads have nothing left to say

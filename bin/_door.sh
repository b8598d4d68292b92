# Sourced by the doors beside it: checks the system, finds a Python, sets up the environment.
# Leaves $root (the repository) and $venv (the environment's folder) for the door.
set -euo pipefail

if [ "$(uname -s)" != Linux ]; then
    echo "distill runs on Linux only: its jail is made of the Linux kernel's own features." \
        "Here, run it in a container: docker build -t distill -f Containerfile . &&" \
        "docker run --rm --security-opt seccomp=unconfined -v \"\$PWD:/data\" distill" \
        "--context /data/FILE --query TEXT" >&2
    exit 3
fi

root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
venv=$(realpath -m -s "${DISTILL_VENV:-$root/.venv}")

# A folder of the user's (the current one, or one on PYTHONPATH) must not shadow our modules, in any
# of the processes that are started from here.
unset PYTHONPATH PYTHONHOME
export PYTHONSAFEPATH=1
# Bytecode halves the time that vLLM takes to import (15 s of CPU to 7, in each of its processes).
# It is written as modules are first used: compiling all that is installed takes longer than it saves.
# Who asked for no bytecode wanted none beside the sources: it goes into the environment's folder.
if [ -n "${PYTHONDONTWRITEBYTECODE-}" ]; then
    unset PYTHONDONTWRITEBYTECODE
    export PYTHONPYCACHEPREFIX=$venv/bytecode
fi

find_python() {
    # The environment's own Python first: it is the fast way when all is set up. Then the versions
    # in the order of how much they are tested. Each is run, not just looked up: version managers
    # put stubs on PATH for versions that are not there.
    for python in "$venv/bin/python" python3.11 python3.12 python3.13 python3.14 python3; do
        if "$python" -I -S -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' \
            2>/dev/null; then
            return
        fi
    done
    echo "distill needs Python 3.11, 3.12, 3.13 or 3.14, and none of python3.11 … python3.14," \
        "python3 on PATH is one. Install one with your system's package manager" \
        "(Debian, Ubuntu: apt-get install python3 python3-venv) or a version manager." >&2
    exit 3
}

setup() { # PROFILE ARGUMENTS…
    local profile=$1
    shift
    find_python
    "$python" -I -S "$root/bin/_setup.py" --venv "$venv" --profile "$profile" -- "$@"
}

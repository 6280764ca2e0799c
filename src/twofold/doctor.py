"""What works on this machine, and the remedy where something does not: `twofold doctor`."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from twofold import sandbox
from twofold.engines import folders, goes_to
from twofold.types import TwofoldError

WEIGHTS = Path(__file__).with_name("weights")
NEEDED = ("torch", "transformers", "peft", "bitsandbytes", "numpy", "pandas")
USED = ("scikit-learn", "scipy", "matplotlib", "seaborn", "statsmodels", "gradio", "pyarrow", "openpyxl")
LEAST_MEMORY = 1.5
"""GB that the embedded model and one run of code need together."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "warn", "blocked"]
    """ok; warn: works, but less well; blocked: something cannot work."""
    what: str
    """What was found."""
    remedy: str = ""
    """What to do about it; "" when ok."""


def examine(model: str = "embedded") -> Iterator[Finding]:
    """Look at one thing after the other, the slow sandbox last. model: where it is the address of a server, that is looked at first."""
    if goes_to(model):
        yield _server(model)
    machine = (_machine, _gpu, _threads, _notebook, _network, _sandbox)
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _libraries, _weights, _tokenizer, *machine)
    for look in looks:
        yield from look()


def _server(address: str) -> Finding:
    from twofold.engines.remote import open_remote

    try:
        models = open_remote(address).models
    except TwofoldError as error:
        return Finding("server", "blocked", "cannot be used", str(error))
    speak = ", ".join(f"{adapter} is {model}" for adapter, model in sorted(models.items()))
    missing = [name for name in ("code", "theory") if name not in models]
    what = f"{address}: {speak}; prompts go there"
    return Finding("server", "warn", what, f"serve {' and '.join(missing)}: docs/serving.md") if missing else Finding("server", "ok", what)


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    old = sys.version_info < (3, 11)
    yield Finding("python", "blocked" if old else "ok", version, "install Python 3.11 or newer" if old else "")


def _libraries() -> Iterator[Finding]:
    for state, names in (("blocked", NEEDED), ("warn", USED)):
        found, missing = [], []
        for name in names:
            try:
                found.append(f"{name} {importlib.metadata.version(name)}")
            except importlib.metadata.PackageNotFoundError:
                missing.append(name)
        title = "libraries" if names is NEEDED else "more libraries"
        if missing:
            yield Finding(title, state, f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")  # type: ignore[arg-type]
        if found:
            yield Finding(title, "ok", ", ".join(found))


def _weights() -> Iterator[Finding]:
    try:
        folders.verify_weights(WEIGHTS)
        yield Finding("weights", "ok", f"{len((WEIGHTS / 'SHA256SUMS').read_text().splitlines())} files as released")
    except TwofoldError as error:
        yield Finding("weights", "blocked", str(error), f"git checkout {WEIGHTS}, or reinstall twofold")


def _tokenizer() -> Iterator[Finding]:
    path = WEIGHTS / "base" / "tokenizer.json"
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        config = json.loads((WEIGHTS / "base" / "config.json").read_text(encoding="utf-8"))
        size, wanted = len(model["vocab"]), config["vocab_size"]
    except (OSError, ValueError, KeyError, TypeError):
        yield Finding("tokenizer", "blocked", f"{path} cannot be read", f"git checkout {WEIGHTS}, or reinstall twofold")
        return
    fits = size <= wanted
    told = f"{model['type']}, {size:,} tokens" + ("" if fits else f", and the model has room for {wanted:,}")
    yield Finding("tokenizer", "ok" if fits else "blocked", told, "" if fits else f"git checkout {WEIGHTS}, or reinstall twofold")


def _machine() -> Iterator[Finding]:
    yield Finding("processor", "ok", f"{os.cpu_count()} cores, {platform.machine()}")
    free = _free_memory()
    if free is not None:
        short = free < LEAST_MEMORY
        yield Finding("memory", "warn" if short else "ok", f"{free:.1f} GB free", f"free {LEAST_MEMORY} GB before asking" if short else "")


def _gpu() -> Iterator[Finding]:
    """Whether a GPU can decode by captured graphs, tried on it."""
    try:
        from twofold.engines import resident
    except ImportError as error:  # said under libraries
        yield Finding("gpu", "warn", f"cannot be looked at: {error}", "install what is missing first")
        return
    name = resident.gpu()
    if not name:
        yield Finding("gpu", "ok", "none that torch can use: the embedded model needs none, mistral-7b does")
    elif reason := resident.trial():
        what = f"{name}: plain transformers decodes on it, many times slower than captured graphs ({reason})"
        yield Finding("gpu", "warn", what, "update the NVIDIA driver and torch; compute capability 8.0 is needed")
    else:
        yield Finding("gpu", "ok", f"{name}: kernels compile, graphs are captured")


def _threads() -> Iterator[Finding]:
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > mine:
        yield Finding("threads", "warn", f"OMP_NUM_THREADS={asked} on {mine} cores", f"unset OMP_NUM_THREADS, or set it to {mine}")
    else:
        yield Finding("threads", "ok", f"OMP_NUM_THREADS={asked}" if asked else f"as many as serve the model best, up to {mine}")


def _notebook() -> Iterator[Finding]:
    """Whether Jupyter's kernel of this Python can load the extension."""
    missing = [name for name in ("IPython", "ipykernel", "nbformat") if importlib.util.find_spec(name) is None]
    if missing:
        yield Finding("notebook", "warn", f"missing: {', '.join(missing)}", "pip install twofold[notebook] ipykernel")
        return
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ipython", "ipykernel", "nbformat"))
    others = [name for name, python in _kernels() if not os.path.exists(python) or not os.path.samefile(python, sys.executable)]
    if others:
        what = f"{versions}; other Pythons run the kernels {', '.join(others)}"
        remedy = "a kernel needs twofold in its own Python: python -m ipykernel install --user --name twofold"
        yield Finding("notebook", "warn", what, remedy)
    else:
        yield Finding("notebook", "ok", f"{versions}; %load_ext twofold")


def _kernels() -> Iterator[tuple[str, str]]:
    """Names of the installed Python kernels and the interpreters that they start; a bare `python` is this one."""
    homes = (Path(sys.prefix, "share"), Path.home() / ".local" / "share", Path("/usr/local/share"), Path("/usr/share"))
    for path in sorted({path for home in homes for path in home.glob("jupyter/kernels/*/kernel.json")}):
        try:
            spec = json.loads(path.read_text(encoding="utf-8"))
            if spec.get("language") == "python":
                python = str(spec["argv"][0])
                yield path.parent.name, python if os.path.isabs(python) else sys.executable
        except (OSError, ValueError, KeyError, IndexError, AttributeError):
            continue


def _network() -> Iterator[Finding]:
    offline = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name, "") not in ("", "0")]
    only = f"; {', '.join(offline)} keeps hub ids from being fetched" if offline else ""
    yield Finding("network", "ok", f"not needed: the embedded model answers offline; only a hub id or address as --model uses it{only}")


def _free_memory() -> float | None:
    """Free memory in GB, None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    return None if kilobytes is None else kilobytes / 1e6


def _sandbox() -> Iterator[Finding]:
    try:
        level, doors = sandbox.level(), sandbox.effects()
    except TwofoldError as error:
        yield Finding("sandbox", "warn", str(error), "answers are shown without being run; see docs/sandbox.md")
        return
    open_doors = [name for name, closed in doors.items() if not closed]
    if level == "strong":
        yield Finding("sandbox", "ok", f"strong: all {len(doors)} doors closed")
    else:
        what = f"{level}: open to {', '.join(open_doors)}"
        yield Finding("sandbox", "warn", what, "nothing runs without your word; Linux with user namespaces and Landlock closes more")


def main(model: str = "embedded") -> int:
    """Print the findings as they come. Returns 1 when something is blocked, else 0."""
    worst = 0
    for finding in examine(model):
        print(f"{finding.state:8}{finding.name:16}{finding.what}", flush=True)
        if finding.remedy:
            print(f"{'':24}-> {finding.remedy}")
        worst = max(worst, finding.state == "blocked")
    return worst

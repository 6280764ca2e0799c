"""The run.json beside each result: config, data hashes, commit, versions, numbers."""

import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "bitsandbytes", "scikit-learn", "numpy")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit() -> str:
    """The checkout's commit, with "+" when files differ from it; "" outside a checkout."""
    try:
        head, dirty = (
            subprocess.run(["git", *words], capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if dirty else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that matter here."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write(folder: Path, config: Any, numbers: Mapping[str, Any], data: Iterable[Path] = ()) -> Path:
    """Write folder/run.json for a finished stage. config: its frozen dataclass; data: input files, recorded by hash."""
    path = folder / "run.json"
    record = {
        "config": asdict(config),
        "data": {file.name: sha256(file) for file in data if file.exists()},
        "commit": commit(),
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "numbers": dict(numbers),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    return path

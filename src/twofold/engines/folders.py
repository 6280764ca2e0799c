"""Folders of models and adapters: found, fetched and checked before anything of them is loaded. No torch in here."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from twofold.types import TwofoldError


def cache() -> Path:
    """The project's folder in the user's cache; it may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache") / "twofold"


def kept_folder(folder: Path) -> Path:
    """Where the quantised form of a model is kept: another folder for other weights, by their names, sizes and times."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digest = hashlib.sha256(json.dumps([str(folder.resolve()), stats]).encode()).hexdigest()
    return cache() / "models" / f"{folder.name}-{digest[:16]}"


def keep(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a quantised model, so that the next start reads a quarter of the bytes; a disk that is full costs only that.

    Must come before anything computes with the model: bitsandbytes then packs its weights for the machine.
    """
    from safetensors import SafetensorError

    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        unfinished.rename(folder)
    except (OSError, SafetensorError):
        shutil.rmtree(unfinished, ignore_errors=True)


def verify_weights(folder: Path) -> None:
    """Check a weights folder against its SHA256SUMS. A stamp in the user's cache spares later starts the hashing while nothing changes.

    Raises TwofoldError that names the first file that is missing or differs.
    """
    remedy = f"reinstall twofold, or git checkout {folder}."
    try:
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        sums = {name: digest for digest, name in (entry.split(maxsplit=1) for entry in lines)}
        stats = [(name, (folder / name).stat().st_size, (folder / name).stat().st_mtime_ns) for name in sums]
    except OSError as error:
        raise TwofoldError(f"The embedded weights lack {error.filename}: {remedy}") from None
    stamp = cache() / hashlib.sha256(json.dumps([str(folder), sums, stats]).encode()).hexdigest()
    if stamp.exists():
        return
    for name, expected in sums.items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise TwofoldError(f"The embedded weights are damaged, {folder / name} differs from its checksum: {remedy}")
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    except OSError:
        return  # a read-only home costs the hashing again, nothing else


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the weights and the tokenizer in a folder, by folder and file name."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("tokenizer*"), *folder.glob("*config.json")])
    return {f"{folder.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def find(source: str) -> Path:
    """Return the local folder of a model or adapter, downloaded from the hub when it is not a folder here."""
    if (path := Path(source).expanduser()).is_dir():
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        raise TwofoldError(f"{source!r} is neither a folder nor a hub id: use embedded, mistral-7b, a folder or owner/name.")
    import huggingface_hub as hub
    from huggingface_hub import errors

    wanted = ["*.json", "*.safetensors", "tokenizer*", "*.model"]
    try:
        return Path(hub.snapshot_download(source, allow_patterns=wanted, ignore_patterns=["consolidated*", "*/*"]))
    except errors.GatedRepoError:
        if not hub.get_token():
            raise TwofoldError(
                f"{source} is gated and no token is here: accept its terms at https://huggingface.co/{source}, then run 'hf auth login'."
            ) from None
        raise TwofoldError(f"{source} is gated: accept its terms at https://huggingface.co/{source}, then run 'hf auth login'.") from None
    except errors.RepositoryNotFoundError:
        raise TwofoldError(f"{source} is neither a folder nor a model on the hub (or private: run 'hf auth login').") from None
    except (errors.HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        what = type(error).__name__
        raise TwofoldError(f"{source} cannot be downloaded ({what}): check the connection, or use embedded or a folder.") from None


def trained_on(folder: Path, base: str) -> bool:
    """Return whether an adapter folder exists and names a base with the same last part."""
    try:
        trained = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError):
        return False
    return Path(trained).name == Path(base).name


def check_adapter(folder: Path, model: Any) -> None:
    """Raise TwofoldError unless a folder holds a LoRA adapter in safetensors whose every matrix fits a layer of the model."""
    from safetensors import SafetensorError, safe_open

    try:
        kind = json.loads((folder / "adapter_config.json").read_text()).get("peft_type")
        with safe_open(folder / "adapter_model.safetensors", "pt") as tensors:
            shapes = {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, ValueError, SafetensorError) as error:
        raise TwofoldError(f"{folder} holds no adapter (adapter_config.json and adapter_model.safetensors): {line(error)}.") from None
    layers = {name.replace(".base_layer", ""): layer for name, layer in model.named_modules() if hasattr(layer, "in_features")}
    for key, shape in shapes.items():
        layer = layers.get(re.sub(r"^base_model\.model\.|\.lora_[AB]\.weight$", "", key))
        fits = layer is not None and (shape[1] == layer.in_features if ".lora_A." in key else shape[0] == layer.out_features)
        if kind != "LORA" or not fits:
            raise TwofoldError(f"The adapter in {folder} does not fit this model ({key}, {kind}): use one trained on the same base.")


def line(error: BaseException) -> str:
    """Say an error in one short line."""
    return " ".join(str(error).split())[:160] or type(error).__name__

"""Stage 2: text shards and chat rows become token files by slice, with a validation share held out."""

import hashlib
import io
import json
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twofold import prompts
from twofold.train import mine, record
from twofold.types import TwofoldError

PIECE = 8_000  # characters: longer documents are split at a blank line, so that no file fills a batch by itself


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold train corpus` does."""

    source: str = "corpus"
    """Folder of *.jsonl or *.jsonl.zst shards with text and kind, or one text file; empty for chat rows alone."""
    rows: str = ""
    """Folder of chat rows to add as slices chat-code and chat-theory; empty adds none."""
    tokenizer: str = "out/tokenizer"
    """Tokenizer folder of stage 1."""
    out: str = "out/corpus"
    """Where NAME.npz token files are written."""
    drop: str = ""
    """File with lines shard TAB line number of documents to leave out (benchmark overlap)."""
    text: bool = True
    """Write the documents themselves; --no-text leaves only what --mine finds in them, so that both can run side by side."""
    mine: int = 0
    """How many times the chats that the shards hold (train/mine.py) are rendered, as slices mined-code and mined-theory; 0 = not."""
    held_out: int = 200
    """One document in this many goes to validation."""
    name: str = "text"
    """Prefix of the files written, so that several calls can fill one folder."""


def shards(path: Path) -> list[Path]:
    """The shard files behind a path. Raises TwofoldError when there are none."""
    found = [path] if path.is_file() else sorted((*path.glob("*.jsonl.zst"), *path.glob("*.jsonl")))
    if not found:
        raise TwofoldError(f"no corpus shards in {path}: expected *.jsonl.zst, *.jsonl or one text file; see docs/training.md")
    return found


def documents(shard: Path) -> Iterator[dict[str, Any]]:
    """The documents of one shard: text, kind and where they are from. A plain text file is split at lines of three or more dashes."""
    if shard.suffix == ".zst":
        import zstandard

        with shard.open("rb") as file:
            for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
                yield json.loads(line)
    elif shard.suffix == ".jsonl":
        with shard.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    else:
        for text in re.split(r"^-{3,}$", shard.read_text(encoding="utf-8"), flags=re.M):
            yield {"text": text.strip(), "kind": "prose"}


def slice_of(shard: Path, document: dict[str, Any]) -> str:
    """The slice a document is counted and mixed as: notebook, docs, code, python, prose or multilingual."""
    kind = document["kind"]
    return "python" if kind == "code" and "python" in shard.name else kind


def wanted(text: str) -> bool:
    """False for documents that teach nothing: tiny, mostly numbers or symbols, or with monstrous lines."""
    if len(text) < 120:
        return False
    head = text[:20_000]
    letters = sum(character.isalpha() or character.isspace() for character in head)
    lines = head.splitlines()
    return letters / len(head) > 0.55 and max(map(len, lines)) < 4_000 and len(set(lines)) > len(lines) * 0.25


def split(text: str, size: int = PIECE) -> list[str]:
    """Cut a long text near every `size` characters: before a definition, a fence or after a blank line. Nothing is lost."""
    parts = []
    while len(text) > size * 3 // 2:
        window = text[size // 2 : size]
        cuts = [match.end() for match in re.finditer(r"\n(?=def |class |@|```python|#{1,3} )|\n\n(?=\S)", window)]
        at = size // 2 + (cuts[-1] if cuts else len(window))
        parts.append(text[:at])
        text = text[at:]
    return [*parts, text]


def load_tokenizer(folder: str) -> tuple[Any, dict[str, int]]:
    """The raw tokenizer with specials read as plain text, and the ids of the specials."""
    from tokenizers import Tokenizer

    path = Path(folder) / "tokenizer.json"
    if not path.exists():
        raise TwofoldError(f"no tokenizer in {folder}: run `twofold train tokenizer` first")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    special = {mark: tokenizer.token_to_id(mark) for mark in prompts.SPECIALS}
    if missing := [mark for mark, number in special.items() if number is None]:
        raise TwofoldError(f"the tokenizer in {folder} lacks {', '.join(missing)}: train one with `twofold train tokenizer`")
    return tokenizer, typing.cast(dict[str, int], special)


def save(path: Path, pieces: Sequence[Sequence[int]]) -> int:
    """Write token pieces as one flat uint16 array and the start of each piece. Returns the number of tokens."""
    lengths = np.fromiter((len(piece) for piece in pieces), dtype=np.int64, count=len(pieces))
    tokens = np.fromiter((token for piece in pieces for token in piece), dtype=np.uint16, count=int(lengths.sum()))
    part = path.with_suffix(".part.npz")
    np.savez(part, tokens=tokens, starts=np.concatenate([[0], np.cumsum(lengths)]))
    part.replace(path)
    return int(lengths.sum())


def main(config: Config) -> None:
    """Tokenise every shard; write <slice>.<name>.npz for training and valid-<slice>.<name>.npz for validation."""
    from tqdm import tqdm

    tokenizer, special = load_tokenizer(config.tokenizer)
    chat = {"chat-code": Path(config.rows) / "train.jsonl", "chat-theory": Path(config.rows) / "train_theory.jsonl"} if config.rows else {}
    for needed in (*chat.values(), *([Path(config.drop)] if config.drop else [])):
        if not needed.exists():
            raise TwofoldError(f"there is no {needed}: rows are made by `twofold data build`, a drop list by you")
    dropped = {tuple(line.split("\t")[:2]) for line in Path(config.drop).read_text().splitlines()} if config.drop else set()
    sources = shards(Path(config.source)) if config.source else []
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, int] = {}
    batch: list[tuple[str, str]] = []
    pieces: dict[str, list[list[int]]] = {}

    def tokenize(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids  # type: ignore[no-any-return]

    def flush() -> None:
        found = tokenizer.encode_batch_fast([text for _, text in batch], add_special_tokens=False)
        for (where, _), encoded in zip(batch, found, strict=True):
            pieces.setdefault(where, []).append([special[prompts.BOS], *encoded.ids, special[prompts.EOS]])
        batch.clear()

    for shard in sources:
        pieces.clear()
        for number, document in enumerate(tqdm(documents(shard), desc=shard.name, file=sys.stderr, disable=None, unit="doc")):
            text = document["text"]
            if (shard.name, str(number)) in dropped or not wanted(text):
                continue
            held = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % config.held_out == 0
            where = ("valid-" if held else "") + slice_of(shard, document)
            batch += [(where, part) for part in split(text)] if config.text else []
            for seed in range(config.mine):
                for found_in, messages in mine.chats(document, seed):
                    pieces.setdefault(("valid-" if held else "") + found_in, []).append(prompts.encode(messages, tokenize, special)[0])
            if len(batch) > 4_000:
                flush()
        flush()
        for where, found in pieces.items():
            numbers[where] = numbers.get(where, 0) + save(out / f"{where}.{config.name}-{shard.name.split('.')[0]}.npz", found)
    for where, path in chat.items():
        training, held_out = list[list[int]](), list[list[int]]()
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(tqdm(lines, desc=path.name, file=sys.stderr, disable=None, unit="row")):
                row = prompts.encode(json.loads(line)["messages"], tokenize, special)[0]
                (training if number % config.held_out else held_out).append(row)
        numbers[where] = save(out / f"{where}.{config.name}.npz", training)
        numbers[f"valid-{where}"] = save(out / f"valid-{where}.{config.name}.npz", held_out)
    inputs = [*sources, *chat.values(), Path(config.tokenizer) / "tokenizer.json"]
    record.write(out / config.name, config, {"tokens": numbers}, inputs)  # a folder of its own: several calls fill `out`
    print("\n".join(f"{where:24s} {count:>13,} tokens" for where, count in sorted(numbers.items())))

"""Stage 1: a byte-level BPE tokenizer in which punctuation may take the following newline and indent with it."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twofold import prompts
from twofold.train import corpus, record

# Letters with one leading mark, single digits, punctuation with a following line end and indent, line ends, blanks.
PATTERN = r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+(?:[\r\n]+[ \t]*)?|\s*[\r\n]+[ \t]*|[ \t]+(?!\S)|\s+"
SPARE = 64


@dataclass(frozen=True, slots=True)
class Config:
    """What `twofold train tokenizer` does."""

    corpus: str = "corpus"
    """Folder of *.jsonl or *.jsonl.zst shards, or one text file."""
    rows: str = "data"
    """Folder of the chat rows, which join the sample."""
    out: str = "out/tokenizer"
    """Where the tokenizer folder is written."""
    size: int = 16_384
    """Vocabulary, special tokens included."""
    megabytes: int = 120
    """Size of the text sample it learns from."""


def _texts(config: Config) -> Iterator[str]:
    for path in sorted(Path(config.rows).glob("*train*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield "\n".join(turn["content"] for turn in json.loads(line)["messages"])
    shards = corpus.shards(Path(config.corpus))
    share = config.megabytes * 1_000_000 // max(1, len(shards))
    for shard in shards:
        left = share
        for document in corpus.documents(shard):
            yield document["text"][:20_000]
            left -= min(20_000, len(document["text"]))
            if left < 0:
                break


def main(config: Config) -> None:
    """Train the tokenizer and write a folder that AutoTokenizer loads."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [*prompts.SPECIALS, *(f"<spare_{number}>" for number in range(SPARE))]
    trainer = trainers.BpeTrainer(
        vocab_size=config.size,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=sys.stderr.isatty(),
    )
    tokenizer.train_from_iterator(_texts(config), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=prompts.BOS,
        eos_token=prompts.EOS,
        pad_token=prompts.PAD,
        additional_special_tokens=[prompts.INST, prompts.END_INST],
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        chat_template=prompts.chat_template(),
    )
    out = Path(config.out)
    wrapped.save_pretrained(out)
    sample = next(_texts(config))
    per_token = len(sample.encode()) / len(tokenizer.encode(sample).ids)
    numbers = {"vocabulary": tokenizer.get_vocab_size(), "bytes_per_token": round(per_token, 3)}
    record.write(out, config, numbers, [*sorted(Path(config.rows).glob("*train*.jsonl")), *corpus.shards(Path(config.corpus))])
    print(f"{out}: {numbers['vocabulary']} tokens")

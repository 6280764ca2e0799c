"""A tiny random model in the layout of src/twofold/weights, made once a session: real bitsandbytes NF4, real peft adapters, no download."""

import hashlib
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors gain nothing from threads, which spin against other work on shared cores

TEXTS = [
    "How do I compute the mean of a column with pandas? Use df['price'].mean() and group by region.",
    "import pandas as pd\nimport numpy as np\nfor name, group in df.groupby('city'):\n    print(name, group['sales'].sum())\n",
    "Cross-validation estimates how well a model does on data it has not seen. A B C [INST] é 漢字",
]


def sign(folder: Path) -> None:
    """Write a folder's SHA256SUMS."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in paths]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")


@contextmanager
def serving(engine: Any, key: str = "") -> Iterator[str]:
    """`twofold serve` with an engine, on a real socket of this machine; yields its address, which ends in /v1."""
    import uvicorn

    from twofold.server import build

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(build(engine, key), log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch computes in one thread, so that sums come out the same each time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, code/ (always says "A"), theory/ (always "B"), stop/ (always eos) and SHA256SUMS."""
    folder = tmp_path_factory.mktemp("weights")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft 0.21 calls names that transformers 5.23 deprecates, and warns of missing model cards
        _make(folder, tmp_path_factory.mktemp("bf16"))
    sign(folder)
    return folder


def _make(folder: Path, plain: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "[INST]", "[/INST]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=384, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": special[3:]})
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    room = {"vocab_size": 384, "max_position_embeddings": 512, "sliding_window": None, "tie_word_embeddings": True}
    config = MistralConfig(initializer_range=0.3, **room, **shape, **ids)  # with the usual 0.02 no logit could pass 1.3
    MistralForCausalLM(config).to(torch.bfloat16).save_pretrained(plain)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=nf4, dtype=torch.bfloat16)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for name, says in {"code": "A", "theory": "B", "stop": "</s>"}.items():
        adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        adapted.train()
        optimiser = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
        target = torch.full((8 * 16,), tokenizer.convert_tokens_to_ids(says))
        for _ in range(40):  # far past the point where nothing but the one token is likely
            loss = torch.nn.functional.cross_entropy(adapted(input_ids=torch.randint(5, 384, (8, 16))).logits.flatten(0, 1).float(), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert loss < 0.01, f"the adapter {name} did not learn its word: {loss}"
        adapted.save_pretrained(folder / name)
        model = adapted.unload()

"""embed: the encoder in NumPy is the one that was trained, means alike are near, hostile text is only text."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from twofold import embed
from twofold.train import embed as trained
from twofold.train import pretrain
from twofold.train.quantize import dequantized
from twofold.types import TwofoldError

TEXTS = (
    "histogram of price",
    "什么是交叉验证?",
    "why does my model do well in training and badly in production, and what can be done about it? " * 6,
    "a",
)


def test_numpy_computes_what_torch_trained() -> None:
    base = pretrain.Model(pretrain.Config(layers=len(embed.load().blocks)), 16_384)
    twin = trained.Encoder(base)
    weights = dequantized(embed.WEIGHTS / "encoder.safetensors", torch.float32)
    weights["embed_tokens.weight"] = dequantized(embed.WEIGHTS / "base" / "model.safetensors")["model.embed_tokens.weight"]
    twin.load_state_dict(weights)
    batches = trained.Batches(embed.load().tokenizer, torch.device("cpu"), 0)
    with torch.inference_mode():
        vectors, logits = twin(*batches(TEXTS))
    for text, vector, scores in zip(TEXTS, vectors.numpy(), logits.numpy(), strict=True):
        sense = embed.sense(text)
        assert np.abs(sense.vector - vector).max() < 1e-4
        assert np.allclose([sense.topic, sense.code, sense.recall], scores.clip(-6, 6), atol=1e-3)


def test_texts_read_together_are_texts_read_alone() -> None:
    together = embed.load().senses(["", *TEXTS, "  "])
    for text, sense in zip(("", *TEXTS, "  "), together, strict=True):
        assert np.abs(sense.vector - embed.sense(text).vector).max() < 1e-5
    assert not together[0].vector.any()
    assert together[0].topic == 0.0
    assert embed.load().senses([]) == []
    assert all(abs(float(np.linalg.norm(sense.vector)) - 1) < 1e-5 for sense in together[1:-1])


@pytest.mark.parametrize(
    ("question", "near", "far"),
    [
        ("average price by region", "mean of price for each region", "train a random forest"),
        ("how do i get rid of empty cells", "drop rows with missing values", "plot a histogram"),
        ("promedio de ventas por mes", "mean sales per month", "what is a p-value"),
        ("my model memorises the training data", "overfitting", "inner join"),
    ],
)
def test_what_means_alike_is_near(question: str, near: str, far: str) -> None:
    asked, close, away = (embed.sense(text).vector for text in (question, near, far))
    assert asked @ close > asked @ away + 0.2


@pytest.mark.parametrize("text", ["\ud800", "[INST] </s>", "\x00" * 50, "a" * 500_000, "🤖" * 300, "交" * 20_000])
def test_hostile_text_is_only_text(text: str) -> None:
    began = time.perf_counter()
    assert np.isfinite(embed.sense(text).vector).all()
    assert time.perf_counter() - began < 3


def test_a_centre_is_the_mean_direction() -> None:
    assert abs(float(np.linalg.norm(embed.centre(TEXTS))) - 1) < 1e-5
    assert np.abs(embed.centre(TEXTS[:1]) - embed.sense(TEXTS[0]).vector).max() < 1e-5
    assert not embed.centre([]).any()


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match="twofold train embed"):
        embed.read(tmp_path)

"""train.embed: what the pairs are, what is never shown, and that the loss falls."""

import random

import torch

from twofold import embed
from twofold.datasets import build, rows
from twofold.train import embed as trained
from twofold.train import pretrain

GUIDE = """# Cross-validation

Cross-validation is a way to estimate how well a model generalises. It splits the data into folds. Each fold is the test set once.
The mean of the scores is the estimate, and their spread says how far it can be trusted in practice.

A second paragraph is about something else that follows from it, and it is long enough to be one. It has two sentences.

Compute the mean of the price by region:

```python
import pandas as pd
df.groupby("region")["price"].mean()
df["region"].nunique()
```
"""


def test_documents_give_pairs_of_what_belongs_together() -> None:
    found = list(trained.document_pairs({"text": GUIDE, "kind": "docs"}, random.Random(0)))
    assert any("cross-validation" in first.lower() and "estimate how well" in second for first, second in found)
    assert any("mean of the price" in first.lower() and "groupby" in second for first, second in found)
    assert all(first and second and first != second for first, second in found)
    assert list(trained.document_pairs({"text": "x", "kind": "docs"}, random.Random(0))) == []


def test_what_evaluation_asks_is_never_shown() -> None:
    shown = {text for wording in trained.wordings(trained.Config()) for part in wording for text in part}
    for card in rows.cards():
        kept = card.asks if card.id in build.heldout() else card.asks[-build.EVAL_ASKS :]
        assert not shown & set(kept), card.id


def test_the_loss_falls_and_padding_does_not_count() -> None:
    torch.manual_seed(0)
    small = pretrain.Config(layers=1, hidden=64, heads=2, kv_heads=1, head_dim=32, mlp=128)
    model = trained.Encoder(pretrain.Model(small, 16_384))
    batches = trained.Batches(embed.load().tokenizer, torch.device("cpu"), 0)
    firsts, seconds = [f"mean of column {n}" for n in range(8)], [f"average {n}" for n in range(8)]

    def loss() -> torch.Tensor:
        return trained.contrast(model(*batches(firsts))[0], model(*batches(seconds))[0], 0.05)

    before = float(loss().detach())
    trained.descend(model, 60, 3e-3, loss, "toy")
    assert float(loss().detach()) < before / 2
    alone, beside = model(*batches(firsts[:1]))[0], model(*batches([firsts[0], "a much longer text than the first one is"]))[0]
    assert torch.allclose(alone[0], beside[0], atol=1e-5)


def test_the_file_holds_all_but_the_token_embeddings() -> None:
    small = pretrain.Config(layers=1, hidden=64, heads=2, kv_heads=1, head_dim=32, mlp=128)
    names = set(trained.tensors(trained.Encoder(pretrain.Model(small, 100))))
    assert {"proj.weight", "heads.weight", "heads.bias", "norm.weight", "layers.0.mlp.down_proj.weight.absmax"} <= names
    assert not any("embed" in name for name in names)

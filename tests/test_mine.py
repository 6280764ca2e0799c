"""Chats found in documents: what counts as a task, what code must bring along, what defines a title."""

import random

from twofold.train import mine

NOTEBOOK = """# A study
```python
import pandas as pd
import torch
df = pd.read_csv("x.csv")
```
Now let's compute the mean price per region:
```python
%time
df.groupby("region")["price"].mean()
```
```python
# Keep only the rows with a high price
high = df[df["price"] > 10]

# Train the network
net = torch.nn.Linear(2, 2)
```
See the chapter on prices:
```python
df["price"].hist()
```
"""


def test_cells_take_their_task_and_bring_their_schema() -> None:
    found = list(mine.cells(NOTEBOOK))
    assert [cell.task for cell in found] == ["Compute the mean price per region", "Keep only the rows with a high price"]
    assert found[0].code == 'df.groupby("region")["price"].mean()'
    assert set(found[0].frames["df"]) == {"region", "price"}


def test_imports_of_the_notebook_come_along_and_foreign_libraries_do_not() -> None:
    text = NOTEBOOK + '\nLoad the file sales.csv into a frame\n```python\nsales = pd.read_csv("sales.csv")\n```\n'
    assert list(mine.cells(text))[-1].code == 'import pandas as pd\n\nsales = pd.read_csv("sales.csv")'
    assert not any("torch" in cell.code for cell in mine.cells(text))


def test_renaming_touches_only_columns_that_the_task_names() -> None:
    cell = next(iter(mine.cells(NOTEBOOK)))
    for seed in range(30):
        *_, user, answer = mine.code_chat(cell, random.Random(seed))
        names = answer["content"].split('"')[1::2]
        question = user["content"].rpartition("\n\n")[2]
        assert all(name in question for name in names), (question, names)


def test_told_turns_prose_into_a_task_or_nothing() -> None:
    assert mine.told("Next, let's plot the distribution of ages:") == "Plot the distribution of ages"
    assert mine.told("## 3.1 Drop missing values") == "Drop missing values"
    assert mine.told("See https://example.org for the data") == ""
    assert mine.told("Done") == ""


def test_passages_that_define_their_title_may_go_without_a_card_and_others_never() -> None:
    clear = "Bagging is a way to train many models on resampled rows and to average what they say about a new row."
    vague = "Run the cell and look at bagging in the picture, then go on."
    assert mine.defines("Bagging", clear)
    assert not mine.defines("Bagging", vague)
    assert all("Card: " in mine.theory_chat("Bagging", vague, random.Random(seed))[1]["content"] for seed in range(20))
    cards = ["Card: " in mine.theory_chat("Bagging", clear, random.Random(seed))[1]["content"] for seed in range(40)]
    assert 0 < sum(cards) < 40


def test_same_document_same_chats() -> None:
    document = {"text": NOTEBOOK, "kind": "notebook"}
    assert list(mine.chats(document)) == list(mine.chats(document))
    assert len({str(list(mine.chats(document, seed))) for seed in range(5)}) > 1

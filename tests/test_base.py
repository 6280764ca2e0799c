"""The measurements of the base: what a copy is, where a completed function ends, that the functions are right and unknown to training."""

import random

import pytest

from twofold.datasets import check
from twofold.evals import base


def test_a_copy_is_a_run_of_fifty_tokens() -> None:
    rng = random.Random(0)
    documents = [[rng.randrange(16_384) for _ in range(300)] for _ in range(4)]
    samples = [
        [1, 2, 3, *documents[0][40:90], 4],  # fifty
        [1, 2, 3, *documents[0][40:89], 4],  # forty-nine
        documents[1][100:180],
        [rng.randrange(16_384) for _ in range(120)],
        [7] * 10,
    ]
    assert base.copied(samples, [*documents, documents[1]]) == {0: 1, 2: 2}


def test_hashes_of_runs_tell_order_and_ends() -> None:
    assert len(base.spans(range(49))) == 0
    assert len(base.spans(range(52))) == 3
    assert base.spans(list(range(50)))[0] != base.spans(list(reversed(range(50))))[0]
    assert base.spans([0] * 50)[0] != base.spans([1] * 50)[0]


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("    return x\n\n\ndef other():\n    pass", "    return x"),
        ("    if x:\n        return 1\n\n    return 2\nprint(3)\n", "    if x:\n        return 1\n\n    return 2"),
        ("    return [\n        1,\n]\nx = 2", "    return [\n        1,\n]"),
        ("\n    return x", "    return x"),
        ("", ""),
    ],
)
def test_a_body_ends_at_the_margin(text: str, body: str) -> None:
    assert base.body_of(text) == body


def test_every_reference_body_passes_and_is_needed() -> None:
    asked = base.functions()
    assert len(asked) >= 100
    assert len({one.id for one in asked}) == len(asked)
    right = [check.Task(one.id, one.prompt + one.body, one.test, ()) for one in asked]
    wrong = [check.Task(f"{one.id} empty", f"{one.prompt}    pass\n", one.test, ()) for one in asked]
    failed = {name for name, failure in check.execute_all([*right, *wrong]) if failure}
    assert failed == {task.name for task in wrong}

"""Which earlier turns go into the prompt."""

import itertools
from collections.abc import Sequence

from twofold.types import Message, Route

CHARACTERS_PER_TOKEN = 3.5


def recall(history: Sequence[Message], route: Route, budget: int = 500) -> tuple[Message, ...]:
    """Earlier question-and-answer pairs, oldest first: none unless the question refers back, else the newest that fit in `budget` tokens.

    Tokens are estimated at 3.5 characters each. The last pair is always kept. Where it is too long, each half is cut to what the
    other leaves, and at least to one half of the room.
    """
    if not route.recall:
        return ()
    pairs = [
        (question, answer)
        for question, answer in itertools.pairwise(history)
        if question["role"] == "user" and answer["role"] == "assistant"
    ]
    left = int(budget * CHARACTERS_PER_TOKEN)
    kept: list[Message] = []
    for question, answer in reversed(pairs):
        size = len(question["content"]) + len(answer["content"])
        if size > left:
            if not kept:
                asked = question["content"][: max(left // 2, left - len(answer["content"]))]
                kept = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer["content"][: left - len(asked)]}]
            break
        left -= size
        kept = [question, answer, *kept]
    return tuple(kept)

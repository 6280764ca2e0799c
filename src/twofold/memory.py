"""Which earlier turns go into the prompt."""

from collections.abc import Sequence

from twofold.types import Message, Route

CHARACTERS_PER_TOKEN = 3.5


def recall(history: Sequence[Message], route: Route, budget: int = 500) -> tuple[Message, ...]:
    """Earlier question-and-answer pairs, oldest first: none unless the question refers back, else the newest that fit in `budget` tokens.

    Tokens are estimated at 3.5 characters each. The last pair is always kept, both halves cut at the end where it is too long.
    """
    if not route.recall:
        return ()
    pairs = [
        (question, answer)
        for question, answer in zip(history, history[1:], strict=False)
        if question["role"] == "user" and answer["role"] == "assistant"
    ]
    left = int(budget * CHARACTERS_PER_TOKEN)
    kept: list[Message] = []
    for question, answer in reversed(pairs):
        size = len(question["content"]) + len(answer["content"])
        if size > left:
            if not kept:
                short = left // 2
                kept = [{"role": "user", "content": question["content"][:short]}, {"role": "assistant", "content": answer["content"][:short]}]
            break
        left -= size
        kept = [question, answer, *kept]
    return tuple(kept)

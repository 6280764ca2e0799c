"""What a surface says beside an answer: who spoke, why, how long it took, how fast it came."""

from collections.abc import Generator, Iterable
from typing import Literal

from twofold.types import RUNGS, Reply


def timed(replies: Iterable[Reply]) -> Generator[tuple[Reply, float], None, None]:
    """Yield each snapshot with the tokens a second since the first token; 0.0 until there are two.

    Loading the model and reading the prompt are in `Reply.seconds`, not in this speed. Closing this closes `replies`.
    """
    first: Reply | None = None
    speed, tokens = 0.0, 0
    try:
        for reply in replies:
            first = first or (reply if reply.tokens else None)
            span = reply.seconds - first.seconds if first else 0.0
            if first and span > 0 and reply.tokens > tokens:  # what verification takes is no part of the speed
                speed = (reply.tokens - first.tokens) / span
            tokens = reply.tokens
            yield reply, speed
    finally:
        if isinstance(replies, Generator):
            replies.close()


def pace(reply: Reply, speed: float) -> str:
    """Say how long and how fast: "3.1 s · 48 tok/s"."""
    return f"{reply.seconds:.1f} s" + (f" · {speed:.0f} tok/s" if speed else "")


def line(reply: Reply, speed: float) -> str:
    """Say it all in one line: "CODE · asks for code · 3.1 s · 48 tok/s"."""
    return f"{reply.chip} · {reply.route.why} · {pace(reply, speed)}"


def ladder(reply: Reply) -> list[tuple[str, Literal["passed", "failed", "open"], str]]:
    """Say of each rung whether the code passed it, failed it, or was not tried on it, and why it failed or where the ladder ended."""
    told: list[tuple[str, Literal["passed", "failed", "open"], str]] = []
    reason = reply.reason
    for rung in RUNGS:
        if rung in reply.proof:
            told.append((rung, "passed", ""))
        elif rung == reply.failed:
            told.append((rung, "failed", reason))
        else:
            told.append((rung, "open", "" if reply.failed else reason))
            reason = ""
    return told

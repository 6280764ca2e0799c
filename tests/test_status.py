from collections.abc import Iterator
from dataclasses import replace

from twofold.status import ladder, line, timed
from twofold.types import RUNGS, Reply, Route

ROUTE = Route("code", "asks for code")


def test_speed_counts_from_the_first_token_so_that_loading_is_not_in_it() -> None:
    replies = [
        Reply("", ROUTE),
        Reply("a", ROUTE, "code", seconds=10, tokens=1),
        Reply("ab", ROUTE, "code", seconds=12, tokens=97, done=True),
    ]
    assert [speed for _, speed in timed(replies)] == [0.0, 0.0, 48.0]


def test_line_names_speaker_reason_time_and_speed() -> None:
    assert line(Reply("x", ROUTE, "code", seconds=3.14), 48.2) == "CODE · asks for code · 3.1 s · 48 tok/s"
    assert line(Reply("no", Route(None, "not about data science"), seconds=0.01), 0.0) == "GUARDED · not about data science · 0.0 s"


def test_closing_closes_the_answer() -> None:
    closed: list[bool] = []

    def endless() -> Iterator[Reply]:
        try:
            while True:
                yield Reply("", ROUTE)
        finally:
            closed.append(True)

    answer = timed(endless())
    next(answer)
    answer.close()
    assert closed == [True]


def test_verification_is_no_part_of_the_speed() -> None:
    first, whole = Reply("a", ROUTE, "code", seconds=1, tokens=1), Reply("ab", ROUTE, "code", seconds=2, tokens=51)
    later = replace(whole, seconds=9, step="verifying")
    assert [speed for _, speed in timed([first, whole, later])] == [0.0, 50.0, 50.0]


def test_the_ladder_tells_each_rung_and_the_reason_once() -> None:
    reply = Reply("x", ROUTE, proof=RUNGS[:2], failed=RUNGS[2], reason="KeyError")
    assert [state for _, state, _ in ladder(reply)] == ["passed", "passed", "failed", "open", "open"]
    assert [reason for _, _, reason in ladder(reply)] == ["", "", "KeyError", "", ""]
    barred = ladder(Reply("x", ROUTE, proof=RUNGS[:2], reason="not run"))
    assert [reason for _, _, reason in barred] == ["", "", "not run", "", ""]
    assert {state for _, state, _ in ladder(Reply("x", ROUTE, proof=RUNGS))} == {"passed"}

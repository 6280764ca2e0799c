"""Made-up frames: names that code can hold, every kind of column, the same draw for the same seed."""

import random

from twofold.datasets import coin, rows


def test_a_world_serves_any_slot_and_its_frames_share_a_key() -> None:
    for seed in range(40):
        first, second = coin.world(random.Random(seed)).values()
        names = [col.name for frame in (first, second) for col in frame.columns]
        assert all(name.isidentifier() for name in names), names
        assert {col.kind for col in first.columns} >= {"id", "ref", "float", "int", "cat", "binary", "date"}
        key = next(col for col in first.columns if col.kind == "ref")
        assert key.target == second.name
        assert second.columns[0].name == key.name


def test_names_are_distinct_within_a_frame_and_rarely_repeat_between_frames() -> None:
    seen: list[str] = []
    for seed in range(200):
        names = [col.name for col in coin.frame(random.Random(seed), spaced=True, wide=True).columns]
        assert len(set(names)) == len(names)
        seen += names
    assert len(set(seen)) > len(seen) * 0.6


def test_same_seed_same_frame_and_its_lines_bring_it_back() -> None:
    frame = coin.frame(random.Random(3), spaced=True)
    assert frame == coin.frame(random.Random(3), spaced=True)
    again = rows.behind({"df": rows.lines(frame)}, {})["df"]
    assert again.columns == frame.columns

"""What README and docs tell people to type is there."""

import re
from pathlib import Path

import pytest

from twofold import cli

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/training.md", "CONTRIBUTING.md", "data/sources/README.md")
TYPED = sorted(
    {
        (page, found)
        for page in PAGES
        for found in re.findall(r"(?<!from )\btwofold ((?:[a-z]+)(?: [a-z]+)?)", (ROOT / page).read_text())
        if found
    }
)


@pytest.mark.parametrize(("page", "words"), TYPED)
def test_commands_exist(page: str, words: str) -> None:
    first, *rest = words.split()
    if first in cli.GROUPS and rest:
        assert any(f"{first} {word}" in cli.STAGES for word in rest), f"{page}: twofold {words}"
    else:
        assert first in {"ask", "chat", "app", "doctor", "eval", *cli.GROUPS}, f"{page}: twofold {words}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {word for page in PAGES for word in re.findall(r"\bmake ([a-z]+)", (ROOT / page).read_text())}
    assert {"app", "test", "ask"} <= named & targets


@pytest.mark.parametrize("page", ["README.md", "docs/design.md", "docs/training.md", "docs/log.md", "CONTRIBUTING.md"])
def test_local_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target

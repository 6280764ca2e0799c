"""What README and docs tell people to type is there."""

import re
from pathlib import Path

import pytest
import yaml

from twofold import cli

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/training.md", "docs/serving.md", "CONTRIBUTING.md", "data/sources/README.md")
TYPED = sorted(
    {
        (page, found)
        for page in PAGES
        for found in re.findall(r"(?<!from )(?<!%)\btwofold ((?:[a-z]+)(?: [a-z]+)?)", (ROOT / page).read_text())
        if found
    }
)


@pytest.mark.parametrize(("page", "words"), TYPED)
def test_commands_exist(page: str, words: str) -> None:
    first, *rest = words.split()
    if first in cli.GROUPS and rest:
        assert any(f"{first} {word}" in cli.STAGES for word in rest), f"{page}: twofold {words}"
    else:
        assert first in {"ask", "chat", "app", "serve", "doctor", "eval", *cli.GROUPS}, f"{page}: twofold {words}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {word for page in PAGES for word in re.findall(r"\bmake ([a-z]+)", (ROOT / page).read_text())}
    assert {"app", "test", "ask"} <= named & targets


@pytest.mark.parametrize("page", ["README.md", "docs/design.md", "docs/training.md", "docs/serving.md", "docs/log.md", "CONTRIBUTING.md"])
def test_local_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target


def test_what_compose_starts_is_there() -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert set(services) == {"vllm", "app", "api"}
    for name in ("app", "api"):
        args = cli.build_parser().parse_args(services[name]["command"])
        assert args.model == "http://vllm:8000/v1"
        assert services[name]["ports"] == [f"127.0.0.1:{args.port}:{args.port}"]
        assert services[name]["depends_on"] == {"vllm": {"condition": "service_healthy"}}
        assert (ROOT / "deploy" / services[name]["build"]["context"] / services[name]["build"]["dockerfile"]).exists()
    mounted = [volume.split(":")[0] for volume in services["vllm"]["volumes"] if volume.startswith("..")]
    assert "../src/twofold/chat_template.jinja" in mounted
    assert [path for path in mounted if path != "../out" and not (ROOT / "deploy" / path).exists()] == []
    flags = {word.partition("=")[0] for word in services["vllm"]["command"] if word.startswith("--")}
    assert [flag for flag in flags if f"{flag} " not in page] == []  # the page gives the same command, and says why
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "deploy" / "Dockerfile").read_text(), re.M)
    assert [name for line in copied for name in line.split() if not (ROOT / name).exists()] == []

"""All prompt text: system texts, refusals, how a request becomes messages, and how messages become token ids.

Training (`encode` with an answer) and service (`encode` without) share one function, so they cannot drift apart.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from twofold.types import Message, Note, TwofoldError

SYSTEM: Mapping[str, str] = {
    "code": "You write Python for data science. Answer with one Python code block.",
    "theory": "You explain data science in plain, correct prose.",
    "base": "You are a helpful assistant.",
}

REFUSAL: Mapping[str, str] = {
    "en": "I can only help with data science: Python for data, statistics, machine learning and plots. Please ask me about one of these.",
    "es": "Solo puedo ayudar con ciencia de datos: Python para datos, estadística, aprendizaje automático y gráficos. Pregúntame sobre alguno de estos temas.",
    "fr": "Je ne peux aider qu'en science des données : Python pour les données, statistiques, apprentissage automatique et graphiques. Posez-moi une question sur l'un de ces sujets.",
    "de": "Ich kann nur bei Data Science helfen: Python für Daten, Statistik, maschinelles Lernen und Diagramme. Bitte fragen Sie mich etwas dazu.",
    "pt": "Só posso ajudar com ciência de dados: Python para dados, estatística, aprendizado de máquina e gráficos. Faça uma pergunta sobre um desses temas.",
    "zh": "我只能回答数据科学方面的问题：用 Python 处理数据、统计、机器学习和绘图。请就这些主题提问。",
    "ja": "お答えできるのはデータサイエンス（Python によるデータ処理、統計、機械学習、グラフ）に関する質問だけです。これらについてお尋ねください。",
    "hi": "मैं केवल डेटा साइंस में मदद कर सकता हूँ: डेटा के लिए Python, सांख्यिकी, मशीन लर्निंग और चार्ट। कृपया इनमें से किसी के बारे में पूछें।",
}

MOST_ERROR = 600  # characters of a traceback, from its end, that a repair turn shows

BOS, EOS, PAD, INST, END_INST = SPECIALS = ("<s>", "</s>", "<pad>", "[INST]", "[/INST]")


@cache
def chat_template() -> str:
    """The Jinja chat template that every tokenizer folder carries."""
    return (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")


def refusal(language: str) -> str:
    """The polite refusal in the asker's language (ISO 639-1), English where there is none."""
    return REFUSAL.get(language, REFUSAL["en"])


def user_text(question: str, notebook: str = "", notes: Sequence[Note] = ()) -> str:
    """The user turn: what the notebook holds, what is known, then the question."""
    blocks = [f"Notebook:\n{notebook}"] if notebook else []
    for note in notes:
        body = f"```python\n{note.text}\n```" if note.kind == "example" else note.text
        blocks.append(f"{'Example' if note.kind == 'example' else 'Card'}: {note.title}\n{body}")
    return "\n\n".join((*blocks, question))


def compose(
    adapter: str, question: str, *, notebook: str = "", notes: Sequence[Note] = (), recalled: Sequence[Message] = ()
) -> list[Message]:
    """The messages for one answer: system text, recalled turns, then the user turn. Adapters without a text of their own get BASE's."""
    return [
        {"role": "system", "content": SYSTEM.get(adapter, SYSTEM["base"])},
        *recalled,
        {"role": "user", "content": user_text(question, notebook, notes)},
    ]


def repair(messages: Sequence[Message], answer: str, error: str) -> list[Message]:
    """The same conversation with an answer that failed and one more user turn that shows the error and asks for a fix."""
    return [
        *messages,
        {"role": "assistant", "content": answer},
        {"role": "user", "content": f"That fails:\n{error.strip()[-MOST_ERROR:]}\nFix it."},
    ]


def encode(messages: Sequence[Message], tokenize: Callable[[str], list[int]], special: Mapping[str, int]) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation, and for each whether it is part of an assistant's answer (its end mark included).

    tokenize must treat the specials as plain text, so that what a user types never becomes one. The ids equal those of
    `chat_template()` rendered and tokenised. Raises TwofoldError when roles do not alternate.
    """
    system = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    ids, answer = [special[BOS]], [False]
    for number, turn in enumerate(turns):
        if turn["role"] != ("user", "assistant")[number % 2]:
            raise TwofoldError("roles must alternate: user, assistant, user, ...")
        if turn["role"] == "user":
            text = f"{system}\n\n{turn['content']}" if number == 0 and system else turn["content"]
            piece = [special[INST], *tokenize(text), special[END_INST]]
        else:
            piece = [*tokenize(turn["content"]), special[EOS]]
        ids += piece
        answer += [turn["role"] == "assistant"] * len(piece)
    return ids, answer

"""Ask `twofold serve`, or any OpenAI-compatible server, and print the answer as it comes.

    twofold serve                                              # in one terminal
    python examples/openai_client.py "What is a p value?"      # in another; --url, --model, --key

Only httpx2 is needed, which twofold brings. With the `openai` package: docs/serving.md.
"""

import argparse
import json
import sys

import httpx2


def main() -> None:
    """Stream one answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="twofold", help="twofold, code, theory or base (default: %(default)s)")
    parser.add_argument("--key", default="none", help="what the server's TWOFOLD_API_KEY is")
    args = parser.parse_args()
    body = {"model": args.model, "messages": [{"role": "user", "content": args.question}], "stream": True}
    with (
        httpx2.Client(headers={"Authorization": f"Bearer {args.key}"}, timeout=60) as client,
        client.sse(f"{args.url}/chat/completions", method="POST", json=body) as events,
    ):
        if events.response.is_error:
            sys.exit(events.response.read().decode())
        for event in events:
            if event.data == "[DONE]":
                break
            chunk = json.loads(event.data)
            if "error" in chunk:
                sys.exit(chunk["error"]["message"])
            print(chunk["choices"][0]["delta"].get("content", ""), end="", flush=True)
            if "twofold" in chunk:
                print(f"\n{chunk['twofold']['chip']} · {chunk['twofold']['why']}", file=sys.stderr)
    print()


if __name__ == "__main__":
    main()

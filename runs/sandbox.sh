#!/usr/bin/env bash
# results/sandbox.json and the table of layers in docs/sandbox.md: five minutes on two cores. As root it also plays the ordinary user.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" -m twofold.sandbox.bench --layers "$@"

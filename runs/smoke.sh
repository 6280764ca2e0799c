#!/usr/bin/env bash
# Every training stage at toy size on a CPU, under 3 minutes, on text of our own: it ends with a question answered by what it trained.
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=${WORK:-$(mktemp -d)}
TWOFOLD=${TWOFOLD:-twofold}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # more threads gain nothing at this size, and wait for each other on busy cores
echo "smoke run in $WORK"
mkdir -p "$WORK"
$TWOFOLD data build --out "$WORK/rows" --code 160 --theory 80 --no-evaluation
for file in src/twofold/*.py src/twofold/*/*.py; do printf -- '---\n%s\n' "$(cat "$file")"; done > "$WORK/text.txt"
$TWOFOLD train tokenizer --corpus "$WORK/text.txt" --rows "$WORK/rows" --out "$WORK/tokenizer" --size 1024 --megabytes 1
$TWOFOLD train corpus --source "$WORK/text.txt" --rows "$WORK/rows" --tokenizer "$WORK/tokenizer" --out "$WORK/corpus" --held-out 10
$TWOFOLD train pretrain --corpus "$WORK/corpus" --tokenizer "$WORK/tokenizer" --out "$WORK/pretrain" --steps 30 --warmup 5 \
  --layers 2 --hidden 128 --mlp 256 --heads 2 --kv-heads 1 --head-dim 64 --batch-tokens 2048 --micro-tokens 2048 --context 256 --late-context 1024
$TWOFOLD train quantize --model "$WORK/pretrain" --out "$WORK/model/base"
for adapter in code theory; do
  rows=$([ $adapter = code ] && echo train.jsonl || echo train_theory.jsonl)
  $TWOFOLD train $adapter --base "$WORK/model/base" --data "$WORK/rows/$rows" --out "$WORK/model/$adapter" --steps 8 --batch 1536 --micro 1536 --length 768
done
$TWOFOLD ask "What is cross-validation?" --model "$WORK/model" --max-new-tokens 24 --json | tee "$WORK/answer.json"
grep -q '"chip": "THEORY"' "$WORK/answer.json"
echo "smoke run passed"

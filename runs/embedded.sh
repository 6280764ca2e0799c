#!/usr/bin/env bash
# The embedded model from text to adapters, on one GPU: about 25 minutes with the defaults on an H100.
#   CORPUS=folder of *.jsonl.zst shards (docs/training.md tells their form)   WORK=where everything is written
set -euo pipefail
cd "$(dirname "$0")/.."
CORPUS=${CORPUS:?name the folder of corpus shards}
WORK=${WORK:-out}
MINUTES=${MINUTES:-20}        # wall clock of pretraining
PASSES=${PASSES:-12}          # files of freshly rendered chat rows that are mixed in
ROWS=${ROWS:-16000}           # code rows in each of them
EPOCHS=${EPOCHS:-3}           # of each adapter
TWOFOLD=${TWOFOLD:-twofold}
LAUNCH=${LAUNCH:-$TWOFOLD}    # several GPUs: "torchrun --standalone --nproc-per-node 4 -m twofold"
PRETRAIN=${PRETRAIN:-}        # more flags for pretraining
FILTER=${FILTER:-true}        # a command that gets a folder of chat rows and may drop some, such as overlap with public benchmarks
mkdir -p "$WORK/mid" "$WORK/corpus"

# 1. The tokenizer, once: data/ must hold rows (twofold data build).
[ -d "$WORK/tokenizer" ] || $TWOFOLD train tokenizer --corpus "$CORPUS" --out "$WORK/tokenizer"

# 2. Chat rows rendered afresh for every pass, each with its own seed, then all text to token files. Training starts as soon as the first slices are there.
for seed in $(seq 1 "$PASSES"); do
  { $TWOFOLD data build --out "$WORK/mid/$seed" --code "$ROWS" --theory $((ROWS * 2 / 5)) --seed "$seed" --base 0.04 --no-evaluation && $FILTER "$WORK/mid/$seed" &&
    $TWOFOLD train corpus --source "" --rows "$WORK/mid/$seed" --tokenizer "$WORK/tokenizer" --out "$WORK/corpus" --name "mid$seed"; } > "$WORK/mid/$seed.log" 2>&1 &
done
[ -n "${TOKENS_ELSEWHERE:-}" ] || $TWOFOLD train corpus --source "$CORPUS" --tokenizer "$WORK/tokenizer" --out "$WORK/corpus" ${DROP:+--drop "$DROP"} > "$WORK/corpus.log" 2>&1 &

# 3. Pretraining by the clock: mixes, schedules and the NF4-aware finish are in the Config of train/pretrain.py.
$LAUNCH train pretrain --corpus "$WORK/corpus" --tokenizer "$WORK/tokenizer" --out "$WORK/pretrain" --minutes "$MINUTES" --wait-for notebook,docs,chat-code,chat-theory $PRETRAIN

# 4. NF4, then both adapters on it.
$TWOFOLD train quantize --model "$WORK/pretrain" --out "$WORK/base"
for adapter in code theory; do  # side by side: at this size the launches, not the GPU, are the limit
  $TWOFOLD train $adapter --base "$WORK/base" --out "$WORK/$adapter" --epochs "$EPOCHS" --batch 64 --micro 64 --lr 1.5e-3 > "$WORK/$adapter.log" 2>&1 &
done
wait
tail -n 1 "$WORK/code.log" "$WORK/theory.log"

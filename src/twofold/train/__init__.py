"""The stages of training, one module each: a frozen Config, one main(config), and a run.json beside the result.

In order: tokenizer, corpus, pretrain, quantize, qlora (for CODE and THEORY), router.
"""

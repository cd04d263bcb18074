"""Overrides that make a run of a few seconds."""

TINY = [
    "tokenizer.width=8", "tokenizer.quantizer.codebook_size=16", "tokenizer.loss.perceptual=none",
    "tokenizer.loss.adversarial_start=2", "tokenizer.train.steps=4", "tokenizer.train.batch_size=16",
    "tokenizer.train.checkpoint_every=2", "tokenizer.train.log_every=1",
    "prior.width=32", "prior.depth=2", "prior.heads=2", "prior.train.steps=4", "prior.train.batch_size=16",
    "prior.generation.sampler=tweedie", "prior.generation.num_inference_steps=16", "prior.generation.guidance_scale=1",
    "prior.train.checkpoint_every=2", "prior.train.log_every=1",
]  # fmt: skip

"""The tokenizer: images to grids of discrete codes and back. It knows nothing of diffusion."""

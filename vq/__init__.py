"""Pictures to codes and back; knows nothing of diffusion."""

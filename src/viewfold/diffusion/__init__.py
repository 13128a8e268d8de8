"""The arithmetic of diffusion: guidance, samplers, schedules.  Knows tensors and noise levels, and no network."""

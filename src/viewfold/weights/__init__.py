"""Readers of other people's weights (checkpoints, model folders, LoRA files, downloads): strict, bounded, no code."""

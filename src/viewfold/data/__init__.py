"""Assets, renders, shards and batches: everything before training."""

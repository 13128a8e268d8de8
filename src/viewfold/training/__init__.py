"""Flow 3: assets -> posed renders -> shards -> mixed 2D/3D batches -> checkpoint.

autoencoder   pictures -> VAE            objective   what one step minimises (pure functions)
diffusion     shards + VAE -> UNet

loop          steps, and what happens between them; it does not know what it trains
  settings    numbers, rates             parallel    one network on several processes: DDP, FSDP
  optimizer   Muon, AdamW                ranks       which process this is, what they say to each other
  average     averaged weights           checkpoint  written whole, resumed exactly
  monitor     speed, waiting, the end    writers     log.jsonl, TensorBoard, Weights & Biases
  health      finite, float32            lock        one run a folder
"""

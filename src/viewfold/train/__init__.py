"""Flow 3: assets -> posed renders -> shards -> mixed 2D/3D batches -> checkpoint.

autoencoder   pictures -> VAE            objective   what one step minimises (pure functions)
diffusion     shards + VAE -> UNet       loop        steps, EMA, checkpoints, several processes
"""

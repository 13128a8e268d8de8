"""The networks: the view fold, the multi-view UNet, text encoders, and the weights that fit them."""

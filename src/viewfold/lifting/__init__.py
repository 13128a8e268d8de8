"""FLOW 2: views -> a field fitted to them -> distilled against the prior -> mesh -> texture -> files.

`reconstruct` fits a field to posed pictures, `distill` holds the losses of a frozen prior, `optimize` runs the whole
flow.  Nothing here knows which network the prior is, nor how pictures are sampled.
"""

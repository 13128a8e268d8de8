"""FLOW 2: views -> a field fitted to them -> distilled against the prior -> mesh -> texture -> files.

`fit` fits a field to posed pictures, `score` holds the losses of a frozen prior, `stages` runs the whole flow.  Nothing
here knows which network the prior is, nor how pictures are sampled.
"""

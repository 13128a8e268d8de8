"""FLOW 2: views -> foreground -> representation -> refined by the prior -> mesh -> texture -> files.

`stages` is the flow as a list; each stage has a file of its own or a function there.  `score` holds the losses of a
frozen prior, `scoring` chooses one, `distillation` descends it, `presets` says how far.  Nothing here knows which
network the prior is, what a representation is made of, nor how pictures are sampled.
"""

"""FLOW 2: views -> foreground -> representation -> refined by the prior -> mesh -> texture -> files.

`stages` calls the stages in order; each has a file of its own or a function there.  `score` holds the losses that a
frozen prior gives, `distillation` minimises one, `presets` names settings.  Nothing here knows which network the prior
is, what a representation is made of, nor how pictures are sampled.
"""

"""FLOW 1, generate: a prompt becomes text tokens, tokens and cameras become latents, latents become pictures.

generation    load a model by name, folder or file; one prompt -> Views with the record of the run
batch         a file of prompts -> a folder each, resumable
hook          the protocol of origin hooks: check prompts, label and mark results
multiview     the diffusers pipeline itself, which is also the prior of distillation
anchors       views that are given and kept, with others drawn around them
tries         several seeds, of which the best is kept
prompt_cache  prompts are read once; the text network may go when all are read
placement     offloading, number types and compilation: a model in less memory or time
estimate      memory and time of a model on this machine, before its weights are read
lora          LoRA files, put on and taken off
"""

from viewfold.pipeline.batch import BatchReport, generate_batch
from viewfold.pipeline.generation import generate, load
from viewfold.pipeline.multiview import MultiViewPipeline

__all__ = ["BatchReport", "MultiViewPipeline", "generate", "generate_batch", "load"]

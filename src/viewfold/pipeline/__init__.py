"""FLOW 1, generate: a prompt becomes text tokens, tokens and cameras become latents, latents become pictures.

generation  load a model by name, folder or file; one prompt -> Views with the record of the run
batch       a file of prompts -> a folder each, resumable
multiview   the diffusers pipeline itself, which is also the prior of distillation
sampler     the walk down the noise levels
known       views that are kept, with others drawn around them
lora        LoRA files, put on and taken off
components  reading a model folder, strictly
"""

from viewfold.pipeline.batch import BatchReport, generate_batch
from viewfold.pipeline.generation import generate, load
from viewfold.pipeline.multiview import MultiViewPipeline

__all__ = ["BatchReport", "MultiViewPipeline", "generate", "generate_batch", "load"]

"""Parametric captioned toys: what the shipped model is trained on, made from a seed, licence CC0.

    asset = sample_asset(7)          # never a held-out combination of kind and colours
    asset.captions[0]                # "a red mug with a blue handle"
    asset.mesh()                     # a watertight, painted mesh, front towards -y

A new kind is one function and one entry in household.py, vehicles.py, animals.py or their like.
"""

from viewfold.data.toybox.asset import AUTHOR, KINDS, LICENCE, Asset, is_held_out
from viewfold.data.toybox.captions import RESERVED, UNSEEN_WORDING_PROMPTS
from viewfold.data.toybox.group import Group, sample_group, sample_toy
from viewfold.data.toybox.palette import COLORS, FINISHES, SYNONYMS
from viewfold.data.toybox.world import World, sample_asset

__all__ = [
    "AUTHOR", "COLORS", "FINISHES", "KINDS", "LICENCE", "RESERVED", "SYNONYMS", "UNSEEN_WORDING_PROMPTS", "Asset",
    "Group", "World", "is_held_out", "sample_asset", "sample_group", "sample_toy",
]  # fmt: skip

"""Photographs with known cameras, as other programs record them, brought into our cameras and square pictures."""

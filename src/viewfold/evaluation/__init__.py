"""Measures of views and assets: what they show (judge), whether views agree (consistency), and 95 % intervals.

Knows pictures, cameras and 3D; not the network that made them, nor how: samplers and lifters are passed in.
"""

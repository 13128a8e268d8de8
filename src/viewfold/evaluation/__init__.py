"""Measuring: what views and assets show (judge), whether views agree (consistency), and how sure that is (interval).

Knows pictures, cameras and 3D; not the network that made them, nor how: samplers and lifters are passed in.
"""

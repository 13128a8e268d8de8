"""3D Gaussians ("splats"): what they are, how they are drawn, added up in space, and kept in files."""

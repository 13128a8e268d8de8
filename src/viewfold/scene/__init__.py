"""Three-dimensional things: fields, surfaces, meshes and pictures of them.  Knows no diffusion."""

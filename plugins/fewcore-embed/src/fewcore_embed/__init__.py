"""Embedders and backbones for fewcore. `plugin` announces them; each method is a module of its own."""

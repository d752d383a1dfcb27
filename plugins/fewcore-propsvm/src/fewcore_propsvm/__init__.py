"""Proportion-SVM and what it is compared with, for fewcore. `plugin` announces them; each method is a module of its own."""

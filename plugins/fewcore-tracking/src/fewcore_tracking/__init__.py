"""TensorBoard and MLflow, for fewcore. `plugin` announces them; each tracker is a module of its own."""

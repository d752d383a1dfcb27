"""S4MTL and its baselines. `plugin` announces the learners; nothing else is imported before a pipeline asks for it."""

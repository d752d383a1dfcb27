"""Meta-learners and few-shot baselines for fewcore."""

"""The example plugin of fewcore: one small partitioner."""

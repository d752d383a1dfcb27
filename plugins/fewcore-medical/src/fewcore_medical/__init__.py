"""Medical images for fewcore."""

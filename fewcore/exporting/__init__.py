"""Trained models as files for other programs: `fewcore export`."""

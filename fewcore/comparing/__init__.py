"""Runs side by side: `fewcore compare`."""

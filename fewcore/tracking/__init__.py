"""What is logged, forwarded to trackers: `fewcore run --track`."""

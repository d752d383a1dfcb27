"""What a run tells people and machines: numbers, tables, figures, the page."""

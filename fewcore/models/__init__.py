"""Trained models on new files: `fewcore adapt`, `fewcore predict`, `fewcore.load_model`."""

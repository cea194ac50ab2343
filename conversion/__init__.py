"""From the original's checkpoints to folders that `from_pretrained` loads: `python -m conversion --help`."""

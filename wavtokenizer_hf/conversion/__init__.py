"""From the originals' checkpoints to folders that `from_pretrained` loads: `wavtokenizer convert`, and its proof."""

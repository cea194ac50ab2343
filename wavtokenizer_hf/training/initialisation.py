"""A start from data: every convolution of the encoder gives outputs of mean 0 and deviation 1.

As torch draws them, the encoder's convolutions shrink a recording until their activations are all but linear, and the
decoder hears next to nothing of it for thousands of steps.
"""

import torch

from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerConv1d, WavTokenizerEncoder

_LEAST_DEVIATION = 1e-6


@torch.no_grad()
def initialise_from_data(encoder: WavTokenizerEncoder, input_values: torch.Tensor) -> None:
    """Sets magnitude and bias of the weight-normalised convolutions, from the first to the last.

    Args:
        encoder: A new one, whose weights are random.
        input_values: Recordings (B, 1, T); they decide, so more of them make a better start. Silent or constant ones
            do not count, and without any other the encoder stays as it is.

    Source: Salimans & Kingma 2016, "Weight Normalization", section 3.
    """
    input_values = input_values[input_values.std(dim=(1, 2)) > _LEAST_DEVIATION]
    if not len(input_values):
        return

    def standardise(module: WavTokenizerConv1d, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        mean = output.mean(dim=(0, 2))
        deviation = output.std(dim=(0, 2)).clamp(min=_LEAST_DEVIATION)
        magnitude = module.conv.parametrizations.weight.original0
        magnitude.div_(deviation[:, None, None])
        module.conv.bias.sub_(mean).div_(deviation)
        return (output - mean[:, None]) / deviation[:, None]

    hooks = [
        module.register_forward_hook(standardise)
        for module in encoder.modules()
        if isinstance(module, WavTokenizerConv1d)
    ]
    try:
        encoder(input_values, output_hidden_states=True)  # for which every layer runs once, and not piece by piece
    finally:
        for hook in hooks:
            hook.remove()

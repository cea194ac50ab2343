"""`wavtokenizer export-hub`: a model as a folder that needs no package."""

from pathlib import Path
from typing import Annotated

import typer

from wavtokenizer_hf.cli import options
from wavtokenizer_hf.cli.errors import reporting, say, wrong_use


def export_hub(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="The codec: a folder or a Hub id.", show_default=False),
    ],
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="The folder to write; new, or empty.", show_default=False),
    ] = None,
    output: options.Output = None,
    revision: options.Revision = "main",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the model that DIR holds. Its other files stay."),
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Write a folder for the Hub that loads without this package.

    It holds the weights, the configs, the code and a model card, and loads through transformers' Auto classes with
    trust_remote_code=True. The README.md of a local MODEL becomes the model card; otherwise one is written.

    Example: wavtokenizer export-hub FOLDER my-codec
    """
    with reporting(debug):
        directory = Path(options.one_output(directory, output))
        from wavtokenizer_hf.cli.codec import find_codec, open_codec

        model = find_codec(model)
        from wavtokenizer_hf.hub.export import export_to_hub_folder
        from wavtokenizer_hf.hub.folder import check_target

        with wrong_use(FileExistsError, debug=debug):
            check_target(directory, overwrite)
        codec = open_codec(model, "whole", revision=revision, dtype="stored")
        card = Path(model, "README.md")
        folder = export_to_hub_folder(
            codec.model,
            codec.feature_extractor,
            directory,
            card=card.read_text(encoding="utf-8") if card.is_file() else None,
            overwrite=overwrite,
        )
        sizes = [path.stat().st_size for path in folder.iterdir()]
        say(f"{directory}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB")

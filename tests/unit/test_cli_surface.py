"""The frozen surface of the command line, and what starting it costs."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import wavtokenizer_hf
from wavtokenizer_hf.cli import app, main
from wavtokenizer_hf.cli.encode import CodeFormat
from wavtokenizer_hf.cli.options import AudioFormat, DType

READING = {"--allow-incomplete"}
SHARED = {"--device", "--dtype", "--revision", "--overwrite", "--debug"}
SURFACE = {
    "encode": {"IN", "--output", "-o", "--model", "-m", "--format", *READING, *SHARED},
    "decode": {"IN", "--output", "-o", "--model", "-m", "--format", "--bandwidth-id", "--chunked", *SHARED},
    "reconstruct": {"IN", "OUT", "--model", "-m", "--report", "--format", "--bandwidth-id", *READING, *SHARED},
    "evaluate": {
        "[MODEL] DATA",
        "--out",
        "-o",
        "--pairs",
        "--frame-rate",
        "--metrics",
        "--asr",
        "--speaker-model",
        "--limit",
        "--num-pictures",
        "--save-audio",
        "--seed",
        "--bandwidth-id",
        *READING,
        *SHARED,
    },
    "train": {"RECIPE", "[KEY=VALUE]...", "--out", "-o", "--resume", "--stop-after", "--recipes", *READING, "--debug"},
    "info": {"MODEL|CODES", "--revision", "--json", "--debug"},
    "tokenize-corpus": {
        "SOURCE",
        "OUT",
        "--model",
        "-m",
        "--workers",
        "--memory-gb",
        "--timeout",
        "--shard-clips",
        "--shard-mb",
        "--max-hours",
        "--keep-silent",
        "--split",
        "--config",
        "--data-revision",
        "--ray",
        "--actors",
        *READING,
        *SHARED - {"--overwrite"},
    },
    "status": {"OUT", "--verify", "--json", "--debug"},
    "export-tokens": {"OUT", "PREFIX", "--format", "--offset", "--begin", "--end", "--overwrite", "--debug"},
    "export-hub": {"MODEL", "DIR", "--revision", "--overwrite", "--debug"},
}

COMMANDS = typer.main.get_command(app).commands


def names_of(parameter) -> list[str]:
    is_option = parameter.opts[0].startswith("-")
    return [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.metavar]


def test_commands_and_options_are_these_and_no_others():
    surface = {
        name: {spelling for parameter in command.params for spelling in names_of(parameter)}
        for name, command in COMMANDS.items()
    }
    assert surface == SURFACE


@pytest.mark.parametrize("name", SURFACE)
def test_every_command_argument_and_option_says_what_it_is(name):
    assert "Example: wavtokenizer " + name in COMMANDS[name].help
    for parameter in COMMANDS[name].params:
        assert parameter.help, parameter.name
        assert parameter.help.endswith((".", "patterns."))


def test_the_choices_of_options_are_these():
    assert [choice.value for choice in CodeFormat] == ["npz", "json"]
    assert [choice.value for choice in AudioFormat] == ["wav", "flac", "ogg", "mp3"]
    assert [choice.value for choice in DType] == ["float32", "bfloat16", "float16"]


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in SURFACE)


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"wavtokenizer-hf {wavtokenizer_hf.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["encode", "--help"],
        ["encode", "gone.wav", "-o", "x.npz", "-m", "m"],
        ["evaluate", "m", "gone", "-o", "x"],
        ["train", "--help"],
        ["train"],
        ["tokenize-corpus", "--help"],
        ["export-tokens", "codes"],
    ],
)
def test_help_and_wrong_use_cost_no_import_of_torch(arguments, tmp_path):
    # The package's own __init__ registers its classes and needs torch for it; what the command line adds is measured
    # with an empty package in its place.
    script = f"""
import sys, types
package = types.ModuleType("wavtokenizer_hf")
package.__path__ = [{str(Path(wavtokenizer_hf.__file__).parent)!r}]
sys.modules["wavtokenizer_hf"] = package
from wavtokenizer_hf.cli import main
try:
    main({arguments!r})
except SystemExit:
    heavy = {{"torch", "torchaudio", "transformers", "soundfile", "matplotlib"}} & set(sys.modules)
    sys.exit(f"imported {{heavy}}" if heavy else 0)
sys.exit("did not exit")
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr

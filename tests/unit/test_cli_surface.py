"""The frozen surface of the command line, and what starting it costs."""

import os
import subprocess
import sys

import pytest
import typer.main

import wavtokenizer_hf
from wavtokenizer_hf import bundled_checkpoint
from wavtokenizer_hf.cli import app, main
from wavtokenizer_hf.cli.encode import CodeFormat
from wavtokenizer_hf.cli.options import AudioFormat, DType

READING = {"--allow-incomplete"}
SHARED = {"--device", "--dtype", "--revision", "--overwrite", "--debug"}
OUTPUT = {"--output", "--out", "-o"}
SURFACE = {
    "encode": {"IN", "--model", "-m", "--format", "--skip-existing", *OUTPUT, *READING, *SHARED},
    "decode": {
        *("IN", "--model", "-m", "--format", "--bandwidth-id", "--chunked", "--skip-existing"),
        *OUTPUT,
        *SHARED,
    },
    "reconstruct": {
        *("IN", "OUT", "--model", "-m", "--report", "--format", "--bandwidth-id", "--skip-existing"),
        *OUTPUT,
        *READING,
        *SHARED,
    },
    "evaluate": {
        "[MODEL] DATA",
        *OUTPUT,
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
    "train": {
        *("RECIPE", "[KEY=VALUE]...", "--resume", "--stop-after", "--recipes", "--keys", "--debug"),
        *OUTPUT,
        *READING,
    },
    "info": {"MODEL|CODES", "--revision", "--json", "--debug"},
    "tokenize-corpus": {
        "SOURCE",
        "OUT",
        *OUTPUT,
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
    "convert": {
        "NAME|FILE|REPO:FILE",
        "OUT",
        *OUTPUT,
        "--yaml",
        "--causal",
        "--no-causal",
        "--keep-discriminators",
        "--overwrite",
        "--debug",
    },
    "verify": {"OUT", "--against", "--audio", "--debug"},
    "status": {"OUT", "--verify", "--json", "--debug"},
    "export-tokens": {
        *("OUT", "PREFIX", "--format", "--offset", "--begin", "--end", "--overwrite", "--debug"),
        *OUTPUT,
    },
    "export-hub": {"MODEL", "DIR", "--revision", "--overwrite", "--debug", *OUTPUT},
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


@pytest.mark.parametrize("name", [None, *SURFACE])
def test_a_flag_is_shown_without_a_value(name, capsys):
    with pytest.raises(SystemExit):
        main([*([name] if name else []), "--help"])
    printed = capsys.readouterr().out
    assert "--help" in printed
    assert "bool" not in printed.lower()


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


HEAVY = {"torch", "torchaudio", "transformers", "huggingface_hub", "soundfile", "matplotlib", "pyarrow", "jinja2"}


def imported_by(tmp_path, *arguments: str, **variables: str) -> set[str]:
    """The packages in a process that ran a command, which imports itself as the installed script does."""
    script = f"""
import atexit, sys
sys.argv = ["bin/wavtokenizer", *{arguments!r}]
atexit.register(lambda: print(*{{name.partition(".")[0] for name in sys.modules}}, file=sys.stderr))
from wavtokenizer_hf.cli import main
main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **variables}
    )
    assert "Traceback" not in ran.stderr, ran.stderr
    return set(ran.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in ("encode", "evaluate", "train", "tokenize-corpus")),
        ["encode", "gone.wav", "-o", "x.npz", "-m", "m"],
        ["evaluate", "m", "gone", "-o", "x"],
        ["train"],
        ["export-tokens", "codes"],
        ["encode", bundled_checkpoint() + "/config.json", "-o", "x.npz", "-m", "nano-57"],
        ["decode", bundled_checkpoint() + "/config.json", "-o", "x.wav", "-m", "nano-57"],
        ["reconstruct", bundled_checkpoint() + "/config.json", "x.wav", "-m", "nano-57"],
        ["evaluate", "nano-57", bundled_checkpoint() + "/config.json", "-o", "x"],
        ["tokenize-corpus", ".", "x", "-m", "nano-57"],
        ["info", "nano-57"],
        ["export-hub", "nano-57", "x"],
    ],
)
def test_help_and_wrong_use_import_nothing_heavy(arguments, tmp_path):
    assert not imported_by(tmp_path, *arguments) & HEAVY


def test_completion_imports_nothing_heavy(tmp_path):
    asked = {"_WAVTOKENIZER_COMPLETE": "complete_bash", "COMP_WORDS": "wavtokenizer enc", "COMP_CWORD": "1"}
    assert not imported_by(tmp_path, **asked) & HEAVY


def test_what_a_command_needs_comes_when_it_runs(tmp_path):
    assert imported_by(tmp_path, "info", bundled_checkpoint()) >= {"torch", "transformers"}

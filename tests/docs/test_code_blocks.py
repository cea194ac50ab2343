"""Code in the documents runs: every `python` and `bash` block, in order, in a folder that holds what they speak of.

A `python` block may state values: the comment of `expression  # -> value` is evaluated and must equal the expression's
value (a tuple equals a shape). A `bash` block is run line by line; lines that begin with one of `NOT_RUN` are left
out, and checked in another way. That tables of figures equal the result files is tested beside the benchmarks.
"""

import ast
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import typer.main

import wavtokenizer_hf.cli
from tests.docs.commands import is_own_command, run_own_command
from tests.docs.conftest import RECORDING
from tests.docs.markdown import REPOSITORY, Block, anchors, blocks, documents, links, read
from wavtokenizer_hf import WavTokenizerFeatureExtractor
from wavtokenizer_hf.conversion.checkpoints import resolve
from wavtokenizer_hf.conversion.errors import UsageError
from wavtokenizer_hf.hub.export import export_to_hub_folder
from wavtokenizer_hf.training.config import load_config

# Blocks in these languages are shown and not run; a block in a language that is neither here nor run is an error.
SHOWN = ("", "text", "json", "yaml", "bibtex")


def check_make_target(command: str) -> None:
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert command.split()[1] in targets


def check_what_is_installed(command: str) -> None:
    pattern = r"(?:python -m )?pip install (?:-e )?[\"']?(?P<what>[\w.-]+?)(?:\[(?P<extra>\w+)\])?[\"']?"
    wanted = re.fullmatch(pattern, command)
    assert wanted
    assert wanted["what"] in (".", "wavtokenizer-hf")
    assert wanted["extra"] is None or wanted["extra"] in (metadata("wavtokenizer-hf").get_all("Provides-Extra") or ())


def check_released_checkpoint(command: str) -> None:
    assert resolve(command.split()[2]).release


def check_training(command: str) -> None:
    launcher, _, arguments = command.partition("wavtokenizer_hf train " if "accelerate" in command else " train ")
    assert launcher.split()[0] in ("wavtokenizer", "accelerate")
    train: Any = typer.main.get_command(wavtokenizer_hf.cli.app)
    told = train.commands["train"].make_context("train", shlex.split(arguments)).params
    assert load_config(told["recipe"], told["changes"] or []).data.train == ["clips"]


def check_corpus(command: str) -> None:
    arguments = shlex.split(command.partition(" tokenize-corpus ")[2])
    tokenize: Any = typer.main.get_command(wavtokenizer_hf.cli.app)
    told = tokenize.commands["tokenize-corpus"].make_context("tokenize-corpus", arguments).params
    assert (told["source"], told["is_on_ray"]) == ("clips", command.startswith("RAY_ADDRESS="))


def check_tensorboard(command: str) -> None:
    assert command == "tensorboard --logdir runs"


# What would change this machine, take minutes or need the network, and what is checked instead of running it.
NOT_RUN: dict[str, Callable[[str], None]] = {
    "make ": check_make_target,
    "pip install ": check_what_is_installed,
    "python -m pip install ": check_what_is_installed,
    "git clone ": lambda command: None,
    "wavtokenizer convert ": check_released_checkpoint,
    "wavtokenizer train small-75 ": check_training,
    "wavtokenizer train finetune-decoder ": check_training,
    "accelerate launch -m wavtokenizer_hf tokenize-corpus ": check_corpus,
    "RAY_ADDRESS=auto wavtokenizer tokenize-corpus ": check_corpus,
    "accelerate launch ": check_training,
    "tensorboard ": check_tensorboard,
}


DOCUMENTS = [path for path in documents() if path.parts[0] != "model_cards"]
WITH_CODE = [path for path in DOCUMENTS if any(block.language not in SHOWN for block in blocks(read(path)))]
RELEASED_CARDS = [path for path in documents() if path.parts[0] == "model_cards"]
COMPLETE = {"config.json", "model.safetensors", "preprocessor_config.json"}


class Uploads:
    """Stands in for the Hub: takes what is uploaded and notes the names of the files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.files: dict[str, set[str]] = {}
        for name in ("create_repo", "create_commit", "upload_folder"):
            monkeypatch.setattr(f"huggingface_hub.HfApi.{name}", getattr(self, name))
            # Earlier releases of transformers hold functions of their own.
            monkeypatch.setattr(f"transformers.utils.hub.{name}", getattr(self, name), raising=False)

    def create_repo(self, repo_id: str, **kwargs: Any) -> Any:
        self.files.setdefault(repo_id, set())
        return type("RepoUrl", (str,), {"repo_id": repo_id})(f"https://huggingface.co/{repo_id}")

    def create_commit(self, repo_id: str, operations: list[Any], **kwargs: Any) -> None:
        self.files[repo_id] |= {operation.path_in_repo for operation in operations}

    def upload_folder(self, repo_id: str, folder_path: str, **kwargs: Any) -> None:
        self.files[repo_id] |= {path.name for path in Path(folder_path).iterdir()}


@pytest.fixture
def uploads(monkeypatch) -> Uploads:
    return Uploads(monkeypatch)


@pytest.fixture
def _traced_compilation(monkeypatch):
    """`torch.compile` traces as always, and leaves out the half minute in which a C++ compiler works."""
    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: compile_with(*args, **{"backend": "eager"} | kwargs))
    yield
    torch._dynamo.reset()


def run_document(document: Path, text: str) -> None:
    """Runs all blocks, the `python` ones in one namespace."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with torch.enable_grad():  # leaving restores what a block may have set
        for block in blocks(text):
            if block.language == "python":
                run_python(block, document, namespace)
            elif block.language == "bash":
                run_bash(block, document)
            else:
                assert block.language in SHOWN, f"{document}:{block.line}: unknown language {block.language!r}"


def run_python(block: Block, document: Path, namespace: dict[str, Any]) -> None:
    lines = block.code.splitlines()
    num_stated = 0
    for statement in ast.parse(block.code).body:
        _, arrow, stated = lines[(statement.end_lineno or 0) - 1].partition("# -> ")
        ast.increment_lineno(statement, block.line)
        if isinstance(statement, ast.Expr):
            value = eval(compile(ast.Expression(statement.value), document, "eval"), namespace)
            if arrow:
                num_stated += 1
                assert value == eval(stated, namespace), f"{document}:{statement.lineno}: got {value}, stated {stated}"
        else:
            exec(compile(ast.Module([statement], []), document, "exec"), namespace)
    assert num_stated == block.code.count("# -> "), f"{document}:{block.line}: a value stated of no expression"


def run_bash(block: Block, document: Path) -> None:
    for command in block.code.replace("\\\n", " ").splitlines():
        check = next((check for prefix, check in NOT_RUN.items() if command.startswith(prefix)), None)
        if check is not None:
            check(command.split("#")[0].strip())
        elif is_own_command(command):
            run_own_command(command)
        else:
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
            assert done.returncode == 0, f"{document}:{block.line}: {command}: {done.stdout}{done.stderr}"


@pytest.mark.usefixtures("docs_directory", "_traced_compilation")
@pytest.mark.parametrize("document", WITH_CODE, ids=str)
def test_every_block_of_a_document_runs(document, uploads):
    run_document(document, read(document))
    assert all(files >= COMPLETE for files in uploads.files.values())


@pytest.mark.parametrize("document", WITH_CODE, ids=str)
def test_no_python_block_wants_a_model_that_must_be_downloaded(document):
    made = {"my-codec", "hub-folder", "my-model", "with-audio", "language-model"}  # by a block before
    for block in blocks(read(document)):
        if block.language == "python":
            assert set(re.findall(r'from_pretrained\(\s*"([^"]*)"', block.code)) <= made, block.line


@pytest.fixture
def card_directory(docs_directory, monkeypatch) -> Path:
    """A model's folder, from within which its card is read, with a recording."""
    folder = docs_directory / "wavtokenizer-75"
    samples, sampling_rate = soundfile.read(RECORDING)
    soundfile.write(folder / "recording.wav", samples, sampling_rate)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("card", RELEASED_CARDS, ids=str)
def test_the_card_of_a_released_checkpoint_runs(card, card_directory):
    run_document(card, read(card))
    assert soundfile.info("decoded.wav").frames == 45760


def test_the_card_of_an_exported_folder_runs(card_directory, docs_model, monkeypatch):
    folder = export_to_hub_folder(docs_model, WavTokenizerFeatureExtractor(hop_length=320), "exported")
    shutil.copyfile("recording.wav", folder / "recording.wav")
    monkeypatch.chdir(folder)
    run_document(Path("README.md"), (folder / "README.md").read_text(encoding="utf-8"))
    assert soundfile.info("decoded.wav").frames == 45760


@pytest.mark.parametrize("document", documents(), ids=str)
def test_relative_links_lead_to_files_and_headings_that_exist(document):
    for target in links(read(document)):
        if target.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (REPOSITORY / document.parent / path) if path else REPOSITORY / document
        assert file.exists(), f"{document} links to {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{document} links to {target}"


@pytest.mark.usefixtures("docs_directory")
def test_the_command_that_documents_name_is_installed():
    run_bash(Block("bash", "wavtokenizer --help > help.txt\n", 1), Path("page.md"))
    assert "reconstruct" in Path("help.txt").read_text(encoding="utf-8")


def test_a_statement_that_is_not_true_is_noticed():
    for code in ("1 + 1  # -> 3", "value = 2  # -> 2"):
        with pytest.raises(AssertionError):
            run_document(Path("page.md"), f"```python\n{code}\n```\n")


def test_a_command_that_fails_is_noticed():
    with pytest.raises(AssertionError, match="ls no-such-folder"):
        run_document(Path("page.md"), "```bash\nls no-such-folder\ntrue\n```\n")
    with pytest.raises(RuntimeError, match="status 2: error: no such file"):
        run_document(Path("page.md"), "```bash\nwavtokenizer info codes.npz\n```\n")


@pytest.mark.parametrize(
    "command",
    ["make tea", "pip install transformers", "pip install '.[gold]'", "wavtokenizer convert my.ckpt folder"],
)
def test_a_command_that_is_not_run_must_make_sense(command):
    with pytest.raises((AssertionError, UsageError)):
        run_document(Path("page.md"), f"```bash\n{command}\n```\n")


def test_code_cannot_hide_in_a_language_that_is_not_run():
    with pytest.raises(AssertionError, match="unknown language 'py'"):
        run_document(Path("page.md"), "```py\n1 / 0\n```\n")

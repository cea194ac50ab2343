"""The Auto classes know the codec, once and also beside a transformers that knows the name itself."""

import importlib
import importlib.util
import subprocess
import sys
import textwrap

import pytest
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization

import wavtokenizer_hf
from tests.tiny import tiny_config
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerFeatureExtractor, WavTokenizerModel

LIBRARY_OWNS_THE_NAME = importlib.util.find_spec("transformers.models.wavtokenizer") is not None


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A folder with a model and its feature extractor."""
    WavTokenizerModel.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    WavTokenizerFeatureExtractor(hop_length=80).save_pretrained(tmp_path)
    return tmp_path


def assert_registered(folder):
    assert type(AutoConfig.from_pretrained(folder)) is WavTokenizerConfig
    assert type(AutoConfig.for_model("wavtokenizer")) is WavTokenizerConfig
    assert type(AutoFeatureExtractor.from_pretrained(folder)) is WavTokenizerFeatureExtractor
    for auto_class in (AutoModel, AutoModelForAudioTokenization):
        assert type(auto_class.from_pretrained(folder)) is WavTokenizerModel
        assert type(auto_class.from_config(tiny_config())) is WavTokenizerModel


def test_every_auto_class_finds_the_codec(folder):
    assert_registered(folder)


def test_registering_again_is_harmless(folder):
    # As a reload does, without the new class objects that a reload of the submodules would make.
    importlib.reload(wavtokenizer_hf)
    importlib.reload(wavtokenizer_hf)
    assert_registered(folder)


BESIDE_THE_OWNER = """
    import sys
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization

    {owner}

    import wavtokenizer_hf as ours

    folder = sys.argv[1]
    assert type(AutoConfig.from_pretrained(folder)) is ours.WavTokenizerConfig
    for auto_class in (AutoModel, AutoModelForAudioTokenization):
        assert type(auto_class.from_pretrained(folder)) is ours.WavTokenizerModel
    assert type(AutoFeatureExtractor.from_pretrained(folder)) is ours.WavTokenizerFeatureExtractor
    # The owner's classes still find each other.
    assert type(AutoModel.from_config(WavTokenizerConfig())) is WavTokenizerModel
    print("passed")
"""

THE_LIBRARY = """
    from transformers import WavTokenizerConfig, WavTokenizerFeatureExtractor, WavTokenizerModel
"""

# What an owner looks like to us, wherever the library is older than that: its models stand in its tables of names, by
# which their modules are found, and the name is taken before we come.
A_STAND_IN = """
    import types
    import transformers
    from transformers import FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel
    from transformers.models.auto import configuration_auto, feature_extraction_auto, modeling_auto

    class WavTokenizerConfig(PreTrainedConfig):
        model_type = "wavtokenizer"

    class WavTokenizerModel(PreTrainedModel):
        config: WavTokenizerConfig

    class WavTokenizerFeatureExtractor(FeatureExtractionMixin):
        pass

    module = types.ModuleType("transformers.models.wavtokenizer")
    for own in (WavTokenizerConfig, WavTokenizerModel, WavTokenizerFeatureExtractor):
        own.__module__ = "transformers.models.wavtokenizer"
        setattr(module, own.__name__, own)
        setattr(transformers, own.__name__, own)
    sys.modules["transformers.models.wavtokenizer"] = module
    configuration_auto.CONFIG_MAPPING_NAMES["wavtokenizer"] = "WavTokenizerConfig"
    configuration_auto.CONFIG_MAPPING._mapping["wavtokenizer"] = "WavTokenizerConfig"
    for mapping in (modeling_auto.MODEL_MAPPING, modeling_auto.MODEL_FOR_AUDIO_TOKENIZATION_MAPPING):
        mapping._model_mapping["wavtokenizer"] = "WavTokenizerModel"
        mapping._config_mapping["wavtokenizer"] = "WavTokenizerConfig"
        mapping._reverse_config_mapping["WavTokenizerConfig"] = "wavtokenizer"
    mapping = feature_extraction_auto.FEATURE_EXTRACTOR_MAPPING
    feature_extraction_auto.FEATURE_EXTRACTOR_MAPPING_NAMES["wavtokenizer"] = "WavTokenizerFeatureExtractor"
    mapping._config_mapping["wavtokenizer"] = "WavTokenizerConfig"
    mapping._reverse_config_mapping["WavTokenizerConfig"] = "wavtokenizer"
"""


def test_beside_a_transformers_that_owns_the_name_the_auto_classes_give_ours(folder):
    owner = THE_LIBRARY if LIBRARY_OWNS_THE_NAME else A_STAND_IN
    code = textwrap.dedent(BESIDE_THE_OWNER).replace("{owner}", textwrap.dedent(owner))
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code, str(folder)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "passed"


def test_importing_the_package_alone_loads_no_audio_library():
    """Only transformers itself may have imported them, by what it finds installed."""
    code = """
        import sys, transformers
        from transformers import SequenceFeatureExtractor
        from transformers.modeling_utils import PreTrainedAudioTokenizerBase
        before = set(sys.modules)
        import wavtokenizer_hf
        new = {name.split(".")[0] for name in set(sys.modules) - before}
        print(sorted(new & {"torchaudio", "soundfile", "typer", "rich", "jinja2", "matplotlib", "yaml"}))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("argv", "of_python", "is_ours"),
    [
        (["/usr/bin/wavtokenizer", "info"], ["python", "/usr/bin/wavtokenizer", "info"], True),
        (["-m", "info"], ["python", "-X", "dev", "-m", "wavtokenizer_hf", "info"], True),
        (["-m", "wavtokenizer_hf"], ["python", "-m", "pytest", "wavtokenizer_hf"], False),
        (["-m"], ["python", "-m", "wavtokenizer_hf_server"], False),
        (["wavtokenizer.py"], ["python", "wavtokenizer.py"], False),
        (["-c"], ["python", "-c", "import wavtokenizer_hf"], False),
        ([""], ["python"], False),
        ([], ["embedding"], False),
    ],
)
def test_only_the_own_command_line_registers_later(monkeypatch, argv, of_python, is_ours):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", of_python)
    assert wavtokenizer_hf._is_own_command_line() is is_ours


def test_until_then_every_name_is_there_and_nothing_is_registered(folder):
    code = """
        import sys
        sys.argv[0] = "wavtokenizer"
        import wavtokenizer_hf
        assert "transformers" not in sys.modules
        assert set(wavtokenizer_hf.__all__) <= set(dir(wavtokenizer_hf))
        assert not hasattr(wavtokenizer_hf, "torch")
        for name in wavtokenizer_hf.__all__:
            assert getattr(wavtokenizer_hf, name).__name__ == name
        from transformers import AutoModel
        before = AutoModel._model_mapping._extra_content.copy()
        wavtokenizer_hf.register()
        print(bool(before), type(AutoModel.from_pretrained(sys.argv[1])) is wavtokenizer_hf.WavTokenizerModel)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(folder)], capture_output=True, text=True)
    assert done.stdout.strip() == "False True", done.stderr

"""Where results go, and how errors are told."""

from pathlib import Path

import pytest
import typer

from wavtokenizer_hf.cli.errors import describe
from wavtokenizer_hf.cli.jobs import Job, plan_jobs, run_jobs


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """The working folder, with recordings at two depths."""
    for name in (
        "one.wav",
        "two.wav",
        "set/a.wav",
        "set/b.flac",
        "set/deep/a.wav",
        "other/a.wav",
        "mixed/x.wav",
        "mixed/x.mp3",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(inputs, output, output_format=None, overwrite=False):
    jobs = plan_jobs(
        inputs,
        output,
        input_suffixes=(".wav", ".flac", ".mp3"),
        output_suffixes=(".npz", ".json"),
        output_format=output_format,
        overwrite=overwrite,
    )
    return {job.source.as_posix(): job.target.as_posix() for job in jobs}


@pytest.mark.parametrize(
    ("inputs", "output", "output_format", "expected"),
    [
        (["one.wav"], "x.npz", None, {"one.wav": "x.npz"}),
        (["one.wav"], "new/x.json", None, {"one.wav": "new/x.json"}),
        (["one.wav"], "x.NPZ", "npz", {"one.wav": "x.NPZ"}),
        (["one.wav"], "new/", None, {"one.wav": "new/one.npz"}),
        (["one.wav"], "new", None, {"one.wav": "new/one.npz"}),
        (["one.wav"], "v1.5/", "json", {"one.wav": "v1.5/one.json"}),
        (["one.wav", "two.wav"], "new", "json", {"one.wav": "new/one.json", "two.wav": "new/two.json"}),
        (["one.wav", "one.wav"], "new", None, {"one.wav": "new/one.npz"}),
        (
            ["set"],
            "new",
            None,
            {"set/a.wav": "new/a.npz", "set/b.flac": "new/b.npz", "set/deep/a.wav": "new/deep/a.npz"},
        ),
        (["set/*.flac", "one.wav"], "new", None, {"set/b.flac": "new/b.npz", "one.wav": "new/one.npz"}),
        (["mixed"], "new", None, {"mixed/x.wav": "new/x.wav.npz", "mixed/x.mp3": "new/x.mp3.npz"}),
        (["one.wav", "gone.wav"], "new", None, {"one.wav": "new/one.npz", "gone.wav": "new/gone.npz"}),
    ],
)
def test_every_input_has_its_output(recordings, inputs, output, output_format, expected):
    assert plan(inputs, output, output_format) == expected


@pytest.mark.parametrize(
    ("inputs", "output", "output_format", "message"),
    [
        (
            ["set/a.wav", "other/a.wav"],
            "new",
            None,
            r"set/a.wav and other/a.wav would both be written to new/a.wav.npz",
        ),
        (["one.wav", "two.wav"], "x.npz", None, "looks like a file"),
        (["set"], "x.npz", None, "looks like a file"),
        (["one.wav", "two.wav"], "set/a.wav", None, "set/a.wav is a file"),
        (["one.wav"], "x.txt", None, r"must end in .npz, .json"),
        (["one.wav"], "v1.5", None, "a folder's name with a dot in a slash, got v1.5"),
        (["one.wav"], "x.npz", "json", "--format json contradicts"),
        (["*.ogg"], "new", None, "holds no file"),
        (["gone.wav"], "x.npz", None, "no such file: gone.wav"),
        (["one.wav", "two.wav"], "-", None, "one result can go to stdout, and there are 2"),
    ],
)
def test_what_does_not_fit_together_is_wrong_use(recordings, inputs, output, output_format, message):
    with pytest.raises(typer.BadParameter, match=message):
        plan(inputs, output, output_format)


def test_outputs_that_exist_are_refused_unless_they_may_be_overwritten(recordings):
    for name in ("new/a.npz", "new/deep/a.npz"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    with pytest.raises(typer.BadParameter, match=r"new/a.npz \(and 1 more\) would be overwritten.*--overwrite"):
        plan(["set"], "new")
    assert len(plan(["set"], "new", overwrite=True)) == 3


def test_what_is_done_is_left_out_on_request(recordings, capsys):
    def again(**options):
        suffixes = {"input_suffixes": (".wav", ".flac"), "output_suffixes": (".wav",), "output_format": None}
        return plan_jobs(["set"], "new", **suffixes, overwrite=False, **options)

    first = again(report=Path("pages"))
    assert [job.page.as_posix() for job in first] == ["pages/a", "pages/b", "pages/deep/a"]
    for job in first[:2]:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        job.target.touch()
    first[0].page.mkdir(parents=True)
    (first[0].page / "index.html").touch()
    assert [job.target.as_posix() for job in again(skip_existing=True)] == ["new/deep/a.wav"]
    assert again(skip_existing=True, report=Path("pages")) == first[1:]  # the page of the second is missing
    assert "1 of 3 files were done before" in capsys.readouterr().err
    first[2].target.parent.mkdir()
    first[2].target.touch()
    with pytest.raises(typer.Exit) as ended:
        again(skip_existing=True)
    assert ended.value.exit_code == 0


def test_an_input_is_never_written_over(recordings):
    with pytest.raises(typer.BadParameter, match="is an input too"):
        plan_jobs(
            ["set"],
            "./other/../set",
            input_suffixes=(".wav",),
            output_suffixes=(".wav",),
            output_format=None,
            overwrite=True,
        )


def test_one_failure_is_printed_and_the_rest_is_done(tmp_path, capsys):
    jobs = [Job(Path(f"{name}.wav"), tmp_path / name / "out") for name in "abc"]

    def work(job):
        if job.source.name == "b.wav":
            raise ValueError("too\nshort")
        job.target.touch()

    with pytest.raises(typer.Exit) as ended:
        run_jobs(jobs, work, verb="Testing", debug=False)
    assert ended.value.exit_code == 1
    assert [job.target.exists() for job in jobs] == [True, False, True]
    printed = capsys.readouterr().err
    assert "error: b.wav: too short\n" in printed
    assert "Testing: 2 of 3 files done" in printed
    assert "Traceback" not in printed


def test_an_interrupt_ends_the_run_at_once_and_says_how_to_go_on(tmp_path, capsys):
    begun = []

    def work(job):
        begun.append(job)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([Job(Path("a"), tmp_path / "a"), Job(Path("b"), tmp_path / "b")], work, verb="Testing", debug=False)
    assert len(begun) == 1
    assert "--skip-existing goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("wrong\n  here"), "wrong here"),
        (FileNotFoundError(2, "No such file or directory", "x"), "[Errno 2] No such file or directory: 'x'"),
        (KeyError("weights"), "KeyError: 'weights' (--debug shows where)"),
        (MemoryError(), "MemoryError (--debug shows where)"),
    ],
)
def test_an_error_is_one_line_and_a_mistake_of_ours_has_its_type(error, line):
    assert describe(error) == line

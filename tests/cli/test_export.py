from __future__ import annotations

from pathlib import Path

import pytest

from edgedet.cli.export import parse_size, parse_sms
from edgedet.cli.main import run_verb
from edgedet.contract.errors import UsageError


def test_sizes():
    assert parse_size(None) is None
    assert parse_size("320") == (320, 320)
    assert parse_size("320x416") == (320, 416)
    for bad in ("", "x320", "320x", "big", "3.5"):
        with pytest.raises(UsageError, match="HxW"):
            parse_size(bad)


def test_gpus():
    assert parse_sms("86,89, 120") == (86, 89, 120)
    assert parse_sms("8.6,86") == (86,)
    for bad in ("", "86,", "ada"):
        with pytest.raises(UsageError, match="--sm"):
            parse_sms(bad)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--model", "yollo"], 2, "error [UnknownName]: no model is named 'yollo'. Did you mean 'yolo'?"),
        (["--target", "openvin"], 2, "Did you mean 'openvino'?"),
        (["--int8", "--fp16"], 2, "exclude each other"),
        (["--int8", "--calib-data", "folder:a", "--calib-cache", "b"], 2, "exclude each other"),
        (
            ["--weights", "none.safetensors"],
            1,
            "[WeightsError]: Cannot read none.safetensors: No such",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, code, says, tmp_path, capsys):
    assert run_verb("export", [*arguments, "-o", str(tmp_path / "out")]) == code
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_int8_on_turing_is_refused_with_the_reason(tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx")
    arguments = ["--int8", "--target", "tensorrt-rtx", "--sm", "75", "-o", str(tmp_path)]
    assert run_verb("export", arguments) == 1
    assert "error [TargetError]: SM75 (Turing) gets no INT8" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody may write to")
def test_a_folder_that_cannot_be_written_is_found_out_first(tmp_path, capsys):
    # the weights are no weights: had they been opened, that would be the error
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"")
    assert run_verb("export", ["--weights", str(weights), "-o", "/proc/edgedet"]) == 1
    assert "error [OutputError]: Cannot write /proc/edgedet" in capsys.readouterr().err

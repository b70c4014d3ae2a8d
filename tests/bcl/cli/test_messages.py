"""What the option parser says becomes one line that helps."""

import pytest

from bcl import InputError
from bcl.cli.messages import Parser, option_names, readable_error

REFUSED = """Parser key "data":
  Errors:
    - Problem with given class_path 'datamodules.ImageFolderLT':
        Option 'batch_size' is not accepted
    - Expected a <class 'NoneType'>"""


def test_an_option_that_exists_is_never_proposed_in_its_own_place():
    told = str(readable_error(REFUSED, ["--data.batch_size", "--data.root"]))
    assert "did you mean" not in told
    assert "source" in told


def test_options_of_parts_and_settings_are_known_by_their_dotted_names():
    spec = {
        "class_path": "bcl.SimCLR",
        "init_args": {"loss": {"class_path": "bcl.NTXentLoss"}, "optimizer": {"momentum": 0.9}},
    }
    names = set(option_names("model", spec))
    assert {"--model.loss.temperature", "--model.optimizer.learning_rate"} <= names


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "^bcl probe needs RUN; `bcl probe --help` explains.$"),
        ("a --batch-sise 3", "^unknown option '--batch-sise'; did you mean --batch-size[?]$"),
        ("a --batch_size=3", "^unknown option '--batch_size'; did you mean --batch-size[?]$"),
        ("a --bach 3", "did you mean --batch-size|`bcl probe --help` lists"),
        ("a b", "^unknown word 'b'; `bcl probe --help` lists what it takes.$"),
        (
            "a --batch-size x",
            "^--batch-size: invalid int value: 'x'; `bcl probe --help`",
        ),
    ],
)
def test_errors_of_a_command_are_one_line(words, told):
    parser = Parser("bcl probe")
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--batch-size", type=int)
    with pytest.raises(InputError, match=told):
        parser.parse_args(words.split())

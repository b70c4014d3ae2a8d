"""What the option parser says becomes one line that helps."""

from bcl.cli.messages import option_names, readable_error

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

"""Names of files: hidden ones, those that leave their folder, and those of no encoding."""

from datamodules.images.readers import is_hidden, leaves_folder, shown


def test_hidden_names() -> None:
    assert is_hidden("ant/.cache/a.jpg")
    assert is_hidden("lost+found/a.jpg")
    assert not is_hidden("ant/a.jpg")
    assert not is_hidden("./ant/a.jpg")


def test_names_that_leave_their_folder() -> None:
    names = ("a/b.jpg", "../b.jpg", "C:/b.jpg", "12:30.jpg")
    assert [leaves_folder(name) for name in names] == [False, True, True, False]


def test_names_of_no_encoding_are_shown() -> None:
    assert shown("a b/\udcff.jpg") == "a b/\\udcff.jpg"

"""Histograms in a terminal."""

from bcl.cli.histogram import histogram_text


def test_histograms() -> None:
    text = histogram_text(list(range(100, 0, -1)))
    assert "(every 3th of 100 classes)" in text
    assert histogram_text([4, 2]) == f"class 0  4 {'#' * 40}\nclass 1  2 {'#' * 20}"

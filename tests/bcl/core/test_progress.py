import sys

from bcl.core.progress import Progress


def shown(capsys, **options):
    show = Progress(**options)
    for done in range(1, 101):
        show("decoding", done, 100)
    return capsys.readouterr().err


def test_a_log_gets_a_line_per_tenth_if_asked_for(capsys):
    lines = shown(capsys, log=True).splitlines()
    assert lines[-1] == "decoding: 100 of 100"
    assert len(lines) in (10, 11)
    assert shown(capsys) == ""


def test_a_terminal_gets_one_line_rewritten(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    text = shown(capsys)
    assert text.startswith("\rdecoding: ")
    assert text.endswith("\rdecoding: 100 of 100\033[K\n")
    assert text.count("\n") == 1

"""Commands that must fail."""

from bcl.cli import main


def refused(arguments, capsys, lines=1):
    """Run a command that must fail: status 2, one line, no trace; return what it said."""
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    told = error[error.index("bcl: error: ") :]
    assert len(told.splitlines()) == lines
    return told

"""The command `hptctl`, and `python -m hptctl`: a signal that comes while all else is imported ends it in a line."""

from hptctl.ending import end_at_once


def main() -> None:
    """Entry point of `hptctl`."""
    end_at_once()
    from hpt import waiting

    waiting.begin()
    from hptctl.cli import main as run

    run()


if __name__ == "__main__":  # a process that draws a report's charts imports this, too
    main()

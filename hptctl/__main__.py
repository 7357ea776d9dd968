"""`python -m hptctl`"""

from hptctl.cli import main

if __name__ == "__main__":  # a process that draws a report's charts imports this, too
    main()

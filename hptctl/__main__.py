"""`python -m hptctl`"""

from hptctl.cli import main

main()

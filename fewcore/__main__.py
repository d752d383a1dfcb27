"""`python -m fewcore` is `fewcore`."""

from fewcore.cli import main

main()

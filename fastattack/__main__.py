"""python -m fastattack."""

from .cli import main

main()

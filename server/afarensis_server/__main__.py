"""``python -m afarensis_server``."""

from .cli import main

main()

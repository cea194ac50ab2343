"""`python -m wavtokenizer_hf.cli`, for launchers that start a module rather than a program."""

from wavtokenizer_hf.cli import main

main()

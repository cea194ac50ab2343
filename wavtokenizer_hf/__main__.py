"""`python -m wavtokenizer_hf`: the command line, where its script is not on the path."""

from wavtokenizer_hf.cli import main

main()

"""`python -m benchmark`."""

from benchmark.cli.app import main

main()

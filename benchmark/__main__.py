from benchmark.cli.commands import main

main()

"""The commands of the console script, one module each; each is thin over the library. Floor 5.

A module has ``HELP``, ``add_arguments(arguments, parser)`` and ``run(args)``, which returns the
exit code; its line in ``cli.COMMANDS`` makes it known.
"""

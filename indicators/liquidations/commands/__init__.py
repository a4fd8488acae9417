"""The commands of the console script, one module each; each is thin over the library. Floor 5.

A module has ``add_arguments(arguments, parser)`` and ``run(args)``, which returns the exit code;
its line in ``cli.COMMANDS`` makes it known. It is imported when its command is given.
"""

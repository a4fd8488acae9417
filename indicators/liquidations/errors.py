"""The one exception that users see: what was received, what is allowed, what to do next."""


class LiquidationsError(Exception):
    """Say in one line what is wrong with the input or the store, and what to do about it.

    The command line prints the message and exits with 2; inside Freqtrade the provider turns it
    into Freqtrade's ``OperationalException``, which ends a backtest in one clean line.
    """


class OtherAnswer(LiquidationsError):
    """Say that a file is another kind of answer of the same vendor.

    A file that was named is an error then; one that was found in a folder is passed over.
    """

"""What a command says in one line."""


class UserError(Exception):
    """What a person can act on; its message says which file, field or step, and what to do.

    A command prints it and ends with a code that is not 0 (`startup.errors_as_one_line`).
    """

"""Processes that import the script that starts them."""

from multiprocessing import current_process

from alprune.errors import ConfigError

GUARD = (
    "a script that starts processes is imported by each of them: put what it does under "
    '`if __name__ == "__main__":`'
)


def refuse_in_import() -> None:
    """Refuse to start processes while this one still imports the script that started it.

    Raises:
        ConfigError: It does.
    """
    if getattr(current_process(), "_inheriting", False):
        raise ConfigError(f"{GUARD}.")
